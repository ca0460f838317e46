//! Folded bf16 (`crate::folded`) becomes lines again: whole panels, in memory of the thread, for products of many rows.

use super::vector::Vector;
use crate::folded::{Folded, UNITS, Unit};
use crate::matrix::{PANEL, TILE_LINES};

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
