//! Rows as words: what a product multiplies, made once for all its panels and threads.
//!
//! A *word* is 32 bits: what one lane of a register holds of a row or of a column. Rows are [`STRIDE`] words apart: a constant,
//! so that a tile's rows need no registers for addresses, and no power of two, so that they do not fall on the same cache lines.

use std::cell::Cell;

use crate::matrix::{Line, Matrix, PANEL};

/// Words of a row that lie together.
pub(super) const CHUNK: usize = 512;
/// Words from one row to the next.
pub(super) const STRIDE: usize = CHUNK + 16;
/// Rows that no block has more of.
pub(crate) const MOST_ROWS: usize = 128;
/// Rows behind a block that a tile may look at.
const BEHIND: usize = 32;
/// Words of a cache line.
const LINE: usize = 16;

thread_local! {
    /// What this thread's blocks lie in, one after the other: as large as the largest, and not given to two.
    static MEMORY: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    /// What this thread unfolds a panel into: as large as the largest.
    static PANELS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Rows of a product as words, `[chunk][row][STRIDE]`, a scale for each, and what else a row is to be remembered by.
pub(crate) struct Block {
    words: *mut u32,
    scales: *mut f32,
    extras: *mut f32,
    rows: usize,
    words_per_row: usize,
}

// SAFETY: what it points to is written by parts that have their own rows, and read once they are done.
unsafe impl Sync for Block {}

/// How many rows a block has at most, [`MOST_ROWS`] anywhere.
#[derive(Clone, Copy)]
pub(crate) struct Most {
    /// Of one chunk each: so that a block takes a part of the second cache.
    pub(crate) rows: usize,
    /// What kernels take at once, and blocks are whole multiples of if they can.
    pub(crate) tile: usize,
}

impl Most {
    /// Of rows of so many words; at least 1.
    pub(crate) fn of(self, words_per_row: usize) -> usize {
        let rows = self.rows.min(MOST_ROWS) / words_per_row.div_ceil(CHUNK);
        if rows > self.tile { rows / self.tile * self.tile } else { rows.max(1) }
    }
}

impl Block {
    /// Calls `work` with room for `rows` rows of `words_per_row` words.
    pub(crate) fn with<R>(rows: usize, words_per_row: usize, work: impl FnOnce(&Block) -> R) -> R {
        let mut memory = MEMORY.take();
        let scales = rows.next_multiple_of(LINE);
        let needed = LINE + 2 * scales + (words_per_row.div_ceil(CHUNK) * rows + BEHIND) * STRIDE;
        if memory.len() < needed {
            memory.resize(needed, 0);
        }
        // Tiles are loaded line by line: rows must not lie across lines.
        let start = memory.as_ptr().align_offset(4 * LINE).min(LINE);
        let scales_at = memory[start..].as_mut_ptr();
        // SAFETY: `needed` words are there, `start` is at most LINE.
        let (extras, words) = unsafe { (scales_at.add(scales), scales_at.add(2 * scales)) };
        let result = work(&Block { words, scales: scales_at.cast(), extras: extras.cast(), rows, words_per_row });
        // A product within `work` took memory of its own: the larger one stays.
        let inner = MEMORY.take();
        MEMORY.set(if inner.len() > memory.len() { inner } else { memory });
        result
    }

    /// How many rows it has.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Words of a row.
    #[inline(always)]
    pub(super) fn words_per_row(&self) -> usize {
        self.words_per_row
    }

    /// Words of row `r` from `from` on, the start of a chunk; those of the next row are STRIDE further.
    #[inline(always)]
    pub(super) unsafe fn row(&self, from: usize, r: usize) -> *mut u32 {
        // SAFETY: the caller has `from` below `words_per_row` and `r` below the number of rows.
        unsafe { self.words.add((from / CHUNK * self.rows + r) * STRIDE) }
    }

    /// The scale of row `r`.
    #[inline(always)]
    pub(super) unsafe fn scale(&self, r: usize) -> *mut f32 {
        // SAFETY: the caller has `r` below the number of rows.
        unsafe { self.scales.add(r) }
    }

    /// What the type of weights has to remember of row `r`.
    #[inline(always)]
    pub(super) unsafe fn extra(&self, r: usize) -> *mut f32 {
        // SAFETY: the caller has `r` below the number of rows.
        unsafe { self.extras.add(r) }
    }
}

/// Room of this thread for the lines of a panel.
pub(super) struct Room {
    memory: Vec<Line>,
    lines: usize,
}

impl Room {
    pub(super) fn of(w: &Matrix) -> Self {
        let (mut memory, lines) = (PANELS.take(), w.panel_words() / PANEL);
        if memory.len() < lines {
            memory.clear();
            memory.resize(lines, Line([0; PANEL]));
        }
        Self { memory, lines }
    }

    pub(super) fn lines(&mut self) -> &mut [[u32; PANEL]] {
        // SAFETY: a `Line` is its 128 bytes: its size is its alignment.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.lines) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        PANELS.set(std::mem::take(&mut self.memory));
    }
}
