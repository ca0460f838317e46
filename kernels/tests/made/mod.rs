//! Rows that a product makes itself.

use half::bf16;
use palimpsest_kernels::cuda::{Buffer, Gpu, Made, Out, View};

use crate::inputs::{Random, assert_same};
use crate::rows::{poisoned, rounded, wide};

/// A row that the product makes itself is the one that was made before; two products in one go are each of them.
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
    let x = gpu.upload(&rounded(&r.vec(2 * k, -1.0, 1.0))).unwrap();
    let other = gpu.upload(&rounded(&r.vec(n * k, -1.0, 1.0))).unwrap();
    let (x, w) = ([View::dense(&x, k), View::dense(&x, k).from(k)], [w, &other]);
    let out = [poisoned(gpu, n * 2), poisoned(gpu, n * 2)];
    gpu.narrow_two(x, 1, w, n, k, [View::dense(&out[0], n), View::dense(&out[1], n)]).unwrap();
    for i in 0..2 {
        let alone = poisoned(gpu, n * 2);
        gpu.narrow(x[i], 1, w[i], n, k, Out::Rounded(View::dense(&alone, n))).unwrap();
        assert_same("one of two", &wide(&out[i].to_vec::<bf16>().unwrap()), &wide(&alone.to_vec::<bf16>().unwrap()));
    }
}
