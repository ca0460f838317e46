//! `x W^T`: the products that every token goes through.

use std::ops::Range;

use crate::Kernels;
use crate::cpu::block::Block;
use crate::cpu::{Product, Shared};
use crate::matrix::{Matrix, PANEL};
use crate::parallel::split;
use crate::shape::{ShapeError, length, rows_of};

/// Rows of a part, where there are more threads than panels to go round.
const ROWS: usize = 64;
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

    /// The first half of a SwiGLU: `hidden = silu(x gate^T) * (x up^T)`; both products are left in `raw`. The same bits as
    /// [`Kernels::matmul_each`] and then [`Kernels::swiglu`], but threads are asked once.
    ///
    /// # Errors
    /// As [`Kernels::matmul`], and when the two matrices are not of one shape.
    pub fn matmul_swiglu(
        &self,
        x: &[f32],
        gate: &Matrix,
        up: &Matrix,
        mut raw: [&mut [f32]; 2],
        hidden: &mut [f32],
    ) -> Result<(), ShapeError> {
        let op = "matmul_swiglu";
        length(op, "up (its N)", up.rows(), gate.rows())?;
        length(op, "hidden", hidden.len(), raw[0].len())?;
        if up.dtype() != gate.dtype() {
            self.products(op, x, [gate, up], raw.each_mut().map(|x| &mut **x), false)?;
            return self.swiglu(raw[0], raw[1], hidden);
        }
        let jobs = jobs(op, x, [gate, up], raw, false)?;
        let ([gate, up], n, hidden) = (&jobs, gate.rows(), Shared(hidden.as_mut_ptr()));
        self.each_panel(&jobs, gate.w.panels(), &|part, panels| {
            let columns = panels.start * PANEL..n.min(panels.end * PANEL);
            // SAFETY: the table fits this processor; lengths were checked; parts have their own panels or rows.
            unsafe {
                (self.table.product)(&gate.part(part), panels.clone());
                (self.table.product)(&up.part(part), panels);
                for row in part.first + part.rows.start..part.first + part.rows.end {
                    let part = |x: Shared| x.part(row * n + columns.start..row * n + columns.end);
                    (self.table.swiglu)(part(gate.out), part(up.out), part(hidden));
                }
            }
        });
        Ok(())
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
            self.each_panel(some, some.iter().map(|job| job.w.panels()).sum(), &|part, panels| {
                let mut first = 0;
                for job in some {
                    let mine = panels.start.max(first)..panels.end.min(first + job.w.panels());
                    if !mine.is_empty() {
                        // SAFETY: the table fits this processor (`Kernels::new`); lengths were checked; parts have their own panels or
                        // rows, and jobs their own outputs: no two write the same element.
                        unsafe { (self.table.product)(&job.part(part), mine.start - first..mine.end - first) }
                    }
                    first += job.w.panels();
                }
            });
        }
        Ok(())
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
            let together = if panels < 4 * rayon::current_num_threads() { rows.min(ROWS) } else { rows };
            let cost: usize = jobs.iter().map(|job| panel_cost(job.w, together) * job.w.panels()).sum();
            Block::with(rows, words, |block| {
                // SAFETY: the table fits this processor; the block has room for these rows, and parts have their own.
                split(rows, k / WORDS, &|some| unsafe { (self.table.take)(x, dtype, block, some) });
                split(panels * rows.div_ceil(together), cost / panels.max(1), &|some| {
                    let mut at = some.start;
                    while at < some.end {
                        let (group, panel) = (at / panels, at % panels);
                        let until = panels.min(panel + some.end - at);
                        let rows = group * together..rows.min((group + 1) * together);
                        work(&Part { first, x, block, rows }, panel..until);
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
                (self.table.product)(&job.part(&Part { first, x, block, rows: 0..rows }), panels.clone());
            });
        }
    }
}

/// One product of a call: `out [M, N] = x [M, K] W^T`, or `+=`.
struct Job<'a> {
    x: &'a [f32],
    m: usize,
    w: &'a Matrix,
    out: Shared,
    add: bool,
}

/// Rows `rows` of a block that begins with row `first` of a product; `x` are the block's.
struct Part<'a> {
    first: usize,
    x: &'a [f32],
    block: &'a Block,
    rows: Range<usize>,
}

impl Job<'_> {
    /// Safety: the part is one of this job's rows.
    unsafe fn part<'a>(&'a self, part: &Part<'a>) -> Product<'a> {
        // SAFETY: row `first` lies in `out [M, N]`.
        let out = Shared(unsafe { self.out.get().add(part.first * self.w.rows()) });
        Product { x: part.x, block: part.block, rows: part.rows.clone(), w: self.w, out, add: self.add }
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

/// Nanoseconds of a panel times `m` rows: at 25 bytes of weights, and 50 multiply-adds of f32, a nanosecond.
fn panel_cost(w: &Matrix, m: usize) -> usize {
    let bytes = w.bytes() / w.panels();
    (bytes / 25).max(m * w.cols() * PANEL / (50 * size_of::<f32>() / w.dtype().bytes()))
}
