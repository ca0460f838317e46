//! `x W^T`: the products that every token goes through.

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

    fn products<const N: usize>(
        &self,
        op: &'static str,
        x: &[f32],
        w: [&Matrix; N],
        out: [&mut [f32]; N],
        add: bool,
    ) -> Result<(), ShapeError> {
        let k = w.first().map_or(0, |w| w.cols());
        let mut jobs = [None; N];
        for ((job, w), out) in jobs.iter_mut().zip(w).zip(out) {
            length(op, "W (its K)", w.cols(), k)?;
            let m = rows_of(op, "x", x, k)?;
            length(op, "out", out.len(), m * w.rows())?;
            *job = Some(Product { x, m, w, out: Shared(out.as_mut_ptr()), add });
        }
        let jobs = || jobs.iter().flatten();
        let panels: usize = jobs().map(|job| job.w.panels()).sum();
        let m = jobs().map(|job| job.m).max().unwrap_or(0);
        // Panels are shared out first: each then comes from memory once. Rows too, where panels would not go round.
        let rows = if panels < 4 * rayon::current_num_threads() { m.min(ROWS) } else { m };
        let cost = jobs().map(|job| panel_cost(job.w, rows)).max().unwrap_or(0);
        split(panels * m.div_ceil(rows.max(1)), cost, &|part| {
            let mut at = part.start;
            while at < part.end {
                let (group, panel) = (at / panels, at % panels);
                let until = panels.min(panel + part.end - at);
                let mut first = 0;
                for job in jobs() {
                    let mine = panel.max(first)..until.min(first + job.w.panels());
                    if !mine.is_empty() {
                        // SAFETY: the table fits this processor (`Kernels::new`); lengths were checked above; parts have their
                        // own panels or rows, and jobs their own outputs: no two write the same element.
                        unsafe { (self.table.product)(&job.rows(group * rows, rows), mine.start - first..mine.end - first) }
                    }
                    first += job.w.panels();
                }
                at += until - panel;
            }
        });
        Ok(())
    }
}

/// Nanoseconds of a panel times `m` rows: at 25 bytes of weights, and 50 multiply-adds of f32, a nanosecond.
fn panel_cost(w: &Matrix, m: usize) -> usize {
    let bytes = w.bytes() / w.panels();
    (bytes / 25).max(m * w.cols() * PANEL / (50 * size_of::<f32>() / w.dtype().bytes()))
}
