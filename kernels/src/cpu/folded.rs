//! Products of many rows with folded bf16 (`crate::folded`): a panel is unfolded into memory of the thread, once for all rows of a
//! part.

use std::ops::Range;

use super::Product;
use super::block::Room;
use super::dense::{self, Ahead, Bf16};
use super::vector::Vector;
use crate::folded::{Folded, UNITS, Unit};
use crate::matrix::{PANEL, TILE_LINES};

/// A part of a product with folded weights. A panel is N registers wide; tiles are R rows by W registers.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const R: usize, const W: usize, const N: usize>(
    job: &Product<'_>,
    folded: &Folded,
    panels: Range<usize>,
) {
    const { assert!(N.is_multiple_of(W) && N * V::LANES == PANEL, "a panel is N registers wide, and whole tiles") };
    // SAFETY: rows and panels are the caller's; the room has a panel's lines; for the rest see `Vector`.
    unsafe {
        let mut room = Room::of(job.w);
        for p in panels {
            unfold::<V, N>(folded, p, room.lines());
            let weights = room.lines().as_ptr().cast::<f32>();
            let next = folded.units(p).as_ptr_range().end.cast();
            for first in (0..N).step_by(W) {
                let ahead = Ahead { at: next, bytes_per_line: size_of::<Unit>() / 2 };
                dense::rows_of_block::<V, Bf16, R, W>(job, p * PANEL + first * V::LANES, weights.add(first * V::LANES), ahead);
            }
        }
    }
}

/// Unfolds panel `p` into `lines`: what [`Folded::unfold`] does.
#[inline(always)]
pub(super) unsafe fn unfold<V: Vector, const N: usize>(folded: &Folded, p: usize, lines: &mut [[u32; PANEL]]) {
    // SAFETY: a unit is 192 bytes and two lines; for the rest see `Vector`.
    unsafe {
        let table = V::repeat(folded.high(p).as_ptr());
        for (step, lines) in lines.chunks_exact_mut(TILE_LINES).enumerate() {
            for (unit, lines) in folded.units(p)[step * UNITS..].iter().zip(lines.as_chunks_mut().0) {
                unfold_unit::<V, N>(table, unit, lines);
            }
            folded.mend(p, step, lines);
        }
    }
}

#[inline(always)]
pub(super) unsafe fn unfold_unit<V: Vector, const N: usize>(table: V, unit: &Unit, lines: &mut [[u32; PANEL]; 2]) {
    for part in 0..N / 2 {
        // SAFETY: a unit has N / 2 parts, of 2 registers of each of its lines; for the rest see `Vector`.
        unsafe {
            let words = table.unfold((&raw const *unit).cast(), part);
            for (line, words) in lines.iter_mut().zip(words) {
                for (half, words) in words.into_iter().enumerate() {
                    words.store(line.as_mut_ptr().add(half * PANEL / 2 + part * V::LANES).cast());
                }
            }
        }
    }
}
