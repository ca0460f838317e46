//! Questions -> cited answers: what was considered is ranked, held against its source, and cited.

use std::time::Instant;

use palimpsest_index::{Filter, Retriever};
use serde::Serialize;

use crate::answer::{after_one_reading, before_second_reading};
use crate::calibration::Calibration;
use crate::cancel::{Cancel, Pace};
use crate::cite::{Checked, Citation, QUOTE_BYTES, cite, near};
use crate::consider::{Batch, Consideration, Considered, Sources, consider, lap, questions_at_once};
use crate::error::Result;
use crate::events::Event;
use crate::free::write;
use crate::read::Reader;

/// How a question is to be answered.
#[derive(Debug, Clone)]
pub struct AskOptions {
    /// Passages to read at most.
    pub passages: usize,
    /// Below this confidence no answer is given.
    pub min_confidence: f32,
    /// How they are read; `None` for [`Tier::B`] where the reader was taught to point, else [`Tier::A`].
    pub tier: Option<Tier>,
    /// Tokens that a question may run through the reader; `None` for as many as it takes. Where they do not reach for all
    /// passages worth reading, the best are read and a notice says so.
    pub budget_tokens: Option<u64>,
    /// Milliseconds after which no further passage is begun, for all questions of a call together; a notice says so. What was
    /// read by then is still asked.
    pub budget_ms: Option<u64>,
    /// Which documents to look at; all without.
    pub filter: Option<Filter>,
    /// Passages that the reader puts in order, by its own likelihood of the question beside BM25, before the best
    /// [`AskOptions::passages`] are asked; 0 for BM25's order. All of them are read.
    pub rerank: usize,
    /// Answer in the reader's own words, for larger readers: marked as such in [`Answer::free`], and cited still.
    pub free: bool,
}

impl Default for AskOptions {
    fn default() -> Self {
        Self {
            passages: 5,
            min_confidence: 0.1,
            tier: None,
            budget_tokens: None,
            budget_ms: None,
            filter: None,
            rerank: 0,
            free: false,
        }
    }
}

impl AskOptions {
    /// How passages are read by `reader`.
    pub(crate) fn tier_of(&self, reader: &Reader) -> Tier {
        let own = if reader.prompt().start().is_some() { Tier::B } else { Tier::A };
        self.tier.unwrap_or(own)
    }

    /// Passages read at most.
    pub(crate) fn to_read(&self) -> usize {
        if self.passages == 0 { 0 } else { self.passages.max(self.rerank) }
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
    /// A span of the quote of one of the citations, or none; where `free`, in the reader's own words.
    pub answer: Option<String>,
    /// The answer is in the reader's own words: it stands in no quote, and the citation is the span that speaks for it.
    pub free: bool,
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

/// Answers `question`, telling on the way what happens; the last event is [`Event::Done`]. `notices` go into the answer.
///
/// # Errors
/// As [`consider`].
pub fn ask(
    from: Sources<'_>,
    question: &str,
    options: &AskOptions,
    notices: &[String],
    cancel: &Cancel,
    tell: &mut (dyn FnMut(Event) + Send),
) -> Result<Answer> {
    let clock = Instant::now();
    let batch = consider(from, &[question], options, cancel, tell)?;
    let mut answers = conclude(from, &batch, &[question], options, &clock, cancel, tell)?;
    let mut answer = answers.remove(0);
    answer.notices.splice(0..0, notices.iter().cloned());
    tell(Event::Done(answer.clone()));
    Ok(answer)
}

/// Answers many questions: the weights go through memory once for all of them, and a passage that several need is read once.
/// Each answer is the one that [`ask`] gives.
///
/// # Errors
/// As [`consider`].
pub fn ask_many(from: Sources<'_>, questions: &[&str], options: &AskOptions, cancel: &Cancel) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(questions.len());
    for some in questions.chunks(questions_at_once(from.reader, options)) {
        let clock = Instant::now();
        let batch = consider(from, some, options, cancel, &mut |_| {})?;
        answers.extend(conclude(from, &batch, some, options, &clock, cancel, &mut |_| {})?);
    }
    Ok(answers)
}

/// The answers to a batch that was [`consider`]ed.
///
/// # Errors
/// As [`consider`].
pub fn answers(
    from: Sources<'_>,
    batch: &Batch,
    questions: &[&str],
    options: &AskOptions,
    cancel: &Cancel,
) -> Result<Vec<Answer>> {
    conclude(from, batch, questions, options, &Instant::now(), cancel, &mut |_| {})
}

fn conclude(
    from: Sources<'_>,
    batch: &Batch,
    questions: &[&str],
    options: &AskOptions,
    clock: &Instant,
    cancel: &Cancel,
    tell: &mut (dyn FnMut(Event) + Send),
) -> Result<Vec<Answer>> {
    let mut answers = Vec::with_capacity(questions.len());
    for (all, question) in batch.questions.iter().zip(questions) {
        cancel.check()?;
        let before = lap(clock, 0.0);
        let best = best(from.retriever, from.reader.calibration(), all, options)?;
        let mut answer = best.answer;
        answer.timings_ms.cite = lap(clock, before);
        if let Some(considered) = best.considered {
            if options.free {
                let before = lap(clock, 0.0);
                in_own_words(from, batch, considered, question, &mut answer, cancel, tell)?;
                answer.timings_ms.answer += lap(clock, before);
            } else {
                tell_pieces(considered, tell);
            }
            answer.citations.iter().for_each(|c| tell(Event::Citation(c.clone())));
        }
        answer.timings_ms.total = lap(clock, 0.0);
        answers.push(answer);
    }
    Ok(answers)
}

fn tell_pieces(considered: &Considered, tell: &mut (dyn FnMut(Event) + Send)) {
    considered.answer_pieces().into_iter().for_each(|piece| tell(Event::Token(piece.to_string())));
}

/// An answer, and the passage it is from.
struct Best<'a> {
    answer: Answer,
    considered: Option<&'a Considered>,
}

/// The best answer whose quote stands in its source.
fn best<'a>(
    retriever: &dyn Retriever,
    calibration: &Calibration,
    all: &'a Consideration,
    options: &AskOptions,
) -> Result<Best<'a>> {
    let mut answer = Answer {
        answer: None,
        free: false,
        confidence: 0.0,
        citations: Vec::new(),
        nearest: Vec::new(),
        tokens_read: all.tokens_read,
        tokens_restored: all.tokens_restored,
        tier: all.tier,
        timings_ms: all.timings_ms,
        notices: all.notices.clone(),
    };
    for (score, i) in all.ranked(calibration) {
        let chance = calibration.odds(all.tier).chance(score);
        answer.confidence = f32::max(answer.confidence, chance);
        if chance < options.min_confidence {
            break;
        }
        let considered = &all.considered[i];
        match cited(retriever, considered)? {
            Some((text, Checked::Holds(citation))) => {
                (answer.answer, answer.confidence) = (Some(text), chance);
                answer.citations.push(citation);
                return Ok(Best { answer, considered: Some(considered) });
            }
            Some((_, Checked::Withheld(reason))) => answer.notices.push(reason),
            None => {}
        }
    }
    for hit in all.hits() {
        if let Checked::Holds(citation) = cite(retriever, hit, near(hit))? {
            answer.nearest.push(citation);
        }
    }
    Ok(Best { answer, considered: None })
}

/// Puts what the reader writes in place of the span, whose citation stays. Words that stand in the passage after all are
/// cited where they stand. A reader that writes nothing leaves the span.
fn in_own_words(
    from: Sources<'_>,
    batch: &Batch,
    considered: &Considered,
    question: &str,
    answer: &mut Answer,
    cancel: &Cancel,
    tell: &mut (dyn FnMut(Event) + Send),
) -> Result<()> {
    let ids = match answer.tier {
        Tier::A => after_one_reading(from.reader, question)?,
        Tier::B if from.reader.prompt().start().is_some() => {
            let mut ids = before_second_reading(from.reader, question, &considered.tokens)?;
            ids.extend(after_one_reading(from.reader, question)?);
            ids
        }
        Tier::B => before_second_reading(from.reader, question, &considered.tokens)?,
    };
    let mut state = batch.states[considered.state].clone();
    let mut pace = Pace::until(cancel);
    let written = write(from.reader, &mut state, &ids, &mut pace, &mut |piece| tell(Event::Token(piece)))?;
    answer.tokens_read += written.tokens_read;
    let Some(text) = written.text else {
        tell_pieces(considered, tell);
        return Ok(());
    };
    let hit = &considered.candidate.hit;
    answer.free = true;
    if let Some(at) = hit.text.find(&text)
        && text.len() <= QUOTE_BYTES
        && let Checked::Holds(citation) = cite(from.retriever, hit, at..at + text.len())?
    {
        answer.free = false;
        answer.citations = vec![citation];
    }
    answer.answer = Some(text);
    Ok(())
}

/// The answer as bytes of the passage, and its citation held against the source. `None` when the tokens stand for no text.
fn cited(retriever: &dyn Retriever, considered: &Considered) -> Result<Option<(String, Checked)>> {
    let Some(bytes) = considered.answer_bytes() else { return Ok(None) };
    let hit = &considered.candidate.hit;
    let answer = hit.text[bytes.clone()].to_string();
    Ok(Some((answer, cite(retriever, hit, bytes)?)))
}
