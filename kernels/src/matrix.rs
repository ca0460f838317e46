//! How do weights lie in memory?
//!
//! `W [N, K]`, to be multiplied as `x W^T`, lies in panels of [`PANEL`] = 32 output columns. Within a panel the order is
//! k-major: one *line* of 128 bytes holds, for each of the 32 columns, the weights of 1 (f32), 2 (bf16) or 4 (int8)
//! consecutive k. So one row times a panel streams memory once, in order; many rows times a panel keep a tile of results in
//! registers; and the same bytes are what the dot-product instructions of every instruction set take. The last panel is
//! filled up with zeros.

use crate::shape::ShapeError;

/// Most words (32 bits) of a row: what a kernel's block of rows holds on the stack.
pub(crate) const MAX_WORDS: usize = 1 << 15;
/// Output columns of a panel.
pub(crate) const PANEL: usize = 32;

/// What a weight is stored as. Results are f32 with any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// As given: 4 bytes.
    F32,
}

/// Weights `[N, K]` packed for products `x W^T`. Neutral: any instruction set can use it.
pub struct Matrix {
    rows: usize,
    cols: usize,
    dtype: Dtype,
    lines: Vec<f32>,
}

impl Matrix {
    /// Packs `weights [N, K]`, row-major: `n` outputs of `k` inputs each.
    ///
    /// # Errors
    /// [`ShapeError`] when `weights` has not `n * k` elements or one of them is 0.
    pub fn pack(n: usize, k: usize, weights: &[f32], dtype: Dtype) -> Result<Self, ShapeError> {
        let op = "Matrix::pack";
        for (name, size) in [("n", n), ("k", k)] {
            if size == 0 {
                return Err(ShapeError::Zero { op, name });
            }
        }
        if k > MAX_WORDS {
            return Err(ShapeError::TooLong { op, name: "k", got: k, most: MAX_WORDS });
        }
        crate::shape::length(op, "weights", weights, n * k)?;
        let mut lines = vec![0.0; n.div_ceil(PANEL) * PANEL * k];
        for (column, row) in weights.chunks_exact(k).enumerate() {
            let panel = &mut lines[column / PANEL * PANEL * k..];
            for (line, &weight) in panel.chunks_exact_mut(PANEL).zip(row) {
                line[column % PANEL] = weight;
            }
        }
        Ok(Self { rows: n, cols: k, dtype, lines })
    }

    /// N, the outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// K, the inputs.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that one product reads: all of the packed weights.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// What the weights are stored as.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// All panels: `[panel][line][32]`.
    pub(crate) fn words(&self) -> &[f32] {
        &self.lines
    }

    /// Lines of panel `p`: `[K, 32]`.
    pub(crate) fn panel_f32(&self, p: usize) -> &[f32] {
        let size = PANEL * self.cols;
        &self.lines[p * size..(p + 1) * size]
    }
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix[{}, {}] {:?}", self.rows, self.cols, self.dtype)
    }
}
