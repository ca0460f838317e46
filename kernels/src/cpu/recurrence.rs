//! The recurrence and the convolution over [`Vector`]: see `scalar.rs` for what they are.
//!
//! Columns of S do not touch one another. So a block of columns goes through all tokens before the next one begins: of a
//! head of 128 x 128 that is 32 KiB, which stay in the first cache. And what token t leaves in a row is at once decayed and
//! read for token t + 1: one pass over S a token, two loads and stores less than the equations read as they stand. Both leave
//! each element's operations and their order as they are, and so its bits.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::vector::{self, Vector};
use super::{Conv, Recurrence};

/// Rows of S whose `exp g` and `b * k` are held ready.
const ROWS: usize = 128;
/// Elements of a page of memory. The processor asks for what follows by itself, but not across the end of a page.
const PAGE: usize = 1024;

#[inline(always)]
pub(super) unsafe fn gdn2<V: Vector>(job: &Recurrence<'_>, heads: Range<usize>) {
    let width = job.shape.value_dim;
    for head in heads {
        let mut column = 0;
        while column < width {
            let n = width - column;
            // SAFETY: columns `column..column + n` are this head's; for the rest see `Vector`.
            unsafe {
                column += if n >= 4 * V::LANES {
                    columns::<V, 4>(job, head, column, 4 * V::LANES)
                } else if n >= 2 * V::LANES {
                    columns::<V, 2>(job, head, column, 2 * V::LANES)
                } else {
                    columns::<V, 1>(job, head, column, n.min(V::LANES))
                };
            }
        }
    }
}

#[allow(clippy::needless_range_loop)] // c indexes registers and offsets alike
/// `n` columns of one head, in C registers, through all tokens; returns `n`.
#[inline(always)]
unsafe fn columns<V: Vector, const C: usize>(job: &Recurrence<'_>, head: usize, column: usize, n: usize) -> usize {
    let s = job.shape;
    let (rows, width) = (s.key_dim, s.value_dim);
    let key_head = head / (s.value_heads / s.heads);
    // SAFETY: offsets stay within `q, k, g, b [T, H, K]`, `v, w, out [T, HV, V]` and `state [HV, K, V]` for `key_head` < H,
    // `head` < HV, t < T and `column + n` <= V; for the rest see `Vector`.
    unsafe {
        let state = job.state.get().add(head * rows * width + column);
        let key = |x: *const f32, t: usize| x.add((t * s.heads + key_head) * rows);
        let value = |t: usize| (t * s.value_heads + head) * width + column;
        let scale = V::splat(1.0 / (rows as f32).sqrt());
        let mut ready = Ready { decay: MaybeUninit::uninit(), erase: MaybeUninit::uninit() };

        // The first token's decay and read.
        let mut y = [V::splat(0.0); C];
        let mut first = 0;
        while first < rows {
            let some = (rows - first).min(ROWS);
            let (decay, erase) =
                ready.fill::<V>(key(job.g, 0).add(first), key(job.b, 0).add(first), key(job.k, 0).add(first), some);
            for i in 0..some {
                let row = state.add((first + i) * width);
                let (decay, erase) = (V::splat(*decay.add(i)), V::splat(*erase.add(i)));
                for c in 0..C {
                    let s = V::load_n(row.add(c * V::LANES), n - c * V::LANES).mul(decay);
                    y[c] = s.fma(erase, y[c]);
                    s.store_n(row.add(c * V::LANES), n - c * V::LANES);
                    V::prefetch(row.wrapping_add(PAGE + c * V::LANES));
                }
            }
            first += ROWS;
        }

        for t in 0..job.tokens {
            let mut u = [V::splat(0.0); C];
            for c in 0..C {
                let at = value(t) + c * V::LANES;
                let v = V::load_n(job.v.add(at), n - c * V::LANES);
                let w = V::load_n(job.w.add(at), n - c * V::LANES);
                u[c] = w.mul(v).sub(y[c]);
            }
            let mut o = [V::splat(0.0); C];
            let (q, k) = (key(job.q, t), key(job.k, t));
            if t + 1 < job.tokens {
                // Token t's write and read, and token t + 1's decay and read.
                y = [V::splat(0.0); C];
                let mut first = 0;
                while first < rows {
                    let some = (rows - first).min(ROWS);
                    let (g, b, next) = (key(job.g, t + 1), key(job.b, t + 1), key(job.k, t + 1));
                    let (decay, erase) = ready.fill::<V>(g.add(first), b.add(first), next.add(first), some);
                    for i in 0..some {
                        let row = state.add((first + i) * width);
                        let (k, q) = (V::splat(*k.add(first + i)), V::splat(*q.add(first + i)));
                        let (decay, erase) = (V::splat(*decay.add(i)), V::splat(*erase.add(i)));
                        for c in 0..C {
                            let s = u[c].fma(k, V::load_n(row.add(c * V::LANES), n - c * V::LANES));
                            o[c] = s.fma(q, o[c]);
                            let s = s.mul(decay);
                            y[c] = s.fma(erase, y[c]);
                            s.store_n(row.add(c * V::LANES), n - c * V::LANES);
                        }
                    }
                    first += ROWS;
                }
            } else {
                for i in 0..rows {
                    let row = state.add(i * width);
                    let (k, q) = (V::splat(*k.add(i)), V::splat(*q.add(i)));
                    for c in 0..C {
                        let s = u[c].fma(k, V::load_n(row.add(c * V::LANES), n - c * V::LANES));
                        o[c] = s.fma(q, o[c]);
                        s.store_n(row.add(c * V::LANES), n - c * V::LANES);
                    }
                }
            }
            for c in 0..C {
                o[c].mul(scale).store_n(job.out.get().add(value(t) + c * V::LANES), n - c * V::LANES);
            }
        }
    }
    n
}

/// `exp g` and `b * k` of some rows.
struct Ready {
    decay: MaybeUninit<[f32; ROWS]>,
    erase: MaybeUninit<[f32; ROWS]>,
}

impl Ready {
    /// Of `n` <= ROWS rows.
    #[inline(always)]
    unsafe fn fill<V: Vector>(&mut self, g: *const f32, b: *const f32, k: *const f32, n: usize) -> (*const f32, *const f32) {
        let (decay, erase) = (self.decay.as_mut_ptr().cast::<f32>(), self.erase.as_mut_ptr().cast::<f32>());
        let mut at = 0;
        while at < n {
            // SAFETY: all have room for `n` <= ROWS elements; for the rest see `Vector`.
            unsafe {
                vector::exp(V::load_n(g.add(at), n - at)).store_n(decay.add(at), n - at);
                V::load_n(b.add(at), n - at).mul(V::load_n(k.add(at), n - at)).store_n(erase.add(at), n - at);
            }
            at += V::LANES;
        }
        (decay, erase)
    }
}

#[inline(always)]
pub(super) unsafe fn conv_silu<V: Vector>(job: &Conv<'_>, channels: Range<usize>) {
    let width = job.channels;
    let mut d = channels.start;
    while d < channels.end {
        let n = channels.end - d;
        // SAFETY: channels `d..d + n` (at most LANES of them) lie in `x, out [T, D]`, `taps [4, D]`, `state [3, D]`, and no other
        // part has them; for the rest see `Vector`.
        unsafe {
            let taps = job.taps.as_ptr().add(d);
            let (tap0, tap1) = (V::load_n(taps, n), V::load_n(taps.add(width), n));
            let (tap2, tap3) = (V::load_n(taps.add(2 * width), n), V::load_n(taps.add(3 * width), n));
            let state = job.state.get().add(d);
            let mut x0 = V::load_n(state, n);
            let mut x1 = V::load_n(state.add(width), n);
            let mut x2 = V::load_n(state.add(2 * width), n);
            for t in 0..job.tokens {
                let x3 = V::load_n(job.x.as_ptr().add(t * width + d), n);
                let sum = tap3.fma(x3, tap2.fma(x2, tap1.fma(x1, tap0.mul(x0))));
                vector::silu(sum).store_n(job.out.get().add(t * width + d), n);
                (x0, x1, x2) = (x1, x2, x3);
            }
            x0.store_n(state, n);
            x1.store_n(state.add(width), n);
            x2.store_n(state.add(2 * width), n);
        }
        d += V::LANES;
    }
}
