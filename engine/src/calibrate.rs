//! Questions whose answers are known -> a reader's [`crate::calibration::Calibration`]: what `palimpsest eval calibrate` does.

use crate::answer::{Asked, Silence, after_one_reading, before_second_reading, search_spans};
use crate::ask::{AskOptions, Tier};
use crate::calibration::Odds;
use crate::cancel::Pace;
use crate::collection::{Collection, Outcome, ask_all};
use crate::error::Result;
use crate::fit::{Answered, Known, Spanned, hints, odds};
use crate::hints::{HintWeights, Hints};
use crate::measure::{Question, squad_scores};
use crate::model::Sequence;
use crate::point::point_at_spans;
use crate::read::Reader;
use crate::search::{Ended, WIDE};
use crate::spans::{Allowed, SpanText};
use crate::state::State;
use crate::store::Store;

/// Bytes for the states of passages, in memory.
const STORE_BYTES: u64 = 3 << 30;

/// Of the questions, those asked in tier B, which reads every passage anew: one in so many.
const TIER_B: usize = 4;

/// Fits hints and odds of both tiers on `questions` of the collection, spread over all of them, and gives the reader back with them.
/// The questions must be none of those that anything is measured on. `each` is called after every
/// question of each of three passes: for hints, for tier A, for tier B.
///
/// # Errors
/// Those of index and reader.
pub fn calibrate(
    reader: Reader,
    collection: &Collection,
    questions: usize,
    name: &str,
    each: &mut dyn FnMut(),
) -> Result<Reader> {
    let store = Store::in_memory(STORE_BYTES);
    let which = with_unanswerable(collection, questions);
    let mut calibration = reader.calibration().clone();
    let own: Vec<&Question> = which.iter().map(|&n| &collection.questions[n]).collect();
    [calibration.a.hints, calibration.b.hints] = fitted_hints(&reader, &own, each)?;
    let reader = reader.with_calibration(calibration.clone());
    let options = |tier| AskOptions { tier: Some(tier), min_confidence: 0.0, ..AskOptions::default() };

    let a = known(&reader, collection, &store, &which, &options(Tier::A), each)?;
    calibration.a = Odds { hints: calibration.a.hints, ..odds(&a) };
    calibration.fitted_on = format!("{} questions of {name}, {} of them in tier B", which.len(), which.len().div_ceil(TIER_B));
    let reader = reader.with_calibration(calibration.clone());

    let some: Vec<usize> = which.iter().copied().step_by(TIER_B).collect();
    let b = known(&reader, collection, &store, &some, &options(Tier::B), each)?;
    calibration.b = Odds { hints: calibration.b.hints, ..odds(&b) };
    Ok(reader.with_calibration(calibration))
}

/// Weights with which the spans to be fitted on are gathered, about those that fit: what wins with others far from them may be missing.
const PROBE: HintWeights = HintWeights { told: 6.0, near: 8.0, echo: -2.0 };

/// Spans of a passage that are fitted on, the likeliest.
const SPANS: usize = 100;

/// How much the words around a span count in tiers A and B, from questions with their own passages.
fn fitted_hints(reader: &Reader, questions: &[&Question], each: &mut dyn FnMut()) -> Result<[HintWeights; 2]> {
    let points = reader.prompt().start().is_some();
    let mut all = [Vec::new(), Vec::new()];
    for q in questions.iter().filter(|q| !q.answers.is_empty() && !q.context.is_empty()) {
        let passage = reader.prompt().passage(&q.title, &q.context)?;
        let Some(hints) = Hints::of(&q.question, &passage.origins, &q.context, PROBE) else { continue };
        let mut state = State::empty(reader.config());
        reader.append(&mut [Sequence { ids: &passage.ids, state: &mut state }])?;
        let text = SpanText::of_passage(&passage, Allowed::Text);
        for (tier, rows) in [Tier::A, Tier::B].into_iter().zip(&mut all) {
            let ids = match tier {
                Tier::A => after_one_reading(reader, &q.question)?,
                Tier::B => before_second_reading(reader, &q.question, &passage)?,
            };
            let (mut fork, mut found) = (state.clone(), Vec::new());
            let mut asked =
                [Asked { state: &mut fork, ids: &ids, silence: Silence::Overruled, text: &text, hints: Some(&hints) }];
            let mut keep = |_: usize, ended: Ended| found.push(ended);
            if tier == Tier::B && points {
                point_at_spans(reader, &mut asked, &mut Pace::free(), &mut keep)?;
            } else {
                search_spans(reader, &mut asked, WIDE, &mut Pace::free(), &mut keep)?;
            }
            found.sort_by(|a, b| b.score().total_cmp(&a.score()));
            let spanned = found.into_iter().take(SPANS).map(|c| {
                let bytes = passage.bytes_of(c.place.clone()).unwrap_or_default();
                let (_, f1) = squad_scores(q.context.get(bytes).unwrap_or_default(), &q.answers);
                Spanned { signs: hints.signs(c.place), logprob: c.logprob, f1 }
            });
            rows.push(spanned.collect());
        }
        each();
    }
    Ok(all.map(|rows: Vec<Vec<Spanned>>| hints(&rows)))
}

/// Questions spread over all; where they are many, one in three has no answer, as far as there are such.
fn with_unanswerable(collection: &Collection, questions: usize) -> Vec<usize> {
    let (with, without): (Vec<usize>, Vec<usize>) =
        (0..collection.questions.len()).partition(|&n| !collection.questions[n].answers.is_empty());
    let spread = |all: &[usize], n: usize| -> Vec<usize> {
        let n = n.min(all.len());
        (0..n).map(|i| all[i * all.len() / n]).collect()
    };
    let none = spread(&without, questions / 3);
    let mut which = spread(&with, questions - none.len());
    which.extend(none);
    which.sort_unstable();
    which
}

fn known(
    reader: &Reader,
    collection: &Collection,
    store: &Store,
    which: &[usize],
    options: &AskOptions,
    each: &mut dyn FnMut(),
) -> Result<Vec<Known>> {
    let mut all = Vec::with_capacity(which.len());
    ask_all(reader, collection, store, which, options, &mut |o| {
        all.push(of(&o));
        each();
        Ok(())
    })?;
    Ok(all)
}

fn of(o: &Outcome<'_>) -> Known {
    let likeliest = o.all.likeliest();
    let mut answers = Vec::new();
    for c in &o.all.considered {
        if let (Some(signs), Some(bytes)) = (c.signs(likeliest), c.answer_bytes()) {
            let (em, f1) = squad_scores(&c.candidate.hit.text[bytes], &o.question.answers);
            answers.push(Answered { signs, em, f1 });
        }
    }
    Known { answerable: !o.question.answers.is_empty(), answers }
}
