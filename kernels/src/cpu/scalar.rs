//! The definition of correct: plain loops in the order of the equations, and the standard library's functions.

use std::ops::Range;

use half::bf16;

use super::block::{Most, Room};
use super::{Conv, Product, Recurrence, Table};
use crate::matrix::{Dtype, PANEL};
use crate::rows::OutputGate;

pub(super) static TABLE: Table = Table {
    most: Most { rows: 64, tile: 1 },
    take: |_, _, _, _| (), // `product` looks at the rows themselves
    product,
    gdn2,
    conv_silu,
    rms_norm,
    l2_norm,
    sigmoid,
    log_decay,
    gated_rms_norm,
    swiglu,
};

/// `sum_k x[i, k] * w[j, k]`, k in order. Inputs are rounded as the weights are: to bf16, or to int8 with a scale a row.
unsafe fn product(job: &Product<'_>, panels: Range<usize>) {
    let (n, k) = (job.w.rows(), job.w.cols());
    let mut room = job.w.folded().map(|folded| (folded, Room::of(job.w)));
    for p in panels {
        let lines = match &mut room {
            Some((folded, room)) => {
                folded.unfold(p, room.lines());
                &*room.lines()
            }
            None => job.w.panel(p),
        };
        let columns = p * PANEL..((p + 1) * PANEL).min(n);
        for (i, row) in job.rows.clone().map(|i| (i, &job.x[i * k..(i + 1) * k])) {
            let sums = match job.w.dtype() {
                Dtype::F32 => {
                    let mut sums = [0.0; PANEL];
                    for (x, line) in row.iter().zip(lines) {
                        add_products(&mut sums, *x, line, f32::from_bits);
                    }
                    sums
                }
                Dtype::Bf16 => {
                    let mut sums = [0.0; PANEL];
                    for (x, line) in row.chunks(2).zip(lines) {
                        for (j, x) in x.iter().enumerate() {
                            add_products(&mut sums, bf16::from_f32(*x).to_f32(), line, |w| f32::from_bits(w >> (16 * j) << 16));
                        }
                    }
                    sums
                }
                Dtype::Int8 => {
                    let largest = row.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
                    let scale = if row.iter().any(|x| x.is_nan()) { f32::NAN } else { largest / 127.0 };
                    let per_unit = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
                    let mut sums = [0; PANEL];
                    for (x, line) in row.chunks(4).zip(lines) {
                        for (j, x) in x.iter().enumerate() {
                            let x = (x * per_unit).round_ties_even() as i32;
                            for (sum, w) in sums.iter_mut().zip(line) {
                                *sum += x * ((w << (24 - 8 * j)) as i32 >> 24);
                            }
                        }
                    }
                    std::array::from_fn(|j| sums[j] as f32 * (job.w.scales()[p * PANEL + j] * scale))
                }
            };
            // SAFETY: row i and these columns lie in `out [M, N]`, and no other part has these columns.
            let out = unsafe { std::slice::from_raw_parts_mut(job.at(i, columns.start), columns.len()) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if job.add { *out + sum } else { sum };
            }
        }
    }
}

#[inline(always)] // so that the sums stay in registers
fn add_products(sums: &mut [f32; PANEL], x: f32, line: &[u32; PANEL], weight: impl Fn(u32) -> f32) {
    for (sum, w) in sums.iter_mut().zip(line) {
        *sum += x * weight(*w);
    }
}

/// `S <- Diag(exp g) S; y = S^T (b * k); S <- S + k (w * v - y)^T; o = S^T q / sqrt(K)`, some columns of S at a time.
unsafe fn gdn2(job: &Recurrence<'_>, heads: Range<usize>) {
    const COLUMNS: usize = 32;
    let s = job.shape;
    let scale = 1.0 / (s.key_dim as f32).sqrt();
    for j in heads {
        let h = j / (s.value_heads / s.heads);
        for t in 0..job.tokens {
            let at = (t * s.heads + h) * s.key_dim;
            // SAFETY: token t and head h lie in `[T, H, K]`, and nobody writes them now.
            let [q, k, g, b] = [job.q, job.k, job.g, job.b].map(|x| unsafe { std::slice::from_raw_parts(x.add(at), s.key_dim) });
            let at = (t * s.value_heads + j) * s.value_dim;
            for first in (0..s.value_dim).step_by(COLUMNS) {
                let n = COLUMNS.min(s.value_dim - first);
                // SAFETY: these columns of token t and head j lie in `[T, HV, V]`, and nobody writes them now.
                let [v, w] = [job.v, job.w].map(|x| unsafe { std::slice::from_raw_parts(x.add(at + first), n) });
                // SAFETY: row i of head j lies in `state [HV, K, V]`; no other part has this head.
                let row = |i: usize| unsafe {
                    let at = (j * s.key_dim + i) * s.value_dim + first;
                    std::slice::from_raw_parts_mut(job.state.get().add(at), n)
                };
                let mut y = [0.0f32; COLUMNS];
                for i in 0..s.key_dim {
                    let (decay, erase) = (g[i].exp(), b[i] * k[i]);
                    for (y, s) in y.iter_mut().zip(row(i)) {
                        *s *= decay;
                        *y += erase * *s;
                    }
                }
                let mut o = [0.0f32; COLUMNS];
                for i in 0..s.key_dim {
                    for (c, s) in row(i).iter_mut().enumerate() {
                        *s += k[i] * (w[c] * v[c] - y[c]);
                        o[c] += q[i] * *s;
                    }
                }
                // SAFETY: these columns of token t and head j lie in `out [T, HV, V]`; no other part has this head.
                let out = unsafe { std::slice::from_raw_parts_mut(job.out.get().add(at + first), n) };
                for (out, o) in out.iter_mut().zip(o) {
                    *out = o * scale;
                }
            }
        }
    }
}

/// `silu(sum_j taps[j, d] * x[t - 3 + j, d])`, tokens before the first taken from the state.
unsafe fn conv_silu(job: &Conv<'_>, channels: Range<usize>) {
    let width = job.channels;
    for d in channels {
        let taps = [0, 1, 2, 3].map(|j| job.taps[j * width + d]);
        // SAFETY: channel d lies in `state [3, D]`, and no other part has it.
        let state = |j: usize| unsafe { &mut *job.state.get().add(j * width + d) };
        let mut last = [*state(0), *state(1), *state(2)];
        for t in 0..job.tokens {
            let x = job.x[t * width + d];
            let sum = taps[0] * last[0] + taps[1] * last[1] + taps[2] * last[2] + taps[3] * x;
            last = [last[1], last[2], x];
            // SAFETY: token t, channel d lies in `out [T, D]`, and no other part has this channel.
            unsafe { *job.out.get().add(t * width + d) = silu(sum) };
        }
        for (j, x) in last.into_iter().enumerate() {
            *state(j) = x;
        }
    }
}

unsafe fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let dim = weight.len();
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let scale = 1.0 / (sum_of_squares(x) / dim as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

unsafe fn l2_norm(x: &mut [f32], dim: usize) {
    for x in x.chunks_exact_mut(dim) {
        let scale = 1.0 / (sum_of_squares(x) + 1e-6).sqrt();
        x.iter_mut().for_each(|x| *x *= scale);
    }
}

unsafe fn sigmoid(x: &mut [f32], scale: f32) {
    x.iter_mut().for_each(|x| *x = scale / (1.0 + (-*x).exp()));
}

unsafe fn log_decay(f: &mut [f32], a_log: &[f32], dt_bias: &[f32]) {
    let key_dim = dt_bias.len() / a_log.len();
    for row in f.chunks_exact_mut(dt_bias.len()) {
        for (i, (f, bias)) in row.iter_mut().zip(dt_bias).enumerate() {
            *f = -a_log[i / key_dim].exp() * softplus(*f + bias);
        }
    }
}

unsafe fn gated_rms_norm(o: &[f32], gate: &[f32], weight: &[f32], eps: f32, kind: OutputGate, out: &mut [f32]) {
    // SAFETY: this function needs no more than its caller promised of it.
    unsafe { rms_norm(o, weight, eps, out) };
    for (out, &gate) in out.iter_mut().zip(gate) {
        *out *= match kind {
            OutputGate::Sigmoid => 1.0 / (1.0 + (-gate).exp()),
            OutputGate::Silu => silu(gate),
        };
    }
}

unsafe fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = silu(gate) * up;
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// `ln(1 + exp x)`, without overflow.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sum_of_squares(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum()
}
