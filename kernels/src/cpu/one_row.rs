//! One row times weights: what a decode step is made of. It waits for memory and for little else. To Intel's processors several streams come
//! from there faster than one: so up to 8 panels are gone through side by side, a step of 16 lines of each in turn. AMD's foresee a single
//! stream, and are the slower the more there are: there panels are gone through one by one, and nothing is asked for.
#![allow(clippy::needless_range_loop)] // closures are not always compiled for the instruction set of who calls them; plain loops are

use std::ops::Range;

use super::block::CHUNK;
use super::dense::Dot;
use super::folded::unfold_unit;
use super::vector::Vector;
use super::{MOST_SIDE_BY_SIDE, Product};
use crate::folded::{Folded, UNITS, Unit};
use crate::matrix::{Matrix, PANEL, TILE_LINES};

/// Units ahead of those in work that are asked for, in all panels together: from 6 to 8 in each (Emerald Rapids, eight panels; 4: 0.98 to 1.00,
/// 8: 0.97 to 1.00). Unfolding fills the processor's window before what comes next is asked for.
const AHEAD: usize = 32;
/// Lines ahead of the one in work that are asked for, in each panel. Fewer than a step has: what follows it is on its way when it ends.
const SOON: usize = 12;
/// Panels of so many lines are of larger matrices, which lie farther away: they are asked for two steps ahead, into the second cache, and
/// again for the first one. (Emerald Rapids, int8: 151 million weights 1.08 times as fast as without, with 1 and 2 threads; but the
/// pilot, whose panels have 96 lines, 0.96 times as fast as with SOON.)
const LONG: usize = 128;
const LATER: usize = 2 * TILE_LINES;
const SOONER: usize = 8;
/// Words of a cache line.
const LINE_WORDS: usize = 16;

/// 16 words of the row, or what there is.
pub(super) struct Step {
    number: usize,
    row: *const f32,
    words: usize,
    /// Panels side by side, and how many units further on each is asked for.
    panels: usize,
    ahead: usize,
    /// Is anything asked for ahead?
    asks: bool,
    /// The last step of the panels: the next folded ones are asked for then.
    last: bool,
}

/// What results need to know of the row.
pub(super) struct End {
    scale: f32,
    extra: f32,
    /// The panel went by itself, not together with others.
    alone: bool,
}

/// Does `$work` for each panel below P, 4 at most, written out: where the compiler keeps a loop, sums go through memory.
macro_rules! each_panel {
    ($panels:ident, $p:ident, $work:block) => {
        const { assert!($panels <= 4) };
        if $panels > 0 {
            let $p = 0;
            $work
        }
        if $panels > 1 {
            let $p = 1;
            $work
        }
        if $panels > 2 {
            let $p = 2;
            $work
        }
        if $panels > 3 {
            let $p = 3;
            $work
        }
    };
}

/// What a row is multiplied with, in panels that are N registers wide.
pub(super) trait Weights<V: Vector, const N: usize> {
    /// The sums of a register's columns, as far as they are.
    type Sum: Copy;

    /// At first.
    unsafe fn zero() -> Self::Sum;
    /// Asks for what the columns from `column` on need at the end.
    fn ask(&self, column: usize);
    /// Adds a step of the P panels from `first` on; a single one goes alone.
    unsafe fn add<const P: usize>(&self, first: usize, step: &Step, sums: &mut [[Self::Sum; N]; P]);
    /// The results of the columns from `column` on.
    unsafe fn end(&self, sum: Self::Sum, row: &End, column: usize) -> V;
}

/// The one row of a part times panels, P of them in registers at a time.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, W: Weights<V, N>, const N: usize, const P: usize>(
    job: &Product<'_>,
    weights: &W,
    panels: Range<usize>,
) {
    const { assert!(N * V::LANES == PANEL, "a panel is N registers wide") };
    // Nine are five and four, rather than eight and one that comes alone.
    let at_once = panels.len().div_ceil(panels.len().div_ceil(job.side_by_side).max(1)).max(1);
    for first in panels.clone().step_by(at_once) {
        // SAFETY: the caller's panels; for the rest see `Vector`.
        unsafe { side_by_side::<V, W, N, P>(job, weights, first..panels.end.min(first + at_once)) }
    }
}

/// No more than [`MOST_SIDE_BY_SIDE`] of them.
#[inline(always)]
unsafe fn side_by_side<V: Vector, W: Weights<V, N>, const N: usize, const P: usize>(
    job: &Product<'_>,
    weights: &W,
    panels: Range<usize>,
) {
    let (r, n, words) = (job.rows.start, job.w.rows(), job.block.words_per_row());
    // They go by four, two and one.
    let alone = |p: usize| P == 1 || panels.len() % 2 == 1 && p + 1 == panels.len();
    let column = |p: usize, j: usize| (panels.start + p) * PANEL + j * V::LANES;
    // SAFETY: a block has `Dot::FILL` behind a row up to whole steps; the panels are the caller's; results go to row r and columns below N;
    // for the rest see `Vector`.
    unsafe {
        let mut sums = [[W::zero(); N]; MOST_SIDE_BY_SIDE];
        let sums = &mut sums[..panels.len()];
        let asks = job.side_by_side > 1;
        if asks {
            for p in 0..panels.len() {
                (0..N).for_each(|j| weights.ask(column(p, j)));
            }
        }
        let ahead = (AHEAD / panels.len().max(1)).clamp(6, UNITS);
        for from in (0..words).step_by(TILE_LINES) {
            let row = job.block.row(from / CHUNK * CHUNK, r).add(from % CHUNK).cast();
            let (number, last) = (from / TILE_LINES, from + TILE_LINES >= words);
            let step = Step { number, row, words: TILE_LINES.min(words - from), panels: panels.len(), ahead, asks, last };
            let (mut p, mut left) = (panels.start, &mut *sums);
            while !left.is_empty() {
                let done = if P >= 4
                    && let Some(sums) = left.first_chunk_mut::<4>()
                {
                    weights.add(p, &step, sums);
                    4
                } else if P >= 2
                    && let Some(sums) = left.first_chunk_mut::<2>()
                {
                    weights.add(p, &step, sums);
                    2
                } else if let Some(sums) = left.first_chunk_mut::<1>() {
                    weights.add(p, &step, sums);
                    1
                } else {
                    break;
                };
                (p, left) = (p + done, &mut left[done..]);
            }
        }
        let (scale, extra) = (*job.block.scale(r), *job.block.extra(r));
        for (p, sums) in sums.iter().enumerate() {
            let row = End { scale, extra, alone: alone(p) };
            for (j, sum) in sums.iter().enumerate() {
                let column = column(p, j);
                if column < n {
                    let (out, sum) = (job.at(r, column), weights.end(*sum, &row, column));
                    let sum = if job.add { V::load_n(out, n - column).add(sum) } else { sum };
                    sum.store_n(out, n - column);
                }
            }
        }
    }
}

/// Weights as they are.
pub(super) struct Lines<'a, D> {
    w: &'a Matrix,
    dot: std::marker::PhantomData<D>,
}

impl<'a, D: Dot> Lines<'a, D> {
    pub(super) fn of(w: &'a Matrix) -> Self {
        Self { w, dot: std::marker::PhantomData }
    }

    /// Asks for line `line` of a step, in the P panels from `panel` on: beyond their end, for those of the panels that come after them,
    /// which are not the next but as many further on as go side by side.
    #[inline(always)]
    fn ask_for<const P: usize>(&self, panel: *const f32, step: &Step, line: usize, ask: impl Fn(*const f32)) {
        let (words, from) = (self.w.panel_words(), (step.number * TILE_LINES + line) * PANEL);
        let at = panel.wrapping_add(from + if from < words { 0 } else { (step.panels - 1) * words });
        for p in 0..P {
            let line = at.wrapping_add(p * words);
            ask(line);
            ask(line.wrapping_add(LINE_WORDS));
        }
    }
}

impl<V: Vector, D: Dot, const N: usize> Weights<V, N> for Lines<'_, D> {
    type Sum = V;

    #[inline(always)]
    unsafe fn zero() -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    fn ask(&self, column: usize) {
        D::ask::<V>(self.w, column);
    }
    #[inline(always)]
    unsafe fn add<const P: usize>(&self, first: usize, step: &Step, sums: &mut [[V; N]; P]) {
        // SAFETY: these panels have so many lines; what is asked for may lie anywhere; for the rest see `Vector`.
        unsafe {
            let panel = self.w.words_from(first).cast::<f32>();
            let from = panel.add(step.number * TILE_LINES * PANEL);
            let lines = self.w.panel_words() / PANEL;
            let mut all = *sums;
            for i in 0..step.words {
                let input = V::splat(*step.row.add(i));
                if P > 1 || step.asks {
                    if lines < LONG {
                        self.ask_for::<P>(panel, step, i + SOON, V::prefetch_near);
                    } else {
                        self.ask_for::<P>(panel, step, i + LATER, V::prefetch);
                        self.ask_for::<P>(panel, step, i + SOONER, V::prefetch_near);
                    }
                }
                each_panel!(P, p, {
                    for j in 0..N {
                        let words = V::load(from.add(p * self.w.panel_words() + i * PANEL + j * V::LANES));
                        let sum = all[p][j];
                        all[p][j] = if P == 1 { D::dot_alone(sum, input, words) } else { D::dot(sum, input, words) };
                    }
                });
            }
            *sums = all;
        }
    }
    #[inline(always)]
    unsafe fn end(&self, sum: V, row: &End, column: usize) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe {
            let sum = if row.alone { D::whole_alone(sum, row.extra) } else { D::whole(sum, self.w, column) };
            D::end(sum, row.scale, self.w, column)
        }
    }
}

/// Folded ones, summed as S does.
pub(super) struct Unfolding<'a, S> {
    folded: &'a Folded,
    sum: std::marker::PhantomData<S>,
}

impl<'a, S> Unfolding<'a, S> {
    pub(super) fn of(folded: &'a Folded) -> Self {
        Self { folded, sum: std::marker::PhantomData }
    }
}

/// How products of folded weights are summed: the sums of a register's columns, as far as they are.
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

impl<V: Vector, S: Sum<V>, const N: usize> Weights<V, N> for Unfolding<'_, S> {
    type Sum = S;

    #[inline(always)]
    unsafe fn zero() -> S {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { S::zero() }
    }
    #[inline(always)]
    fn ask(&self, _: usize) {}
    /// Whole steps: what there is beyond `words` changes no sum.
    #[inline(always)]
    unsafe fn add<const P: usize>(&self, first: usize, step: &Step, sums: &mut [[S; N]; P]) {
        let (folded, row) = (self.folded, step.row);
        // From the end of a panel to the beginning of the one that follows it: not the next, but as many further as go side by side.
        let others = if step.last { (step.panels - 1) * folded.steps() * UNITS } else { 0 };
        // SAFETY: these panels are there, and the row is filled up to whole steps; what is asked for may lie anywhere; for the rest
        // see `Vector`.
        unsafe {
            let mut of_step = [[S::zero().begin(); N]; P];
            let mut tables = [V::splat(0.0); P];
            let mut units = [std::ptr::null::<Unit>(); P];
            let mut marks = 0;
            for p in 0..P {
                for j in 0..N {
                    of_step[p][j] = sums[p][j].begin();
                }
                tables[p] = V::repeat(folded.high(first + p).as_ptr());
                units[p] = folded.units(first + p).as_ptr().add(step.number * UNITS);
                marks |= folded.marks(first + p, step.number);
            }
            for unit in 0..UNITS {
                let ahead = step.ahead + if unit + step.ahead < UNITS { 0 } else { others };
                let inputs = [S::input(V::splat(*row.add(2 * unit))), S::input(V::splat(*row.add(2 * unit + 1)))];
                if marks >> unit & 1 == 0 {
                    each_panel!(P, p, {
                        if P > 1 || step.asks {
                            let next = units[p].wrapping_add(unit + ahead).cast::<f32>();
                            V::prefetch_near(next);
                            V::prefetch_near(next.wrapping_add(LINE_WORDS));
                            V::prefetch_near(next.wrapping_add(2 * LINE_WORDS));
                        }
                        for part in 0..N / 2 {
                            let words = tables[p].unfold(units[p].add(unit).cast(), part);
                            for line in 0..2 {
                                for half in 0..2 {
                                    let j = half * N / 2 + part;
                                    of_step[p][j] = S::add(of_step[p][j], inputs[line], words[line][half]);
                                }
                            }
                        }
                    });
                } else {
                    let mut lines = [[[0; PANEL]; 2]; P];
                    for p in 0..P {
                        unfold_unit::<V, N>(tables[p], &*units[p].add(unit), &mut lines[p]);
                        folded.mend_unit(first + p, step.number, unit, &mut lines[p]);
                    }
                    each_panel!(P, p, {
                        for line in 0..2 {
                            for j in 0..N {
                                let words = V::load(lines[p][line].as_ptr().add(j * V::LANES).cast());
                                of_step[p][j] = S::add(of_step[p][j], inputs[line], words);
                            }
                        }
                    });
                }
            }
            for p in 0..P {
                for j in 0..N {
                    sums[p][j] = sums[p][j].end(of_step[p][j]);
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn end(&self, sum: S, _: &End, _: usize) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { sum.value() }
    }
}
