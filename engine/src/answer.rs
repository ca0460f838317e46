//! States and a question -> a span of what was read.
//!
//! Decoding is greedy and held to spans of the passage: the first token is any token of the passage or, where silence is
//! allowed, `<|none|>`; each
//! further one continues some occurrence in the passage of what was decoded so far, or ends the answer. Ties go to the
//! lowest id. All passages are decoded in one batch.

use std::ops::Range;

use crate::cancel::Pace;
use crate::error::Result;
use crate::model::{Sequence, Want};
use crate::point::point_spans;
use crate::prompt::{Origin, PassageTokens};
use crate::read::Reader;
use crate::state::State;

/// What becomes of a passage of which the reader says that it does not hold the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// There is no answer from it.
    Allowed,
    /// Its best span is given all the same, with a margin below 0: whoever asked decides.
    Overruled,
}

/// Longest answer, in tokens.
pub const ANSWER_TOKENS: usize = 14;

/// What one passage answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The answer's tokens; `[none]` when the reader says that the passage does not hold it; empty when nothing was allowed.
    pub ids: Vec<u32>,
    /// Where the earliest occurrence of `ids` lies among the text's tokens; `None` for no answer.
    pub place: Option<Range<usize>>,
    /// Natural log-probability of the likeliest first token of the text, over the whole vocabulary.
    pub first_logprob: f32,
    /// Natural log-probability of `<|none|>` in its place; `-inf` where the form has none.
    pub none_logprob: f32,
    /// Sum of the natural log-probabilities of all tokens, the end included where it came.
    pub logprob: f32,
    /// How sure the reader is of this span among all, apart from none, 0 at most: where it decodes, the mean log-probability of what came after
    /// the first token, the end included; where it points, `logprob`.
    pub rest: f32,
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
    /// Advanced by `ids` and the answer.
    pub state: &'a mut State,
    /// What is still to be read: the question at least, the answer mark at last.
    pub ids: &'a [u32],
    /// What is made of "not here".
    pub silence: Silence,
    /// What the answer must be a span of.
    pub text: &'a dyn Spans,
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

/// Which tokens of a passage an answer may be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Those of its text alone: an answer must be citable.
    Text,
    /// Those of its title, too.
    TextAndTitle,
}

impl Allowed {
    fn takes(self, origin: &Origin) -> bool {
        match origin {
            Origin::Text(_) => true,
            Origin::Heading => self == Allowed::TextAndTitle,
            Origin::Mark => false,
        }
    }
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
    let (none, end) = (reader.prompt().none(), reader.prompt().end());
    let mut cursors: Vec<Cursor<'_>> = asked.iter().map(|a| Cursor::new(a.text, a.silence)).collect();
    let mut decoded: Vec<Option<u32>> = vec![None; asked.len()];
    let mut batch: Vec<Sequence<'_>> = asked.iter_mut().map(|a| Sequence { ids: a.ids, state: a.state }).collect();
    reader.forward_at(&mut batch, Want::Last, pace, &mut |i, _, logits| decoded[i] = cursors[i].take(logits, none, end))?;
    while decoded.iter().any(Option::is_some) {
        let step = decoded.clone();
        let mut batch: Vec<Sequence<'_>> =
            asked.iter_mut().zip(&step).map(|(a, id)| Sequence { ids: id.as_slice(), state: a.state }).collect();
        decoded.fill(None);
        reader.forward_at(&mut batch, Want::Last, pace, &mut |i, _, logits| {
            cursors[i].span.tokens_read += 1;
            decoded[i] = cursors[i].take(logits, none, end);
        })?;
    }
    Ok(cursors.into_iter().map(Cursor::finish).collect())
}

/// A text that answers are spans of.
pub trait Spans: Sync {
    /// Each id that an answer may begin with.
    fn distinct(&self, each: &mut dyn FnMut(u32));

    /// Where `id` stands, ascending.
    fn occurrences(&self, id: u32, into: &mut Vec<u32>);

    /// Tokens of the text, those where no answer may go with them.
    fn tokens(&self) -> usize;

    /// The id at `position`; `None` where no answer may go.
    fn at(&self, position: u32) -> Option<u32>;

    /// The ids at these positions; `None` where an answer may not go.
    fn span(&self, range: Range<usize>) -> Option<Vec<u32>> {
        range.map(|at| u32::try_from(at).ok().and_then(|at| self.at(at))).collect()
    }
}

/// The tokens that an answer may be a span of, with an index of where each id stands: a decoded token costs the distinct ids
/// or the occurrences of what was decoded so far, never a pass over the text.
#[derive(Debug, Clone, Default)]
pub struct SpanText {
    /// `u32::MAX` where no answer may go.
    ids: Vec<u32>,
    /// Positions, those of the same id together and ascending.
    positions: Vec<u32>,
    /// Each distinct id with its part of `positions`.
    distinct: Vec<(u32, Range<u32>)>,
}

const FORBIDDEN: u32 = u32::MAX;

impl SpanText {
    /// Of a passage's tokens, those that `allowed` takes.
    #[must_use]
    pub fn of_passage(passage: &PassageTokens, allowed: Allowed) -> Self {
        let free =
            passage.ids.iter().zip(&passage.origins).map(|(&id, origin)| if allowed.takes(origin) { id } else { FORBIDDEN });
        Self::new(free.collect())
    }

    /// Of ids, `u32::MAX` where no answer may go. Takes 8 bytes a token.
    #[must_use]
    pub fn new(ids: Vec<u32>) -> Self {
        let mut positions: Vec<u32> = (0..ids.len() as u32).filter(|&at| ids[at as usize] != FORBIDDEN).collect();
        positions.sort_by_key(|&at| (ids[at as usize], at));
        let mut distinct: Vec<(u32, Range<u32>)> = Vec::new();
        for (i, &at) in positions.iter().enumerate() {
            let (i, id) = (i as u32, ids[at as usize]);
            match distinct.last_mut() {
                Some((last, range)) if *last == id => range.end = i + 1,
                _ => distinct.push((id, i..i + 1)),
            }
        }
        Self { ids, positions, distinct }
    }
}

impl Spans for SpanText {
    fn distinct(&self, each: &mut dyn FnMut(u32)) {
        self.distinct.iter().for_each(|(id, _)| each(*id));
    }

    fn occurrences(&self, id: u32, into: &mut Vec<u32>) {
        if let Ok(i) = self.distinct.binary_search_by_key(&id, |(id, _)| *id) {
            into.extend_from_slice(&self.positions[self.distinct[i].1.start as usize..self.distinct[i].1.end as usize]);
        }
    }

    fn tokens(&self) -> usize {
        self.ids.len()
    }

    fn at(&self, position: u32) -> Option<u32> {
        self.ids.get(position as usize).copied().filter(|&id| id != FORBIDDEN)
    }
}

/// The occurrences in a text of what was decoded so far.
pub(crate) struct Cursor<'a> {
    text: &'a dyn Spans,
    silence: Silence,
    /// Position of the last decoded token in each occurrence, ascending.
    ends: Vec<u32>,
    /// The id after each of them, `FORBIDDEN` where no answer may go on.
    next: Vec<u32>,
    span: Span,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a dyn Spans, silence: Silence) -> Self {
        let span = Span {
            ids: Vec::new(),
            place: None,
            first_logprob: f32::NEG_INFINITY,
            none_logprob: f32::NEG_INFINITY,
            logprob: 0.0,
            rest: 0.0,
            tokens_read: 0,
        };
        Self { text, silence, ends: Vec::new(), next: Vec::new(), span }
    }

    /// Takes the likeliest allowed token. Returns it when decoding goes on after it.
    pub(crate) fn take(&mut self, logits: &[f32], none: Option<u32>, end: Option<u32>) -> Option<u32> {
        let normaliser = log_sum_exp(logits);
        let first = self.span.ids.is_empty();
        let better = |a: Option<(f32, u32)>, id: u32| {
            let logit = logits[id as usize];
            Some(a.filter(|&(l, i)| l > logit || (l == logit && i < id)).unwrap_or((logit, id)))
        };
        let mut best: Option<(f32, u32)> = None;
        if first {
            self.text.distinct(&mut |id| best = better(best, id));
            self.span.first_logprob = best.map_or(f32::NEG_INFINITY, |(logit, _)| logit - normaliser);
            self.span.none_logprob = none.map_or(f32::NEG_INFINITY, |n| logits[n as usize] - normaliser);
            if let Some(none) = none.filter(|_| self.silence == Silence::Allowed) {
                best = better(best, none);
            }
        } else {
            self.next.clear();
            self.next.extend(self.ends.iter().map(|&e| self.text.at(e + 1).unwrap_or(FORBIDDEN)));
            self.next.iter().copied().filter(|&id| id != FORBIDDEN).chain(end).for_each(|id| best = better(best, id));
        }
        let (logit, id) = best?;
        self.span.logprob += logit - normaliser;
        if first {
            self.span.ids.push(id);
            if Some(id) == none {
                return None;
            }
            self.text.occurrences(id, &mut self.ends);
        } else {
            if Some(id) == end {
                return None;
            }
            let mut next = self.next.iter();
            self.ends.retain_mut(|e| {
                *e += 1;
                next.next() == Some(&id)
            });
            self.span.ids.push(id);
        }
        (self.span.ids.len() < ANSWER_TOKENS).then_some(id)
    }

    fn finish(mut self) -> Span {
        self.span.rest = (self.span.logprob - self.span.first_logprob).min(0.0) / self.span.ids.len().max(1) as f32;
        self.span.place = self.ends.first().map(|&end| end as usize + 1 - self.span.ids.len()..end as usize + 1);
        self.span
    }
}

/// `ln(sum(exp(x)))`, without overflow.
pub(crate) fn log_sum_exp(x: &[f32]) -> f32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    max + x.iter().map(|v| (v - max).exp()).sum::<f32>().ln()
}
