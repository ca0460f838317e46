//! Questions whose answers are known -> a reader's [`crate::calibration::Calibration`]: what `palimpsest eval calibrate` does.

use crate::ask::{AskOptions, Tier};
use crate::collection::{Collection, Outcome, ask_all};
use crate::error::Result;
use crate::fit::{Answered, Known, odds};
use crate::measure::squad_scores;
use crate::read::Reader;
use crate::store::Store;

/// Bytes for the states of passages, in memory.
const STORE_BYTES: u64 = 3 << 30;

/// Of the questions, those asked in tier B, which reads every passage anew: one in so many.
const TIER_B: usize = 4;

/// Fits the odds of both tiers on `questions` of the collection, spread over all of them, and gives the reader back with them.
/// The questions must be none of those that anything is measured on. `each` is called after every question.
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
    let options = |tier| AskOptions { tier: Some(tier), min_confidence: 0.0, ..AskOptions::default() };

    let a = known(&reader, collection, &store, &which, &options(Tier::A), each)?;
    calibration.a = odds(&a);
    calibration.fitted_on = format!("{} questions of {name}, {} of them in tier B", which.len(), which.len().div_ceil(TIER_B));
    let reader = reader.with_calibration(calibration.clone());

    let some: Vec<usize> = which.iter().copied().step_by(TIER_B).collect();
    let b = known(&reader, collection, &store, &some, &options(Tier::B), each)?;
    calibration.b = odds(&b);
    Ok(reader.with_calibration(calibration))
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
