//! When is work worth a second thread?
//!
//! Parts are handed out by `rayon::join` in the ambient pool: nothing is allocated, nobody spins, and a part that a busy core
//! does not get to is taken by another. Waking a thread costs microseconds, so work below [`WORTH`] stays on the calling one.

use std::ops::Range;

/// Multiply-adds, or elements times their cost, that are worth handing to another thread: some 10 microseconds.
pub(crate) const WORTH: usize = 1 << 19;

/// Calls `work` with ranges that cover `0..n` exactly; `cost` is that of one item, in multiply-adds.
pub(crate) fn split(n: usize, cost: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    split_by(n, grain(n, cost), work);
}

/// As [`split`], with at most `grain` items a part.
pub(crate) fn split_by(n: usize, grain: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    fn halves(range: Range<usize>, grain: usize, work: &(impl Fn(Range<usize>) + Sync)) {
        if range.len() <= grain {
            return work(range);
        }
        let middle = range.start + range.len() / 2;
        rayon::join(|| halves(range.start..middle, grain, work), || halves(middle..range.end, grain, work));
    }
    if n > 0 {
        halves(0..n, grain.max(1), work);
    }
}

/// Items a part, of `n` that cost `cost` each: a few parts a thread, none of them below [`WORTH`].
pub(crate) fn grain(n: usize, cost: usize) -> usize {
    let threads = rayon::current_num_threads();
    if threads == 1 { n } else { n.div_ceil(threads * 4).max(WORTH / cost.max(1)) }
}
