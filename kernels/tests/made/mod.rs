//! What kernels make themselves where decoding has few rows: a product its row, a step its gates.

use std::sync::Arc;

use half::bf16;
use palimpsest_kernels::cuda::{Buffer, GatesUp, Gpu, Made, Out, Projection, View};
use palimpsest_kernels::{Gdn2Shape, OutputGate};

use crate::inputs::{Random, assert_same};
use crate::rows::{poisoned, rounded, wide};

/// A row that the product makes itself is the one that was made before.
pub(crate) fn check(gpu: &Gpu, r: &mut Random, w: &Buffer, n: usize, k: usize) {
    let (residual, weight) = (gpu.upload(&r.vec(k, -2.0, 2.0)).unwrap(), gpu.upload(&r.vec(k, -1.0, 1.0)).unwrap());
    let gate_up = gpu.upload(&rounded(&r.vec(2 * k, -4.0, 4.0))).unwrap();
    let made = poisoned(gpu, k * 2);
    let into = poisoned(gpu, k * 2);
    for rows in
        [Made::Normed { residual: &residual, weight: &weight, eps: 1e-5, into: &into }, Made::Gated { x: &gate_up, into: &into }]
    {
        match rows {
            Made::Normed { .. } => gpu.rms_norm(&residual, None, 1, &weight, 1e-5, &made).unwrap(),
            Made::Gated { .. } => gpu.swiglu(&gate_up, 1, k, &made).unwrap(),
        }
        // Among two rows it goes the way of few.
        let two = gpu.upload(&[made.to_vec::<bf16>().unwrap(), rounded(&vec![1.0; k])].concat()).unwrap();
        let (expected, out) = (poisoned(gpu, 2 * n * 4), poisoned(gpu, n * 4));
        gpu.narrow(View::dense(&two, k), 2, w, n, k, Out::Sum(View::dense(&expected, n))).unwrap();
        gpu.narrow_of(rows, 1, w, n, k, Out::Sum(View::dense(&out, n))).unwrap();
        assert_same(&format!("{rows:?}"), &out.to_vec::<f32>().unwrap(), &expected.to_vec::<f32>().unwrap()[..n]);
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
