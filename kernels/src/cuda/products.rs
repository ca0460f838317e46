//! Products: of many rows by a library, of few by kernels that are as fast as the weights' bytes.

use half::bf16;

use super::driver::Wide;
use super::embedded::ONE_LONGEST;
use super::launch::aligned;
use super::operands::{Made, Out};
use super::params::{NarrowParams, OneParams};
use super::{Buffer, CudaError, Gpu, View};
use crate::shape::length;

/// Where a product goes, as kernels are told.
struct Target {
    out: u64,
    sum: u64,
    row: i32,
    add: i32,
}

fn target(op: &'static str, m: usize, n: usize, out: Out<'_>) -> Result<Target, CudaError> {
    Ok(match out {
        Out::Rounded(view) => Target { out: view.rows::<bf16>(op, m, n)?, sum: 0, row: view.row as i32, add: 0 },
        Out::Sum(view) => Target { out: 0, sum: view.rows::<f32>(op, m, n)?, row: view.row as i32, add: 0 },
        Out::Added(view) => Target { out: 0, sum: view.rows::<f32>(op, m, n)?, row: view.row as i32, add: 1 },
    })
}

fn one_params(w: &Buffer, n: usize, k: usize, to: &Target) -> OneParams {
    OneParams { w: w.address(), out: to.out, sum: to.sum, n: n as i32, k: k as i32, add: to.add, ..OneParams::default() }
}

impl Gpu {
    /// `x [M, K] w [N, K]^T` for few rows: by the bytes of `w`. Row i is a function of row i of `x` alone.
    ///
    /// # Errors
    /// [`CudaError::Shape`], and [`CudaError::Unsupported`] when K or the distance of rows is no multiple of 8.
    pub fn narrow(&self, x: View<'_>, m: usize, w: &Buffer, n: usize, k: usize, out: Out<'_>) -> Result<(), CudaError> {
        let op = "product";
        aligned(op, k)?;
        aligned(op, x.row)?;
        aligned(op, x.at)?;
        length(op, "w", w.bytes(), n * k * size_of::<bf16>())?;
        let at = x.rows::<bf16>(op, m, k)?;
        let to = target(op, m, n, out)?;
        if m == 1 && k <= ONE_LONGEST {
            return self.one(OneParams { x: at, ..one_params(w, n, k, &to) });
        }
        let p = NarrowParams {
            x: at,
            w: w.address(),
            out: to.out,
            sum: to.sum,
            m: m as i32,
            n: n as i32,
            k: k as i32,
            x_row: x.row as i32,
            out_row: to.row,
            add: to.add,
        };
        let (tiles, processors) = (n.div_ceil(16), self.driver.processors());
        // Rows that a block takes at once, and blocks a processor.
        let (kernel, rows, each) = match m {
            0..=8 => ("narrow_1", 8, 1),
            9..=16 => ("narrow_2", 16, 2),
            17..=32 if tiles > processors && tiles <= 2 * processors => ("narrow_4_pairs", 32, 2),
            17..=32 => ("narrow_4", 32, 1),
            _ => ("narrow_8", 64, 1),
        };
        let blocks = tiles.min(each * processors);
        self.launch(kernel, [blocks, m.div_ceil(rows)], &p)
    }

    /// As [`Gpu::narrow`], of rows that are made first, or, where it is one row, by the product itself. The same bits. `out` must not lie
    /// over what the rows are made of: blocks read all of it while others write.
    ///
    /// # Errors
    /// As [`Gpu::narrow`].
    pub fn narrow_of(&self, rows: Made<'_>, m: usize, w: &Buffer, n: usize, k: usize, out: Out<'_>) -> Result<(), CudaError> {
        let op = "product";
        if m == 1 && k <= ONE_LONGEST {
            aligned(op, k)?;
            length(op, "w", w.bytes(), n * k * size_of::<bf16>())?;
            let to = target(op, m, n, out)?;
            let p = one_params(w, n, k, &to);
            return self.one(match rows {
                Made::Normed { residual, weight, eps, .. } => {
                    length(op, "weight", weight.bytes(), k * size_of::<f32>())?;
                    let residual = View::dense(residual, k).rows::<f32>(op, 1, k)?;
                    OneParams { residual, weight: weight.address(), eps, ..p }
                }
                Made::Gated { x, .. } => OneParams { gate_up: View::dense(x, 2 * k).rows::<bf16>(op, 1, 2 * k)?, ..p },
            });
        }
        let made = match rows {
            Made::Normed { residual, weight, eps, into } => self.rms_norm(residual, None, m, weight, eps, into).map(|()| into)?,
            Made::Gated { x, into } => self.swiglu(x, m, k, into).map(|()| into)?,
        };
        self.narrow(View::dense(made, k), m, w, n, k, out)
    }

    /// Three blocks a processor; tiles as large as spread the rows of W evenly over them, in as few rounds as tiles of 24 rows allow.
    fn one(&self, mut p: OneParams) -> Result<(), CudaError> {
        let (n, blocks) = (p.n as usize, 3 * self.driver.processors());
        let least = if p.k > 4096 { 6 } else { 8 };
        let rows = n.div_ceil(blocks * n.div_ceil(blocks * 24).max(1)).max(least);
        p.rows = rows as i32;
        let kernel = if rows < 8 {
            "one_1"
        } else if rows <= 16 {
            "one_2"
        } else {
            "one_3"
        };
        self.launch(kernel, [n.div_ceil(rows).min(blocks), 1], &p)
    }

    /// As [`Gpu::narrow`], for many rows: by cublasLt where it is there. Row i is a function of row i of `x` alone here too, but not
    /// with the bits of `narrow`. [`Out::Sum`] always goes to `narrow`.
    ///
    /// # Errors
    /// As [`Gpu::narrow`].
    pub fn wide(&self, x: View<'_>, m: usize, w: &Buffer, n: usize, k: usize, out: Out<'_>) -> Result<(), CudaError> {
        let op = "product";
        aligned(op, k)?;
        aligned(op, x.row)?;
        length(op, "w", w.bytes(), n * k * size_of::<bf16>())?;
        let (view, to, add) = match out {
            Out::Rounded(view) => (view, view.rows::<bf16>(op, m, n)?, false),
            Out::Added(view) => (view, view.rows::<f32>(op, m, n)?, true),
            Out::Sum(_) => return self.narrow(x, m, w, n, k, out),
        };
        let from = x.rows::<bf16>(op, m, k)?;
        let job = Wide { x: from, w: w.address(), out: to, m, n, k, x_row: x.row, out_row: view.row, add };
        if m == 0 || self.driver.wide(&job)? { Ok(()) } else { self.narrow(x, m, w, n, k, out) }
    }
}
