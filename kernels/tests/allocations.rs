//! Nothing is allocated in a decode step, once threads are there.
#![allow(clippy::unwrap_used)] // a panic is the report

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

mod inputs;

use inputs::Random;
use inputs::layer::{Round, Sizes, Weights};
use palimpsest_kernels::{Dtype, Gdn2Shape, Isa, Kernels, LayerOffsets, Matrix, Mixer, MixerRows, OutputGate, together};

/// Counts what the threads of the test's pool allocate; the test's own machinery may do as it likes.
struct Counting;

thread_local! {
    static IN_POOL: Cell<bool> = const { Cell::new(false) };
}

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is handed to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IN_POOL.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a layer does with each of `rows` sequences' next token.
fn steps(kernels: &Kernels, w: &Matrix, rows: usize, count: usize) -> usize {
    let shape = Gdn2Shape { heads: 6, value_heads: 6, key_dim: 64, value_dim: 64 };
    let width = 384;
    let x: Vec<f32> = (0..rows * width).map(|i| (i as f32 * 0.7).sin() * 0.1).collect();
    let [mut a, mut b, mut c] = [x.clone(), x.clone(), x.clone()];
    let lens = vec![1; rows];
    let at = shape.state_elements();
    let at = LayerOffsets { recurrent: 0, conv_q: at, conv_k: at + 3 * width, conv_v: at + 6 * width };
    let mut states = vec![vec![0.0; at.conv_v + 3 * width]; rows];
    let taps = vec![0.25; 4 * width];
    let mixer = Mixer {
        shape,
        q_taps: &taps,
        k_taps: &taps,
        v_taps: &taps,
        f_up: w,
        a_log: &[0.0; 6],
        dt_bias: &x[..width],
        g_up: w,
        g_bias: &x[..width],
        o_norm: &taps[..64],
        eps: 1e-5,
        output_gate: OutputGate::Silu,
        erase_scale: 1.0,
        write_scale: 1.0,
    };
    let sizes = Sizes { shape, width, hidden: 1000, ranks: [64, 64] };
    let mut random = Random::fixed(3);
    let layer = Weights::random(&mut random, sizes, [w.dtype(); 13]);
    let mut round = Round::random(&mut random, &sizes, &lens);
    let (mut buffers, mut whole) = ([(); 5].map(|()| x.clone()), x.clone());
    let mut read = [(); 5].map(|()| x.clone());
    // Each thread keeps memory for the rows of its products: it has it from the first one.
    rayon::broadcast(|_| {
        kernels.matmul(&x, w, &mut x.clone()).unwrap();
        round.clone().run(kernels, &layer, sizes.at(), true).unwrap();
    });
    let mut before = 0;
    for step in 0..count + 20 {
        if step == 20 {
            before = ALLOCATIONS.load(Ordering::Relaxed); // by then threads have what they need
        }
        kernels.rms_norm(&x, &taps[..width], 1e-5, &mut a).unwrap();
        kernels.matmul_each(&a, [w, w], [&mut b, &mut c]).unwrap();
        kernels.conv_silu(&lens, &b, &taps, &mut states, shape.state_elements(), &mut a).unwrap();
        kernels.l2_norm(&mut a, 64).unwrap();
        kernels.log_decay(&mut c, &[0.0; 6], &taps[..width]).unwrap();
        kernels.sigmoid(&mut b, 1.0).unwrap();
        let out = &mut vec_of(&mut before, rows * width)[..];
        kernels.gdn2(&shape, &lens, &a, &a, &x, &c, &b, &b, &mut states, 0, out).unwrap();
        kernels.gated_rms_norm(out, &b, &taps[..64], 1e-5, OutputGate::Silu, &mut a).unwrap();
        kernels.matmul_add(&a, w, &mut b).unwrap();
        kernels.swiglu(&a, &c, &mut b).unwrap();
        together(|| {
            let [gate, hidden, v, mixed, erase] = buffers.each_mut().map(|x| &mut x[..]);
            kernels.matmul_swiglu(&x, w, w, hidden).unwrap();
            let [raw_q, raw_k, raw_v, decay_low, gate_low] = read.each_mut().map(|x| &mut x[..]);
            let rows = MixerRows {
                raw_q,
                raw_k,
                raw_v,
                decay_low,
                gate_low,
                b: erase,
                w: hidden,
                q: &mut a,
                k: &mut b,
                v,
                g: &mut c,
                gate,
                out: &mut whole,
                mixed,
            };
            kernels.mix(&mixer, &lens, rows, &mut states, at).unwrap();
            round.run(kernels, &layer, sizes.at(), true).unwrap();
        });
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// A buffer whose allocation is not held against the kernels.
fn vec_of(before: &mut usize, n: usize) -> Vec<f32> {
    *before += 1;
    vec![0.0; n]
}

/// Returns when another thread has taken work from this one: then all have what they need.
fn wait_for_help(threads: usize) {
    let own = rayon::current_thread_index();
    let mut helped = threads == 1;
    while !helped {
        let pause = || std::thread::sleep(std::time::Duration::from_millis(1));
        helped = rayon::join(pause, || rayon::current_thread_index() != own).1;
    }
}

#[test]
fn a_decode_step_allocates_nothing() {
    let numbers: Vec<f32> = (0..384 * 384).map(|i| (i as f32).sin() * 0.05).collect();
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).start_handler(|_| IN_POOL.set(true)).build().unwrap();
        pool.install(|| wait_for_help(threads));
        for isa in Isa::available() {
            let kernels = Kernels::new(isa).unwrap();
            for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
                let w = Matrix::pack(384, 384, &numbers, dtype).unwrap();
                for rows in [1, 16] {
                    let count = pool.install(|| steps(&kernels, &w, rows, 50));
                    assert_eq!(count, 0, "{isa} {dtype:?}, {rows} sequences, {threads} threads: allocations in 50 steps");
                }
            }
        }
    }
}
