//! Questions -> what each passage worth reading answers: retrieve, rerank, read, decode, all of them in one batch.
//!
//! A passage that several questions ask for is read once. What a call may cost is bounded in tokens and in milliseconds:
//! where a budget runs out, fewer passages are read, and the question says so.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use palimpsest_index::{Hit, Retriever};

use crate::answer::{
    Asked, Silence, Span, after_one_reading, answer_second_reading, answer_spans_at, before_second_reading, most_paths,
    most_tokens,
};
use crate::ask::{AskOptions, SECOND_READINGS, Tier, Timings};
use crate::calibration::{Calibration, Signs};
use crate::cancel::{Cancel, Pace};
use crate::error::Result;
use crate::events::Event;
use crate::hints::Hints;
use crate::model::Sequence;
use crate::prompt::PassageTokens;
use crate::read::{ReadPassage, Reader, read_missing, restore_passages};
use crate::rerank::{Candidate, likelihoods, question_logprobs, worth_reading};
use crate::retrieve::retrieve;
use crate::spans::{Allowed, SpanText};
use crate::state::State;
use crate::store::Store;
use crate::words::Words;

/// What answers are made from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// Finds passages.
    pub retriever: &'a dyn Retriever,
    /// Reads them.
    pub reader: &'a Reader,
    /// Remembers what was read.
    pub store: &'a Store,
}

/// Bytes that states may take while a batch is read and asked; a batch that needs more is cut.
const STATE_BYTES: usize = 512 << 20;

/// A passage that was read for a question, and what it says.
#[derive(Debug, Clone)]
pub struct Considered {
    /// Where it lies and how BM25 ranked it.
    pub candidate: Candidate,
    /// What was read.
    pub tokens: PassageTokens,
    /// What it answers; in tier B `None` where only the others were read again.
    pub span: Option<Span>,
    /// What the question's words say ([`crate::words::Words::log_odds`]).
    pub words: f32,
    /// Which of the states of the batch is its own.
    pub(crate) state: usize,
}

/// Everything that was read for a question.
#[derive(Debug, Clone)]
pub struct Consideration {
    /// In BM25's order, or the reranked one.
    pub considered: Vec<Considered>,
    /// Found worth reading, and not read because a budget ran out.
    pub left_out: Vec<Candidate>,
    /// Tokens run through the reader.
    pub tokens_read: u64,
    /// Tokens not run because a snapshot held them, or another question of the batch read them.
    pub tokens_restored: u64,
    /// How the passages were read; tier B is A where a budget left nothing for a second reading.
    pub tier: Tier,
    /// Which budget ran out, for the user.
    pub notices: Vec<String>,
    /// Milliseconds of each stage of the batch.
    pub timings_ms: Timings,
}

/// What was read for a batch of questions, with the states that the passages left behind.
pub struct Batch {
    /// One for each question, in their order.
    pub questions: Vec<Consideration>,
    /// Those that [`Considered`] refers to.
    pub(crate) states: Vec<State>,
}

impl Consideration {
    /// Passages that hold an answer with their scores, best first.
    #[must_use]
    pub fn ranked(&self, calibration: &Calibration) -> Vec<(f32, usize)> {
        let odds = calibration.odds(self.tier);
        let likeliest = self.likeliest();
        let mut order: Vec<(f32, usize)> =
            self.considered.iter().enumerate().filter_map(|(i, c)| Some((c.signs(likeliest)?.score(odds)?, i))).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        order
    }

    /// The mean log-probability of the question where it is highest.
    pub(crate) fn likeliest(&self) -> f32 {
        self.considered.iter().filter_map(|c| c.candidate.question_logprob).fold(f32::NEG_INFINITY, f32::max)
    }

    /// What was found worth reading, read or not.
    pub(crate) fn hits(&self) -> impl Iterator<Item = &Hit> {
        self.considered.iter().map(|c| &c.candidate).chain(&self.left_out).map(|c| &c.hit)
    }
}

/// Questions of a batch at most, so that their states fit in [`STATE_BYTES`]: each may need one a passage read and one asked.
pub(crate) fn questions_at_once(reader: &Reader, options: &AskOptions) -> usize {
    (STATE_BYTES / State::bytes(reader.config()) / (2 * options.to_read()).max(1)).max(1)
}

/// Finds and reads passages for all `questions`, and decodes what each one answers.
///
/// # Errors
/// [`crate::Error::Input`] for an empty question; [`crate::Error::Cancelled`]; those of index and reader.
pub fn consider(
    from: Sources<'_>,
    questions: &[&str],
    options: &AskOptions,
    cancel: &Cancel,
    tell: &mut (dyn FnMut(Event) + Send),
) -> Result<Batch> {
    let clock = Instant::now();
    let deadline = options.budget_ms.map(|ms| clock + Duration::from_millis(ms));
    let mut timings = Timings::default();
    let asked = questions.iter().map(|q| after_one_reading(from.reader, q)).collect::<Result<Vec<_>>>()?;
    let mut found = Vec::new();
    for question in questions {
        cancel.check()?;
        let hits = retrieve(from.retriever, question, options.filter.as_ref())?;
        let candidates = worth_reading(&hits, options.to_read(), from.reader.calibration());
        tell(Event::Retrieved(candidates.iter().map(|c| c.hit.clone()).collect()));
        found.push(candidates);
    }
    cancel.check()?;
    timings.retrieve = lap(&clock, 0.0);

    let (passages, mut all) = together(from.reader, questions, found, options)?;
    let mut read = restore_passages(from.reader, from.store, passages);
    if let Some(budget) = options.budget_tokens {
        for (one, asked) in all.iter_mut().zip(&asked) {
            one.keep_within(&read, asked.len() as u64, most_tokens(from.reader, Tier::A) as u64, budget);
        }
        forget_unused(&mut read, &mut all);
    }
    let total: u64 = read.iter().map(|p| p.tokens.ids.len() as u64).sum();
    let tokens_restored: u64 = read.iter().map(ReadPassage::tokens_restored).sum();
    let mut tokens_read = 0;
    let mut progress = |tokens| {
        tokens_read += tokens;
        tell(Event::Reading { tokens_read, tokens_restored, tokens_total: total });
    };
    progress(0);
    let mut pace = Pace::until(cancel).telling(&mut progress);
    pace.check()?;
    let whole = read_missing(from.reader, from.store, &mut read, deadline, &mut pace)?;
    if let Some(ms) = options.budget_ms.filter(|_| whole < read.len()) {
        all.iter_mut().for_each(|one| one.keep_states_below(whole, ms));
        read.truncate(whole);
    }
    if let Some(reason) = read.iter().find_map(|p| p.not_kept.as_ref()) {
        let notice = format!("what was read is not kept and will be read again: {reason}");
        all.iter_mut().for_each(|one| one.notices.push(notice.clone()));
    }
    count(&read, &mut all);
    timings.read = lap(&clock, timings.retrieve);

    let mut batch = Batch { questions: all, states: read.into_iter().map(|p| p.state).collect() };
    if options.rerank > 0 {
        for (q, question) in questions.iter().enumerate() {
            batch.rerank(from.reader, q, question, options.passages, &mut Pace::until(cancel))?;
        }
    }
    let once = batch.questions.iter().zip(&asked).enumerate();
    let once = once.flat_map(|(q, (one, ids))| (0..one.considered.len()).map(move |i| (q, i, ids.clone()))).collect();
    batch.decode(from.reader, questions, once, Tier::A, cancel)?;
    if options.tier_of(from.reader) == Tier::B {
        let twice = batch.second_readings(from.reader, questions, options, deadline)?;
        for &(q, ..) in &twice {
            if batch.questions[q].tier == Tier::A {
                batch.questions[q].tier = Tier::B;
                batch.questions[q].considered.iter_mut().for_each(|c| c.span = None);
            }
        }
        batch.decode(from.reader, questions, twice, Tier::B, cancel)?;
    }
    timings.answer = lap(&clock, timings.retrieve + timings.read);
    batch.questions.iter_mut().for_each(|one| one.timings_ms = timings);
    Ok(batch)
}

/// The passages of all questions, each once, and the questions that refer to them; the best of every question come first.
fn together(
    reader: &Reader,
    questions: &[&str],
    found: Vec<Vec<Candidate>>,
    options: &AskOptions,
) -> Result<(Vec<PassageTokens>, Vec<Consideration>)> {
    let mut passages: Vec<PassageTokens> = Vec::new();
    let mut known: HashMap<(String, u64, u64), usize> = HashMap::new();
    let empty = |_| Consideration {
        considered: Vec::new(),
        left_out: Vec::new(),
        tokens_read: 0,
        tokens_restored: 0,
        tier: Tier::A,
        notices: Vec::new(),
        timings_ms: Timings::default(),
    };
    let mut all: Vec<Consideration> = found.iter().map(empty).collect();
    let mut found: Vec<_> = found.into_iter().map(Vec::into_iter).collect();
    for _ in 0..options.to_read() {
        for ((one, candidates), question) in all.iter_mut().zip(&mut found).zip(questions) {
            let Some(candidate) = candidates.next() else { continue };
            let hit = &candidate.hit;
            let place = (hit.document.clone(), hit.range.start, hit.range.end);
            let state = match known.get(&place) {
                Some(&state) => state,
                None => {
                    passages.push(reader.prompt().passage(&hit.title, &hit.text)?);
                    known.insert(place, passages.len() - 1);
                    passages.len() - 1
                }
            };
            let words = Words::of(question, &hit.title, &hit.text).log_odds() as f32;
            one.considered.push(Considered { tokens: passages[state].clone(), candidate, span: None, words, state });
        }
    }
    Ok((passages, all))
}

impl Consideration {
    /// Keeps the best passages that can be read and asked for `budget` tokens.
    fn keep_within(&mut self, read: &[ReadPassage], asked_tokens: u64, search_tokens: u64, budget: u64) {
        let mut spent = 0;
        let fits = |c: &&Considered| {
            spent += read[c.state].tokens_read() + asked_tokens + search_tokens;
            spent <= budget
        };
        let kept = self.considered.iter().take_while(fits).count();
        self.leave_out(kept, &format!("the budget of {budget} tokens"));
    }

    /// Keeps the passages whose state is one of the first `whole`.
    fn keep_states_below(&mut self, whole: usize, budget_ms: u64) {
        let kept = self.considered.iter().take_while(|c| c.state < whole).count();
        self.leave_out(kept, &format!("the budget of {budget_ms} ms"));
    }

    fn leave_out(&mut self, kept: usize, budget: &str) {
        let all = self.considered.len();
        if kept < all {
            self.notices.push(format!("{budget} ran out: {kept} of {all} passages worth reading were read"));
            self.left_out.extend(self.considered.drain(kept..).map(|c| c.candidate));
        }
    }
}

/// Drops the passages that no question refers to any more.
fn forget_unused(read: &mut Vec<ReadPassage>, all: &mut [Consideration]) {
    let mut place: Vec<Option<usize>> = vec![None; read.len()];
    for c in all.iter().flat_map(|one| &one.considered) {
        place[c.state] = Some(0);
    }
    for (next, slot) in place.iter_mut().flatten().enumerate() {
        *slot = next;
    }
    let mut used = place.iter().map(Option::is_some);
    read.retain(|_| used.next().unwrap_or(false));
    for c in all.iter_mut().flat_map(|one| &mut one.considered) {
        c.state = place[c.state].unwrap_or(0);
    }
}

/// Who pays for what: the first question that needed a passage read it, for the others it was there.
fn count(read: &[ReadPassage], all: &mut [Consideration]) {
    let mut paid = vec![false; read.len()];
    for one in all {
        for c in &one.considered {
            let passage = &read[c.state];
            if std::mem::replace(&mut paid[c.state], true) {
                one.tokens_restored += passage.tokens.ids.len() as u64;
            } else {
                one.tokens_read += passage.tokens_read();
                one.tokens_restored += passage.tokens_restored();
            }
        }
    }
}

/// A question of the batch, one of its passages, and what that passage's state is to read.
type ToAsk = (usize, usize, Vec<u32>);

impl Batch {
    /// Keeps the passages of question `q` that rank best once the reader has said how likely it finds the question.
    fn rerank(&mut self, reader: &Reader, q: usize, question: &str, passages: usize, pace: &mut Pace<'_>) -> Result<()> {
        let one = &mut self.questions[q];
        let states: Vec<&State> = one.considered.iter().map(|c| &self.states[c.state]).collect();
        let ids = reader.prompt().question(question)?;
        for (c, logprob) in one.considered.iter_mut().zip(likelihoods(reader, &ids, &states, pace)?) {
            one.tokens_read += ids.len() as u64;
            c.candidate.question_logprob = Some(logprob);
        }
        let rank = |c: &Considered| c.candidate.rank_score(&reader.calibration().a);
        one.considered.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
        one.considered.truncate(passages);
        Ok(())
    }

    /// Asks forks of the states, as many in one batch as [`STATE_BYTES`] hold. In tier A the question's own likelihood is
    /// taken along where it counts: the same reading, with logits of every token.
    fn decode(&mut self, reader: &Reader, questions: &[&str], to_ask: Vec<ToAsk>, tier: Tier, cancel: &Cancel) -> Result<()> {
        let hint_weights = reader.calibration().odds(tier).hints;
        let points = tier == Tier::B && reader.prompt().start().is_some();
        let forks = if points { 1 } else { 1 + most_paths(reader, hint_weights.any()) };
        let at_once = (STATE_BYTES / 2 / State::bytes(reader.config()) / forks).max(1);
        let marks = reader.prompt().answer().len();
        let likelihood = tier == Tier::A && marks > 0 && reader.calibration().wants_likelihood();
        let mut pace = Pace::until(cancel);
        for some in to_ask.chunks(at_once) {
            let considered = some.iter().map(|(q, i, _)| &self.questions[*q].considered[*i]);
            let mut forks: Vec<State> = considered.clone().map(|c| self.states[c.state].clone()).collect();
            let texts: Vec<SpanText> = considered.clone().map(|c| SpanText::of_passage(&c.tokens, Allowed::Text)).collect();
            let hints = some.iter().zip(considered);
            let hints =
                hints.map(|((q, ..), c)| Hints::of(questions[*q], &c.tokens.origins, &c.candidate.hit.text, hint_weights));
            let hints: Vec<Option<Hints>> = hints.collect();
            let asked = some.iter().map(|(_, _, ids)| ids.split_at(if likelihood { ids.len() - marks } else { 0 }));
            if likelihood {
                let batch = forks.iter_mut().zip(asked.clone());
                let mut batch: Vec<Sequence<'_>> = batch.map(|(state, (ids, _))| Sequence { ids, state }).collect();
                for ((q, i, _), logprob) in some.iter().zip(question_logprobs(reader, &mut batch, &mut pace)?) {
                    self.questions[*q].considered[*i].candidate.question_logprob = Some(logprob);
                }
            }
            let contexts = forks.iter_mut().zip(asked).zip(texts.iter().zip(&hints));
            let silence = Silence::Overruled;
            let contexts =
                contexts.map(|((state, (_, ids)), (text, hints))| Asked { state, ids, silence, text, hints: hints.as_ref() });
            let mut contexts: Vec<Asked<'_>> = contexts.collect();
            let spans = match tier {
                Tier::A => answer_spans_at(reader, &mut contexts, &mut pace)?,
                Tier::B => answer_second_reading(reader, &mut contexts, &mut pace)?,
            };
            for ((q, i, ids), span) in some.iter().zip(spans) {
                let one = &mut self.questions[*q];
                one.tokens_read += ids.len() as u64 + span.tokens_read;
                one.considered[*i].span = Some(span);
            }
        }
        Ok(())
    }

    /// What tier B goes on with: the best passages of every question, as far as its budgets allow.
    fn second_readings(
        &mut self,
        reader: &Reader,
        questions: &[&str],
        options: &AskOptions,
        deadline: Option<Instant>,
    ) -> Result<Vec<ToAsk>> {
        let mut twice = Vec::new();
        let late = deadline.is_some_and(|d| Instant::now() >= d);
        for (q, one) in self.questions.iter_mut().enumerate() {
            let best: Vec<usize> = one.ranked(reader.calibration()).into_iter().take(SECOND_READINGS).map(|(_, i)| i).collect();
            let mut spent = one.tokens_read;
            let mut kept = 0;
            for &i in &best {
                let ids = before_second_reading(reader, questions[q], &one.considered[i].tokens)?;
                spent += (ids.len() + most_tokens(reader, Tier::B)) as u64;
                if late || options.budget_tokens.is_some_and(|budget| spent > budget) {
                    break;
                }
                kept += 1;
                twice.push((q, i, ids));
            }
            if kept < best.len() {
                one.notices.push(format!("a budget ran out: {kept} of {} passages were read a second time", best.len()));
            }
        }
        Ok(twice)
    }
}

impl Considered {
    /// What speaks for its answer, `likeliest` being the question's mean log-probability after the passage where it is
    /// highest. `None` without an answer.
    #[must_use]
    pub fn signs(&self, likeliest: f32) -> Option<Signs> {
        let span = self.span.as_ref().filter(|s| s.place.is_some())?;
        Some(Signs {
            margin: span.margin(),
            rest: span.rest,
            relative: self.candidate.relative_score,
            question: self.candidate.question_logprob.map_or(0.0, |logprob| logprob - likeliest),
            words: self.words,
            hint: span.hint,
        })
    }

    /// The bytes of the passage that its answer is, white space around it left out.
    #[must_use]
    pub fn answer_bytes(&self) -> Option<Range<usize>> {
        let bytes = self.tokens.bytes_of(self.place())?;
        let text = self.candidate.hit.text.get(bytes.clone())?;
        let start = bytes.start + (text.len() - text.trim_start().len());
        let end = start + text.trim().len();
        (start < end).then_some(start..end)
    }

    /// The answer in the pieces that its tokens are, each of whole characters; together they are the answer.
    #[must_use]
    pub fn answer_pieces(&self) -> Vec<&str> {
        let Some(bytes) = self.answer_bytes() else { return Vec::new() };
        let text = &self.candidate.hit.text;
        let mut pieces = Vec::new();
        let mut from = bytes.start;
        for end in self.tokens.pieces(self.place()).map(|r| r.end.min(bytes.end)).chain([bytes.end]) {
            if end > from && text.is_char_boundary(end) {
                pieces.push(&text[from..end]);
                from = end;
            }
        }
        pieces
    }

    fn place(&self) -> Range<usize> {
        self.span.as_ref().and_then(|s| s.place.clone()).unwrap_or_default()
    }
}

pub(crate) fn lap(clock: &Instant, before: f64) -> f64 {
    clock.elapsed().as_secs_f64() * 1e3 - before
}
