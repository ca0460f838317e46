//! How far can a confidence be trusted? Calibration error, risk against coverage, and how well it tells what has no answer.

use serde::Serialize;

/// One answer with what came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// What the engine said, 0..1.
    pub confidence: f32,
    /// Whether the answer is right.
    pub right: bool,
    /// Whether there is an answer at all.
    pub answerable: bool,
}

/// What many of them came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Trust {
    /// Expected calibration error over [`BINS`] bins of equal width (arXiv 1706.04599), 0..1: how far confidence and share of
    /// right answers lie apart.
    pub ece: f64,
    /// For each bin that holds any answer: mean confidence, share that is right, answers.
    pub reliability: Vec<(f64, f64, usize)>,
    /// Share of questions answered, the surest first, and the share of those answers that is wrong.
    pub risk_coverage: Vec<(f64, f64)>,
    /// Chance that an answerable question gets more confidence than one without an answer; `None` without both kinds.
    pub auc_answerable: Option<f64>,
}

/// Bins of the calibration error.
pub const BINS: usize = 10;

/// Points of a risk-coverage curve.
const POINTS: usize = 20;

/// Measures `all`.
#[must_use]
pub fn trust(all: &[Judged]) -> Trust {
    let reliability: Vec<(f64, f64, usize)> = (0..BINS).filter_map(|bin| reliability(all, bin)).collect();
    let n = all.len().max(1) as f64;
    let ece = reliability.iter().map(|(confidence, right, k)| (confidence - right).abs() * *k as f64 / n).sum();
    let mut surest = all.to_vec();
    surest.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let mut risk_coverage: Vec<(f64, f64)> = (1..=POINTS)
        .map(|point| surest.len() * point / POINTS)
        .filter(|&answered| answered > 0)
        .map(|answered| {
            let wrong = surest[..answered].iter().filter(|j| !j.right).count();
            (answered as f64 / n, wrong as f64 / answered as f64)
        })
        .collect();
    risk_coverage.dedup();
    Trust { ece, reliability, risk_coverage, auc_answerable: auc(all) }
}

fn reliability(all: &[Judged], bin: usize) -> Option<(f64, f64, usize)> {
    let own = |j: &&Judged| ((j.confidence * BINS as f32) as usize).min(BINS - 1) == bin;
    let inside: Vec<&Judged> = all.iter().filter(own).collect();
    let n = inside.len();
    let confidence = inside.iter().map(|j| f64::from(j.confidence)).sum::<f64>() / n as f64;
    let right = inside.iter().filter(|j| j.right).count() as f64 / n as f64;
    (n > 0).then_some((confidence, right, n))
}

/// Of pairs of an answerable question and one that is not, those in the right order; ties count half.
pub(crate) fn auc(all: &[Judged]) -> Option<f64> {
    let mut order = all.to_vec();
    order.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let (mut below, mut pairs) = (0.0, 0.0);
    for tied in order.chunk_by(|a, b| a.confidence == b.confidence) {
        let with = tied.iter().filter(|j| j.answerable).count() as f64;
        let without = tied.len() as f64 - with;
        pairs += with * (below + without / 2.0);
        below += without;
    }
    let with = all.len() as f64 - below;
    (with > 0.0 && below > 0.0).then(|| pairs / (with * below))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(confidence: f32, right: bool, answerable: bool) -> Judged {
        Judged { confidence, right, answerable }
    }

    #[test]
    fn confidence_that_keeps_its_word_has_no_error() {
        let honest: Vec<Judged> = (0..100).map(|i| judged(0.25, i % 4 == 0, true)).collect();
        assert!(trust(&honest).ece < 1e-9);
        let sure: Vec<Judged> = honest.iter().map(|j| Judged { confidence: 1.0, ..*j }).collect();
        assert!((trust(&sure).ece - 0.75).abs() < 1e-9);
        // Two bins, each off by 0.1 in its own direction.
        let mixed: Vec<Judged> =
            (0..10).map(|i| judged(0.3, i < 2, true)).chain((0..10).map(|i| judged(0.7, i < 8, true))).collect();
        assert!((trust(&mixed).ece - 0.1).abs() < 1e-6, "{}", trust(&mixed).ece);
        assert_eq!(trust(&[]), Trust::default());
    }

    #[test]
    fn the_surest_are_answered_first() {
        let all: Vec<Judged> = (0..40).map(|i| judged(i as f32 / 40.0, i >= 20, true)).collect();
        let curve = trust(&all).risk_coverage;
        assert_eq!((curve[9], curve[19]), ((0.5, 0.0), (1.0, 0.5)));
    }

    #[test]
    fn auc_counts_pairs() {
        let all = [judged(0.9, true, true), judged(0.5, false, false), judged(0.5, true, true), judged(0.1, false, false)];
        assert_eq!(trust(&all).auc_answerable, Some(3.5 / 4.0));
        assert_eq!(trust(&all[..1]).auc_answerable, None);
    }
}
