//! One row of bf16 without tiles, and with their bits: weights then come folded, from several panels at once, 1.4 times as fast.
//!
//! What TDPBF16PS does is written down exactly (Intel 64 Architectures Software Developer's Manual, volume 2): each lane sums the
//! earlier elements of 16 words with one FMA each, the later ones by themselves, adds both and then what was there. AVX-512 does the
//! same, but for one thing: AMX takes any number below the smallest normal f32 for 0. So numbers must be such that there is none.

use std::ops::Range;

use super::Product;
use super::avx512::F32x16;
use super::block::Block;
use super::dense::{self, Bf16};
use super::one_row::{self, Sum, Unfolding};
use super::vector::Vector;
use crate::folded::{Exponents, Folded};

/// [`dense::take`] of bf16. Of a row that stands alone it remembers the exponents, in place of a scale, which bf16 has no use for.
#[inline(always)]
pub(super) unsafe fn take(x: &[f32], block: &Block, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        dense::take::<Bf16>(x, block, rows, false);
        if block.rows() == 1 {
            *block.scale(0).cast() = exponents(x);
        }
    }
}

/// Those of numbers on their way to bf16: rounding may carry into the next greater one.
#[inline(always)]
fn exponents(x: &[f32]) -> Exponents {
    let (mut least, mut greatest) = (u32::MAX, 0);
    for x in x {
        // Without the sign, and less 1: 0 is above all others.
        let x = x.to_bits() << 1;
        least = least.min(x.wrapping_sub(1));
        greatest = greatest.max(x);
    }
    let least = if least == u32::MAX { least } else { least + 1 };
    Exponents { least: (least >> 24) as u8, greatest: ((greatest >> 24) as u8).saturating_add(1) }
}

/// The weights, if this part is one row that needs no tiles: if no sum is below the smallest normal number (but 0) and none beyond the
/// greatest.
///
/// A bf16 has 8 bits: one of (biased) exponent e is a multiple of 2^(e - 134) and below 2^(e - 126). A product is then a multiple of
/// 2^(e + f - 268), and so is any sum of products, however rounded to 24 bits; it is below 2^(e + f - 252), and a sum of 2^17 below
/// 2^(e + f - 235).
pub(super) fn weights<'a>(job: &Product<'a>) -> Option<&'a Folded> {
    let folded = job.w.folded().filter(|_| job.block.rows() == 1)?;
    // SAFETY: a block has at least one row, and `take` left this there.
    let (x, w) = (unsafe { *job.block.scale(0).cast::<Exponents>() }, folded.exponents());
    let sum = |x: u8, w: u8| u32::from(x) + u32::from(w);
    // Exponent 0 is that of numbers which are not normal themselves, 255 that of infinities and NaN.
    let are_normal = x.least > 0 && w.least > 0 && x.greatest < 255 && w.greatest < 255;
    (are_normal && sum(x.least, w.least) >= 268 - 126 && sum(x.greatest, w.greatest) <= 235 + 127).then_some(folded)
}

/// One row times panels.
#[inline(always)]
pub(super) unsafe fn product(job: &Product<'_>, folded: &Folded, panels: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe { one_row::product::<F32x16, _, 2, 4>(job, &Unfolding::<InTwo>::of(folded), panels) }
}

/// Sums as TDPBF16PS makes them.
#[derive(Clone, Copy)]
struct InTwo(F32x16);

impl InTwo {
    /// The earlier and the later elements of words, as f32.
    #[inline(always)]
    unsafe fn elements(words: F32x16) -> [F32x16; 2] {
        // SAFETY: see `Vector`.
        unsafe { [words.low_half(), words.high_half()] }
    }
}

impl Sum<F32x16> for InTwo {
    type Step = [F32x16; 2];
    type Input = [F32x16; 2];

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { F32x16::splat(0.0) })
    }
    #[inline(always)]
    unsafe fn begin(self) -> [F32x16; 2] {
        // SAFETY: see `Vector`.
        [unsafe { F32x16::splat(0.0) }; 2]
    }
    #[inline(always)]
    unsafe fn input(word: F32x16) -> [F32x16; 2] {
        // SAFETY: see `Vector`.
        unsafe { Self::elements(word) }
    }
    #[inline(always)]
    unsafe fn add([earlier, later]: [F32x16; 2], input: [F32x16; 2], words: F32x16) -> [F32x16; 2] {
        // SAFETY: see `Vector`.
        unsafe {
            let weights = Self::elements(words);
            [input[0].fma(weights[0], earlier), input[1].fma(weights[1], later)]
        }
    }
    #[inline(always)]
    unsafe fn end(self, [earlier, later]: [F32x16; 2]) -> Self {
        // SAFETY: see `Vector`.
        Self(unsafe { self.0.add(earlier.add(later)) })
    }
    #[inline(always)]
    unsafe fn value(self) -> F32x16 {
        self.0
    }
}
