//! Question -> cited answer: retrieve, rerank, read, answer, cite, one after another.

use std::time::Instant;

use palimpsest_index::Index;
use serde::Serialize;

use crate::answer::{Allowed, Asked, Span, SpanText, after_one_reading, answer_spans, before_second_reading};
use crate::cite::{Checked, Citation, cite, near};
use crate::error::Result;
use crate::prompt::Origin;
use crate::read::{ReadPassage, Reader, read_passages};
use crate::rerank::{Candidate, rerank};
use crate::retrieve::retrieve;
use crate::state::State;
use crate::store::Store;

/// How a question is to be answered.
#[derive(Debug, Clone)]
pub struct AskOptions {
    /// Passages to read at most.
    pub passages: usize,
    /// Below this confidence no answer is given.
    pub min_confidence: f32,
    /// How they are read.
    pub tier: Tier,
}

impl Default for AskOptions {
    fn default() -> Self {
        Self { passages: 5, min_confidence: 0.1, tier: Tier::A }
    }
}

/// How passages are read for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Tier {
    /// Each passage once, from the empty state, the question after it: the states serve any later question.
    A,
    /// Tier A, then the best [`SECOND_READINGS`] passages a second time, now that the reader knows what is asked.
    B,
}

/// Passages that tier B reads again.
pub const SECOND_READINGS: usize = 3;

/// What came of a question. Serialises to the stable shape that the README documents.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// A span of the quote of one of the citations, or none.
    pub answer: Option<String>,
    /// Calibrated chance that the answer is right, 0..1; of there being no answer to show, the best one's.
    pub confidence: f32,
    /// Where the answer stands. Empty without one.
    pub citations: Vec<Citation>,
    /// Passages that came near, best first, when there is no answer.
    pub nearest: Vec<Citation>,
    /// Tokens run through the reader in this call.
    pub tokens_read: u64,
    /// Tokens not run because a snapshot held them.
    pub tokens_restored: u64,
    /// How the passages were read.
    pub tier: Tier,
    /// Milliseconds of each stage.
    pub timings_ms: Timings,
    /// What the user should know beside the answer: a source that changed, a cache that was set aside.
    pub notices: Vec<String>,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Timings {
    /// Finding passages.
    pub retrieve: f64,
    /// Reading or restoring them.
    pub read: f64,
    /// Reading the question and decoding.
    pub answer: f64,
    /// Quoting and comparing with the sources.
    pub cite: f64,
    /// All of it.
    pub total: f64,
}

/// Answers `question` from the documents of `index` (tier A).
///
/// # Errors
/// [`crate::Error::Input`] for an empty question; those of index and reader.
pub fn ask(index: &Index, reader: &Reader, store: &Store, question: &str, options: &AskOptions) -> Result<Answer> {
    let clock = Instant::now();
    let mut timings = Timings::default();
    let asked = after_one_reading(reader, question)?;

    let hits = retrieve(index, question)?;
    let candidates = rerank(&hits, options.passages);
    timings.retrieve = lap(&clock, 0.0);

    let passages = candidates.iter().map(|c| reader.prompt().passage(&c.hit.title, &c.hit.text)).collect::<Result<Vec<_>>>()?;
    let read = read_passages(reader, store, passages)?;
    timings.read = lap(&clock, timings.retrieve);

    let mut answered = Answered { spans: vec![None; read.len()], tokens_read: 0 };
    let once: Vec<(usize, Vec<u32>)> = (0..read.len()).map(|i| (i, asked.clone())).collect();
    answered.ask(reader, &read, &once)?;
    if options.tier == Tier::B {
        let best = ranked(&candidates, &answered.spans).into_iter().take(SECOND_READINGS);
        let twice = best.map(|(_, i)| Ok((i, before_second_reading(reader, question, &read[i].tokens)?)));
        let twice = twice.collect::<Result<Vec<_>>>()?;
        answered.spans.fill(None);
        answered.ask(reader, &read, &twice)?;
    }
    let Answered { spans, tokens_read: asked_tokens } = answered;
    timings.answer = lap(&clock, timings.retrieve + timings.read);

    let mut notices = Vec::new();
    let mut best = None;
    let mut confidence = 0.0;
    for (score, i) in ranked(&candidates, &spans) {
        let chance = chance(score);
        confidence = f32::max(confidence, chance);
        if chance < options.min_confidence {
            break;
        }
        let Some(span) = &spans[i] else { continue };
        match cited(index, &candidates[i], &read[i], span)? {
            Some((answer, Checked::Holds(citation))) => {
                (best, confidence) = (Some((answer, citation)), chance);
                break;
            }
            Some((_, Checked::Withheld(reason))) => notices.push(reason),
            None => {}
        }
    }
    let nearest = if best.is_none() { nearest(index, &candidates)? } else { Vec::new() };
    let before = timings.retrieve + timings.read + timings.answer;
    timings.cite = lap(&clock, before);
    timings.total = lap(&clock, 0.0);
    let (answer, citations) = best.map_or((None, Vec::new()), |(answer, citation)| (Some(answer), vec![citation]));
    Ok(Answer {
        answer,
        confidence,
        citations,
        nearest,
        tokens_read: read.iter().map(ReadPassage::tokens_read).sum::<u64>() + asked_tokens,
        tokens_restored: read.iter().map(ReadPassage::tokens_restored).sum(),
        tier: options.tier,
        timings_ms: timings,
        notices,
    })
}

fn lap(clock: &Instant, before: f64) -> f64 {
    clock.elapsed().as_secs_f64() * 1e3 - before
}

/// What each passage answered, by its number; `None` where it was not asked (again).
struct Answered {
    spans: Vec<Option<Span>>,
    tokens_read: u64,
}

impl Answered {
    /// Asks forks of the passages' states; `asked` has the number of each and what follows it.
    fn ask(&mut self, reader: &Reader, read: &[ReadPassage], asked: &[(usize, Vec<u32>)]) -> Result<()> {
        let mut forks: Vec<State> = asked.iter().map(|(i, _)| read[*i].state.clone()).collect();
        let texts: Vec<SpanText> = asked.iter().map(|(i, _)| SpanText::of_passage(&read[*i].tokens, Allowed::Text)).collect();
        let contexts = forks.iter_mut().zip(asked).zip(&texts);
        let mut contexts: Vec<Asked<'_>> = contexts.map(|((state, (_, ids)), text)| Asked { state, ids, text }).collect();
        let spans = answer_spans(reader, &mut contexts)?;
        for ((i, ids), span) in asked.iter().zip(spans) {
            self.tokens_read += ids.len() as u64 + span.tokens_read;
            self.spans[*i] = Some(span);
        }
        Ok(())
    }
}

/// Weight of the logarithm of the relative BM25 score beside the span's log-odds.
const BM25_WEIGHT: f32 = 4.0;

/// Candidates that hold an answer with their scores, best first.
fn ranked(candidates: &[Candidate], spans: &[Option<Span>]) -> Vec<(f32, usize)> {
    let scores = candidates.iter().zip(spans).enumerate().filter_map(|(i, (candidate, span))| {
        let score = span.as_ref()?.margin() + BM25_WEIGHT * candidate.relative_score.ln();
        score.is_finite().then_some((score, i))
    });
    let mut order: Vec<(f32, usize)> = scores.collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    order
}

/// The chance that an answer of this score is right.
fn chance(score: f32) -> f32 {
    1.0 / (1.0 + (-score).exp())
}

/// The answer as bytes of the passage, and its citation held against the source. `None` when the tokens stand for no text.
fn cited(index: &Index, candidate: &Candidate, read: &ReadPassage, span: &Span) -> Result<Option<(String, Checked)>> {
    let Some(place) = span.place.clone() else { return Ok(None) };
    let ranges = read.tokens.origins[place].iter().filter_map(|o| match o {
        Origin::Text(range) => Some(range.clone()),
        _ => None,
    });
    let Some(bytes) = ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) else { return Ok(None) };
    let Some(text) = candidate.hit.text.get(bytes.clone()) else { return Ok(None) };
    let answer = text.trim();
    if answer.is_empty() {
        return Ok(None);
    }
    let start = bytes.start + (text.len() - text.trim_start().len());
    let checked = cite(index, &candidate.hit, start..start + answer.len())?;
    Ok(Some((answer.to_string(), checked)))
}

fn nearest(index: &Index, candidates: &[Candidate]) -> Result<Vec<Citation>> {
    let mut out = Vec::new();
    for candidate in candidates {
        if let Checked::Holds(citation) = cite(index, &candidate.hit, near(&candidate.hit))? {
            out.push(citation);
        }
    }
    Ok(out)
}
