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
use crate::folded::Folded;

/// The scale of a row that stands alone and is moderate; no use is made of it else in bf16.
const MODERATE: f32 = 2.0;

/// [`dense::take`] of bf16, which remembers of a row that stands alone whether it is moderate.
#[inline(always)]
pub(super) unsafe fn take(x: &[f32], block: &Block, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        dense::take::<Bf16>(x, block, rows, false);
        if block.rows() == 1 && is_moderate(x) {
            *block.scale(0) = MODERATE;
        }
    }
}

/// Is every element, once it is bf16, 0 or of a magnitude from 2^-50 to 2^50?
#[inline(always)]
fn is_moderate(x: &[f32]) -> bool {
    const LEAST: u32 = (127 - 50) << 23;
    const MOST: u32 = (127 + 50) << 23;
    x.iter().fold(true, |all, x| {
        let x = x.to_bits() & 0x7fff_ffff;
        // What rounds to 0, or up to the least, is not asked about: it counts as too small.
        all & (x == 0 || (LEAST..=MOST).contains(&x))
    })
}

/// The weights, if this part is one row that needs no tiles. Products of moderate numbers are multiples of 2^-114, and so are their sums,
/// however rounded: none is below the smallest normal number but 0.
pub(super) fn weights<'a>(job: &Product<'a>) -> Option<&'a Folded> {
    // SAFETY: a block has at least one row.
    let row_is_moderate = || unsafe { *job.block.scale(0) } == MODERATE;
    job.w.folded().filter(|folded| job.block.rows() == 1 && folded.is_moderate() && row_is_moderate())
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
