//! What kernels make themselves where decoding has few rows: a product its row, and SwiGLU after it; a step its gates.

use std::sync::Arc;

use half::bf16;
use palimpsest_kernels::cuda::{Buffer, GatesUp, Gpu, Normed, Out, Projection, View};
use palimpsest_kernels::{Gdn2Shape, OutputGate};

use crate::inputs::{Random, assert_same};
use crate::rows::{poisoned, rounded, wide};

/// Rows that the product makes itself are those that were made before; SwiGLU within it is what it is by itself.
pub(crate) fn check(gpu: &Gpu, r: &mut Random, w: &Buffer, n: usize, k: usize) {
    for m in [1, 7, 11, 35] {
        let (residual, weight) = (gpu.upload(&r.vec(m * k, -2.0, 2.0)).unwrap(), gpu.upload(&r.vec(k, -1.0, 1.0)).unwrap());
        let [made, into] = [(); 2].map(|()| poisoned(gpu, m * k * 2));
        let rows = Normed { residual: &residual, weight: &weight, eps: 1e-5, into: &into };
        gpu.rms_norm(&residual, None, m, &weight, 1e-5, &made).unwrap();
        // Among many rows it goes another way.
        let most = 37;
        let many = gpu.upload(&[made.to_vec::<bf16>().unwrap(), rounded(&vec![1.0; (most - m) * k])].concat()).unwrap();
        let (expected, out) = (poisoned(gpu, most * n * 4), poisoned(gpu, m * n * 4));
        gpu.narrow(View::dense(&many, k), most, w, n, k, Out::Sum(View::dense(&expected, n))).unwrap();
        gpu.narrow_of(rows, m, w, n, k, Out::Sum(View::dense(&out, n))).unwrap();
        let expected = expected.to_vec::<f32>().unwrap();
        assert_same(&format!("{m} norms"), &out.to_vec::<f32>().unwrap(), &expected[..m * n]);

        let half = n / 2;
        if n.is_multiple_of(4) {
            let [gated, alone] = [(); 2].map(|()| poisoned(gpu, m * half * 2));
            gpu.narrow_gated(rows, m, w, half, k, &gated).unwrap();
            let rounded = gpu.upload(&rounded(&expected[..m * n])).unwrap();
            gpu.swiglu(&rounded, m, half, &alone).unwrap();
            assert_same(&format!("{m} gated"), &wide(&gated.to_vec::<bf16>().unwrap()), &wide(&alone.to_vec::<bf16>().unwrap()));
        }
    }
}

/// Two products side by side, of K columns of x each, are those by themselves.
pub(crate) fn check_two(gpu: &Gpu, r: &mut Random, n: [usize; 2], k: usize) {
    let (both, row) = (n[0] + n[1], 2 * k + 8);
    for m in [1, 9, 40] {
        let held = gpu.upload(&rounded(&r.vec(m * row, -1.0, 1.0))).unwrap();
        let x = View::dense(&held, row).from(8);
        let w = n.map(|n| gpu.upload(&rounded(&r.vec(n * k, -1.0, 1.0))).unwrap());
        let [sums, alone] = [(); 2].map(|()| poisoned(gpu, m * both * 4));
        let words = poisoned(gpu, m * both * 2);
        gpu.narrow_two(x, m, [&w[0], &w[1]], n, k, Out::Sum(View::dense(&sums, both))).unwrap();
        gpu.narrow_two(x, m, [&w[0], &w[1]], n, k, Out::Rounded(View::dense(&words, both))).unwrap();
        for i in 0..2 {
            let to = View::dense(&alone, both).from(i * n[0]);
            gpu.narrow(x.from(i * k), m, &w[i], n[i], k, Out::Sum(to)).unwrap();
        }
        let alone = alone.to_vec::<f32>().unwrap();
        assert_same(&format!("two of {n:?} x {k}, {m} rows"), &sums.to_vec::<f32>().unwrap(), &alone);
        assert_same("rounded", &wide(&words.to_vec::<bf16>().unwrap()), &wide(&rounded(&alone)));
    }
}

/// A step that makes the up-projections of its gates' inputs leaves what it leaves after them.
pub(crate) fn check_gates(gpu: &Gpu, r: &mut Random, s: Gdn2Shape, rank: usize, m: usize) {
    let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
    let (d, row) = (2 * keys + values, 3 * keys + 2 * values + 2 * rank);
    let (mixer, _) = crate::mixer(gpu, r, s, OutputGate::Silu);
    let all = gpu.upload(&rounded(&r.vec(m * row, -2.0, 2.0))).unwrap();
    let [f_up, g_up] = [keys, values].map(|n| gpu.upload(&rounded(&r.vec(n * rank, -0.3, 0.3))).unwrap());
    let view = View::dense(&all, row);
    let [f_low, g_low] = [0, rank].map(|at| view.from(d + keys + values + at));
    let [f_made, g_made] = [keys, values].map(|n| poisoned(gpu, m * n * 2));
    let (f, g) = (View::dense(&f_made, keys), View::dense(&g_made, values));
    gpu.narrow(f_low, m, &f_up, keys, rank, Out::Rounded(f)).unwrap();
    gpu.narrow(g_low, m, &g_up, values, rank, Out::Rounded(g)).unwrap();
    let states: Vec<Vec<f32>> = (0..m).map(|_| r.vec(s.state_elements() + 3 * d, -0.5, 0.5)).collect();
    let run = |f, gate, up| {
        let on_device: Vec<Arc<Buffer>> = states.iter().map(|s| Arc::new(gpu.upload(s).unwrap())).collect();
        let projection = Projection { qkv: view, f, b: view.from(d), w: view.from(d + keys), gate, up };
        let (out, table) = (poisoned(gpu, m * values * 2), gpu.table(on_device.clone()).unwrap());
        gpu.step(&mixer, m, &projection, &table, 0, View::dense(&out, values)).unwrap();
        let after: Vec<f32> = on_device.iter().flat_map(|s| s.to_vec::<f32>().unwrap()).collect();
        [wide(&out.to_vec::<bf16>().unwrap()), after].concat()
    };
    assert!(Gpu::makes_gates(&s, rank, rank));
    let inside = run(f_low, g_low, Some(GatesUp { f: &f_up, gate: &g_up, rank }));
    assert_same(&format!("gates of rank {rank} inside, {s:?}"), &inside, &run(f, g, None));
}
