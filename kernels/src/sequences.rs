//! How does work on the sequences of a batch come to the threads?

use std::ops::Range;

use crate::cpu::Shared;
use crate::parallel::split;

/// Sequences whose states are at hand at once.
const AT_ONCE: usize = 64;

/// The rows of one sequence, at least one, and its state.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) first: usize,
    pub(crate) len: usize,
    pub(crate) state: Shared,
}

/// Calls `work` with the sequences that have tokens, in order, up to [`AT_ONCE`] of them at a time.
pub(crate) fn each_few<S: AsMut<[f32]>>(lens: &[usize], states: &mut [S], work: &dyn Fn(&[Rows])) {
    let nobody = Rows { first: 0, len: 0, state: Shared(std::ptr::null_mut()) };
    let mut first = 0;
    for (lens, states) in lens.chunks(AT_ONCE).zip(states.chunks_mut(AT_ONCE)) {
        let (mut rows, mut n) = ([nobody; AT_ONCE], 0);
        for (&len, state) in lens.iter().zip(states).filter(|(len, _)| **len > 0) {
            rows[n] = Rows { first, len, state: Shared(state.as_mut().as_mut_ptr()) };
            n += 1;
            first += len;
        }
        if n > 0 {
            work(&rows[..n]);
        }
    }
}

/// Calls `work` for every sequence with tokens and its parts `0..parts`, several at a time where `cost`, nanoseconds of a part
/// of so many tokens, says it pays. The states are written by the parts alone, each its own elements.
pub(crate) fn each_part<S: AsMut<[f32]>>(
    lens: &[usize],
    states: &mut [S],
    parts: usize,
    cost: &dyn Fn(usize) -> usize,
    work: &(impl Fn(Rows, Range<usize>) + Sync),
) {
    each_few(lens, states, &|rows| {
        let tokens = rows.iter().map(|r| r.len).sum::<usize>().div_ceil(rows.len());
        split(rows.len() * parts, cost(tokens), &|mut some| {
            while !some.is_empty() {
                let (sequence, part) = (some.start / parts, some.start % parts);
                let until = parts.min(part + some.len());
                work(rows[sequence], part..until);
                some.start += until - part;
            }
        });
    });
}
