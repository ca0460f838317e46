//! Norms, gates and activations over [`Vector`]: see `scalar.rs` for what they are.

use super::vector::{self, Vector};
use crate::rows::OutputGate;

/// `sum x^2` over `n` elements: lane by lane in order, then over the lanes.
#[inline(always)]
unsafe fn sum_of_squares<V: Vector>(x: *const f32, n: usize) -> f32 {
    // SAFETY: reads `n` elements, which the caller vouches for; for the rest see `Vector`.
    unsafe {
        let mut sum = V::splat(0.0);
        let mut at = 0;
        while at < n {
            let x = V::load_n(x.add(at), n - at);
            sum = x.fma(x, sum);
            at += V::LANES;
        }
        sum.sum()
    }
}

#[inline(always)]
pub(super) unsafe fn rms_norm<V: Vector>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        // SAFETY: all three have `n` elements; for the rest see `Vector`.
        unsafe {
            let scale = V::splat(1.0 / (sum_of_squares::<V>(x.as_ptr(), n) / n as f32 + eps).sqrt());
            let mut at = 0;
            while at < n {
                let (x, weight) = (V::load_n(x.as_ptr().add(at), n - at), V::load_n(weight.as_ptr().add(at), n - at));
                x.mul(scale).mul(weight).store_n(out.as_mut_ptr().add(at), n - at);
                at += V::LANES;
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn l2_norm<V: Vector>(x: &mut [f32], n: usize) {
    for x in x.chunks_exact_mut(n) {
        let x = x.as_mut_ptr();
        // SAFETY: `x` has `n` elements; for the rest see `Vector`.
        unsafe {
            let scale = V::splat(1.0 / (sum_of_squares::<V>(x, n) + 1e-6).sqrt());
            let mut at = 0;
            while at < n {
                V::load_n(x.add(at), n - at).mul(scale).store_n(x.add(at), n - at);
                at += V::LANES;
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn sigmoid<V: Vector>(x: &mut [f32], scale: f32) {
    let (x, n) = (x.as_mut_ptr(), x.len());
    let mut at = 0;
    while at < n {
        // SAFETY: `x` has `n` elements; for the rest see `Vector`.
        unsafe { vector::sigmoid(V::load_n(x.add(at), n - at)).mul(V::splat(scale)).store_n(x.add(at), n - at) };
        at += V::LANES;
    }
}

#[inline(always)]
pub(super) unsafe fn log_decay<V: Vector>(f: &mut [f32], a_log: &[f32], dt_bias: &[f32]) {
    let n = dt_bias.len() / a_log.len();
    for row in f.chunks_exact_mut(dt_bias.len()) {
        for ((f, bias), a_log) in row.chunks_exact_mut(n).zip(dt_bias.chunks_exact(n)).zip(a_log) {
            let f = f.as_mut_ptr();
            let mut at = 0;
            // SAFETY: `f` and `bias` have `n` elements; for the rest see `Vector`.
            unsafe {
                let rate = V::splat(-a_log.exp());
                while at < n {
                    let x = V::load_n(f.add(at), n - at).add(V::load_n(bias.as_ptr().add(at), n - at));
                    vector::softplus(x).mul(rate).store_n(f.add(at), n - at);
                    at += V::LANES;
                }
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn gated_rms_norm<V: Vector>(
    o: &[f32],
    gate: &[f32],
    weight: &[f32],
    eps: f32,
    kind: OutputGate,
    out: &mut [f32],
) {
    let n = weight.len();
    for ((o, gate), out) in o.chunks_exact(n).zip(gate.chunks_exact(n)).zip(out.chunks_exact_mut(n)) {
        // SAFETY: all four have `n` elements; for the rest see `Vector`.
        unsafe {
            let scale = V::splat(1.0 / (sum_of_squares::<V>(o.as_ptr(), n) / n as f32 + eps).sqrt());
            let mut at = 0;
            while at < n {
                let (o, gate) = (V::load_n(o.as_ptr().add(at), n - at), V::load_n(gate.as_ptr().add(at), n - at));
                let gate = match kind {
                    OutputGate::Sigmoid => vector::sigmoid(gate),
                    OutputGate::Silu => vector::silu(gate),
                };
                let weight = V::load_n(weight.as_ptr().add(at), n - at);
                o.mul(scale).mul(weight).mul(gate).store_n(out.as_mut_ptr().add(at), n - at);
                at += V::LANES;
            }
        }
    }
}

#[inline(always)]
pub(super) unsafe fn swiglu<V: Vector>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let n = out.len();
    let mut at = 0;
    while at < n {
        // SAFETY: all three have `n` elements; for the rest see `Vector`.
        unsafe {
            let (gate, up) = (V::load_n(gate.as_ptr().add(at), n - at), V::load_n(up.as_ptr().add(at), n - at));
            vector::silu(gate).mul(up).store_n(out.as_mut_ptr().add(at), n - at);
        }
        at += V::LANES;
    }
}
