//! How do weights lie in memory?
//!
//! `W [N, K]`, to be multiplied as `x W^T`, lies in panels of [`PANEL`] = 32 output columns. Within a panel the order is
//! k-major: one *line* of 128 bytes holds, for each of the 32 columns, one *word* of 32 bits: the weights of 1 (f32), 2 (bf16)
//! or 4 (int8) consecutive k. So one row times a panel streams memory once, in order; many rows times a panel keep a tile of
//! results in registers; and the same bytes are what the dot-product instructions of every instruction set take: a line is
//! one or two AVX-512 registers of VDPBF16PS or VPDPBUSD, sixteen lines are two tiles of AMX. What is missing to whole
//! panels, and in bf16 and int8 to a multiple of sixteen lines, is zeros. Lines of bf16 are kept folded (`folded.rs`): in three
//! quarters of the bytes, with nothing lost.

use half::bf16;

use crate::folded::Folded;
use crate::shape::{ShapeError, length};
use crate::slab::{Plain, Slab};

/// Output columns of a panel.
pub(crate) const PANEL: usize = 32;
/// Most words of a row: so that a block stays small with one row (135 KB), the room for a panel too (4 MiB), and the sums of int8
/// below 2^31.
pub(crate) const MAX_WORDS: usize = 1 << 15;
/// Lines of an AMX tile.
pub(crate) const TILE_LINES: usize = 16;

/// What weights are stored as. What goes in and comes out of a product is f32 with any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 4 bytes, as given.
    F32,
    /// 2 bytes, rounded to the nearest; inputs are rounded too, sums are f32. In memory most matrices take 1.5 bytes a weight, without
    /// loss ([`Matrix::pack`]).
    Bf16,
    /// 1 byte, and one f32 scale for each of the N outputs (its largest weight / 127). Inputs are rounded to int8 with one
    /// scale a row, made from that row alone; sums are exact.
    Int8,
}

impl Dtype {
    /// Bytes of one weight.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
            Dtype::Int8 => 1,
        }
    }

    /// Consecutive k in a word of 32 bits.
    pub(crate) fn word(self) -> usize {
        4 / self.bytes()
    }
}

/// 32 words: a whole number of cache lines, and never across their borders.
#[derive(Clone, Copy)]
#[repr(align(128))]
pub(crate) struct Line(pub(crate) [u32; PANEL]);

// SAFETY: integers.
unsafe impl Plain for Line {}

/// Weights `[N, K]` packed for products `x W^T`. Neutral: any instruction set can use it.
pub struct Matrix {
    rows: usize,
    cols: usize,
    dtype: Dtype,
    lines_per_panel: usize,
    /// Empty if they are folded.
    lines: Slab<Line>,
    folded: Option<Folded>,
    /// int8: what a column's sum is multiplied with; filled up to whole panels.
    scales: Vec<f32>,
    /// int8: -128 times the sum of a column's weights, as bits: what sums lack if inputs are stored as x + 128.
    offsets: Vec<f32>,
}

impl Matrix {
    /// Packs `weights [N, K]`, row-major: `n` outputs of `k` inputs each. bf16 is folded into 12 bits a weight, on the threads of
    /// the ambient pool of rayon, unless more than one weight in 1,024 of the matrix, or in 128 of 32 outputs, lies outside the 16 most
    /// frequent binades (as 8 pairs) of its 32 outputs.
    ///
    /// # Errors
    /// [`ShapeError`] when `weights` has not `n * k` elements, one of them is 0, or `k` is beyond 32,768 words of 32 bits.
    pub fn pack(n: usize, k: usize, weights: &[f32], dtype: Dtype) -> Result<Self, ShapeError> {
        if dtype == Dtype::Bf16 {
            let mut matrix = Self::empty(n, k, dtype)?;
            length("Matrix::pack", "weights", weights.len(), n.saturating_mul(k))?;
            let fill = |p: usize, lines: &mut [Line]| matrix.fill_panel(p, lines, weights, bf16_word);
            matrix.folded = Folded::of(matrix.panels(), matrix.lines_per_panel, &fill);
            if matrix.folded.is_some() {
                return Ok(matrix);
            }
        }
        Self::pack_unfolded(n, k, weights, dtype)
    }

    /// The same, but bf16 stays as it is: the twin that folded weights are compared with, in bits and in speed.
    ///
    /// # Errors
    /// As [`Matrix::pack`].
    pub fn pack_unfolded(n: usize, k: usize, weights: &[f32], dtype: Dtype) -> Result<Self, ShapeError> {
        let mut matrix = Self::empty(n, k, dtype)?;
        length("Matrix::pack", "weights", weights.len(), n.saturating_mul(k))?;
        if dtype == Dtype::Int8 {
            let (quantised, scales) = quantise(k, weights)?;
            return Self::from_int8(n, k, &quantised, &scales);
        }
        matrix.fill(weights, if dtype == Dtype::F32 { |x: &[f32]| x[0].to_bits() } else { bf16_word });
        Ok(matrix)
    }

    /// Packs weights that are int8 already: `weights[n, k] * scales[n]`.
    ///
    /// # Errors
    /// As [`Matrix::pack`], and when there are not `n` scales.
    pub fn from_int8(n: usize, k: usize, weights: &[i8], scales: &[f32]) -> Result<Self, ShapeError> {
        let mut matrix = Self::empty(n, k, Dtype::Int8)?;
        length("Matrix::from_int8", "weights", weights.len(), n.saturating_mul(k))?;
        length("Matrix::from_int8", "scales", scales.len(), n)?;
        matrix.fill(weights, |x| word_of(x.iter().map(|x| x.to_le_bytes())));
        let columns = n.div_ceil(PANEL) * PANEL;
        matrix.scales.extend(scales);
        matrix.scales.resize(columns, 0.0);
        let offset = |row: &[i8]| f32::from_bits((-128 * row.iter().map(|x| i32::from(*x)).sum::<i32>()) as u32);
        matrix.offsets.extend(weights.chunks_exact(k).map(offset));
        matrix.offsets.resize(columns, 0.0);
        Ok(matrix)
    }

    fn empty(n: usize, k: usize, dtype: Dtype) -> Result<Self, ShapeError> {
        let op = "Matrix::pack";
        for (name, size) in [("n", n), ("k", k)] {
            if size == 0 {
                return Err(ShapeError::Zero { op, name });
            }
        }
        let words = k.div_ceil(dtype.word());
        if words > MAX_WORDS {
            return Err(ShapeError::TooLong { op, name: "k", got: k, most: MAX_WORDS * dtype.word() });
        }
        let lines_per_panel = if dtype == Dtype::F32 { words } else { words.next_multiple_of(TILE_LINES) };
        let (lines, scales, offsets) = (Slab::EMPTY, Vec::new(), Vec::new());
        Ok(Self { rows: n, cols: k, dtype, lines_per_panel, lines, folded: None, scales, offsets })
    }

    fn fill<T>(&mut self, weights: &[T], word: impl Fn(&[T]) -> u32) {
        let mut lines = Slab::zeros(self.panels() * self.lines_per_panel);
        for (p, lines) in lines.chunks_exact_mut(self.lines_per_panel).enumerate() {
            self.fill_panel(p, lines, weights, &word);
        }
        self.lines = lines;
    }

    /// Fills the lines of panel `p`, so far zeros.
    fn fill_panel<T>(&self, p: usize, lines: &mut [Line], weights: &[T], word: impl Fn(&[T]) -> u32) {
        for (column, row) in weights[p * PANEL * self.cols..].chunks_exact(self.cols).take(PANEL).enumerate() {
            for (line, some) in lines.iter_mut().zip(row.chunks(self.dtype.word())) {
                line.0[column] = word(some);
            }
        }
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

    /// Bytes that one product reads: all of the packed weights and their scales.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let lines = self.folded.as_ref().map_or(size_of_val(&*self.lines), Folded::bytes);
        lines + size_of_val(self.scales.as_slice()) + size_of_val(self.offsets.as_slice())
    }

    /// What the weights are stored as.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(PANEL)
    }

    /// Words from one panel to the next.
    pub(crate) fn panel_words(&self) -> usize {
        self.lines_per_panel * PANEL
    }

    /// bf16 that is folded.
    pub(crate) fn folded(&self) -> Option<&Folded> {
        self.folded.as_ref()
    }

    /// Words of panel `p`: `[line][32]`, which must not be folded.
    pub(crate) fn panel(&self, p: usize) -> &[[u32; PANEL]] {
        let lines = &self.lines[p * self.lines_per_panel..(p + 1) * self.lines_per_panel];
        // SAFETY: a `Line` is its 128 bytes: its size is its alignment.
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len()) }
    }

    /// The words of panel `p`, and of those behind it.
    pub(crate) fn words_from(&self, p: usize) -> *const u32 {
        self.lines[p * self.lines_per_panel..].as_ptr().cast()
    }

    /// int8: the scale of each column, whole panels of them.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// int8: bits of what a column's sum of `(x + 128) w` exceeds that of `x w` by, negated.
    pub(crate) fn offsets(&self) -> &[f32] {
        &self.offsets
    }
}

/// Rounds rows of `k` weights to int8, each with the scale that its largest weight sets: `weights = int8 * scales[row]`.
///
/// # Errors
/// [`ShapeError`] when `weights` is not rows of `k`.
pub fn quantise(k: usize, weights: &[f32]) -> Result<(Vec<i8>, Vec<f32>), ShapeError> {
    let rows = crate::shape::rows_of("quantise", "weights", weights, k)?;
    let (mut quantised, mut scales) = (Vec::with_capacity(weights.len()), Vec::with_capacity(rows));
    for row in weights.chunks_exact(k) {
        let scale = row.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
        let per_unit = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        quantised.extend(row.iter().map(|x| (x * per_unit).round_ties_even() as i8));
        scales.push(scale);
    }
    Ok((quantised, scales))
}

fn bf16_word(x: &[f32]) -> u32 {
    word_of(x.iter().map(|x| bf16::from_f32(*x).to_bits().to_le_bytes()))
}

/// The first of `parts` in the lowest bits.
fn word_of<const N: usize>(parts: impl Iterator<Item = [u8; N]>) -> u32 {
    let mut bytes = [0; 4];
    for (to, part) in bytes.chunks_exact_mut(N).zip(parts) {
        to.copy_from_slice(&part);
    }
    u32::from_le_bytes(bytes)
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix[{}, {}] {:?}", self.rows, self.cols, self.dtype)
    }
}
