//! Products: of many rows by a library, of few by kernels that are as fast as the weights' bytes.

use half::bf16;

use super::driver::Wide;
use super::embedded::RING_LONGEST;
use super::launch::aligned;
use super::operands::{Normed, Out};
use super::params::RingParams;
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

fn shaped(p: RingParams, m: usize, n: usize, k: usize, to: &Target) -> RingParams {
    let (m, n, k) = (m as i32, n as i32, k as i32);
    RingParams { out: to.out, sum: to.sum, m, n, k, out_row: to.row, add: to.add, ..p }
}

/// A product whose rows are still to come.
fn product(m: usize, w: &Buffer, n: usize, k: usize, out: Out<'_>) -> Result<RingParams, CudaError> {
    let op = "product";
    aligned(op, k)?;
    length(op, "w", w.bytes(), n * k * size_of::<bf16>())?;
    let to = target(op, m, n, out)?;
    Ok(RingParams { w: w.address(), ..shaped(RingParams::default(), m, n, k, &to) })
}

/// Where rows of `width` begin, of which kernels take 16 bytes at a time.
fn few_rows(x: View<'_>, m: usize, width: usize) -> Result<u64, CudaError> {
    let op = "product";
    aligned(op, width)?;
    aligned(op, x.row)?;
    aligned(op, x.at)?;
    x.rows::<bf16>(op, m, width)
}

/// Rows of x that a launch takes.
const ROWS_OF_X: i32 = 32;

impl Gpu {
    /// `x [M, K] w [N, K]^T` for few rows: by the bytes of `w`. Row i is a function of row i of `x` alone.
    ///
    /// # Errors
    /// [`CudaError::Shape`], and [`CudaError::Unsupported`] when K or the distance of rows is no multiple of 8.
    pub fn narrow(&self, x: View<'_>, m: usize, w: &Buffer, n: usize, k: usize, out: Out<'_>) -> Result<(), CudaError> {
        self.ring(RingParams { x: few_rows(x, m, k)?, x_row: x.row as i32, ..product(m, w, n, k, out)? }, false)
    }

    /// Two products side by side, `out [M, N0 + N1]`: of `x [M, 0..K]` with the first of `w`, and of `x [M, K..2K]` with the second, `[N0, K]` and `[N1, K]`.
    ///
    /// # Errors
    /// As [`Gpu::narrow`].
    pub fn narrow_two(
        &self,
        x: View<'_>,
        m: usize,
        w: [&Buffer; 2],
        n: [usize; 2],
        k: usize,
        out: Out<'_>,
    ) -> Result<(), CudaError> {
        let op = "product";
        if n[0] == 0 {
            return self.narrow(x.from(k), m, w[1], n[1], k, out);
        }
        aligned(op, k)?;
        length(op, "w", w[0].bytes(), n[0] * k * size_of::<bf16>())?;
        length(op, "w", w[1].bytes(), n[1] * k * size_of::<bf16>())?;
        let (at, to) = (few_rows(x, m, 2 * k)?, target(op, m, n[0] + n[1], out)?);
        let behind = RingParams { w_behind: w[1].address(), split: n[0] as i32, ..RingParams::default() };
        self.ring(RingParams { x: at, x_row: x.row as i32, w: w[0].address(), ..shaped(behind, m, n[0] + n[1], k, &to) }, false)
    }

    /// As [`Gpu::narrow`], of rows that are made first, or, where it is one row, by the product itself. The same bits. `out` must not lie
    /// over what the rows are made of: blocks read all of it while others write.
    ///
    /// # Errors
    /// As [`Gpu::narrow`].
    pub fn narrow_of(&self, rows: Normed<'_>, m: usize, w: &Buffer, n: usize, k: usize, out: Out<'_>) -> Result<(), CudaError> {
        self.ring(self.made(rows, m, product(m, w, n, k, out)?)?, false)
    }

    /// `out [M, N]` is silu of `x wg^T`, times `x wu^T`, both rounded to bf16; `w [2 N, K]` is `wg` above `wu`, x is made first.
    ///
    /// # Errors
    /// As [`Gpu::narrow`].
    pub fn narrow_gated(
        &self,
        rows: Normed<'_>,
        m: usize,
        w: &Buffer,
        n: usize,
        k: usize,
        out: &Buffer,
    ) -> Result<(), CudaError> {
        let op = "product";
        length(op, "w", w.bytes(), 2 * n * k * size_of::<bf16>())?;
        let to = target(op, m, n, Out::Rounded(View::dense(out, n)))?;
        let p = self.made(rows, m, RingParams { w: w.address(), ..shaped(RingParams::default(), m, n, k, &to) })?;
        self.ring(p, true)
    }

    /// `p` with its rows of x: made by the product where it is one, else by a kernel before it.
    fn made(&self, rows: Normed<'_>, m: usize, p: RingParams) -> Result<RingParams, CudaError> {
        let (op, k) = ("product", p.k as usize);
        aligned(op, k)?;
        length(op, "weight", rows.weight.bytes(), k * size_of::<f32>())?;
        if m == 1 && k <= RING_LONGEST {
            let residual = View::dense(rows.residual, k).rows::<f32>(op, 1, k)?;
            return Ok(RingParams { residual, weight: rows.weight.address(), eps: rows.eps, ..p });
        }
        self.rms_norm(rows.residual, None, m, rows.weight, rows.eps, rows.into)?;
        Ok(RingParams { x: few_rows(View::dense(rows.into, k), m, k)?, x_row: k as i32, ..p })
    }

    /// A block a processor; fewer where N is small, as each reads all of x: 32 rows of W each measured best (GPU.md). Rows of x by 32.
    fn ring(&self, mut p: RingParams, gated: bool) -> Result<(), CudaError> {
        let (columns, beside) = if p.split > 0 { (p.split.max(p.n - p.split), 2) } else { (p.n, 1) };
        let blocks = (columns as usize).div_ceil(if gated { 16 } else { 32 }).min(self.driver.processors());
        let mut left = p.m;
        while left > 0 {
            p.m = left.min(ROWS_OF_X);
            let kernel = match (p.m, gated) {
                (0..=8, false) => "ring_1",
                (0..=8, true) => "ring_1_gated",
                (_, false) => "ring_4",
                (_, true) => "ring_4_gated",
            };
            self.launch(kernel, [blocks, beside], &p)?;
            left -= p.m;
            p.x += (p.m * p.x_row) as u64 * size_of::<bf16>() as u64;
            for (to, bytes) in [(&mut p.out, size_of::<bf16>()), (&mut p.sum, size_of::<f32>())] {
                if *to != 0 {
                    *to += (p.m * p.out_row) as u64 * bytes as u64;
                }
            }
        }
        Ok(())
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
