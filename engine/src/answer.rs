//! States and a question -> a span of what was read.
//!
//! Decoding is held to spans of the passage ([`crate::search`]), and what the words around a span say counts beside the reader
//! ([`crate::hints`]). All passages are decoded in one batch.

use std::ops::Range;

use crate::ask::Tier;
use crate::cancel::Pace;
use crate::error::Result;
use crate::hints::Hints;
use crate::model::{Sequence, Want};
use crate::point::point_spans;
use crate::prompt::PassageTokens;
use crate::read::Reader;
use crate::search::{Breadth, Ended, NARROW, SEARCH_TOKENS, Search};
use crate::spans::Spans;
use crate::state::State;

/// What becomes of a passage of which the reader says that it does not hold the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// There is no answer from it.
    Allowed,
    /// Its best span is given all the same: whoever asked decides, by its margin.
    Overruled,
}

/// Longest answer, in tokens.
pub const ANSWER_TOKENS: usize = 14;

/// What one passage answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The answer's tokens; `[none]` when the reader says that the passage does not hold it; empty when nothing was allowed.
    pub ids: Vec<u32>,
    /// Where the occurrence of `ids` that hints speak for most, the earliest without, lies among the text's tokens; `None` for no answer.
    pub place: Option<Range<usize>>,
    /// Natural log-probability of the likeliest first token of the text, over the whole vocabulary.
    pub first_logprob: f32,
    /// Natural log-probability of `<|none|>` in its place; `-inf` where the form has none.
    pub none_logprob: f32,
    /// Sum of the natural log-probabilities of all tokens, the end included.
    pub logprob: f32,
    /// How sure the reader is of this span among all, apart from none, 0 at most: where it decodes, what `logprob` is below
    /// `first_logprob`, a token; where it points, `logprob`.
    pub rest: f32,
    /// What the words around it say ([`Hints::log_odds`]); 0 where no hints were given.
    pub hint: f32,
    /// Tokens run through the reader to decode it.
    pub tokens_read: u64,
}

impl Span {
    /// How much likelier the reader finds its best span than none: log-odds, of the first token where it decodes. Of a span that
    /// was not given for silence, too; `-inf` where nothing was allowed.
    #[must_use]
    pub fn margin(&self) -> f32 {
        if self.none_logprob.is_finite() { self.first_logprob - self.none_logprob } else { self.first_logprob }
    }
}

/// A context that has read a passage and is to be asked.
pub struct Asked<'a> {
    /// Advanced by `ids`.
    pub state: &'a mut State,
    /// What is still to be read: the question at least, the answer mark at last.
    pub ids: &'a [u32],
    /// What is made of "not here".
    pub silence: Silence,
    /// What the answer must be a span of.
    pub text: &'a dyn Spans,
    /// What the words of that text say about spans of it; `None` leaves the reader alone.
    pub hints: Option<&'a Hints>,
}

/// What follows a passage that was read once (tier A): the question.
///
/// # Errors
/// As [`crate::prompt::Prompt::question`].
pub fn after_one_reading(reader: &Reader, question: &str) -> Result<Vec<u32>> {
    let mut ids = reader.prompt().question(question)?;
    ids.extend_from_slice(reader.prompt().answer());
    Ok(ids)
}

/// What follows a passage that is to be read twice (tier B): the question, the passage once more, now that the reader knows
/// what is asked, and the question again where the reader cannot point. Just read twice: arXiv 2407.05483.
///
/// # Errors
/// As [`crate::prompt::Prompt::question`].
pub fn before_second_reading(reader: &Reader, question: &str, passage: &PassageTokens) -> Result<Vec<u32>> {
    let mut ids = reader.prompt().question(question)?;
    ids.extend_from_slice(&passage.ids);
    if reader.prompt().start().is_none() {
        ids.extend(after_one_reading(reader, question)?);
    }
    Ok(ids)
}

/// Reads what [`before_second_reading`] gave and answers from that: by pointing where the reader can, else by decoding.
///
/// # Errors
/// As [`crate::model::Model::forward_at`].
pub fn answer_second_reading(reader: &Reader, asked: &mut [Asked<'_>], pace: &mut Pace<'_>) -> Result<Vec<Span>> {
    if reader.prompt().start().is_some() { point_spans(reader, asked, pace) } else { answer_spans_at(reader, asked, pace) }
}

/// Reads what each context is still to read and decodes the best span of its passage.
///
/// # Errors
/// As [`crate::model::Model::forward`].
pub fn answer_spans(reader: &Reader, asked: &mut [Asked<'_>]) -> Result<Vec<Span>> {
    answer_spans_at(reader, asked, &mut Pace::free())
}

/// As [`answer_spans`], stopping where `pace` says so.
///
/// # Errors
/// As [`crate::model::Model::forward_at`].
pub fn answer_spans_at(reader: &Reader, asked: &mut [Asked<'_>], pace: &mut Pace<'_>) -> Result<Vec<Span>> {
    search_spans(reader, asked, NARROW, pace, &mut |_, _| {})
}

/// Bytes that the paths of one search may keep in states.
const FORK_BYTES: usize = 256 << 20;

fn paths_that_fit(reader: &Reader) -> usize {
    (FORK_BYTES / State::bytes(reader.config())).max(1)
}

/// Most paths of one search, each with a state of its own.
pub(crate) fn most_paths(reader: &Reader, hinted: bool) -> usize {
    NARROW.paths[usize::from(hinted)].min(paths_that_fit(reader))
}

/// Most tokens that an answer of this tier is searched with, beside what is read before it.
pub(crate) fn most_tokens(reader: &Reader, tier: Tier) -> usize {
    match tier {
        Tier::B if reader.prompt().start().is_some() => 0,
        tier if reader.calibration().odds(tier).hints.any() => SEARCH_TOKENS,
        _ => ANSWER_TOKENS,
    }
}

/// As [`answer_spans_at`]; `each` gets every span that was looked at, with the number of its context.
pub(crate) fn search_spans(
    reader: &Reader,
    asked: &mut [Asked<'_>],
    breadth: Breadth,
    pace: &mut Pace<'_>,
    each: &mut (dyn FnMut(usize, Ended) + Send),
) -> Result<Vec<Span>> {
    let (none, end) = (reader.prompt().none(), reader.prompt().end());
    let breadth = Breadth { paths: breadth.paths.map(|paths| paths.min(paths_that_fit(reader))), ..breadth };
    let mut searches: Vec<Search<'_>> = asked.iter().map(|a| Search::new(a.text, a.hints, a.silence, breadth)).collect();
    let mut batch: Vec<Sequence<'_>> = asked.iter_mut().map(|a| Sequence { ids: a.ids, state: a.state }).collect();
    reader.forward_at(&mut batch, Want::Last, pace, &mut |i, _, logits| searches[i].begin(logits, none))?;
    let paths = searches.iter().enumerate().flat_map(|(i, search)| (0..search.paths.len()).map(move |path| (i, path)));
    let mut forks: Vec<(usize, usize, State)> = paths.map(|(i, path)| (i, path, asked[i].state.clone())).collect();
    while !forks.is_empty() {
        let lasts: Vec<u32> = forks.iter().map(|(i, path, _)| searches[*i].paths[*path].last).collect();
        let which: Vec<(usize, usize)> = forks.iter().map(|(i, path, _)| (*i, *path)).collect();
        let steps = forks.iter_mut().zip(&lasts);
        let mut batch: Vec<Sequence<'_>> =
            steps.map(|((.., state), id)| Sequence { ids: std::slice::from_ref(id), state }).collect();
        reader.forward_at(&mut batch, Want::Last, pace, &mut |n, _, logits| {
            let (i, path) = which[n];
            searches[i].step(path, logits, end, &mut |ended| each(i, ended));
        })?;
        searches.iter_mut().for_each(Search::prune);
        forks.retain(|(i, path, _)| searches[*i].paths[*path].live);
    }
    Ok(searches.into_iter().map(Search::finish).collect())
}
