//! Products with folded bf16 (`crate::folded`).
//!
//! One row unfolds weights in registers, some panels side by side: several streams come from memory faster than one, and it has
//! nothing else to wait for. Many rows unfold a panel into memory of their thread first, once for all of them.

use std::ops::Range;

use super::Product;
use super::block::{Block, CHUNK, Room};
use super::dense::{self, Ahead, Bf16};
use super::vector::Vector;
use crate::folded::{Folded, UNITS, Unit};
use crate::matrix::{PANEL, TILE_LINES};

/// Units ahead of the one in work that one row asks for.
const AHEAD: usize = 4;
/// Words of a cache line.
const CACHE_LINE: usize = 16;

/// The sums of a register's columns, as far as they are.
pub(super) trait Sum<V: Vector>: Copy {
    /// What they are within a step of 16 lines.
    type Step: Copy;
    /// A word of the row, in every lane.
    type Input: Copy;

    unsafe fn zero() -> Self;
    unsafe fn begin(self) -> Self::Step;
    unsafe fn input(word: V) -> Self::Input;
    /// Adds the products of a word of the row and one of each column.
    unsafe fn add(step: Self::Step, input: Self::Input, words: V) -> Self::Step;
    unsafe fn end(self, step: Self::Step) -> Self;
    unsafe fn value(self) -> V;
}

/// Word by word, as `dense.rs` has it.
impl<V: Vector> Sum<V> for V {
    type Step = V;
    type Input = V;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn begin(self) -> V {
        self
    }
    #[inline(always)]
    unsafe fn input(word: V) -> V {
        word
    }
    #[inline(always)]
    unsafe fn add(step: V, input: V, words: V) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { step.dot_bf16(input, words) }
    }
    #[inline(always)]
    unsafe fn end(self, step: V) -> Self {
        step
    }
    #[inline(always)]
    unsafe fn value(self) -> V {
        self
    }
}

/// A part of a product with folded weights. A panel is N registers wide; tiles of many rows are R by W registers; one row takes P
/// panels at once.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, const R: usize, const W: usize, const N: usize, const P: usize>(
    job: &Product<'_>,
    folded: &Folded,
    panels: Range<usize>,
) {
    // SAFETY: rows and panels are the caller's; the room has a panel's lines; for the rest see `Vector`.
    unsafe {
        if job.rows.len() == 1 {
            return row::<V, V, N, P>(job, folded, panels);
        }
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
unsafe fn unfold_unit<V: Vector, const N: usize>(table: V, unit: &Unit, lines: &mut [[u32; PANEL]; 2]) {
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

/// The one row of a part times panels, P of them in registers at a time.
#[inline(always)]
pub(super) unsafe fn row<V: Vector, S: Sum<V>, const N: usize, const P: usize>(
    job: &Product<'_>,
    folded: &Folded,
    panels: Range<usize>,
) {
    let mut p = panels.start;
    while p < panels.end {
        let left = panels.end - p;
        // SAFETY: no more than the panels that are left, which are the caller's.
        p += unsafe {
            if left >= 2 * P {
                side_by_side::<V, S, N, P, 2>(job, folded, p)
            } else if P >= 4 && left >= 4 {
                side_by_side::<V, S, N, 4, 1>(job, folded, p)
            } else if P >= 2 && left >= 2 {
                side_by_side::<V, S, N, 2, 1>(job, folded, p)
            } else {
                side_by_side::<V, S, N, 1, 1>(job, folded, p)
            }
        };
    }
}

/// One row times the P * GROUPS panels from `first` on; returns how many. Within a step the groups take turns, and each is in registers.
#[inline(always)]
unsafe fn side_by_side<V: Vector, S: Sum<V>, const N: usize, const P: usize, const GROUPS: usize>(
    job: &Product<'_>,
    folded: &Folded,
    first: usize,
) -> usize {
    const { assert!(N * V::LANES == PANEL, "a panel is N registers wide") };
    let (r, n) = (job.rows.start, job.w.rows());
    // SAFETY: a block has `Dot::FILL` behind a row up to whole steps; the panels are the caller's, and of whole steps too; results go to
    // row r and columns below N; for the rest see `Vector`.
    unsafe {
        let mut sums = [[[S::zero(); N]; P]; GROUPS];
        for step in 0..folded.steps() {
            let row = words(job.block, r, step * TILE_LINES);
            for (group, sums) in sums.iter_mut().enumerate() {
                add_step::<V, S, N, P>(folded, first + group * P, step, row, sums);
            }
        }
        for (p, sums) in sums.into_iter().flatten().enumerate() {
            for (j, sum) in sums.into_iter().enumerate() {
                let column = (first + p) * PANEL + j * V::LANES;
                if column < n {
                    let (out, sum) = (job.at(r, column), sum.value());
                    let sum = if job.add { V::load_n(out, n - column).add(sum) } else { sum };
                    sum.store_n(out, n - column);
                }
            }
        }
    }
    P * GROUPS
}

/// Adds a step of P panels, from `first` on, times the 16 words of `row`.
#[inline(always)]
unsafe fn add_step<V: Vector, S: Sum<V>, const N: usize, const P: usize>(
    folded: &Folded,
    first: usize,
    step: usize,
    row: *const f32,
    sums: &mut [[S; N]; P],
) {
    // SAFETY: the caller's promise, see `side_by_side`; what is asked for may lie anywhere.
    unsafe {
        let mut of_step = sums.map(|sums| sums.map(|sum| sum.begin()));
        let mut tables = [V::splat(0.0); P];
        let mut units = [std::ptr::null::<Unit>(); P];
        let mut marks = 0;
        for p in 0..P {
            tables[p] = V::repeat(folded.high(first + p).as_ptr());
            units[p] = folded.units(first + p).as_ptr().add(step * UNITS);
            marks |= folded.marks(first + p, step);
        }
        for unit in 0..UNITS {
            let inputs = [S::input(V::splat(*row.add(2 * unit))), S::input(V::splat(*row.add(2 * unit + 1)))];
            for p in 0..P {
                let at = units[p].add(unit);
                (0..3).for_each(|line| V::prefetch_near(at.wrapping_add(AHEAD).cast::<f32>().wrapping_add(line * CACHE_LINE)));
                if marks >> unit & 1 == 0 {
                    for part in 0..N / 2 {
                        for (words, input) in tables[p].unfold(at.cast(), part).into_iter().zip(inputs) {
                            for (half, words) in words.into_iter().enumerate() {
                                let sum = &mut of_step[p][half * N / 2 + part];
                                *sum = S::add(*sum, input, words);
                            }
                        }
                    }
                } else {
                    let mut lines = [[0; PANEL]; 2];
                    unfold_unit::<V, N>(tables[p], &*at, &mut lines);
                    folded.mend_unit(first + p, step, unit, &mut lines);
                    for (line, input) in lines.iter().zip(inputs) {
                        for (j, sum) in of_step[p].iter_mut().enumerate() {
                            *sum = S::add(*sum, input, V::load(line.as_ptr().add(j * V::LANES).cast()));
                        }
                    }
                }
            }
        }
        for (sums, of_step) in sums.iter_mut().flatten().zip(of_step.iter().flatten()) {
            *sums = sums.end(*of_step);
        }
    }
}

/// Words of row `r` from `from` on, up to the end of their chunk.
#[inline(always)]
unsafe fn words(block: &Block, r: usize, from: usize) -> *const f32 {
    // SAFETY: the caller has `from` below the words of a row, and `r` below the rows.
    unsafe { block.row(from / CHUNK * CHUNK, r).add(from % CHUNK).cast() }
}
