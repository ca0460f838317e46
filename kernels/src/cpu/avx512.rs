//! x86-64 with AVX-512: 32 registers of 16 lanes, masks for the rest of a row, dot products of bf16 (VDPBF16PS) and of
//! int8 (VPDPBUSD, whose first operand is unsigned).

use std::arch::x86_64::*;
use std::mem::transmute;

use super::vector::{Vector, table};

#[derive(Clone, Copy)]
pub(super) struct F32x16(__m512);

impl F32x16 {
    /// Of pairs of bf16 the one in the lower bits, as f32.
    #[inline(always)]
    pub(super) unsafe fn low_half(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self.0)))) }
    }
    /// Of pairs of bf16 the one in the upper bits, as f32.
    #[inline(always)]
    pub(super) unsafe fn high_half(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_and_ps(self.0, _mm512_castsi512_ps(_mm512_set1_epi32(0xffff_0000_u32 as i32)))) }
    }
}

impl Vector for F32x16 {
    const LANES: usize = 16;
    const UNSIGNED_INT8: bool = true;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see `Vector`.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> Self {
        // SAFETY: see `Vector`; lanes that the mask leaves out are not read.
        unsafe { Self(_mm512_maskz_loadu_ps((1 << n) - 1, from)) }
    }
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, n: usize) {
        // SAFETY: see `Vector`; lanes that the mask leaves out are not written.
        unsafe { _mm512_mask_storeu_ps(to, (1 << n) - 1, self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    unsafe fn at_most(self, limit: Self) -> Self {
        // SAFETY: see `Vector`. Of a NaN and a number the instruction returns its second operand.
        unsafe { Self(_mm512_min_ps(limit.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn at_least(self, limit: Self) -> Self {
        // SAFETY: see `Vector`. Of a NaN and a number the instruction returns its second operand.
        unsafe { Self(_mm512_max_ps(limit.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let n = _mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see `Vector`.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, a: Self, b: Self) -> Self {
        // SAFETY: see `Vector`; the types differ in name only.
        unsafe { Self(_mm512_dpbf16_ps(self.0, transmute::<__m512, __m512bh>(a.0), transmute::<__m512, __m512bh>(b.0))) }
    }
    #[inline(always)]
    unsafe fn dot_int8(self, a: Self, b: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let sum = _mm512_castps_si512(self.0);
            Self(_mm512_castsi512_ps(_mm512_dpbusd_epi32(sum, _mm512_castps_si512(a.0), _mm512_castps_si512(b.0))))
        }
    }
    #[inline(always)]
    unsafe fn add_ints(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), _mm512_castps_si512(other.0)))) }
    }
    #[inline(always)]
    unsafe fn flip_int8(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(self.0), _mm512_set1_epi8(-128)))) }
    }
    #[inline(always)]
    unsafe fn repeat(from: *const u8) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_castsi512_ps(_mm512_broadcast_i32x4(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn unfold(self, unit: *const u8, _: usize) -> [[Self; 2]; 2] {
        // SAFETY: see `Vector`; a unit is three registers.
        unsafe {
            let [codes, first, second] = [0, 64, 128].map(|at| _mm512_loadu_si512(unit.add(at).cast()));
            let line = |low, codes| {
                let codes = _mm512_and_si512(codes, _mm512_set1_epi8(15));
                let high = _mm512_shuffle_epi8(_mm512_castps_si512(self.0), codes);
                [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)].map(|words| Self(_mm512_castsi512_ps(words)))
            };
            [line(first, codes), line(second, _mm512_srli_epi16::<4>(codes))]
        }
    }
    #[inline(always)]
    unsafe fn int_to_float(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_castps_si512(self.0))) }
    }
    /// By the reciprocal that the processor guesses within 2^-14, and a step of Newton's: Intel's division takes 16 cycles.
    #[inline(always)]
    unsafe fn over(self, divisor: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let guess = _mm512_rcp14_ps(divisor.0);
            let off = _mm512_fnmadd_ps(divisor.0, guess, _mm512_set1_ps(1.0));
            Self(_mm512_mul_ps(self.0, _mm512_fmadd_ps(guess, off, guess)))
        }
    }
    #[inline(always)]
    fn prefetch(at: *const f32) {
        // SAFETY: the instruction reads nothing that the program could see, and no address faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_near(at: *const f32) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

table!(
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma",
    F32x16, f32: 12 x 2, packed: 12 x 2, two: 2 x 4, one: 4 panels x 2
);
