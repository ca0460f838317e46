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
