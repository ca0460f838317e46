//! Products over [`Vector`]: tiles of results that stay in registers while k goes by.
//!
//! A *word* is 32 bits: what one lane of a register holds of a row or of a column. Rows are first turned into words, in a
//! block on the stack whose rows are [`STRIDE`] words apart (a constant, so that a tile's rows need no registers for
//! addresses, and no power of two, so that they do not fall on the same cache lines). Then each panel goes over all rows of
//! the block: weights are read from memory once a block, and from the second cache once a tile.
//!
//! Every element of the result is one chain over k, in order, whatever tile it falls into.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::vector::Vector;
use super::{Product, activations};
use crate::matrix::{MAX_WORDS, Matrix, PANEL};

/// Words of a row that lie together.
const CHUNK: usize = 512;
/// Words from one row to the next.
const STRIDE: usize = CHUNK + 16;
/// Most rows of a block.
const ROWS: usize = 64;
/// Words of a block of rows: 132 KiB, a part of the second cache.
const BLOCK: usize = ROWS * STRIDE;

// One row always fits.
const _: () = assert!(MAX_WORDS.div_ceil(CHUNK) * STRIDE <= BLOCK);

/// How one kind of weight is multiplied.
pub(super) trait Dot {
    /// Elements of k in a word.
    const WORD: usize;

    /// What a row's sums are multiplied with at the end.
    fn scale(x: &[f32]) -> f32;

    /// `x` as words, `x.len().div_ceil(WORD)` of them, at most CHUNK; `scale` is that of its row.
    unsafe fn words<V: Vector>(x: &[f32], scale: f32, to: *mut u32);

    /// Where the sums of the columns from `column` on begin.
    unsafe fn start<V: Vector>(w: &Matrix, column: usize) -> V;

    /// `sum + a . b`, lane by lane; `a` and `b` are words.
    unsafe fn dot<V: Vector>(sum: V, a: V, b: V) -> V;

    /// The results, of the sums of columns from `column` on.
    unsafe fn end<V: Vector>(sum: V, scale: f32, w: &Matrix, column: usize) -> V;
}

/// f32 times f32.
pub(super) struct F32;

impl Dot for F32 {
    const WORD: usize = 1;

    #[inline(always)]
    fn scale(_: &[f32]) -> f32 {
        1.0
    }
    #[inline(always)]
    unsafe fn words<V: Vector>(x: &[f32], _: f32, to: *mut u32) {
        // SAFETY: the caller has room for as many words.
        unsafe { to.cast::<f32>().copy_from_nonoverlapping(x.as_ptr(), x.len()) }
    }
    #[inline(always)]
    unsafe fn start<V: Vector>(_: &Matrix, _: usize) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn dot<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { a.fma(b, sum) }
    }
    #[inline(always)]
    unsafe fn end<V: Vector>(sum: V, _: f32, _: &Matrix, _: usize) -> V {
        sum
    }
}

/// bf16 times bf16, summed in f32.
pub(super) struct Bf16;

impl Dot for Bf16 {
    const WORD: usize = 2;

    #[inline(always)]
    fn scale(_: &[f32]) -> f32 {
        1.0
    }
    #[inline(always)]
    unsafe fn words<V: Vector>(x: &[f32], _: f32, to: *mut u32) {
        // SAFETY: the caller has room for as many words.
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u16>(), x.len().next_multiple_of(2)) };
        activations::to_bf16(x, to);
    }
    #[inline(always)]
    unsafe fn start<V: Vector>(_: &Matrix, _: usize) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn dot<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { sum.dot_bf16(a, b) }
    }
    #[inline(always)]
    unsafe fn end<V: Vector>(sum: V, _: f32, _: &Matrix, _: usize) -> V {
        sum
    }
}

/// int8 times int8, summed in i32 (whose bits stand in the lanes), with a scale a row and one a column.
pub(super) struct Int8;

impl Dot for Int8 {
    const WORD: usize = 4;

    #[inline(always)]
    fn scale(x: &[f32]) -> f32 {
        activations::int8_scale(x)
    }
    #[inline(always)]
    unsafe fn words<V: Vector>(x: &[f32], scale: f32, to: *mut u32) {
        // SAFETY: the caller has room for as many words.
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<i8>(), x.len().next_multiple_of(4)) };
        activations::to_int8(x, scale, if V::UNSIGNED_INT8 { -128 } else { 0 }, to);
    }
    #[inline(always)]
    unsafe fn start<V: Vector>(w: &Matrix, column: usize) -> V {
        // SAFETY: there is an offset for every column of a panel; for the rest see `Vector`.
        unsafe { if V::UNSIGNED_INT8 { V::load(w.offsets().as_ptr().add(column)) } else { V::splat(0.0) } }
    }
    #[inline(always)]
    unsafe fn dot<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { sum.dot_int8(a, b) }
    }
    #[inline(always)]
    unsafe fn end<V: Vector>(sum: V, scale: f32, w: &Matrix, column: usize) -> V {
        // SAFETY: there is a scale for every column of a panel; for the rest see `Vector`.
        unsafe { sum.int_to_float().mul(V::load(w.scales().as_ptr().add(column)).mul(V::splat(scale))) }
    }
}

/// Rows of `x` as words: `[chunk][row][STRIDE]`, and their scales.
struct Block {
    words: *const u32,
    scales: [f32; ROWS],
    rows: usize,
    words_per_row: usize,
}

/// A tile of many rows is R rows by W registers of columns, one of two rows 2 by TWO registers, and one of one row 1 by 8.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, D: Dot, const R: usize, const W: usize, const TWO: usize>(
    job: &Product<'_>,
    panels: Range<usize>,
) {
    let k = job.w.cols();
    let words_per_row = k.div_ceil(D::WORD);
    let chunks = words_per_row.div_ceil(CHUNK);
    let most = BLOCK / (STRIDE * chunks);
    let most = if most > R { most / R * R } else { most };
    let mut buffer = MaybeUninit::<[u32; BLOCK]>::uninit();
    let words = buffer.as_mut_ptr().cast::<u32>();
    let mut block = Block { words, scales: [0.0; ROWS], rows: 0, words_per_row };
    let mut first = 0;
    while first < job.m {
        block.rows = (job.m - first).min(most);
        for (r, x) in job.x[first * k..(first + block.rows) * k].chunks_exact(k).enumerate() {
            let scale = D::scale(x);
            block.scales[r] = scale;
            for (c, x) in x.chunks(CHUNK * D::WORD).enumerate() {
                // SAFETY: row r of chunk c is within the block, since `rows * chunks * STRIDE <= BLOCK`.
                unsafe { D::words::<V>(x, scale, words.add((c * block.rows + r) * STRIDE)) };
            }
        }
        let mut column = panels.start * PANEL;
        while column < panels.end * PANEL {
            let left = panels.end * PANEL - column;
            // SAFETY: the tiles are within the block's rows and these panels; for the rest see `Vector`.
            column += unsafe { columns::<V, D, R, W, TWO>(job, &block, first, column, left) };
        }
        first += block.rows;
    }
}

/// Some of the `left` columns from `column` on, over all rows of a block; returns how many.
#[inline(always)]
unsafe fn columns<V: Vector, D: Dot, const R: usize, const W: usize, const TWO: usize>(
    job: &Product<'_>,
    block: &Block,
    first: usize,
    column: usize,
    left: usize,
) -> usize {
    // SAFETY: no more than the `left` columns are used, and rows within the block.
    unsafe {
        if block.rows == 1 && left >= 8 * V::LANES {
            tile::<V, D, 1, 8>(job, block, first, 0, column);
            return 8 * V::LANES;
        }
        if block.rows == 2 && left >= TWO * V::LANES {
            tile::<V, D, 2, TWO>(job, block, first, 0, column);
            return TWO * V::LANES;
        }
        let mut r = 0;
        while r < block.rows {
            let rows = block.rows - r;
            r += if R >= 12 && rows >= 12 {
                tile::<V, D, 12, W>(job, block, first, r, column)
            } else if R >= 8 && rows >= 8 {
                tile::<V, D, 8, W>(job, block, first, r, column)
            } else if R >= 6 && rows >= 6 {
                tile::<V, D, 6, W>(job, block, first, r, column)
            } else if R >= 4 && rows >= 4 {
                tile::<V, D, 4, W>(job, block, first, r, column)
            } else if rows >= 3 {
                tile::<V, D, 3, W>(job, block, first, r, column)
            } else if rows >= 2 {
                tile::<V, D, 2, W>(job, block, first, r, column)
            } else {
                tile::<V, D, 1, W>(job, block, first, r, column)
            };
        }
    }
    W * V::LANES
}

/// R rows times N registers of columns, from `column` on; returns R.
#[inline(always)]
unsafe fn tile<V: Vector, D: Dot, const R: usize, const N: usize>(
    job: &Product<'_>,
    block: &Block,
    first: usize,
    r: usize,
    column: usize,
) -> usize {
    let registers = PANEL / V::LANES;
    // SAFETY: rows `r..r + R` are in the block; columns are those of panels that this part owns, which have a line of 32 words
    // for each word of a row; results go to rows `first + r..` and columns below N; for the rest see `Vector`.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        for sums in &mut sums {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = D::start::<V>(job.w, column + j * V::LANES);
            }
        }
        let (panel, panel_words) = (column / PANEL, job.w.panel_words());
        let weights = job.w.panel(panel).as_ptr().cast::<f32>().add(column % PANEL);
        let mut from = 0;
        while from < block.words_per_row {
            let words = (block.words_per_row - from).min(CHUNK);
            let rows = block.words.add((from / CHUNK * block.rows + r) * STRIDE).cast::<f32>();
            let chunk = weights.add(from * PANEL);
            for i in 0..words {
                let mut b = [V::splat(0.0); N];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = V::load(chunk.add(j / registers * panel_words + i * PANEL + j % registers * V::LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = V::splat(*rows.add(r * STRIDE + i));
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = D::dot(*sum, a, b);
                    }
                }
            }
            from += CHUNK;
        }
        let n = job.w.rows();
        for (i, sums) in sums.into_iter().enumerate() {
            let scale = block.scales[r + i];
            for (j, sum) in sums.into_iter().enumerate() {
                let column = column + j * V::LANES;
                if column >= n {
                    break;
                }
                let out = job.out.get().add((first + r + i) * n + column);
                let sum = D::end(sum, scale, job.w, column);
                let sum = if job.add { V::load_n(out, n - column).add(sum) } else { sum };
                sum.store_n(out, n - column);
            }
        }
    }
    R
}
