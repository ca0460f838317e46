//! What an instruction set must provide, and the functions of one variable that are made of it.
//!
//! The algorithms beside this file are written once, over [`Vector`]; an instruction set's file is glue. Every function here
//! works lane by lane (but for [`Vector::sum`]), so that where an element stands does not change what becomes of it.

/// A register of f32 lanes.
///
/// # Safety
/// All functions are `unsafe` for one reason: the processor must have the instruction set, and the caller must be compiled
/// for it (everything here is inlined into functions with `#[target_feature]`). Pointers must be good for the lanes that are
/// read or written; they need no alignment.
pub(super) trait Vector: Copy {
    /// f32 elements of a register: 4, 8 or 16.
    const LANES: usize;
    /// [`Vector::dot_int8`] takes its first operand as x + 128, unsigned.
    const UNSIGNED_INT8: bool;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `n` lanes, `n < LANES`; the others are 0.
    unsafe fn load_some(from: *const f32, n: usize) -> Self;
    /// The first `n` lanes, `n < LANES`; what lies behind them is not touched.
    unsafe fn store_some(self, to: *mut f32, n: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    unsafe fn fma(self, factor: Self, addend: Self) -> Self;
    /// The smaller; NaN where `self` is NaN.
    unsafe fn at_most(self, limit: Self) -> Self;
    /// The larger; NaN where `self` is NaN.
    unsafe fn at_least(self, limit: Self) -> Self;
    /// `2^n`, for the integer n in -126..=127 that stands in the low bits of `self`.
    unsafe fn power_of_two(self) -> Self;
    /// The sum of all lanes, in an order that depends on nothing.
    unsafe fn sum(self) -> f32;
    /// Lanes are pairs of bf16: `self + a0 b0 + a1 b1`.
    unsafe fn dot_bf16(self, a: Self, b: Self) -> Self;
    /// Lanes are four int8, and `self` an i32: `self + a0 b0 + a1 b1 + a2 b2 + a3 b3`.
    unsafe fn dot_int8(self, a: Self, b: Self) -> Self;
    /// Lanes are i32; what is beyond them wraps around.
    unsafe fn add_ints(self, other: Self) -> Self;
    /// Lanes are four int8, and 128 is added to each, with wrap-around: from signed to unsigned, and back.
    unsafe fn flip_int8(self) -> Self;
    /// 16 bytes, again and again.
    unsafe fn repeat(from: *const u8) -> Self;
    /// Part `part` of a [`crate::folded::Unit`], whose codes stand for the 16 bytes that `self` repeats: of each of its two lines the
    /// registers that begin with columns `part * LANES` and `16 + part * LANES`.
    unsafe fn unfold(self, unit: *const u8, part: usize) -> [[Self; 2]; 2];
    /// Lanes are i32, and become the nearest f32.
    unsafe fn int_to_float(self) -> Self;

    /// `self / divisor`, for divisors in 1..=1.8e38, within 1.5 units in the last place (where the quotient is a normal number).
    #[inline(always)]
    unsafe fn over(self, divisor: Self) -> Self {
        // SAFETY: the caller's promise, see the trait.
        unsafe { self.div(divisor) }
    }

    /// Asks for the cache line at `_at`, any address, to be brought near; nothing where an instruction set has no such request.
    #[inline(always)]
    fn prefetch(_at: *const f32) {}

    /// The same, nearer: into the first cache.
    #[inline(always)]
    fn prefetch_near(_at: *const f32) {}

    /// `n` lanes, all where `n >= LANES`.
    #[inline(always)]
    unsafe fn load_n(from: *const f32, n: usize) -> Self {
        // SAFETY: the caller's promise, see the trait.
        unsafe { if n >= Self::LANES { Self::load(from) } else { Self::load_some(from, n) } }
    }

    /// `n` lanes, all where `n >= LANES`.
    #[inline(always)]
    unsafe fn store_n(self, to: *mut f32, n: usize) {
        // SAFETY: the caller's promise, see the trait.
        unsafe { if n >= Self::LANES { self.store(to) } else { self.store_some(to, n) } }
    }
}

/// `exp x` within 2 units in the last place for x in -87..=88; held at `exp(-87) = 1.6e-38` below and `exp(88) = 1.7e38`
/// above; NaN for NaN.
///
/// `x = n ln 2 + r` with n whole and `|r| <= ln 2 / 2`; then `2^n (1 + r + r^2 q(r))`, q interpolated at Chebyshev's nodes
/// (`q = (e^r - 1 - r) / r^2`; its error adds 1e-8 of the result).
#[inline(always)]
pub(super) unsafe fn exp<V: Vector>(x: V) -> V {
    const Q: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_552, 0.008_363_346, 0.001_392_639_2];
    // Adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // SAFETY: the caller's promise, see `Vector`.
    unsafe {
        let x = x.at_least(V::splat(-87.0)).at_most(V::splat(88.0));
        let shifted = x.fma(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND));
        let n = shifted.sub(V::splat(ROUND));
        // ln 2 in two parts: the first has 9 bits, so that n times it is exact.
        let r = n.fma(V::splat(-0.691_406_25), x);
        let r = n.fma(V::splat(-0.001_740_930_6), r);
        let mut q = V::splat(Q[4]);
        q = q.fma(r, V::splat(Q[3]));
        q = q.fma(r, V::splat(Q[2]));
        q = q.fma(r, V::splat(Q[1]));
        q = q.fma(r, V::splat(Q[0]));
        q = q.fma(r, V::splat(1.0));
        q = q.fma(r, V::splat(1.0));
        q.mul(shifted.power_of_two())
    }
}

/// `1 / (1 + exp(-x))`, within 4 units in the last place; 6e-39 where x is under -88.
#[inline(always)]
pub(super) unsafe fn sigmoid<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise, see `Vector`.
    unsafe {
        let one = V::splat(1.0);
        one.over(one.add(exp(V::splat(0.0).sub(x))))
    }
}

/// `x / (1 + exp(-x))`, within 4 units in the last place down to x = -88.
#[inline(always)]
pub(super) unsafe fn silu<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise, see `Vector`.
    unsafe { x.over(V::splat(1.0).add(exp(V::splat(0.0).sub(x)))) }
}

/// `ln(1 + exp x)` within 4 units in the last place where x > -87, 1.6e-38 below.
///
/// `max(x, 0) + ln(1 + t)` with `t = exp(-|x|)` in 0..=1, and `ln(1 + t) = 2 atanh(s)`, `s = t / (2 + t)` in 0..=1/3; the
/// series of atanh is interpolated in `s^2` at Chebyshev's nodes (its error adds 4e-9 of the result).
#[inline(always)]
pub(super) unsafe fn softplus<V: Vector>(x: V) -> V {
    const P: [f32; 5] = [0.333_333_34, 0.199_998_53, 0.142_961_79, 0.108_532_88, 0.116_121_65];
    // SAFETY: the caller's promise, see `Vector`.
    unsafe {
        let zero = V::splat(0.0);
        let positive = x.at_least(zero);
        // -|x| = min(x, 0) - max(x, 0)
        let t = exp(x.at_most(zero).sub(positive));
        let s = t.over(t.add(V::splat(2.0)));
        let z = s.mul(s);
        let mut p = V::splat(P[4]);
        p = p.fma(z, V::splat(P[3]));
        p = p.fma(z, V::splat(P[2]));
        p = p.fma(z, V::splat(P[1]));
        p = p.fma(z, V::splat(P[0]));
        p = p.mul(z);
        let twice = s.add(s);
        p.fma(twice, twice).add(positive)
    }
}

/// The table of an instruction set: each function of the generic files, compiled for `$features`.
///
/// The tiles of products are rows x registers of columns, where there are many rows of f32, many of bf16 or int8, and two; one row takes
/// some panels into registers at once, each as many registers wide.
macro_rules! table {
    ($features:literal, $vector:ty, f32: $r:literal x $w:literal, packed: $rp:literal x $wp:literal, two: 2 x $two:literal,
     one: $p:literal panels x $n:literal) => {
        use crate::cpu::block::Block;
        use crate::cpu::{Conv, Product, Recurrence, Table, dense, recurrence, rows};
        use crate::matrix::Dtype;
        use crate::rows::OutputGate;
        use std::ops::Range;

        pub(in crate::cpu) const TABLE: Table = Table {
            most: dense::MOST,
            take,
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

        #[target_feature(enable = $features)]
        unsafe fn take(x: &[f32], dtype: Dtype, block: &Block, rows: Range<usize>) {
            // SAFETY: as in `product`.
            unsafe {
                match dtype {
                    Dtype::F32 => dense::take::<dense::F32>(x, block, rows, false),
                    Dtype::Bf16 => dense::take::<dense::Bf16>(x, block, rows, false),
                    Dtype::Int8 => dense::take::<dense::Int8>(x, block, rows, <$vector as Vector>::UNSIGNED_INT8),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn product(job: &Product<'_>, panels: Range<usize>) {
            // SAFETY: this function is compiled for the instruction set; the rest is its caller's promise.
            unsafe {
                match job.w.dtype() {
                    Dtype::F32 => dense::product::<$vector, dense::F32, $r, $w, $two, $n, $p>(job, panels),
                    Dtype::Bf16 => dense::product::<$vector, dense::Bf16, $rp, $wp, $two, $n, $p>(job, panels),
                    Dtype::Int8 => dense::product::<$vector, dense::Int8, $rp, $wp, $two, $n, $p>(job, panels),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn gdn2(job: &Recurrence<'_>, heads: Range<usize>) {
            // SAFETY: as in `product`.
            unsafe { recurrence::gdn2::<$vector>(job, heads) }
        }

        #[target_feature(enable = $features)]
        unsafe fn conv_silu(job: &Conv<'_>, channels: Range<usize>) {
            // SAFETY: as in `product`.
            unsafe { recurrence::conv_silu::<$vector>(job, channels) }
        }

        #[target_feature(enable = $features)]
        unsafe fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
            // SAFETY: as in `product`.
            unsafe { rows::rms_norm::<$vector>(x, weight, eps, out) }
        }

        #[target_feature(enable = $features)]
        unsafe fn l2_norm(x: &mut [f32], dim: usize) {
            // SAFETY: as in `product`.
            unsafe { rows::l2_norm::<$vector>(x, dim) }
        }

        #[target_feature(enable = $features)]
        unsafe fn sigmoid(x: &mut [f32], scale: f32) {
            // SAFETY: as in `product`.
            unsafe { rows::sigmoid::<$vector>(x, scale) }
        }

        #[target_feature(enable = $features)]
        unsafe fn log_decay(f: &mut [f32], a_log: &[f32], dt_bias: &[f32]) {
            // SAFETY: as in `product`.
            unsafe { rows::log_decay::<$vector>(f, a_log, dt_bias) }
        }

        #[target_feature(enable = $features)]
        unsafe fn gated_rms_norm(o: &[f32], gate: &[f32], weight: &[f32], eps: f32, kind: OutputGate, out: &mut [f32]) {
            // SAFETY: as in `product`.
            unsafe { rows::gated_rms_norm::<$vector>(o, gate, weight, eps, kind, out) }
        }

        #[target_feature(enable = $features)]
        unsafe fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
            // SAFETY: as in `product`.
            unsafe { rows::swiglu::<$vector>(gate, up, out) }
        }
    };
}

pub(super) use table;
