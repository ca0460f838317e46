//! Question -> cited answer: retrieve, rerank, read, answer, cite, one after another.

use std::ops::Range;
use std::time::Instant;

use palimpsest_index::Index;
use serde::Serialize;

use crate::answer::{Allowed, Asked, Span, SpanText, after_one_reading, answer_spans, before_second_reading};
use crate::cite::{Checked, Citation, cite, near};
use crate::error::Result;
use crate::prompt::{Origin, PassageTokens};
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
    /// How sure the reader is of the answer, 0..1; where there is none to show, of the best one.
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

/// A passage that was read for a question, and what it says.
#[derive(Debug, Clone)]
pub struct Considered {
    /// Where it lies and how BM25 ranked it.
    pub candidate: Candidate,
    /// What was read.
    pub tokens: PassageTokens,
    /// What it answers; `None` where tier B left it aside.
    pub span: Option<Span>,
}

impl Considered {
    /// How good an answer this is: the span's log-odds against none, with the BM25 score mixed in. `None` without an answer.
    #[must_use]
    pub fn score(&self) -> Option<f32> {
        let score = self.span.as_ref()?.margin() + BM25_WEIGHT * self.candidate.relative_score.ln();
        score.is_finite().then_some(score)
    }
}

/// Everything that was read for a question.
#[derive(Debug, Clone)]
pub struct Consideration {
    /// In BM25's order.
    pub considered: Vec<Considered>,
    /// Tokens run through the reader.
    pub tokens_read: u64,
    /// Tokens not run because a snapshot held them.
    pub tokens_restored: u64,
    timings_ms: Timings,
}

impl Consideration {
    /// Passages that hold an answer with their scores, best first.
    #[must_use]
    pub fn ranked(&self) -> Vec<(f32, usize)> {
        let mut order: Vec<(f32, usize)> =
            self.considered.iter().enumerate().filter_map(|(i, c)| Some((c.score()?, i))).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        order
    }
}

/// Finds and reads passages, and decodes what each one answers.
///
/// # Errors
/// [`crate::Error::Input`] for an empty question; those of index and reader.
pub fn consider(index: &Index, reader: &Reader, store: &Store, question: &str, options: &AskOptions) -> Result<Consideration> {
    let clock = Instant::now();
    let mut timings = Timings::default();
    let asked = after_one_reading(reader, question)?;
    let candidates = rerank(&retrieve(index, question)?, options.passages);
    timings.retrieve = lap(&clock, 0.0);

    let passages = candidates.iter().map(|c| reader.prompt().passage(&c.hit.title, &c.hit.text)).collect::<Result<Vec<_>>>()?;
    let read = read_passages(reader, store, passages)?;
    timings.read = lap(&clock, timings.retrieve);

    let mut all = Consideration {
        considered: Vec::new(),
        tokens_read: read.iter().map(ReadPassage::tokens_read).sum(),
        tokens_restored: read.iter().map(ReadPassage::tokens_restored).sum(),
        timings_ms: Timings::default(),
    };
    let (states, tokens): (Vec<State>, Vec<PassageTokens>) = read.into_iter().map(|p| (p.state, p.tokens)).unzip();
    let with_tokens = candidates.into_iter().zip(tokens);
    all.considered = with_tokens.map(|(candidate, tokens)| Considered { candidate, tokens, span: None }).collect();
    let once = (0..states.len()).map(|i| (i, asked.clone())).collect();
    all.decode(reader, &states, once)?;
    if options.tier == Tier::B {
        let best = all.ranked().into_iter().take(SECOND_READINGS);
        let twice = best.map(|(_, i)| Ok((i, before_second_reading(reader, question, &all.considered[i].tokens)?)));
        let twice = twice.collect::<Result<Vec<_>>>()?;
        all.considered.iter_mut().for_each(|c| c.span = None);
        all.decode(reader, &states, twice)?;
    }
    timings.answer = lap(&clock, timings.retrieve + timings.read);
    all.timings_ms = timings;
    Ok(all)
}

impl Consideration {
    /// Asks forks of `states`, all in one batch; `asked` has the number of each passage and what follows it.
    fn decode(&mut self, reader: &Reader, states: &[State], asked: Vec<(usize, Vec<u32>)>) -> Result<()> {
        let mut forks: Vec<State> = asked.iter().map(|(i, _)| states[*i].clone()).collect();
        let texts: Vec<SpanText> =
            asked.iter().map(|(i, _)| SpanText::of_passage(&self.considered[*i].tokens, Allowed::Text)).collect();
        let contexts = forks.iter_mut().zip(&asked).zip(&texts);
        let mut contexts: Vec<Asked<'_>> = contexts.map(|((state, (_, ids)), text)| Asked { state, ids, text }).collect();
        let spans = answer_spans(reader, &mut contexts)?;
        for ((i, ids), span) in asked.into_iter().zip(spans) {
            self.tokens_read += ids.len() as u64 + span.tokens_read;
            self.considered[i].span = Some(span);
        }
        Ok(())
    }
}

/// Answers `question` from the documents of `index`.
///
/// # Errors
/// As [`consider`].
pub fn ask(index: &Index, reader: &Reader, store: &Store, question: &str, options: &AskOptions) -> Result<Answer> {
    let clock = Instant::now();
    let all = consider(index, reader, store, question, options)?;
    let mut timings = all.timings_ms;
    let before = lap(&clock, 0.0);
    let mut notices = Vec::new();
    let mut best = None;
    let mut confidence = 0.0;
    for (score, i) in all.ranked() {
        let chance = chance(score);
        confidence = f32::max(confidence, chance);
        if chance < options.min_confidence {
            break;
        }
        match cited(index, &all.considered[i])? {
            Some((answer, Checked::Holds(citation))) => {
                (best, confidence) = (Some((answer, citation)), chance);
                break;
            }
            Some((_, Checked::Withheld(reason))) => notices.push(reason),
            None => {}
        }
    }
    let nearest = if best.is_none() { nearest(index, &all.considered)? } else { Vec::new() };
    timings.cite = lap(&clock, before);
    timings.total = lap(&clock, 0.0);
    let (answer, citations) = best.map_or((None, Vec::new()), |(answer, citation)| (Some(answer), vec![citation]));
    Ok(Answer {
        answer,
        confidence,
        citations,
        nearest,
        tokens_read: all.tokens_read,
        tokens_restored: all.tokens_restored,
        tier: options.tier,
        timings_ms: timings,
        notices,
    })
}

fn lap(clock: &Instant, before: f64) -> f64 {
    clock.elapsed().as_secs_f64() * 1e3 - before
}

/// Weight of the logarithm of the relative BM25 score beside the span's log-odds. Fitted on 130 questions of SQuAD's training
/// set over 2,022 paragraphs (`eval collection --rows`): the right paragraph wins for 81.5% with 0, 85.4% with 4, 87.7% with 8,
/// 88.5% with 16, 85.4% with 40.
const BM25_WEIGHT: f32 = 8.0;

/// Log-odds a unit of confidence stands for. Flatter than the reader's own odds, which are far too sure of themselves; a
/// calibration on questions that it did not learn from is still to come.
const TEMPERATURE: f32 = 4.0;

/// The chance that an answer of this score is right.
fn chance(score: f32) -> f32 {
    1.0 / (1.0 + (-score / TEMPERATURE).exp())
}

/// The answer as bytes of the passage, and its citation held against the source. `None` when the tokens stand for no text.
fn cited(index: &Index, considered: &Considered) -> Result<Option<(String, Checked)>> {
    let Some(bytes) = considered.answer_bytes() else { return Ok(None) };
    let hit = &considered.candidate.hit;
    let answer = hit.text[bytes.clone()].to_string();
    Ok(Some((answer, cite(index, hit, bytes)?)))
}

impl Considered {
    /// The bytes of the passage that its answer is, white space around it left out.
    #[must_use]
    pub fn answer_bytes(&self) -> Option<Range<usize>> {
        let place = self.span.as_ref()?.place.clone()?;
        let ranges = self.tokens.origins.get(place)?.iter().filter_map(|o| match o {
            Origin::Text(range) => Some(range.clone()),
            _ => None,
        });
        let bytes = ranges.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))?;
        let text = self.candidate.hit.text.get(bytes.clone())?;
        let start = bytes.start + (text.len() - text.trim_start().len());
        let end = start + text.trim().len();
        (start < end).then_some(start..end)
    }
}

fn nearest(index: &Index, considered: &[Considered]) -> Result<Vec<Citation>> {
    let mut out = Vec::new();
    for hit in considered.iter().map(|c| &c.candidate.hit) {
        if let Checked::Holds(citation) = cite(index, hit, near(hit))? {
            out.push(citation);
        }
    }
    Ok(out)
}
