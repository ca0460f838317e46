//! How fast would a whole reader be: every kernel of every layer, one by one in the order of the network, on random weights?
//! (The engine does some of them at once and with threads standing by: `palimpsest bench read|decode`.)
//!
//! ```sh
//! cargo bench -p palimpsest-kernels --bench network -- [small|medium] [f32|bf16|int8] [threads] [8seg]
//! ```
//!
//! Prefill is beside its products alone, decode beside the reading of a buffer as large as the weights; all by turns in one
//! run, and each figure is the fastest of its turns, so that they hold on a machine that others keep busy too.

use std::hint::black_box;
use std::time::Instant;

use palimpsest_kernels::{Dtype, Gdn2Shape, Kernels, Matrix, OutputGate};

/// Tokens of a segment.
const SEGMENT: usize = 64;

struct Shape {
    layers: usize,
    width: usize,
    hidden: usize,
    vocabulary: usize,
    gdn2: Gdn2Shape,
}

struct Layer {
    input: [Matrix; 5],
    low: [Matrix; 2],
    up: [Matrix; 2],
    o: Matrix,
    swiglu: [Matrix; 2],
    down: Matrix,
}

struct Network {
    shape: Shape,
    kernels: Kernels,
    layers: Vec<Layer>,
    head: Matrix,
    ones: Vec<f32>,
    taps: Vec<f32>,
}

fn numbers(n: usize, scale: f32) -> Vec<f32> {
    (0..n as u32).map(|i| scale * ((i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0)).collect()
}

impl Network {
    fn new(shape: Shape, kernels: Kernels, dtype: Dtype) -> Self {
        let (d, rank) = (shape.width, shape.gdn2.value_dim);
        let pack = |n: usize, k: usize| Matrix::pack(n, k, &numbers(n * k, 1.7 / (k as f32).sqrt()), dtype).expect("fits");
        let layers = (0..shape.layers)
            .map(|_| Layer {
                input: [(); 5].map(|()| pack(d, d)),
                low: [(); 2].map(|()| pack(rank, d)),
                up: [(); 2].map(|()| pack(d, rank)),
                o: pack(d, d),
                swiglu: [(); 2].map(|()| pack(shape.hidden, d)),
                down: pack(d, shape.hidden),
            })
            .collect();
        let head = pack(shape.vocabulary, d);
        let taps = numbers(4 * d, 0.5);
        let ones = vec![1.0; d];
        Self { shape, kernels, layers, head, ones, taps }
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        self.layers.iter().flat_map(|l| l.input.iter().chain(&l.low).chain(&l.up).chain([&l.o]).chain(&l.swiglu).chain([&l.down]))
    }

    /// Every kernel of every layer, for the next tokens of some sequences.
    fn forward(
        &self,
        x: &mut [f32],
        lens: &[usize],
        states: &mut [Vec<f32>],
        s: &mut Scratch,
    ) -> Result<(), palimpsest_kernels::ShapeError> {
        let (k, d, g) = (&self.kernels, self.shape.width, &self.shape.gdn2);
        let (rows, state, conv) = (x.len() / d, g.state_elements(), 3 * d);
        let (n, rank) = (rows * d, rows * g.value_dim);
        for (i, layer) in self.layers.iter().enumerate() {
            let at = i * (state + 3 * conv);
            let (normed, [a, b, c, e, f], low) = (&mut s.normed[..n], s.wide.each_mut().map(|v| &mut v[..n]), &mut s.low);
            let [l0, l1] = low.each_mut().map(|v| &mut v[..rank]);
            k.rms_norm(x, &self.ones, 1e-5, normed)?;
            let [q, key, v, erase, write] = layer.input.each_ref();
            let [decay, gate] = layer.low.each_ref();
            k.matmul_each(normed, [q, key, v, erase, write, decay, gate], [a, b, c, e, f, l0, l1])?;
            let [q, key, v] = s.mixed.each_mut().map(|v| &mut v[..n]);
            k.conv_silu(lens, a, &self.taps, states, at + state, q)?;
            k.conv_silu(lens, b, &self.taps, states, at + state + conv, key)?;
            k.conv_silu(lens, c, &self.taps, states, at + state + 2 * conv, v)?;
            k.l2_norm(q, g.key_dim)?;
            k.l2_norm(key, g.key_dim)?;
            k.sigmoid(e, 1.0)?;
            k.sigmoid(f, 1.0)?;
            k.matmul(l0, &layer.up[0], a)?;
            k.log_decay(a, &self.ones[..g.heads], &self.taps[..d])?;
            k.gdn2(g, lens, q, key, v, a, e, f, states, at, b)?;
            k.matmul(l1, &layer.up[1], c)?;
            k.gated_rms_norm(b, c, &self.ones[..g.value_dim], 1e-5, OutputGate::Sigmoid, q)?;
            k.matmul_add(q, &layer.o, x)?;
            k.rms_norm(x, &self.ones, 1e-5, normed)?;
            let [up, gate, both] = s.hidden.each_mut().map(|v| &mut v[..rows * self.shape.hidden]);
            let [w1, w2] = layer.swiglu.each_ref();
            k.matmul_each(normed, [w1, w2], [up, gate])?;
            k.swiglu(up, gate, both)?;
            k.matmul_add(both, &layer.down, x)?;
        }
        Ok(())
    }

    fn states(&self, count: usize) -> Vec<Vec<f32>> {
        vec![vec![0.0; self.shape.layers * (self.shape.gdn2.state_elements() + 9 * self.shape.width)]; count]
    }
}

struct Scratch {
    normed: Vec<f32>,
    wide: [Vec<f32>; 5],
    mixed: [Vec<f32>; 3],
    low: [Vec<f32>; 2],
    hidden: [Vec<f32>; 3],
}

impl Scratch {
    fn new(shape: &Shape, rows: usize) -> Self {
        let vec = |n: usize| vec![0.0; rows * n];
        let d = shape.width;
        Self {
            normed: vec(d),
            wide: [(); 5].map(|()| vec(d)),
            mixed: [(); 3].map(|()| vec(d)),
            low: [(); 2].map(|()| vec(shape.gdn2.value_dim)),
            hidden: [(); 3].map(|()| vec(shape.hidden)),
        }
    }
}

/// Runs all of `work` by turns; the fewest seconds of each.
fn by_turns<const N: usize>(work: [&mut dyn FnMut(); N]) -> [f64; N] {
    let (mut fewest, mut work, mut turns) = ([f64::INFINITY; N], work, 0);
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < 6.0 || turns < 5 {
        for (work, fewest) in work.iter_mut().zip(&mut fewest) {
            let began = Instant::now();
            work();
            *fewest = fewest.min(began.elapsed().as_secs_f64());
        }
        turns += 1;
    }
    fewest
}

/// Reads a buffer with as many threads as there are.
fn read(buffer: &[u64]) {
    let part = buffer.len() / rayon::current_num_threads();
    rayon::broadcast(|thread| {
        // Sixteen sums, so that it is memory that is waited for.
        let mut sums = [0u64; 16];
        for chunk in buffer[thread.index() * part..(thread.index() + 1) * part].chunks_exact(16) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum = sum.wrapping_add(*x);
            }
        }
        black_box(sums);
    });
}

fn measure(name: &str, shape: Shape, dtype: Dtype, segments: usize) {
    let kernels = Kernels::detect().expect("an instruction set");
    let network = Network::new(shape, kernels, dtype);
    let (d, hidden) = (network.shape.width, network.shape.hidden);
    let bytes: usize = network.matrices().map(Matrix::bytes).sum::<usize>() + network.head.bytes();
    println!(
        "{name} {dtype:?} {} {} threads, {:.1} MB of weights",
        kernels.isa(),
        rayon::current_num_threads(),
        bytes as f64 / 1e6
    );

    let rows = segments * SEGMENT;
    let (mut states, mut scratch) = (network.states(1), Scratch::new(&network.shape, rows));
    let (input, mut x) = (numbers(rows * d, 1.0), vec![0.0; rows * d]);
    let (from, mut to) = (numbers(rows * hidden.max(d), 1.0), vec![0.0; rows * hidden.max(d)]);
    let [whole, products] = by_turns([
        &mut || {
            x.copy_from_slice(&input);
            network.forward(&mut x, &[rows], &mut states, &mut scratch).expect("shapes fit");
        },
        &mut || {
            for w in network.matrices() {
                kernels.matmul(&from[..rows * w.cols()], w, &mut to[..rows * w.rows()]).expect("fits");
            }
        },
    ]);
    let flops = 2.0 * rows as f64 * network.matrices().map(|w| w.rows() * w.cols()).sum::<usize>() as f64;
    println!(
        "  prefill of {rows}: {:.0} tokens/s; products alone {:.0} ({:.0} GFLOP/s); ratio {:.2}",
        rows as f64 / whole,
        rows as f64 / products,
        flops / products / 1e9,
        products / whole
    );

    let buffer = vec![1u64; bytes / 8];
    for batch in [1, 8] {
        let mut states = network.states(batch);
        let (mut logits, lens) = (vec![0.0; batch * network.head.rows()], vec![1; batch]);
        let [step, reading] = by_turns([
            &mut || {
                x[..batch * d].copy_from_slice(&input[..batch * d]);
                network.forward(&mut x[..batch * d], &lens, &mut states, &mut scratch).expect("shapes fit");
                kernels.matmul(&x[..batch * d], &network.head, &mut logits).expect("fits");
            },
            &mut || read(black_box(&buffer)),
        ]);
        println!(
            "  decode of {batch}: {:.0} tokens/s; {:.1} GB/s of {:.1} GB/s; ratio {:.2}",
            batch as f64 / step,
            bytes as f64 / step / 1e9,
            bytes as f64 / reading / 1e9,
            reading / step
        );
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let given = |name: &str| words.iter().any(|w| w == name);
    let threads = words.iter().find_map(|w| w.parse().ok()).unwrap_or(0);
    let segments = words.iter().find_map(|w| w.strip_suffix("seg")?.parse().ok()).unwrap_or(8);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
    for (name, layers, width, heads, hidden, vocabulary) in
        [("small", 12, 384, 6, 1024, 16_384), ("medium", 12, 768, 12, 2048, 32_000)]
    {
        for (label, dtype) in [("f32", Dtype::F32), ("bf16", Dtype::Bf16), ("int8", Dtype::Int8)] {
            let any = |of: &[&str]| !of.iter().any(|name| given(name));
            if (given(name) || any(&["small", "medium"])) && (given(label) || any(&["f32", "bf16", "int8"])) {
                let gdn2 = Gdn2Shape { heads, value_heads: heads, key_dim: 64, value_dim: 64 };
                let shape = Shape { layers, width, hidden, vocabulary, gdn2 };
                pool.install(|| measure(name, shape, dtype, segments));
            }
        }
    }
}
