//! The passages worth reading, and how much each one's rank weighs against what the reader says.
//!
//! Reranking by the likelihood of the question is off: untouched language-model states are known to rerank worse than BM25,
//! and the readers that ship are not trained for it yet. The order is BM25's.

use palimpsest_index::Hit;

/// A passage to be read.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Where it lies.
    pub hit: Hit,
    /// Its BM25 score over the best one's: 1 for the first, in (0, 1].
    pub relative_score: f32,
}

/// The best `passages` of `hits` that hold any text.
#[must_use]
pub fn rerank(hits: &[Hit], passages: usize) -> Vec<Candidate> {
    let best = hits.iter().map(|h| h.score).fold(f32::MIN_POSITIVE, f32::max);
    hits.iter()
        .filter(|h| !h.text.trim().is_empty())
        .take(passages)
        .map(|hit| Candidate { hit: hit.clone(), relative_score: (hit.score / best).clamp(f32::MIN_POSITIVE, 1.0) })
        .collect()
}
