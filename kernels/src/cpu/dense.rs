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

use super::Product;
use super::vector::Vector;
use crate::matrix::{MAX_WORDS, PANEL};

/// Words of a row that lie together.
const CHUNK: usize = 512;
/// Words from one row to the next.
const STRIDE: usize = CHUNK + 16;
/// Words of a block of rows: 132 KiB, a part of the second cache.
const BLOCK: usize = 64 * STRIDE;
// One row always fits.
const _: () = assert!(MAX_WORDS.div_ceil(CHUNK) * STRIDE <= BLOCK);

/// How one kind of weight is multiplied.
pub(super) trait Dot {
    /// k of a word.
    const WORD: usize;

    /// `sum + a . b`, lane by lane; all are words.
    unsafe fn dot<V: Vector>(sum: V, a: V, b: V) -> V;

    /// Words of a row of `x`: `to[i]` for i in `0..k.div_ceil(WORD)`, at most CHUNK.
    unsafe fn words<V: Vector>(x: &[f32], to: *mut f32);
}

/// f32 times f32.
pub(super) struct F32;

impl Dot for F32 {
    const WORD: usize = 1;

    #[inline(always)]
    unsafe fn dot<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { a.fma(b, sum) }
    }

    #[inline(always)]
    unsafe fn words<V: Vector>(x: &[f32], to: *mut f32) {
        // SAFETY: the caller has room for as many words.
        unsafe { to.copy_from_nonoverlapping(x.as_ptr(), x.len()) }
    }
}

/// Rows of `x` as words: `[chunk][row][STRIDE]`.
struct Block {
    words: *const f32,
    rows: usize,
    words_per_row: usize,
}

/// `L` registers hold a panel's line, `TWO` the line of as many panels as a tile of two rows takes.
#[inline(always)]
pub(super) unsafe fn product<V: Vector, D: Dot, const L: usize, const TWO: usize>(job: &Product<'_>, panels: Range<usize>) {
    let k = job.w.cols();
    let words_per_row = k.div_ceil(D::WORD);
    let chunks = words_per_row.div_ceil(CHUNK);
    let most = BLOCK / (STRIDE * chunks);
    let most = if most > V::TILE_ROWS { most / V::TILE_ROWS * V::TILE_ROWS } else { most };
    let mut buffer = MaybeUninit::<[f32; BLOCK]>::uninit();
    let words = buffer.as_mut_ptr().cast::<f32>();
    let mut first = 0;
    while first < job.m {
        let rows = (job.m - first).min(most);
        for (r, x) in job.x[first * k..(first + rows) * k].chunks_exact(k).enumerate() {
            for (c, x) in x.chunks(CHUNK * D::WORD).enumerate() {
                // SAFETY: row r of chunk c is within the block, since `rows * chunks * STRIDE <= BLOCK`.
                unsafe { D::words::<V>(x, words.add((c * rows + r) * STRIDE)) };
            }
        }
        let block = Block { words, rows, words_per_row };
        let mut p = panels.start;
        while p < panels.end {
            let left = panels.end - p;
            // SAFETY: the tiles are within the block's rows and these panels; for the rest see `Vector`.
            p += unsafe { panel::<V, D, L, TWO>(job, &block, first, p, left) };
        }
        first += rows;
    }
}

/// One panel, or a few where there are one or two rows, over all rows of a block; returns how many panels.
#[inline(always)]
unsafe fn panel<V: Vector, D: Dot, const L: usize, const TWO: usize>(
    job: &Product<'_>,
    block: &Block,
    first: usize,
    p: usize,
    left: usize,
) -> usize {
    // SAFETY: `p` and as many panels after it as are used are among the `left` ones, and rows within the block.
    unsafe {
        if block.rows == 1 && left >= 8 / L {
            tile::<V, D, 1, 8>(job, block, first, 0, p);
            return 8 / L;
        }
        if block.rows == 2 && left >= TWO / L {
            tile::<V, D, 2, TWO>(job, block, first, 0, p);
            return TWO / L;
        }
        let mut r = 0;
        while r < block.rows {
            let rows = block.rows - r;
            r += if V::TILE_ROWS >= 12 && rows >= 12 {
                tile::<V, D, 12, L>(job, block, first, r, p)
            } else if V::TILE_ROWS >= 12 && rows >= 8 {
                tile::<V, D, 8, L>(job, block, first, r, p)
            } else if V::TILE_ROWS >= 12 && rows >= 4 {
                tile::<V, D, 4, L>(job, block, first, r, p)
            } else if rows >= 3 {
                tile::<V, D, 3, L>(job, block, first, r, p)
            } else if rows >= 2 {
                tile::<V, D, 2, L>(job, block, first, r, p)
            } else {
                tile::<V, D, 1, L>(job, block, first, r, p)
            };
        }
    }
    1
}

/// R rows times N registers of columns, from panel `p` on; returns R.
#[inline(always)]
unsafe fn tile<V: Vector, D: Dot, const R: usize, const N: usize>(
    job: &Product<'_>,
    block: &Block,
    first: usize,
    r: usize,
    p: usize,
) -> usize {
    let line = PANEL / V::LANES;
    // SAFETY: rows `r..r + R` are in the block; panels from `p` on have a line of 32 words for each word of a row; results go
    // to rows `first + r..` and columns below N, which this part owns; for the rest see `Vector`.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        let panel_words = PANEL * block.words_per_row;
        let weights = job.w.words().as_ptr().add(p * panel_words);
        let mut from = 0;
        while from < block.words_per_row {
            let words = (block.words_per_row - from).min(CHUNK);
            let rows = block.words.add((from / CHUNK * block.rows + r) * STRIDE);
            let chunk = weights.add(from * PANEL);
            for i in 0..words {
                let mut b = [V::splat(0.0); N];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = V::load(chunk.add(j / line * panel_words + i * PANEL + j % line * V::LANES));
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
            for (j, sum) in sums.into_iter().enumerate() {
                let column = p * PANEL + j * V::LANES;
                if column >= n {
                    break;
                }
                let out = job.out.get().add((first + r + i) * n + column);
                let sum = if job.add { V::load_n(out, n - column).add(sum) } else { sum };
                sum.store_n(out, n - column);
            }
        }
    }
    R
}
