//! x86-64 with AVX2 and FMA: 16 registers of 8 lanes.

use std::arch::x86_64::*;

use super::vector::{Vector, table};

#[derive(Clone, Copy)]
struct F32x8(__m256);

impl F32x8 {
    /// All bits set in the first `n` lanes.
    #[inline(always)]
    unsafe fn mask(n: usize) -> __m256i {
        // SAFETY: see `Vector`.
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }
}

impl Vector for F32x8 {
    const LANES: usize = 8;
    const UNSIGNED_INT8: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_loadu_ps(from)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: see `Vector`.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, n: usize) -> Self {
        // SAFETY: see `Vector`; lanes that the mask leaves out are not read.
        unsafe { Self(_mm256_maskload_ps(from, Self::mask(n))) }
    }
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, n: usize) {
        // SAFETY: see `Vector`; lanes that the mask leaves out are not written.
        unsafe { _mm256_maskstore_ps(to, Self::mask(n), self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_mul_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_div_ps(self.0, other.0)) }
    }
    #[inline(always)]
    unsafe fn fma(self, factor: Self, addend: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
    }
    #[inline(always)]
    unsafe fn at_most(self, limit: Self) -> Self {
        // SAFETY: see `Vector`. Of a NaN and a number the instruction returns its second operand.
        unsafe { Self(_mm256_min_ps(limit.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn at_least(self, limit: Self) -> Self {
        // SAFETY: see `Vector`. Of a NaN and a number the instruction returns its second operand.
        unsafe { Self(_mm256_max_ps(limit.0, self.0)) }
    }
    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe {
            let n = _mm256_add_epi32(_mm256_castps_si256(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(n)))
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: see `Vector`.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn dot_bf16(self, a: Self, b: Self) -> Self {
        // SAFETY: see `Vector`. A bf16 is the upper half of its f32.
        unsafe {
            let low = |x: __m256| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(x)));
            let high = |x: __m256| _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32)));
            Self(_mm256_fmadd_ps(high(a.0), high(b.0), _mm256_fmadd_ps(low(a.0), low(b.0), self.0)))
        }
    }
    #[inline(always)]
    unsafe fn dot_int8(self, a: Self, b: Self) -> Self {
        // SAFETY: see `Vector`. |b| times a with the sign of b, as i16 in pairs: at most 2 * 128 * 127, so that nothing saturates
        // (inputs are within 127, activations.rs; weights may be -128, whose absolute value is 128 unsigned).
        unsafe {
            let (a, b) = (_mm256_castps_si256(a.0), _mm256_castps_si256(b.0));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(b), _mm256_sign_epi8(a, b));
            let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            Self(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), fours)))
        }
    }
    #[inline(always)]
    unsafe fn add_ints(self, other: Self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), _mm256_castps_si256(other.0)))) }
    }
    #[inline(always)]
    unsafe fn flip_int8(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(self.0), _mm256_set1_epi8(-128)))) }
    }
    #[inline(always)]
    unsafe fn repeat(from: *const u8) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_castsi256_ps(_mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn unfold(self, unit: *const u8, part: usize) -> [[Self; 2]; 2] {
        // SAFETY: see `Vector`; a part is a register of codes and one of each line.
        unsafe {
            let [codes, first, second] = [0, 64, 128].map(|at| _mm256_loadu_si256(unit.add(at + 32 * part).cast()));
            let line = |low, codes| {
                let codes = _mm256_and_si256(codes, _mm256_set1_epi8(15));
                let high = _mm256_shuffle_epi8(_mm256_castps_si256(self.0), codes);
                [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)].map(|words| Self(_mm256_castsi256_ps(words)))
            };
            [line(first, codes), line(second, _mm256_srli_epi16::<4>(codes))]
        }
    }
    #[inline(always)]
    unsafe fn int_to_float(self) -> Self {
        // SAFETY: see `Vector`.
        unsafe { Self(_mm256_cvtepi32_ps(_mm256_castps_si256(self.0))) }
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

table!("avx2,fma", F32x8, f32: 6 x 2, packed: 4 x 2, two: 2 x 4, one: 2 panels x 4);
