//! A passage read in knowledge of the question -> where the answer stands in it.
//!
//! A reader that was taught to point (`start` in its `reader.json`) says after each token of such a passage whether an answer
//! starts or ends there: the logits of two marks, `start` and `end`. The best span is the pair of places, at most
//! [`ANSWER_TOKENS`] long, whose log-probabilities sum highest, each over all places of the passage, with what the words around it say ([`crate::hints`]); pointing at the mark that
//! opens the passage says that the answer is not in it, which is believed where it is likelier than not. Nothing is decoded. The idea is that of pointer networks (arXiv
//! 1506.03134) as used for SQuAD (arXiv 1608.07905); `examples/train/train.py` trains it.

use crate::answer::{ANSWER_TOKENS, Asked, Silence, Span};
use crate::cancel::Pace;
use crate::error::{Error, Result};
use crate::model::{Sequence, Want};
use crate::read::Reader;
use crate::search::{Ended, log_sum_exp};

/// Chance below which that of none counts for no less. How far below is no sign that a span is right: of 3,000 questions of squad2_dev_a,
/// the 240 answers likeliest against none alone were right in 36%, with this bound in 53%.
const LEAST_NONE: f32 = 0.01;

/// Reads what each context is still to read, which ends with the passage that its text is of, and points at the best span.
///
/// # Errors
/// [`Error::Input`] for a reader that was not taught to point; as [`crate::model::Model::forward_at`].
pub fn point_spans(reader: &Reader, asked: &mut [Asked<'_>], pace: &mut Pace<'_>) -> Result<Vec<Span>> {
    point_at_spans(reader, asked, pace, &mut |_, _| {})
}

/// As [`point_spans`]; `each` gets every span there is, with the number of its context.
pub(crate) fn point_at_spans(
    reader: &Reader,
    asked: &mut [Asked<'_>],
    pace: &mut Pace<'_>,
    each: &mut dyn FnMut(usize, Ended),
) -> Result<Vec<Span>> {
    let (Some(start), Some(end)) = (reader.prompt().start(), reader.prompt().end()) else {
        return Err(Error::Input("this reader was not taught to point: its reader.json names no `start`".into()));
    };
    let skip: Vec<usize> = asked.iter().map(|a| a.ids.len().saturating_sub(a.text.tokens())).collect();
    let mut places: Vec<Vec<[f32; 2]>> = asked.iter().map(|a| Vec::with_capacity(a.text.tokens())).collect();
    let mut batch: Vec<Sequence<'_>> = asked.iter_mut().map(|a| Sequence { ids: a.ids, state: a.state }).collect();
    reader.forward_at(&mut batch, Want::Only([start, end]), pace, &mut |i, position, logits| {
        if position >= skip[i] {
            places[i].push([logits[0], logits[1]]);
        }
    })?;
    let none = reader.prompt().none();
    let contexts = asked.iter().zip(&places).enumerate();
    Ok(contexts.map(|(i, (a, places))| best(places, none, a, &mut |ended| each(i, ended))).collect())
}

/// The best span of places `[start, end]`; place 0 stands for none. `each` gets all of them.
fn best(places: &[[f32; 2]], none: Option<u32>, asked: &Asked<'_>, each: &mut dyn FnMut(Ended)) -> Span {
    let total = |side: usize| log_sum_exp(&places.iter().map(|p| p[side]).collect::<Vec<f32>>());
    let all = if places.is_empty() { 0.0 } else { total(0) + total(1) };
    let mut found: Option<Ended> = None;
    for from in 0..places.len() {
        for to in from + 1..=places.len().min(from + ANSWER_TOKENS) {
            if asked.text.at(to as u32 - 1).is_none() {
                break;
            }
            let hint = asked.hints.map_or(0.0, |h| h.log_odds(from..to));
            let ended = Ended { place: from..to, logprob: places[from][0] + places[to - 1][1] - all, hint };
            if !ended.score().is_finite() {
                continue;
            }
            if found.as_ref().is_none_or(|best| ended.score() > best.score()) {
                found = Some(ended.clone());
            }
            each(ended);
        }
    }
    let none_logprob = match (none, places.first()) {
        (Some(_), Some(p)) => p[0] + p[1] - all,
        _ => f32::NEG_INFINITY,
    };
    let (logprob, hint) = found.as_ref().map_or((f32::NEG_INFINITY, 0.0), |c| (c.logprob, c.hint));
    let here = none_logprob <= 0.5f32.ln();
    let place = found.map(|c| c.place).filter(|_| here || asked.silence == Silence::Overruled);
    let said = place.clone().and_then(|place| asked.text.span(place));
    Span {
        ids: said.unwrap_or_else(|| none.into_iter().collect()),
        place,
        first_logprob: logprob,
        none_logprob: none_logprob.max(if none.is_some() { LEAST_NONE.ln() } else { f32::NEG_INFINITY }),
        logprob,
        rest: logprob,
        hint,
        tokens_read: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Config;
    use crate::spans::SpanText;
    use crate::state::State;

    fn ask(places: &[[f32; 2]], text: &SpanText, silence: Silence) -> Span {
        let mut state = State::empty(&Config::default());
        best(places, Some(4), &Asked { state: &mut state, ids: &[], silence, text, hints: None }, &mut |_| {})
    }

    /// Against every pair of places, in f64.
    #[test]
    fn the_best_pair_wins() {
        let ids: Vec<u32> = (100..140).collect();
        let mut x = 1u32;
        let mut random = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 22) as f32
        };
        for (forbidden, none) in [(0usize, None), (7, Some(5.0)), (39, Some(9.0))] {
            let mut places: Vec<[f32; 2]> = ids.iter().map(|_| [random(), random()]).collect();
            none.into_iter().for_each(|logit| places[0] = [logit; 2]);
            let free = (0..ids.len()).map(|i| if i == forbidden || i == 0 { u32::MAX } else { ids[i] });
            let text = SpanText::new(free.collect());
            let (span, forced) = (ask(&places, &text, Silence::Allowed), ask(&places, &text, Silence::Overruled));
            let sum = |side: usize| places.iter().map(|p| f64::from(p[side]).exp()).sum::<f64>().ln();
            let mut want = (f64::NEG_INFINITY, 0..0);
            for from in 1..ids.len() {
                for to in from + 1..=ids.len().min(from + ANSWER_TOKENS) {
                    let score = f64::from(places[from][0]) + f64::from(places[to - 1][1]);
                    if !(from..to).contains(&forbidden) && score > want.0 {
                        want = (score, from..to);
                    }
                }
            }
            let logprob = want.0 - sum(0) - sum(1);
            assert!((f64::from(span.logprob) - logprob).abs() < 1e-4, "{span:?} {want:?}");
            let none = f64::from(places[0][0] + places[0][1]) - sum(0) - sum(1);
            assert!((f64::from(span.none_logprob) - none.max(f64::from(LEAST_NONE).ln())).abs() < 1e-4);
            assert_eq!((&forced.place, forced.logprob), (&Some(want.1.clone()), span.logprob));
            let told = (none <= 0.5f64.ln()).then_some(want.1);
            assert_eq!(span.place, told);
            assert_eq!(span.ids, told.map_or(vec![4], |place| ids[place].to_vec()));
        }
    }

    #[test]
    fn nothing_to_point_at_is_none() {
        let span = ask(&[], &SpanText::default(), Silence::Allowed);
        assert_eq!((span.place, span.ids), (None, vec![4]));
    }
}
