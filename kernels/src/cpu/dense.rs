//! Products over [`Vector`]: tiles of results that stay in registers while k goes by.
//!
//! Rows are first turned into words, in a [`Block`]. Then each panel goes over all rows of the block: weights are read from
//! memory once a block, and from the second cache once a tile.
//!
//! Every element of the result is one chain over k, in order, whatever tile it falls into.

use std::ops::Range;

use super::block::{Block, CHUNK, Most, Room, STRIDE};
use super::folded::unfold;
use super::one_row::{self, Lines, Unfolding};
use super::vector::Vector;
use super::{Product, activations};
use crate::folded::Unit;
use crate::matrix::{Matrix, PANEL};

/// A segment of 64 rows, in whole tiles of 12: 149 KiB.
pub(super) const MOST: Most = Most { rows: 72, tile: 12 };
/// Bytes of a cache line.
const CACHE_LINE: usize = 64;
/// Words that those of a row are filled up to a multiple of.
const STEP: usize = 16;

/// How one kind of weight is multiplied.
pub(super) trait Dot {
    /// Elements of k in a word.
    const WORD: usize;
    /// What rows are filled up with: times a weight of +0 it changes no sum, not even one that is -0.
    const FILL: u32;
    /// Are there folded ones?
    const FOLDS: bool;

    /// What a row's sums are multiplied with at the end.
    fn scale(x: &[f32]) -> f32;

    /// `x` as words, `x.len().div_ceil(WORD)` of them, at most CHUNK; `scale` is that of its row. int8 is stored as x + 128
    /// where it is to be `unsigned`.
    unsafe fn words(x: &[f32], scale: f32, unsigned: bool, to: *mut u32);

    /// `sum + a . b`, lane by lane; `a` and `b` are words.
    unsafe fn dot<V: Vector>(sum: V, a: V, b: V) -> V;

    /// The sums of columns from `column` on, where `sum` is of words as [`Dot::words`] makes them for `V`.
    #[inline(always)]
    unsafe fn whole<V: Vector>(sum: V, _w: &Matrix, _column: usize) -> V {
        sum
    }

    /// Asks for what one row needs at the end, in the columns from `column` on.
    #[inline(always)]
    fn ask<V: Vector>(_w: &Matrix, _column: usize) {}

    /// [`Dot::dot`] of one row and a panel that goes alone: sums then lack what [`Dot::extra`] says, one number for all columns, which so
    /// need less of memory. It costs an instruction more, of which there are too many where panels go together.
    #[inline(always)]
    unsafe fn dot_alone<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { Self::dot(sum, a, b) }
    }

    /// What the sums of a row of `unsigned` words lack, as bits.
    #[inline(always)]
    fn extra(_words: &[u32]) -> u32 {
        0
    }

    /// The sums, with their `extra`.
    #[inline(always)]
    unsafe fn whole_alone<V: Vector>(sum: V, _extra: f32) -> V {
        sum
    }

    /// The results, of the sums of columns from `column` on.
    unsafe fn end<V: Vector>(sum: V, scale: f32, w: &Matrix, column: usize) -> V;
}

/// f32 times f32.
pub(super) struct F32;

impl Dot for F32 {
    const WORD: usize = 1;
    const FILL: u32 = 0x8000_0000;
    const FOLDS: bool = false;

    #[inline(always)]
    fn scale(_: &[f32]) -> f32 {
        1.0
    }
    #[inline(always)]
    unsafe fn words(x: &[f32], _: f32, _: bool, to: *mut u32) {
        // SAFETY: the caller has room for as many words.
        unsafe { to.cast::<f32>().copy_from_nonoverlapping(x.as_ptr(), x.len()) }
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
    const FILL: u32 = 0x8000_8000;
    const FOLDS: bool = true;

    #[inline(always)]
    fn scale(_: &[f32]) -> f32 {
        1.0
    }
    #[inline(always)]
    unsafe fn words(x: &[f32], _: f32, _: bool, to: *mut u32) {
        // SAFETY: the caller has room for as many words.
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<u16>(), x.len().next_multiple_of(2)) };
        activations::to_bf16(x, to);
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
    const FILL: u32 = 0;
    const FOLDS: bool = false;

    #[inline(always)]
    fn scale(x: &[f32]) -> f32 {
        activations::int8_scale(x)
    }
    #[inline(always)]
    unsafe fn words(x: &[f32], scale: f32, unsigned: bool, to: *mut u32) {
        // SAFETY: the caller has room for as many words.
        let to = unsafe { std::slice::from_raw_parts_mut(to.cast::<i8>(), x.len().next_multiple_of(4)) };
        activations::to_int8(x, scale, if unsigned { -128 } else { 0 }, to);
    }
    #[inline(always)]
    fn ask<V: Vector>(w: &Matrix, column: usize) {
        V::prefetch_near(w.scales().as_ptr().wrapping_add(column));
        if V::UNSIGNED_INT8 {
            V::prefetch_near(w.offsets().as_ptr().wrapping_add(column));
        }
    }
    #[inline(always)]
    unsafe fn dot_alone<V: Vector>(sum: V, a: V, b: V) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { if V::UNSIGNED_INT8 { sum.dot_int8(b.flip_int8(), a.flip_int8()) } else { sum.dot_int8(a, b) } }
    }
    /// `-128 * sum(x)`: (w + 128) x exceeds w x by 128 x. What the last word is filled up with is -128 here and there.
    #[inline(always)]
    fn extra(words: &[u32]) -> u32 {
        let sum: i32 = words.iter().flat_map(|word| word.to_ne_bytes()).map(|x| i32::from(x) - 128).sum();
        (-128_i32).wrapping_mul(sum) as u32
    }
    #[inline(always)]
    unsafe fn whole_alone<V: Vector>(sum: V, extra: f32) -> V {
        // SAFETY: the caller's promise, see `Vector`.
        unsafe { if V::UNSIGNED_INT8 { sum.add_ints(V::splat(extra)) } else { sum } }
    }
    #[inline(always)]
    unsafe fn whole<V: Vector>(sum: V, w: &Matrix, column: usize) -> V {
        // SAFETY: there is an offset for every column of a panel; for the rest see `Vector`.
        unsafe { if V::UNSIGNED_INT8 { sum.add_ints(V::load(w.offsets().as_ptr().add(column))) } else { sum } }
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

/// Turns rows `rows` of `x`, whose rows are those of `block`, into words.
#[inline(always)]
pub(super) unsafe fn take<D: Dot>(x: &[f32], block: &Block, rows: Range<usize>, unsigned: bool) {
    let k = x.len() / block.rows();
    for (r, x) in rows.clone().zip(x[rows.start * k..rows.end * k].chunks_exact(k)) {
        let scale = D::scale(x);
        // SAFETY: row r is of the block, whose rows have room for STEP words more than a chunk; only this part writes it. `D::words` has
        // written as many words as `D::extra` reads.
        unsafe {
            let mut extra = 0_u32;
            *block.scale(r) = scale;
            for (c, x) in x.chunks(CHUNK * D::WORD).enumerate() {
                let (words, to) = (x.len().div_ceil(D::WORD), block.row(c * CHUNK, r));
                D::words(x, scale, unsigned, to);
                (words..words.next_multiple_of(STEP)).for_each(|at| *to.add(at) = D::FILL);
                if unsigned {
                    extra = extra.wrapping_add(D::extra(std::slice::from_raw_parts(to, words)));
                }
            }
            *block.extra(r) = f32::from_bits(extra);
        }
    }
}

/// What a tile asks for at each of its lines, beside its products: some of the weights that the next panel begins with. Of the last
/// panel that is whatever lies behind it, which no one reads.
#[derive(Clone, Copy)]
struct Ahead {
    at: *const u8,
    bytes_per_line: usize,
}

/// A tile of many rows is R rows by W registers of columns, one of two rows 2 by TWO registers; one row takes P panels of N registers.
/// Of folded weights many rows take a panel at a time, unfolded.
#[inline(always)]
pub(super) unsafe fn product<
    V: Vector,
    D: Dot,
    const R: usize,
    const W: usize,
    const TWO: usize,
    const N: usize,
    const P: usize,
>(
    job: &Product<'_>,
    panels: Range<usize>,
) {
    const { assert!(N.is_multiple_of(W) && N * V::LANES == PANEL, "a panel is N registers wide, and whole tiles") };
    let (first, rows, folded) = (job.rows.start, job.rows.len(), job.w.folded().filter(|_| D::FOLDS));
    if rows == 1 {
        // SAFETY: the caller's promise.
        return unsafe {
            match folded {
                Some(folded) => one_row::product::<V, _, N, P>(job, &Unfolding::<V>::of(folded), panels),
                None => one_row::product::<V, _, N, P>(job, &Lines::<D>::of(job.w), panels),
            }
        };
    }
    let mut unfolded = folded.map(|folded| (folded, Room::of(job.w)));
    let mut column = panels.start * PANEL;
    while column < panels.end * PANEL {
        let (p, left) = (column / PANEL, panels.end * PANEL - column);
        // SAFETY: no more than the columns that are left, in rows of the block; the room has a panel's lines; for the rest see `Vector`.
        column += unsafe {
            let (lines, ahead) = match &mut unfolded {
                Some((folded, room)) => {
                    if column.is_multiple_of(PANEL) {
                        unfold::<V, N>(folded, p, room.lines());
                    }
                    let next = folded.units(p).as_ptr_range().end.cast();
                    (room.lines().as_ptr().cast(), Ahead { at: next, bytes_per_line: size_of::<Unit>() / 2 })
                }
                None => (job.w.words_from(p), Ahead { at: job.w.panel(p).as_ptr_range().end.cast(), bytes_per_line: 4 * PANEL }),
            };
            let weights = lines.cast::<f32>().add(column % PANEL);
            if rows == 2 && left >= TWO * V::LANES && folded.is_none() {
                tile::<V, D, 2, TWO>(job, first, column, weights, None);
                TWO * V::LANES
            } else {
                rows_of_block::<V, D, R, W>(job, column, weights, ahead);
                W * V::LANES
            }
        };
    }
}

/// W registers of columns, from `column` on, over all rows of a part. `weights` is that column's first word, in lines of one panel.
#[inline(always)]
unsafe fn rows_of_block<V: Vector, D: Dot, const R: usize, const W: usize>(
    job: &Product<'_>,
    column: usize,
    weights: *const f32,
    ahead: Ahead,
) {
    let (first, end) = (job.rows.start, job.rows.end);
    // The first tile of a panel would wait for memory: so the tiles of this one ask for the next, in turn.
    let step = ahead.bytes_per_line.div_ceil((end - first).div_ceil(R));
    let mut ahead = Ahead { bytes_per_line: step, ..ahead };
    let mut r = first;
    while r < end {
        let rows = end - r;
        let asks = Some(ahead);
        ahead.at = ahead.at.wrapping_add(step * job.block.words_per_row());
        // SAFETY: rows of the block, and columns of this part; for the rest see `Vector`.
        r += unsafe {
            // 16 rows are two tiles of 8 rather than 12 and 4.
            if R >= 12 && rows >= 12 && rows != 16 {
                tile::<V, D, 12, W>(job, r, column, weights, asks)
            } else if R >= 8 && rows >= 8 {
                tile::<V, D, 8, W>(job, r, column, weights, asks)
            } else if R >= 6 && rows >= 6 {
                tile::<V, D, 6, W>(job, r, column, weights, asks)
            } else if R >= 4 && rows >= 4 {
                tile::<V, D, 4, W>(job, r, column, weights, asks)
            } else if rows >= 2 {
                tile::<V, D, 2, W>(job, r, column, weights, asks)
            } else {
                tile::<V, D, 1, W>(job, r, column, weights, asks)
            }
        };
    }
}

/// R rows times N registers of columns, from `column` on; returns R. `weights` is the first word of that column, in lines of its panel;
/// if N registers are more than a panel, the next ones lie behind it. On the way it asks for what lies `ahead`.
#[inline(always)]
unsafe fn tile<V: Vector, D: Dot, const R: usize, const N: usize>(
    job: &Product<'_>,
    r: usize,
    column: usize,
    weights: *const f32,
    ahead: Option<Ahead>,
) -> usize {
    let block = job.block;
    let registers = PANEL / V::LANES;
    // SAFETY: rows `r..r + R` are in the block; columns are those of panels that this part owns, which have a line of 32 words
    // for each word of a row; results go to rows `r..` and columns below N; for the rest see `Vector`.
    unsafe {
        let mut sums = [[V::splat(0.0); N]; R];
        let panel_words = job.w.panel_words();
        let mut from = 0;
        while from < block.words_per_row() {
            let words = (block.words_per_row() - from).min(CHUNK);
            let rows = block.row(from, r).cast::<f32>();
            let chunk = weights.add(from * PANEL);
            for i in 0..words {
                if let Some(Ahead { at, bytes_per_line }) = ahead {
                    let at = at.wrapping_add((from + i) * bytes_per_line);
                    V::prefetch(at.cast());
                    if bytes_per_line > CACHE_LINE {
                        V::prefetch(at.wrapping_add(CACHE_LINE).cast());
                    }
                }
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
            let scale = *block.scale(r + i);
            for (j, sum) in sums.into_iter().enumerate() {
                let column = column + j * V::LANES;
                if column >= n {
                    break;
                }
                let out = job.at(r + i, column);
                let sum = D::end(D::whole(sum, job.w, column), scale, job.w, column);
                let sum = if job.add { V::load_n(out, n - column).add(sum) } else { sum };
                sum.store_n(out, n - column);
            }
        }
    }
    R
}
