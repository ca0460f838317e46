//! `x W^T`: the products that every token goes through.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;

use crate::Kernels;
use crate::cpu::block::{Block, MOST_ROWS};
use crate::cpu::{Product, Shared};
use crate::floats::Floats;
use crate::matrix::{Dtype, Matrix, PANEL};
use crate::parallel::split;
use crate::shape::{ShapeError, length, rows_of};

/// Rows of a part, where there are more threads than panels to go round.
const ROWS: usize = 64;
/// Elements of a product on their way to a SwiGLU: a panel's of the largest block (16 KiB).
const RAW: usize = MOST_ROWS * PANEL;
/// Elements that become words in a nanosecond, about.
const WORDS: usize = 8;

impl Kernels {
    /// `out [M, N] = x [M, K] W^T`, where `M = x.len() / K`.
    ///
    /// # Errors
    /// [`ShapeError`] when `x` is not rows of K or `out` not as many rows of N.
    pub fn matmul(&self, x: &[f32], w: &Matrix, out: &mut [f32]) -> Result<(), ShapeError> {
        self.products("matmul", x, [w], [out], false)
    }

    /// `out [M, N] += x [M, K] W^T`. The product is summed first and then added, once.
    ///
    /// # Errors
    /// As [`Kernels::matmul`].
    pub fn matmul_add(&self, x: &[f32], w: &Matrix, out: &mut [f32]) -> Result<(), ShapeError> {
        self.products("matmul_add", x, [w], [out], true)
    }

    /// Several products of the same rows at once: `out[i] = x W[i]^T`, each with the bits of [`Kernels::matmul`]. One decode
    /// step's small products then fill all threads together.
    ///
    /// # Errors
    /// As [`Kernels::matmul`], and when the matrices are not of one K.
    pub fn matmul_each<const N: usize>(&self, x: &[f32], w: [&Matrix; N], out: [&mut [f32]; N]) -> Result<(), ShapeError> {
        self.products("matmul_each", x, w, out, false)
    }

    /// The first half of a SwiGLU: `hidden = silu(x gate^T) * (x up^T)`. The same bits as [`Kernels::matmul_each`] and then
    /// [`Kernels::swiglu`], but threads are asked once, and what both products give stays where it was made.
    ///
    /// # Errors
    /// As [`Kernels::matmul`], and when the two matrices are not of one shape and type.
    pub fn matmul_swiglu(&self, x: &[f32], gate: &Matrix, up: &Matrix, hidden: &mut [f32]) -> Result<(), ShapeError> {
        let op = "matmul_swiglu";
        let (k, n) = (gate.cols(), gate.rows());
        length(op, "up (its N)", up.rows(), n)?;
        length(op, "up (its K)", up.cols(), k)?;
        length(op, "up (bytes of a weight)", up.dtype().bytes(), gate.dtype().bytes())?;
        let m = rows_of(op, "x", x, k)?;
        length(op, "hidden", hidden.len(), m * n)?;
        let hidden = Shared(hidden.as_mut_ptr());
        let jobs = [gate, up].map(|w| Job { x, m, w, out: hidden, add: false });
        // SAFETY: lengths were checked; parts have their own panels or rows.
        self.each_panel(&jobs, gate.panels(), &|part, panels| unsafe { self.swiglu_panels(gate, up, hidden, part, panels) });
        Ok(())
    }

    /// Some rows times some panels of both matrices, and what SwiGLU makes of that.
    ///
    /// Safety: the matrices are of one shape and type; no one else writes these rows and columns of `hidden [M, N]`.
    pub(crate) unsafe fn swiglu_panels(&self, gate: &Matrix, up: &Matrix, hidden: Shared, part: &Part<'_>, panels: Range<usize>) {
        let (n, rows) = (gate.rows(), part.rows.len());
        let mut raw = [const { MaybeUninit::<[f32; RAW]>::uninit() }; 3];
        let raw = raw.each_mut().map(|raw| Shared(raw.as_mut_ptr().cast()));
        let at_once = (RAW / (PANEL * rows)).max(1);
        for first in panels.clone().step_by(at_once) {
            let some = first..panels.end.min(first + at_once);
            let columns = some.start * PANEL..n.min(some.end * PANEL);
            let width = columns.len();
            // SAFETY: the table fits this processor; the caller's promise. A block has no more than RAW / PANEL rows, so that `rows` of `width`
            // fit into each of `raw`; both products write all of them.
            unsafe {
                for (w, raw) in [gate, up].into_iter().zip(raw) {
                    let out = Shared(raw.get().wrapping_sub(part.rows.start * width + columns.start));
                    (self.table.product)(&part.times(w, out, width, false), some.clone());
                }
                let [gate, up, both] = raw.map(|raw| raw.part(0..rows * width));
                (self.table.swiglu)(gate, up, both);
                for (row, both) in part.rows.clone().zip(both.chunks_exact(width)) {
                    let from = (part.first + row) * n + columns.start;
                    hidden.part(from..from + width).copy_from_slice(both);
                }
            }
        }
    }

    fn products<const N: usize>(
        &self,
        op: &'static str,
        x: &[f32],
        w: [&Matrix; N],
        out: [&mut [f32]; N],
        add: bool,
    ) -> Result<(), ShapeError> {
        let jobs = jobs(op, x, w, out, add)?;
        // Matrices of one type go together, since rows become words of that type.
        for some in jobs.chunk_by(|a, b| a.w.dtype() == b.w.dtype()) {
            // SAFETY: lengths were checked; parts have their own panels or rows.
            self.each_panel(some, panels_of(some), &|part, panels| unsafe { self.some_panels(some, part, panels) });
        }
        Ok(())
    }

    /// Some rows times some of the panels of `jobs`, numbered through.
    ///
    /// Safety: the jobs have the part's rows, and outputs of their own; no one else writes these rows and columns.
    pub(crate) unsafe fn some_panels(&self, jobs: &[Job<'_>], part: &Part<'_>, panels: Range<usize>) {
        let mut first = 0;
        for job in jobs {
            let mine = panels.start.max(first)..panels.end.min(first + job.w.panels());
            if !mine.is_empty() {
                // SAFETY: the table fits this processor (`Kernels::new`); the caller's promise.
                unsafe { (self.table.product)(&job.part(part), mine.start - first..mine.end - first) }
            }
            first += job.w.panels();
        }
    }

    /// Calls `work` with one row as words, which this thread makes for itself, after the norm if there is one: its weights and epsilon.
    ///
    /// Safety: `x` has as many elements as the norm has weights, and as words of `dtype` may have; nobody writes them meanwhile.
    pub(crate) unsafe fn with_row(&self, x: &[f32], norm: Option<(&[f32], f32)>, dtype: Dtype, work: impl FnOnce(&Part<'_>)) {
        thread_local! {
            static NORMED: Cell<Floats> = const { Cell::new(Floats::EMPTY) };
        }
        let mut normed = NORMED.take();
        let x = match norm {
            Some((weight, eps)) => {
                let normed = normed.at_least(x.len());
                // SAFETY: the table fits this processor; all three are as long.
                unsafe { (self.table.rms_norm)(x, weight, eps, normed) };
                normed
            }
            None => x,
        };
        Block::with(1, x.len().div_ceil(dtype.word()), |block| {
            // SAFETY: the table fits this processor; the block is this one's.
            unsafe { (self.table.take)(x, dtype, block, 0..1) };
            work(&Part { first: 0, x, block, rows: 0..1, side_by_side: self.side_by_side });
        });
        NORMED.set(normed);
    }

    /// Turns the rows of `jobs` into words, block by block, and calls `work` until all rows of each block and all `panels`, numbered
    /// through, are done. All jobs have the same rows and type.
    fn each_panel(&self, jobs: &[Job<'_>], panels: usize, work: &(impl Fn(&Part<'_>, Range<usize>) + Sync)) {
        let Some(Job { x, m, w, .. }) = jobs.first() else { return };
        let (k, dtype) = (w.cols(), w.dtype());
        let words = k.div_ceil(dtype.word());
        let most = self.table.most.of(words);
        for first in (0..*m).step_by(most) {
            let rows = most.min(m - first);
            let x = &x[first * k..(first + rows) * k];
            // Panels are shared out first: each then comes from memory once. Rows too, where panels would not go round.
            let at_once = if panels < 4 * rayon::current_num_threads() { rows.div_ceil(rows.div_ceil(ROWS)) } else { rows };
            let cost = cost(jobs, at_once);
            Block::with(rows, words, |block| {
                // SAFETY: the table fits this processor; the block has room for these rows, and parts have their own.
                split(rows, k / WORDS, &|some| unsafe { (self.table.take)(x, dtype, block, some) });
                split(panels * rows.div_ceil(at_once), cost, &|some| {
                    let mut at = some.start;
                    while at < some.end {
                        let (group, panel) = (at / panels, at % panels);
                        let until = panels.min(panel + some.end - at);
                        let rows = group * at_once..rows.min((group + 1) * at_once);
                        work(&Part { first, x, block, rows, side_by_side: self.side_by_side }, panel..until);
                        at += until - panel;
                    }
                });
            });
        }
    }

    /// Some panels of a product, on this thread alone.
    ///
    /// Safety: no one else writes these panels' columns of `out`, which has as many rows as `x`.
    pub(crate) unsafe fn product_here(&self, x: &[f32], w: &Matrix, out: Shared, add: bool, panels: Range<usize>) {
        let (k, dtype) = (w.cols(), w.dtype());
        let words = k.div_ceil(dtype.word());
        let job = Job { x, m: x.len() / k, w, out, add };
        let most = self.table.most.of(words);
        for first in (0..job.m).step_by(most) {
            let rows = most.min(job.m - first);
            let x = &x[first * k..(first + rows) * k];
            // SAFETY: the caller's promise, and that of the table: it fits this processor; the block has room for these rows.
            Block::with(rows, words, |block| unsafe {
                (self.table.take)(x, dtype, block, 0..rows);
                (self.table.product)(
                    &job.part(&Part { first, x, block, rows: 0..rows, side_by_side: self.side_by_side }),
                    panels.clone(),
                );
            });
        }
    }
}

/// One product of a call: `out [M, N] = x [M, K] W^T`, or `+=`.
pub(crate) struct Job<'a> {
    x: &'a [f32],
    m: usize,
    w: &'a Matrix,
    out: Shared,
    add: bool,
}

/// Rows `rows` of a block that begins with row `first` of a product; `x` are the block's.
pub(crate) struct Part<'a> {
    first: usize,
    x: &'a [f32],
    block: &'a Block,
    rows: Range<usize>,
    side_by_side: usize,
}

impl<'a> Part<'a> {
    /// Times `w`; `out` begins with the block's first row, and has rows of `stride`.
    fn times(&self, w: &'a Matrix, out: Shared, stride: usize, add: bool) -> Product<'a> {
        let Part { x, block, ref rows, side_by_side, .. } = *self;
        Product { x, block, rows: rows.clone(), w, out, stride, add, side_by_side }
    }
}

impl<'a> Job<'a> {
    /// Of a row that [`Kernels::with_row`] gives.
    pub(crate) fn of_one_row(w: &'a Matrix, out: Shared, add: bool) -> Self {
        Self { x: &[], m: 1, w, out, add }
    }

    /// Safety: the part is one of this job's rows.
    unsafe fn part<'b>(&'b self, part: &Part<'b>) -> Product<'b> {
        // SAFETY: row `first` lies in `out [M, N]`.
        let out = Shared(unsafe { self.out.get().add(part.first * self.w.rows()) });
        part.times(self.w, out, self.w.rows(), self.add)
    }
}

/// Products of the same rows, once the lengths are found to fit.
fn jobs<'a, const N: usize>(
    op: &'static str,
    x: &'a [f32],
    w: [&'a Matrix; N],
    out: [&mut [f32]; N],
    add: bool,
) -> Result<[Job<'a>; N], ShapeError> {
    let k = w.first().map_or(0, |w| w.cols());
    for (w, out) in w.iter().zip(&out) {
        length(op, "W (its K)", w.cols(), k)?;
        let m = rows_of(op, "x", x, k)?;
        length(op, "out", out.len(), m * w.rows())?;
    }
    let mut out = out.into_iter();
    Ok(w.map(|w| {
        let out = Shared(out.next().map_or(std::ptr::null_mut(), |out| out.as_mut_ptr()));
        Job { x, m: x.len() / k, w, out, add }
    }))
}

/// Panels of all jobs.
pub(crate) fn panels_of(jobs: &[Job<'_>]) -> usize {
    jobs.iter().map(|job| job.w.panels()).sum()
}

/// Nanoseconds of one of their panels times `m` rows, on average.
pub(crate) fn cost(jobs: &[Job<'_>], m: usize) -> usize {
    let all: usize = jobs.iter().map(|job| panel_cost(job.w, m) * job.w.panels()).sum();
    all / panels_of(jobs).max(1)
}

/// Nanoseconds of a panel times `m` rows: at 25 bytes of weights, and 50 multiply-adds of f32, a nanosecond.
fn panel_cost(w: &Matrix, m: usize) -> usize {
    let bytes = w.bytes() / w.panels();
    (bytes / 25).max(m * w.cols() * PANEL / (50 * size_of::<f32>() / w.dtype().bytes()))
}
