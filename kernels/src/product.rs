//! `x W^T`: the products that every token goes through.

use crate::Kernels;
use crate::cpu::{Product, Shared};
use crate::matrix::{Matrix, PANEL};
use crate::parallel::split;
use crate::shape::{ShapeError, length, rows_of};

impl Kernels {
    /// `out [M, N] = x [M, K] W^T`, where `M = x.len() / K`.
    ///
    /// # Errors
    /// [`ShapeError`] when `x` is not rows of K or `out` not as many rows of N.
    pub fn matmul(&self, x: &[f32], w: &Matrix, out: &mut [f32]) -> Result<(), ShapeError> {
        self.product("matmul", x, w, out, false)
    }

    /// `out [M, N] += x [M, K] W^T`. The product is summed first and then added, once.
    ///
    /// # Errors
    /// As [`Kernels::matmul`].
    pub fn matmul_add(&self, x: &[f32], w: &Matrix, out: &mut [f32]) -> Result<(), ShapeError> {
        self.product("matmul_add", x, w, out, true)
    }

    /// Several products of the same rows at once: `out[i] = x W[i]^T`, each with the bits of [`Kernels::matmul`]. One decode
    /// step's small products then fill all threads together.
    ///
    /// # Errors
    /// As [`Kernels::matmul`].
    pub fn matmul_each<const N: usize>(&self, x: &[f32], w: [&Matrix; N], out: [&mut [f32]; N]) -> Result<(), ShapeError> {
        let op = "matmul_each";
        let mut jobs = [None; N];
        for ((job, w), out) in jobs.iter_mut().zip(w).zip(out) {
            let m = rows_of(op, "x", x, w.cols())?;
            length(op, "out", out.len(), m * w.rows())?;
            *job = Some(Product { x, m, w, out: Shared(out.as_mut_ptr()), add: false });
        }
        let panels = || jobs.iter().flatten().map(|job| job.w.panels());
        let cost = jobs.iter().flatten().map(|job| panel_cost(job.w, job.m)).max().unwrap_or(0);
        split(panels().sum(), cost, &|part| {
            let mut first = 0;
            for (job, panels) in jobs.iter().flatten().zip(panels()) {
                let mine = part.start.max(first)..part.end.min(first + panels);
                if !mine.is_empty() && job.m > 0 {
                    // SAFETY: as in `product`; each job has an output of its own.
                    unsafe { (self.table.product)(job, mine.start - first..mine.end - first) }
                }
                first += panels;
            }
        });
        Ok(())
    }

    fn product(&self, op: &'static str, x: &[f32], w: &Matrix, out: &mut [f32], add: bool) -> Result<(), ShapeError> {
        let m = rows_of(op, "x", x, w.cols())?;
        length(op, "out", out.len(), m * w.rows())?;
        if m == 0 {
            return Ok(());
        }
        let job = Product { x, m, w, out: Shared(out.as_mut_ptr()), add };
        split(w.panels(), panel_cost(w, m), &|panels| {
            // SAFETY: the table fits this processor (`Kernels::new`); lengths were checked above; parts have their own panels,
            // so no two write the same element of `out`.
            unsafe { (self.table.product)(&job, panels) }
        });
        Ok(())
    }
}

/// Nanoseconds of a panel times `m` rows: at 25 bytes of weights, and 50 multiply-adds of f32, a nanosecond.
fn panel_cost(w: &Matrix, m: usize) -> usize {
    let bytes = w.bytes() / w.panels();
    (bytes / 25).max(m * w.cols() * PANEL / (50 * size_of::<f32>() / w.dtype().bytes()))
}
