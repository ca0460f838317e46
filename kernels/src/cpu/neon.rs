//! aarch64 with NEON: 32 registers of 4 lanes.

use std::arch::aarch64::*;

use super::vector::{Vector, table};

#[derive(Clone, Copy)]
struct F32x4(float32x4_t);

impl Vector for F32x4 {
    const LANES: usize = 4;
    const UNSIGNED_INT8: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vdupq_n_f32(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vld1q_f32(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see `Vector`.
        unsafe { vst1q_f32(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> Self {
        let mut lanes = [0.0; 4];
        // SAFETY: see `Vector`; `n` < 4 elements are read.
        unsafe {
            lanes.as_mut_ptr().copy_from_nonoverlapping(from, n);
            Self::load(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, n: usize) {
        let mut lanes = [0.0; 4];
        // SAFETY: see `Vector`; `n` < 4 elements are written.
        unsafe {
            self.store(lanes.as_mut_ptr());
            to.copy_from_nonoverlapping(lanes.as_ptr(), n);
        }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vaddq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vsubq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vmulq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vdivq_f32(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vfmaq_f32(addend.0, self.0, factor.0)) }
    }
    #[inline(always)]
    unsafe fn at_most(self, limit: Self) -> Self {
        // SAFETY: see `Vector`. Of a NaN and a number the instruction returns NaN.
        unsafe { Self(vminq_f32(self.0, limit.0)) }
    }
    #[inline(always)]
    unsafe fn at_least(self, limit: Self) -> Self {
        // SAFETY: see `Vector`. Of a NaN and a number the instruction returns NaN.
        unsafe { Self(vmaxq_f32(self.0, limit.0)) }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let n = vaddq_s32(vreinterpretq_s32_f32(self.0), vdupq_n_s32(127));
            Self(vreinterpretq_f32_s32(vshlq_n_s32::<23>(n)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see `Vector`.
        unsafe { vaddvq_f32(self.0) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, a: Self, b: Self) -> Self {
        // SAFETY: see `Vector`. A bf16 is the upper half of its f32.
        unsafe {
            let low = |x: float32x4_t| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_f32(x)));
            let high = |x: float32x4_t| vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(0xffff_0000)));
            Self(vfmaq_f32(vfmaq_f32(self.0, low(a.0), low(b.0)), high(a.0), high(b.0)))
        }
    }
    #[inline(always)]
    unsafe fn dot_int8(self, a: Self, b: Self) -> Self {
        // SAFETY: see `Vector`. Products as i16, then sums of two and of four as i32.
        unsafe {
            let (a, b) = (vreinterpretq_s8_f32(a.0), vreinterpretq_s8_f32(b.0));
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
            let high = vpaddlq_s16(vmull_high_s8(a, b));
            Self(vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self.0), vpaddq_s32(low, high))))
        }
    }
    #[inline(always)]
    unsafe fn add_ints(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self.0), vreinterpretq_s32_f32(other.0)))) }
    }
    #[inline(always)]
    unsafe fn flip_int8(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vreinterpretq_f32_u8(veorq_u8(vreinterpretq_u8_f32(self.0), vdupq_n_u8(128)))) }
    }
    #[inline(always)]
    unsafe fn repeat(from: *const u8) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vreinterpretq_f32_u8(vld1q_u8(from))) }
    }
    #[inline(always)]
    unsafe fn unfold(self, unit: *const u8, part: usize) -> [[Self; 2]; 2] {
        // SAFETY: see `Vector`; a part is a register of codes and one of each line.
        unsafe {
            let [codes, first, second] = [0, 64, 128].map(|at| vld1q_u8(unit.add(at + 16 * part)));
            let line = |low, codes| {
                let high = vqtbl1q_u8(vreinterpretq_u8_f32(self.0), codes);
                [vzip1q_u8(low, high), vzip2q_u8(low, high)].map(|words| Self(vreinterpretq_f32_u8(words)))
            };
            [line(first, vandq_u8(codes, vdupq_n_u8(15))), line(second, vshrq_n_u8::<4>(codes))]
        }
    }
    #[inline(always)]
    unsafe fn int_to_float(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(vcvtq_f32_s32(vreinterpretq_s32_f32(self.0))) }
    }
}

table!("neon", F32x4, f32: 6 x 4, packed: 4 x 4, two: 2 x 8, one: 1 panels x 8);
