//! How fast is each operation, on each instruction set of this processor?
//!
//! ```sh
//! cargo bench -p palimpsest-kernels                       # all; RAYON_NUM_THREADS=1 for one thread
//! cargo bench -p palimpsest-kernels -- matmul --min-time 1
//! ```
//!
//! Items are multiply-adds (products, recurrence) or elements (the rest); bytes are weights read.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use palimpsest_kernels::{Dtype, Gdn2Shape, Isa, Kernels, LayerOffsets, Matrix, Mixer, MixerRows, OutputGate, together};

#[path = "../tests/inputs/mod.rs"]
mod inputs;

use inputs::Random;
use inputs::layer::{Round, Sizes, Weights};

fn main() {
    println!("threads: {}", rayon::current_num_threads());
    divan::main();
}

fn isas() -> Vec<Isa> {
    Isa::available()
}

/// Numbers without a pattern, between -1 and 1.
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// `[N, K]` of the shapes that matter: the small reader (width 384, SwiGLU 1024) and one of width 768.
const SHAPES: [(usize, usize); 3] = [(384, 384), (1024, 384), (2048, 768)];

fn product(bencher: Bencher, isa: Isa, dtype: Dtype, m: usize, shape: (usize, usize)) {
    product_on(bencher, Kernels::new(isa).expect("available"), dtype, m, shape);
}

fn product_on(bencher: Bencher, kernels: Kernels, dtype: Dtype, m: usize, (n, k): (usize, usize)) {
    // As many matrices as a network has, so that they do not lie in a nearer cache than a network's would.
    let count = (64 << 20) / (dtype.bytes() * n * k) + 1;
    let w: Vec<Matrix> = (0..count).map(|_| Matrix::pack(n, k, &numbers(n * k), dtype).expect("fits")).collect();
    let (x, mut out, mut next) = (numbers(m * k), vec![0.0; m * n], 0);
    bencher.counter(ItemsCount::new(m * n * k)).counter(BytesCount::new(w[0].bytes())).bench_local(|| {
        next = (next + 1) % count;
        kernels.matmul(black_box(&x), &w[next], &mut out).expect("fits");
    });
}

#[divan::bench(args = isas(), consts = [0, 1, 2])]
fn matmul_f32_1_row<const SHAPE: usize>(bencher: Bencher, isa: Isa) {
    product(bencher, isa, Dtype::F32, 1, SHAPES[SHAPE]);
}

#[divan::bench(args = isas(), consts = [0, 1, 2])]
fn matmul_f32_64_rows<const SHAPE: usize>(bencher: Bencher, isa: Isa) {
    product(bencher, isa, Dtype::F32, 64, SHAPES[SHAPE]);
}

#[divan::bench(args = isas(), consts = [0, 1, 2])]
fn matmul_bf16_1_row<const SHAPE: usize>(bencher: Bencher, isa: Isa) {
    product(bencher, isa, Dtype::Bf16, 1, SHAPES[SHAPE]);
}

#[divan::bench(args = isas(), consts = [0, 1, 2])]
fn matmul_bf16_64_rows<const SHAPE: usize>(bencher: Bencher, isa: Isa) {
    product(bencher, isa, Dtype::Bf16, 64, SHAPES[SHAPE]);
}

#[divan::bench(args = isas(), consts = [0, 1, 2])]
fn matmul_int8_1_row<const SHAPE: usize>(bencher: Bencher, isa: Isa) {
    product(bencher, isa, Dtype::Int8, 1, SHAPES[SHAPE]);
}

#[divan::bench(args = isas(), consts = [0, 1, 2])]
fn matmul_int8_64_rows<const SHAPE: usize>(bencher: Bencher, isa: Isa) {
    product(bencher, isa, Dtype::Int8, 64, SHAPES[SHAPE]);
}

/// One row, so many panels side by side, with the best instruction set: is what `Kernels` chooses the best for this processor?
#[divan::bench(args = [1, 2, 4, 8], consts = [0, 1])]
fn matmul_1_row_side_by_side<const TYPE: usize>(bencher: Bencher, panels: usize) {
    let kernels = Kernels::detect().expect("available").with_panels_side_by_side(panels);
    product_on(bencher, kernels, [Dtype::Bf16, Dtype::Int8][TYPE], 1, SHAPES[2]);
}

#[divan::bench(args = isas(), consts = [64, 128])]
fn gdn2_64_tokens<const DIM: usize>(bencher: Bencher, isa: Isa) {
    gdn2(bencher, isa, 64, DIM);
}

#[divan::bench(args = isas(), consts = [64, 128])]
fn gdn2_step<const DIM: usize>(bencher: Bencher, isa: Isa) {
    gdn2(bencher, isa, 1, DIM);
}

fn gdn2(bencher: Bencher, isa: Isa, tokens: usize, dim: usize) {
    let kernels = Kernels::new(isa).expect("available");
    let shape = Gdn2Shape { heads: 6, value_heads: 6, key_dim: dim, value_dim: dim };
    let n = tokens * 6 * dim;
    let (x, g, mut out) = (numbers(n), numbers(n).iter().map(|x| x - 1.0).collect::<Vec<_>>(), vec![0.0; n]);
    let k: Vec<f32> = x.iter().map(|x| x / (dim as f32).sqrt()).collect();
    let mut states = [vec![0.0; shape.state_elements()]];
    bencher.counter(ItemsCount::new(4 * tokens * shape.state_elements())).bench_local(|| {
        kernels.gdn2(&shape, &[tokens], &k, &k, &x, &g, &k, &x, &mut states, 0, black_box(&mut out)).expect("fits");
    });
}

/// The middle of a layer of the small reader, one token: at hand, or from memory, where as many layers take turns as no cache holds.
#[divan::bench(args = isas(), consts = [1, 300])]
fn mix_step<const LAYERS: usize>(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let shape = Gdn2Shape { heads: 6, value_heads: 6, key_dim: 64, value_dim: 64 };
    let (width, rank, recurrent) = (WIDTH, 64, 0);
    let [conv_q, conv_k, conv_v] = [0, 1, 2].map(|i| shape.state_elements() + 3 * width * i);
    let at = LayerOffsets { recurrent, conv_q, conv_k, conv_v };
    struct Layer {
        taps: [Vec<f32>; 3],
        up: [Matrix; 2],
        biases: [Vec<f32>; 2],
        state: [Vec<f32>; 1],
    }
    let up = || Matrix::pack(width, rank, &numbers(width * rank), Dtype::Bf16).expect("fits");
    let layer = || Layer {
        taps: [(); 3].map(|()| numbers(4 * width)),
        up: [up(), up()],
        biases: [numbers(width), numbers(width)],
        state: [vec![0.0; conv_v + 3 * width]],
    };
    let mut layers: Vec<Layer> = (0..LAYERS).map(|_| layer()).collect();
    let x = numbers(width);
    let mut rows = [(); 12].map(|()| numbers(width));
    let mut low = [(); 2].map(|()| numbers(rank));
    let mut next = 0;
    bencher.counter(ItemsCount::new(4 * shape.state_elements())).bench_local(|| {
        next = (next + 1) % LAYERS;
        let Layer { taps: [q_taps, k_taps, v_taps], up: [f_up, g_up], biases: [dt_bias, g_bias], state } = &mut layers[next];
        let mixer = Mixer {
            shape,
            q_taps,
            k_taps,
            v_taps,
            f_up,
            a_log: &x[..6],
            dt_bias,
            g_up,
            g_bias,
            o_norm: &x[..64],
            eps: 1e-5,
            output_gate: OutputGate::Silu,
            erase_scale: 1.0,
            write_scale: 1.0,
        };
        let [b, w, q, k, v, g, gate, out, mixed, raw_q, raw_k, raw_v] = rows.each_mut().map(|row| &mut row[..]);
        let [decay_low, gate_low] = low.each_mut().map(|row| &mut row[..]);
        let rows = MixerRows { raw_q, raw_k, raw_v, decay_low, gate_low, b, w, q, k, v, g, gate, out, mixed };
        kernels.mix(&mixer, &[1], rows, state, at).expect("fits");
    });
}

/// Twelve layers of the small reader in int8, one token, on all threads: each layer at once, or operation by operation.
#[divan::bench(args = isas(), consts = [true, false])]
fn layers_step<const AT_ONCE: bool>(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let shape = Gdn2Shape { heads: 6, value_heads: 6, key_dim: 64, value_dim: 64 };
    let sizes = Sizes { shape, width: WIDTH, hidden: 1024, ranks: [64, 64] };
    let mut random = Random::fixed(1);
    let mut layers = [(); 12].map(|()| {
        let weights = Weights::random(&mut random, sizes, [Dtype::Int8; 13]);
        (weights, Round::random(&mut random, &sizes, &[1]))
    });
    let bytes: usize = layers.iter().flat_map(|(weights, _)| weights.matrices.each_ref().map(Matrix::bytes)).sum();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        together(|| {
            for (weights, round) in &mut layers {
                round.run(&kernels, weights, sizes.at(), AT_ONCE).expect("fits");
            }
        });
    });
}

/// Rows and width of the elementwise ones: a segment of the small reader.
const ROWS: usize = 64;
const WIDTH: usize = 384;

#[divan::bench(args = isas())]
fn rms_norm(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let (x, weight, mut out) = (numbers(ROWS * WIDTH), numbers(WIDTH), vec![0.0; ROWS * WIDTH]);
    bencher
        .counter(ItemsCount::new(x.len()))
        .bench_local(|| kernels.rms_norm(black_box(&x), &weight, 1e-5, &mut out).expect("fits"));
}

#[divan::bench(args = isas())]
fn conv_silu(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let (x, taps, mut out) = (numbers(ROWS * WIDTH), numbers(4 * WIDTH), vec![0.0; ROWS * WIDTH]);
    let mut states = [vec![0.0; 3 * WIDTH]];
    bencher
        .counter(ItemsCount::new(x.len()))
        .bench_local(|| kernels.conv_silu(&[ROWS], black_box(&x), &taps, &mut states, 0, &mut out).expect("fits"));
}

#[divan::bench(args = isas())]
fn l2_norm(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let mut x = numbers(ROWS * WIDTH);
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| kernels.l2_norm(black_box(&mut x), 64).expect("fits"));
}

#[divan::bench(args = isas())]
fn sigmoid(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let mut x = numbers(ROWS * WIDTH);
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| kernels.sigmoid(black_box(&mut x), 1.0).expect("fits"));
}

#[divan::bench(args = isas())]
fn log_decay(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let (mut x, bias) = (numbers(ROWS * WIDTH), numbers(WIDTH));
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| {
        kernels.log_decay(black_box(&mut x), &[-1.0; 6], &bias).expect("fits");
    });
}

#[divan::bench(args = isas())]
fn gated_rms_norm(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let (x, weight, mut out) = (numbers(ROWS * WIDTH), numbers(64), vec![0.0; ROWS * WIDTH]);
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| {
        kernels.gated_rms_norm(black_box(&x), &x, &weight, 1e-5, OutputGate::Sigmoid, &mut out).expect("fits");
    });
}

#[divan::bench(args = isas())]
fn swiglu(bencher: Bencher, isa: Isa) {
    let kernels = Kernels::new(isa).expect("available");
    let (x, mut out) = (numbers(ROWS * 1024), vec![0.0; ROWS * 1024]);
    bencher.counter(ItemsCount::new(x.len())).bench_local(|| kernels.swiglu(black_box(&x), &x, &mut out).expect("fits"));
}
