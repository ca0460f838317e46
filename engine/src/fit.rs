//! Questions whose answers are known -> the weights of a [`Calibration`].
//!
//! The weights of a score are those of a grid that put the best answers first (mean F1 of the first), those of the words around a span
//! those of the highest expected F1. The odds are a logistic
//! regression of whether the answer that is put first is exactly right on its score, with every question that has no answer
//! weighted so that together they are [`UNANSWERABLE`] of all.

use crate::calibration::{Odds, Signs};
use crate::hints::HintWeights;

/// What one passage answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answered {
    /// What speaks for it.
    pub signs: Signs,
    /// Exact match, 0 or 1.
    pub em: f64,
    /// F1, 0..1.
    pub f1: f64,
}

/// One question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    /// Whether it has an answer at all.
    pub answerable: bool,
    /// What each passage that holds an answer says.
    pub answers: Vec<Answered>,
}

/// Share of questions without an answer that the odds are fitted for: nothing is known of what will be asked.
pub const UNANSWERABLE: f64 = 0.5;

const BM25: [f32; 8] = [1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0];
/// Of the weight of BM25.
const QUESTION: [f32; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.2];
const REST: [f32; 4] = [0.0, 0.5, 1.0, 2.0];
const HINT: [f32; 4] = [0.0, 0.25, 0.5, 1.0];

/// Of the words of a question, whose weight is not fitted: a reader is surer of questions like those it was trained on than of new ones, their
/// words are the same for both. Chosen on 1,080 questions, half of them unanswerable, on the articles of SQuAD 2.0's development set
/// that are not in squad2_dev_a (AUC of answerable, tier B: 0.67 with 0, 0.73 with 5 to 20).
const WORDS: f32 = 10.0;

/// Pulls the regression's weights towards 0, in questions.
const RIDGE: f64 = 1.0;

/// The odds that fit `questions` best.
#[must_use]
pub fn odds(questions: &[Known]) -> Odds {
    let weights = BM25.iter().flat_map(|b| QUESTION.iter().flat_map(move |q| REST.iter().map(move |r| (*b, b * q, *r))));
    let weights = weights.flat_map(|(b, q, r)| HINT.iter().map(move |h| (b, q, r, *h)));
    let mut best = (f64::NEG_INFINITY, Odds::default());
    for (bm25, question, rest, hint) in weights {
        let odds = Odds { bm25, question, rest, words: WORDS, hint, ..Odds::default() };
        let f1 = questions.iter().filter(|q| q.answerable).filter_map(|q| first(&odds, q)).map(|f| f.answer.f1).sum();
        if f1 > best.0 {
            best = (f1, odds);
        }
    }
    let (_, mut odds) = best;
    let without = questions.iter().filter(|q| !q.answerable).count() as f64;
    let with = questions.len() as f64 - without;
    let weight = |q: &Known| match q.answerable {
        _ if with == 0.0 || without == 0.0 => 1.0,
        true => (1.0 - UNANSWERABLE) * questions.len() as f64 / with,
        false => UNANSWERABLE * questions.len() as f64 / without,
    };
    let mut rows = Vec::new();
    for q in questions {
        if let Some(f) = first(&odds, q) {
            let features = [1.0, f64::from(f.score)];
            rows.push(Weighed { features, right: f64::from(u8::from(f.answer.em == 1.0)), weight: weight(q) });
        }
    }
    let [bias, slope] = logistic(&rows);
    (odds.bias, odds.slope) = (bias as f32, slope as f32);
    odds
}

/// A span of a question's own passage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spanned {
    /// What the words around it say ([`crate::hints::Hints::signs`]).
    pub signs: [f32; 3],
    /// What the reader says: a natural log-probability.
    pub logprob: f32,
    /// F1, 0..1.
    pub f1: f64,
}

const HINTS: [f32; 11] = [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0];
const ECHO: [f32; 4] = [0.0, -1.0, -2.0, -4.0];

/// How much likelier a span counts that is a nat better: few enough that one question does not decide.
const SHARP: f64 = 4.0;

/// Of a grid, the weights with which F1 is highest, each span counting as likely as `exp(SHARP * score)`; all 0 without a question.
#[must_use]
pub fn hints(questions: &[Vec<Spanned>]) -> HintWeights {
    let mut best = (f64::NEG_INFINITY, HintWeights::default());
    for (told, near, echo) in HINTS.iter().flat_map(|t| HINTS.iter().flat_map(move |n| ECHO.iter().map(move |e| (*t, *n, *e)))) {
        let weights = HintWeights { told, near, echo };
        let expected = |spans: &Vec<Spanned>| {
            let score = |s: &Spanned| f64::from(s.logprob + weights.weigh(s.signs)) * SHARP;
            let most = spans.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
            let (sum, f1) = spans.iter().fold((0.0, 0.0), |(sum, f1), s| {
                let likely = (score(s) - most).exp();
                (sum + likely, f1 + likely * s.f1)
            });
            if sum > 0.0 { f1 / sum } else { 0.0 }
        };
        let f1 = questions.iter().map(expected).sum();
        if f1 > best.0 {
            best = (f1, weights);
        }
    }
    best.1
}

struct First<'a> {
    answer: &'a Answered,
    score: f32,
}

/// The answer that the odds put first.
fn first<'a>(odds: &Odds, question: &'a Known) -> Option<First<'a>> {
    let scored = question.answers.iter().filter_map(|answer| Some(First { answer, score: answer.signs.score(odds)? }));
    scored.max_by(|a, b| a.score.total_cmp(&b.score))
}

/// A row of a logistic regression.
pub(crate) struct Weighed<const N: usize> {
    /// The first is the constant 1.
    pub features: [f64; N],
    /// 0 or 1.
    pub right: f64,
    /// How often it counts.
    pub weight: f64,
}

/// Weights of a logistic regression, by Newton's method; the first feature is the constant, which is not pulled.
pub(crate) fn logistic<const N: usize>(rows: &[Weighed<N>]) -> [f64; N] {
    let mut w = [0.0; N];
    for _ in 0..50 {
        let (mut gradient, mut hessian) = ([0.0; N], [[0.0; N]; N]);
        for Weighed { features: x, right, weight } in rows {
            let p = 1.0 / (1.0 + (-x.iter().zip(&w).map(|(x, w)| x * w).sum::<f64>()).exp());
            for ((gradient, hessian), xi) in gradient.iter_mut().zip(&mut hessian).zip(x) {
                *gradient += weight * (p - right) * xi;
                hessian.iter_mut().zip(x).for_each(|(h, xj)| *h += weight * p * (1.0 - p) * xi * xj);
            }
        }
        for i in 0..N {
            let pull = if i == 0 { 1e-6 } else { RIDGE };
            gradient[i] += pull * w[i];
            hessian[i][i] += pull;
        }
        let step = solve(hessian, gradient);
        w.iter_mut().zip(&step).for_each(|(w, s)| *w -= s.clamp(-5.0, 5.0));
        if step.iter().all(|s| s.abs() < 1e-9) {
            break;
        }
    }
    w
}

/// x with a x = b, for a positive definite `a`: elimination needs no exchange of rows.
fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> [f64; N] {
    for i in 0..N {
        let (pivot, pivot_b) = (a[i], b[i]);
        for j in i + 1..N {
            let factor = a[j][i] / pivot[i];
            a[j].iter_mut().zip(&pivot).for_each(|(x, p)| *x -= factor * p);
            b[j] -= factor * pivot_b;
        }
    }
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniform in 0..1.
    fn noise(seed: &mut u64) -> f64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 11) as f64 / (1u64 << 53) as f64
    }

    #[test]
    fn known_odds_are_found_again() {
        let mut seed = 9;
        let rows: Vec<Weighed<2>> = (0..20_000)
            .map(|_| {
                let score = noise(&mut seed) * 20.0 - 10.0;
                let chance = 1.0 / (1.0 + (-(-1.0 + 0.4 * score)).exp());
                Weighed { features: [1.0, score], right: f64::from(u8::from(noise(&mut seed) < chance)), weight: 1.0 }
            })
            .collect();
        let [bias, slope] = logistic(&rows);
        assert!((bias + 1.0).abs() < 0.1 && (slope - 0.4).abs() < 0.03, "{bias} {slope}");

        let known = [0.5, 2.0, -1.0, -1.5, 0.7];
        let rows: Vec<Weighed<5>> = (0..40_000)
            .map(|_| {
                let features =
                    [1.0, noise(&mut seed), noise(&mut seed) * 2.0, noise(&mut seed).round(), noise(&mut seed).round()];
                let odds: f64 = features.iter().zip(known).map(|(x, w)| x * w).sum();
                let right = f64::from(u8::from(noise(&mut seed) < 1.0 / (1.0 + (-odds).exp())));
                Weighed { features, right, weight: 1.0 }
            })
            .collect();
        let got = logistic(&rows);
        assert!(got.iter().zip(known).all(|(g, k)| (g - k).abs() < 0.15), "{got:?}");
    }

    #[test]
    fn the_weights_that_put_the_right_answer_first_are_chosen() {
        let right = Answered {
            signs: Signs { margin: 1.0, rest: -1.0, relative: 1.0, question: 0.0, words: 0.0, hint: 0.0 },
            em: 1.0,
            f1: 1.0,
        };
        let loud = |signs| Answered { signs: Signs { margin: 9.0, ..signs }, em: 0.0, f1: 0.0 };
        // The other one is louder; BM25 knows better, or the likelihood of the question does.
        for other in [loud(Signs { relative: 0.5, ..right.signs }), loud(Signs { question: -1.0, ..right.signs })] {
            let questions = vec![Known { answerable: true, answers: vec![other, right] }; 20];
            let fitted = odds(&questions);
            let top = first(&fitted, &questions[0]).expect("an answer");
            assert_eq!(top.answer, &right);
            assert!(fitted.chance(top.score) > 0.8, "{fitted:?}");
        }
        // Without an answer anywhere, nothing is likely.
        let none = Known { answerable: false, answers: vec![Answered { em: 0.0, f1: 0.0, ..right }] };
        let fitted = odds(&[none.clone(), none]);
        assert!(fitted.chance(1.0) < 0.5, "{fitted:?}");
        assert!(odds(&[]).chance(0.0).is_finite());
    }

    #[test]
    fn hints_count_as_much_as_they_help() {
        let span = |told: f32, logprob: f32, f1: f64| Spanned { signs: [told, 0.0, 0.0], logprob, f1 };
        // The reader is 2.5 nats surer of the wrong one, of which the words say less.
        let helped = vec![span(0.0, -1.0, 0.0), span(1.0, -3.5, 1.0)];
        let fitted = hints(&vec![helped.clone(); 3]);
        assert!(fitted.told > 2.5, "{fitted:?}");
        // Elsewhere they mislead: with more than 4 they do harm.
        let misled = vec![span(0.0, -1.0, 1.0), span(1.0, -5.0, 0.0)];
        assert_eq!(hints(&[helped, misled.clone()]), HintWeights { told: 3.0, near: 0.0, echo: 0.0 });
        assert_eq!(hints(&[misled]), HintWeights::default());
        assert!(!hints(&[]).any());
    }
}
