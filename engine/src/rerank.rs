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

/// Of the best passage's BM25 score, what a passage must have to be worth reading. On 130 questions of SQuAD's training set over
/// 2,022 paragraphs (`eval collection --rows`) a bound of 0.5 reads 3.6 passages a question instead of 5.0 and 0.7 reads 2.2,
/// with the same answers; 0.8 loses some.
const WORTH_READING: f32 = 0.5;

/// The best `passages` of `hits` that hold any text and score at least [`WORTH_READING`].
#[must_use]
pub fn rerank(hits: &[Hit], passages: usize) -> Vec<Candidate> {
    let best = hits.iter().map(|h| h.score).fold(f32::MIN_POSITIVE, f32::max);
    hits.iter()
        .filter(|h| !h.text.trim().is_empty() && h.score >= WORTH_READING * best)
        .take(passages)
        .map(|hit| Candidate { hit: hit.clone(), relative_score: (hit.score / best).clamp(f32::MIN_POSITIVE, 1.0) })
        .collect()
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
        let read = rerank(&hits, 5);
        assert_eq!(read.iter().map(|c| c.hit.document.as_str()).collect::<Vec<_>>(), ["zug"]);
        assert_eq!(read[0].relative_score, 1.0);
        assert!(rerank(&hits, 0).is_empty() && rerank(&[], 5).is_empty());
    }
}
