//! When is work worth a second thread?
//!
//! Parts are handed out by `rayon::join` in the ambient pool: nothing is allocated, nobody spins, and a part that a busy core
//! does not get to is taken by another. Waking a thread costs microseconds, so work below [`WORTH`] stays on the calling one.

use std::ops::Range;

/// Nanoseconds on one thread, about, that are worth handing to another one.
pub(crate) const WORTH: usize = 8_000;

/// Calls `work` with ranges that cover `0..n` exactly; an item costs `cost` nanoseconds on one thread, about.
pub(crate) fn split(n: usize, cost: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    fn halves(range: Range<usize>, grain: usize, work: &(impl Fn(Range<usize>) + Sync)) {
        if range.len() <= grain {
            return work(range);
        }
        let middle = range.start + range.len() / 2;
        rayon::join(|| halves(range.start..middle, grain, work), || halves(middle..range.end, grain, work));
    }
    if n > 0 {
        halves(0..n, grain(n, cost), work);
    }
}

/// Items a part, at least 1, of `n` that cost `cost` nanoseconds each: a few parts a thread, none of them below [`WORTH`].
pub(crate) fn grain(n: usize, cost: usize) -> usize {
    let threads = rayon::current_num_threads();
    let grain = if threads == 1 { n } else { n.div_ceil(threads * 4).max(WORTH / cost.max(1)) };
    grain.max(1)
}
