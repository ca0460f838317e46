//! The passages worth reading, and in which order: BM25's, or that with the reader's own likelihood of the question mixed in.
//!
//! The likelihood comes from the state after the passage, so a passage that was read before costs the question only. Among
//! the passages that are asked it is always taken along, where the reader's calibration gives it weight; reading more of them
//! first to choose from is [`crate::AskOptions::rerank`]. ARCHITECTURE.md has what was measured.

use palimpsest_index::Hit;

use crate::calibration::{Calibration, Odds};
use crate::cancel::Pace;
use crate::error::Result;
use crate::model::{Sequence, Want};
use crate::read::Reader;
use crate::search::log_sum_exp;
use crate::state::State;

/// A passage to be read.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Where it lies.
    pub hit: Hit,
    /// Its BM25 score over the best one's: 1 for the first, in (0, 1].
    pub relative_score: f32,
    /// Mean natural log-probability of the question's tokens after the passage, where it was asked for.
    pub question_logprob: Option<f32>,
}

impl Candidate {
    /// What candidates are ordered by: the signs of an answer that there are before one.
    #[must_use]
    pub fn rank_score(&self, odds: &Odds) -> f32 {
        odds.bm25 * self.relative_score.ln() + odds.question * self.question_logprob.unwrap_or_default()
    }
}

/// The best `passages` of `hits` that hold any text and are worth reading: those that score at least
/// [`Calibration::worth_reading`] of the best.
#[must_use]
pub fn worth_reading(hits: &[Hit], passages: usize, calibration: &Calibration) -> Vec<Candidate> {
    let best = hits.iter().map(|h| h.score).fold(f32::MIN_POSITIVE, f32::max);
    hits.iter()
        .filter(|h| !h.text.trim().is_empty() && h.score >= calibration.worth_reading * best)
        .take(passages)
        .map(|hit| Candidate {
            hit: hit.clone(),
            relative_score: (hit.score / best).clamp(f32::MIN_POSITIVE, 1.0),
            question_logprob: None,
        })
        .collect()
}

/// The mean natural log-probability of each question's tokens after what its state has read, all in one batch. A question
/// begins with the form's mark, which is read and not counted; a question of one token has the probability 1. The states are
/// advanced past their questions.
///
/// # Errors
/// As [`crate::model::Model::forward_at`].
pub fn question_logprobs(reader: &Reader, batch: &mut [Sequence<'_>], pace: &mut Pace<'_>) -> Result<Vec<f32>> {
    let ids: Vec<&[u32]> = batch.iter().map(|s| s.ids).collect();
    let mut sums = vec![0.0; ids.len()];
    reader.forward_at(batch, Want::All, pace, &mut |i, position, logits| {
        if let Some(&next) = ids[i].get(position + 1) {
            sums[i] += logits[next as usize] - log_sum_exp(logits);
        }
    })?;
    Ok(sums.iter().zip(&ids).map(|(sum, ids)| sum / ids.len().saturating_sub(1).max(1) as f32).collect())
}

/// [`question_logprobs`] of one question after many passages, forks of whose states are read on.
///
/// # Errors
/// As [`question_logprobs`].
pub fn likelihoods(reader: &Reader, question: &[u32], passages: &[&State], pace: &mut Pace<'_>) -> Result<Vec<f32>> {
    let mut forks: Vec<State> = passages.iter().map(|&s| s.clone()).collect();
    let mut batch: Vec<Sequence<'_>> = forks.iter_mut().map(|state| Sequence { ids: question, state }).collect();
    question_logprobs(reader, &mut batch, pace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_far_behind_the_best_are_not_read() {
        let index = palimpsest_index::Index::in_memory().expect("an index");
        let texts = [("zug", "The river Zug is 41 km long. Zug, Zug, river."), ("other", "A long road."), ("blank", " \n ")];
        for (id, text) in texts {
            index.add(palimpsest_index::Document::new(id, "", text)).expect("added");
        }
        index.commit().expect("committed");
        let hits = index.search("How long is the river Zug?", 50).expect("search");
        assert!(hits.len() >= 2, "both match: {hits:?}");
        let calibration = Calibration::default();
        let read = worth_reading(&hits, 5, &calibration);
        assert_eq!(read.iter().map(|c| c.hit.document.as_str()).collect::<Vec<_>>(), ["zug"]);
        assert_eq!(read[0].relative_score, 1.0);
        assert!(worth_reading(&hits, 0, &calibration).is_empty() && worth_reading(&[], 5, &calibration).is_empty());
    }
}
