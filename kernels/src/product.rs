//! `x W^T`: the products that every token goes through.

use std::ops::Range;

use crate::Kernels;
use crate::cpu::{Product, Shared};
use crate::matrix::{Matrix, PANEL};
use crate::parallel::split;
use crate::shape::{ShapeError, length, rows_of};

/// Rows of a part, where there are more threads than panels to go round.
const ROWS: usize = 64;

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
        raw: [&mut [f32]; 2],
        hidden: &mut [f32],
    ) -> Result<(), ShapeError> {
        let op = "matmul_swiglu";
        length(op, "up (its N)", up.rows(), gate.rows())?;
        let [gate, up] = jobs(op, x, [gate, up], raw, false)?;
        let n = gate.w.rows();
        length(op, "hidden", hidden.len(), gate.m * n)?;
        let hidden = Shared(hidden.as_mut_ptr());
        each_panel(&[gate, up], gate.w.panels(), &|first, rows, panels| {
            let columns = panels.start * PANEL..n.min(panels.end * PANEL);
            // SAFETY: the table fits this processor; lengths were checked; parts have their own panels or rows.
            unsafe {
                (self.table.product)(&gate.rows(first, rows), panels.clone());
                (self.table.product)(&up.rows(first, rows), panels);
                for row in first..gate.m.min(first + rows) {
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
        each_panel(&jobs, jobs.iter().map(|job| job.w.panels()).sum(), &|first_row, rows, panels| {
            let mut first = 0;
            for job in &jobs {
                let mine = panels.start.max(first)..panels.end.min(first + job.w.panels());
                if !mine.is_empty() {
                    // SAFETY: the table fits this processor (`Kernels::new`); lengths were checked; parts have their own panels or
                    // rows, and jobs their own outputs: no two write the same element.
                    unsafe { (self.table.product)(&job.rows(first_row, rows), mine.start - first..mine.end - first) }
                }
                first += job.w.panels();
            }
        });
        Ok(())
    }
}

/// Products of the same rows, once the lengths are found to fit.
fn jobs<'a, const N: usize>(
    op: &'static str,
    x: &'a [f32],
    w: [&'a Matrix; N],
    out: [&mut [f32]; N],
    add: bool,
) -> Result<[Product<'a>; N], ShapeError> {
    let k = w.first().map_or(0, |w| w.cols());
    for (w, out) in w.iter().zip(&out) {
        length(op, "W (its K)", w.cols(), k)?;
        let m = rows_of(op, "x", x, k)?;
        length(op, "out", out.len(), m * w.rows())?;
    }
    let mut out = out.into_iter();
    Ok(w.map(|w| {
        let out = Shared(out.next().map_or(std::ptr::null_mut(), |out| out.as_mut_ptr()));
        Product { x, m: x.len() / k, w, out, add }
    }))
}

/// Calls `work(first row, rows, panels)` until all rows of all `panels`, numbered through, are done.
fn each_panel(jobs: &[Product<'_>], panels: usize, work: &(impl Fn(usize, usize, Range<usize>) + Sync)) {
    let m = jobs.iter().map(|job| job.m).max().unwrap_or(0);
    // Panels are shared out first: each then comes from memory once. Rows too, where panels would not go round.
    let rows = if panels < 4 * rayon::current_num_threads() { m.min(ROWS) } else { m };
    let all: usize = jobs.iter().map(|job| panel_cost(job.w, rows) * job.w.panels()).sum();
    split(panels * m.div_ceil(rows.max(1)), all / panels.max(1), &|part| {
        let mut at = part.start;
        while at < part.end {
            let (group, panel) = (at / panels, at % panels);
            let until = panels.min(panel + part.end - at);
            work(group * rows, rows, panel..until);
            at += until - panel;
        }
    });
}

/// Nanoseconds of a panel times `m` rows: at 25 bytes of weights, and 50 multiply-adds of f32, a nanosecond.
fn panel_cost(w: &Matrix, m: usize) -> usize {
    let bytes = w.bytes() / w.panels();
    (bytes / 25).max(m * w.cols() * PANEL / (50 * size_of::<f32>() / w.dtype().bytes()))
}
