//! Questions whose answers are known -> the weights of a [`Calibration`].
//!
//! The weights of a score are those of a grid that put the best answers first (mean F1 of the first); the odds are a logistic
//! regression of whether that answer is exactly right on its score and its lead, with every question that has no answer
//! weighted so that together they are [`UNANSWERABLE`] of all.

use crate::calibration::{Odds, lead};

/// What one passage answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answered {
    /// Log-odds of the first token against none.
    pub margin: f32,
    /// Mean log-probability of the further tokens.
    pub rest: f32,
    /// Relative BM25 score of the passage, in (0, 1].
    pub relative: f32,
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

/// Share of questions without an answer that the odds are fitted for: that of SQuAD 2.0's training set.
pub const UNANSWERABLE: f64 = 1.0 / 3.0;

const BM25: [f32; 10] = [0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0];
const SPAN: [f32; 6] = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0];

/// Pulls the regression's weights towards 0, in questions.
const RIDGE: f64 = 1.0;

/// The odds that fit `questions` best.
#[must_use]
pub fn odds(questions: &[Known]) -> Odds {
    let grid = BM25.iter().flat_map(|&bm25| SPAN.iter().map(move |&span| Odds { bm25, span, ..Odds::default() }));
    let mut best = (f64::NEG_INFINITY, Odds::default());
    for odds in grid {
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
            let features = [1.0, f64::from(f.score), f64::from(lead(f.score, f.next))];
            rows.push(Row { features, right: f64::from(u8::from(f.answer.em == 1.0)), weight: weight(q) });
        }
    }
    let [bias, slope, lead] = logistic(&rows);
    (odds.bias, odds.slope, odds.lead) = (bias as f32, slope as f32, lead as f32);
    odds
}

struct First<'a> {
    answer: &'a Answered,
    score: f32,
    next: Option<f32>,
}

/// The answer that the odds put first.
fn first<'a>(odds: &Odds, question: &'a Known) -> Option<First<'a>> {
    let mut scored: Vec<(f32, &Answered)> =
        question.answers.iter().map(|a| (odds.score(a.margin, a.rest, a.relative), a)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (score, answer) = *scored.first()?;
    Some(First { answer, score, next: scored.get(1).map(|s| s.0) })
}

struct Row {
    features: [f64; 3],
    right: f64,
    weight: f64,
}

/// Weights of a logistic regression, by Newton's method; the first feature is the constant, which is not pulled.
fn logistic(rows: &[Row]) -> [f64; 3] {
    let mut w = [0.0; 3];
    for _ in 0..50 {
        let (mut gradient, mut hessian) = ([0.0; 3], [[0.0; 3]; 3]);
        for row in rows {
            let z: f64 = row.features.iter().zip(&w).map(|(x, w)| x * w).sum();
            let p = 1.0 / (1.0 + (-z).exp());
            for i in 0..3 {
                gradient[i] += row.weight * (p - row.right) * row.features[i];
                for j in 0..3 {
                    hessian[i][j] += row.weight * p * (1.0 - p) * row.features[i] * row.features[j];
                }
            }
        }
        for i in 0..3 {
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

/// `x` of `a x = b`, by elimination; `a` is positive definite.
fn solve(mut a: [[f64; 3]; 3], mut b: [f64; 3]) -> [f64; 3] {
    for i in 0..3 {
        for j in i + 1..3 {
            let factor = a[j][i] / a[i][i];
            for k in i..3 {
                a[j][k] -= factor * a[i][k];
            }
            b[j] -= factor * b[i];
        }
    }
    let mut x = [0.0; 3];
    for i in (0..3).rev() {
        let known: f64 = (i + 1..3).map(|k| a[i][k] * x[k]).sum();
        x[i] = (b[i] - known) / a[i][i];
    }
    x
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
        let rows: Vec<Row> = (0..20_000)
            .map(|_| {
                let (score, lead) = (noise(&mut seed) * 20.0 - 10.0, noise(&mut seed) * 10.0);
                let chance = 1.0 / (1.0 + (-(-1.0 + 0.4 * score + 0.2 * lead)).exp());
                Row { features: [1.0, score, lead], right: f64::from(u8::from(noise(&mut seed) < chance)), weight: 1.0 }
            })
            .collect();
        let [bias, slope, lead] = logistic(&rows);
        assert!((bias + 1.0).abs() < 0.1 && (slope - 0.4).abs() < 0.03 && (lead - 0.2).abs() < 0.03, "{bias} {slope} {lead}");
    }

    #[test]
    fn the_weight_that_puts_the_right_answer_first_is_chosen() {
        // The right passage is BM25's first; the other one is louder.
        let right = Answered { margin: 1.0, rest: -1.0, relative: 1.0, em: 1.0, f1: 1.0 };
        let loud = Answered { margin: 4.0, rest: -1.0, relative: 0.5, em: 0.0, f1: 0.0 };
        let questions = vec![Known { answerable: true, answers: vec![loud, right] }; 20];
        let fitted = odds(&questions);
        let top = first(&fitted, &questions[0]).expect("an answer");
        assert_eq!(top.answer, &right);
        assert!(fitted.chance(top.score, top.next) > 0.8, "{fitted:?}");
        // Without an answer anywhere, nothing is likely.
        let none = Known { answerable: false, answers: vec![Answered { em: 0.0, f1: 0.0, ..right }] };
        let fitted = odds(&[none.clone(), none]);
        assert!(fitted.chance(1.0, None) < 0.5, "{fitted:?}");
        assert!(odds(&[]).chance(0.0, None).is_finite());
    }
}
