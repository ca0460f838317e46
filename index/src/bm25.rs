//! Which passages score best for a bag of terms?
//!
//! BM25 as Lucene has it, with k1 and b of the caller's choice (tantivy's own scorer fixes them at 1.2 and 0.75):
//!
//! ```text
//! score = sum over terms of  count * idf * (k1 + 1) * tf / (tf + k1 * (1 - b + b * length / mean length))
//! idf   = ln(1 + (N - df + 0.5) / (df + 0.5))
//! ```
//!
//! Lengths are tantivy's, in one byte, exact up to 40 terms and within an eighth above. Passages are visited in MaxScore's order (Turtle and Flood,
//! 1995): a passage is looked at only if it holds a term whose best possible score, together with those of all weaker terms,
//! can reach the worst of the best so far. `exhaustive`, in the tests, is the definition of correct.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::{Postings, SegmentPostings};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocAddress, DocId, DocSet, Searcher, SegmentReader, TERMINATED, TantivyError, Term};

use crate::filter::Chosen;
use crate::search::Weights;

/// A passage and its score. Ordered by score; of equals the earlier one is the greater.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scored {
    pub(crate) score: f32,
    pub(crate) address: DocAddress,
}

impl Eq for Scored {}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.address.cmp(&self.address))
    }
}

/// A term of the question: how often it was said, and its share in a passage that is full of it.
struct Weighted {
    term: Term,
    most: f32,
}

/// What the lengths of passages come to: k1 * (1 - b + b * length / mean length), by tantivy's length code.
struct Lengths([f32; 256]);

impl Lengths {
    fn new(weights: Weights, mean: f32) -> Self {
        let mut damping = [0.0; 256];
        for (id, damping) in (0..=255u8).zip(&mut damping) {
            let length = FieldNormReader::id_to_fieldnorm(id) as f32;
            *damping = weights.k1 * (1.0 - weights.b + weights.b * length / mean);
        }
        Self(damping)
    }

    fn score(&self, most: f32, tf: u32, length: u8) -> f32 {
        let tf = tf as f32;
        most * tf / (tf + self.0[usize::from(length)])
    }
}

/// One term in one segment.
struct Cursor {
    postings: SegmentPostings,
    doc: DocId,
    most: f32,
}

/// The `limit` passages that score best, best first, among those that `chosen` picks of each segment.
pub(crate) fn best(
    searcher: &Searcher,
    field: Field,
    terms: &[String],
    weights: Weights,
    limit: usize,
    chosen: Option<&[Chosen]>,
) -> tantivy::Result<Vec<Scored>> {
    let limit = limit.min(searcher.num_docs() as usize);
    if limit == 0 {
        return Ok(Vec::new());
    }
    let (weighted, lengths) = weigh(searcher, field, terms, weights)?;
    let mut best = BinaryHeap::with_capacity(limit + 1);
    for (ord, reader) in searcher.segment_readers().iter().enumerate() {
        let mut cursors = cursors(reader, field, &weighted)?;
        let chosen = chosen.and_then(|c| c.get(ord));
        let norms = reader.get_fieldnorms_reader(field)?;
        max_score(&mut cursors, reader, ord as u32, &norms, &lengths, chosen, limit, &mut best);
    }
    let mut best: Vec<Scored> = best.into_iter().map(|Reverse(scored)| scored).collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    Ok(best)
}

fn weigh(searcher: &Searcher, field: Field, terms: &[String], weights: Weights) -> tantivy::Result<(Vec<Weighted>, Lengths)> {
    let (mut passages, mut length) = (0u64, 0u64);
    for reader in searcher.segment_readers() {
        passages += u64::from(reader.max_doc());
        length += reader.inverted_index(field)?.total_num_tokens();
    }
    let mut counted: Vec<(&String, u32)> = Vec::new();
    for term in terms {
        match counted.iter_mut().find(|(known, _)| *known == term) {
            Some((_, count)) => *count += 1,
            None => counted.push((term, 1)),
        }
    }
    let mut weighted = Vec::with_capacity(counted.len());
    for (text, count) in counted {
        let term = Term::from_field_text(field, text);
        let found = searcher.doc_freq(&term)?.min(passages);
        if found > 0 {
            let idf = (1.0 + ((passages - found) as f32 + 0.5) / (found as f32 + 0.5)).ln();
            weighted.push(Weighted { term, most: count as f32 * idf * (weights.k1 + 1.0) });
        }
    }
    // From the weakest term to the strongest, as MaxScore takes them.
    weighted.sort_by(|a, b| a.most.total_cmp(&b.most));
    Ok((weighted, Lengths::new(weights, (length as f32 / passages.max(1) as f32).max(1.0))))
}

fn cursors(reader: &SegmentReader, field: Field, weighted: &[Weighted]) -> tantivy::Result<Vec<Cursor>> {
    let inverted = reader.inverted_index(field)?;
    let mut cursors = Vec::with_capacity(weighted.len());
    for Weighted { term, most } in weighted {
        let found = inverted.read_postings(term, IndexRecordOption::WithFreqs).map_err(TantivyError::from)?;
        if let Some(postings) = found {
            cursors.push(Cursor { doc: postings.doc(), postings, most: *most });
        }
    }
    Ok(cursors)
}

#[allow(clippy::too_many_arguments)]
fn max_score(
    cursors: &mut [Cursor],
    reader: &SegmentReader,
    segment: u32,
    norms: &FieldNormReader,
    lengths: &Lengths,
    chosen: Option<&Chosen>,
    limit: usize,
    best: &mut BinaryHeap<Reverse<Scored>>,
) {
    // `reach[i]`: what terms 0..=i come to at most, with room for the order of rounding.
    let mut sum = 0.0;
    let reach: Vec<f32> = cursors
        .iter()
        .map(|c| {
            sum += c.most;
            sum * 1.000_01
        })
        .collect();
    let alive = reader.alive_bitset();
    let worst = |best: &BinaryHeap<Reverse<Scored>>| {
        if best.len() < limit { f32::NEG_INFINITY } else { best.peek().map_or(f32::NEG_INFINITY, |w| w.0.score) }
    };
    let mut threshold = worst(best);
    // Terms before `needed` cannot lift a passage over the threshold by themselves.
    let mut needed = reach.iter().take_while(|&&r| r <= threshold).count();
    while needed < cursors.len() {
        let doc = cursors[needed..].iter().map(|c| c.doc).min().unwrap_or(TERMINATED);
        if doc == TERMINATED {
            return;
        }
        let wanted = alive.is_none_or(|alive| alive.is_alive(doc)) && chosen.is_none_or(|chosen| chosen.holds(doc));
        let length = norms.fieldnorm_id(doc);
        let mut score = 0.0;
        for cursor in cursors[needed..].iter_mut().filter(|c| c.doc == doc) {
            if wanted {
                score += lengths.score(cursor.most, cursor.postings.term_freq(), length);
            }
            cursor.doc = cursor.postings.advance();
        }
        if !wanted {
            continue;
        }
        for i in (0..needed).rev() {
            if score + reach[i] <= threshold {
                break;
            }
            let cursor = &mut cursors[i];
            if cursor.doc < doc {
                cursor.doc = cursor.postings.seek(doc);
            }
            if cursor.doc == doc {
                score += lengths.score(cursor.most, cursor.postings.term_freq(), length);
            }
        }
        if score > threshold {
            best.push(Reverse(Scored { score, address: DocAddress::new(segment, doc) }));
            if best.len() > limit {
                best.pop();
            }
            threshold = worst(best);
            needed = reach.iter().take_while(|&&r| r <= threshold).count();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, Index};

    /// The definition of correct: every passage of every term.
    fn exhaustive(index: &Index, terms: &[String], weights: Weights, limit: usize) -> Vec<Scored> {
        let searcher = index.reader.searcher();
        let field = index.fields.terms;
        let (weighted, lengths) = weigh(&searcher, field, terms, weights).expect("weighed");
        let mut all = Vec::new();
        for (ord, reader) in searcher.segment_readers().iter().enumerate() {
            let norms = reader.get_fieldnorms_reader(field).expect("lengths");
            let mut cursors = cursors(reader, field, &weighted).expect("postings");
            for doc in 0..reader.max_doc() {
                let mut score = 0.0;
                for cursor in cursors.iter_mut().rev() {
                    if cursor.doc < doc {
                        cursor.doc = cursor.postings.seek(doc);
                    }
                    if cursor.doc == doc {
                        score += lengths.score(cursor.most, cursor.postings.term_freq(), norms.fieldnorm_id(doc));
                    }
                }
                if score > 0.0 && !reader.is_deleted(doc) {
                    all.push(Scored { score, address: DocAddress::new(ord as u32, doc) });
                }
            }
        }
        all.sort_by(|a, b| b.cmp(a));
        all.truncate(limit);
        all
    }

    #[test]
    fn pruning_finds_what_looking_at_everything_finds() {
        let index = Index::in_memory().expect("an index");
        // A small generator of words with the frequencies of words.
        let mut seed = 1u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for id in 0..3_000 {
            let words: Vec<String> = (0..1 + next(60))
                .map(|_| {
                    let m = 1 + next(200);
                    format!("w{}", next(m))
                })
                .collect();
            index.add(Document::new(id.to_string(), "", words.join(" "))).expect("added");
            if id % 1_000 == 999 {
                index.commit().expect("committed");
            }
        }
        for id in (0..3_000).step_by(7) {
            index.remove(&id.to_string()).expect("removed");
        }
        index.commit().expect("committed");
        let searcher = index.reader.searcher();
        for round in 0..200 {
            let terms: Vec<String> = (0..1 + next(9)).map(|_| format!("w{}", next(210))).collect();
            let weights = if round % 2 == 0 { Weights::default() } else { Weights { k1: 0.9, b: 0.4 } };
            for limit in [1, 2, 10, 97, 10_000] {
                let expected = exhaustive(&index, &terms, weights, limit);
                let found = best(&searcher, index.fields.terms, &terms, weights, limit, None).expect("found");
                // Terms are added up in another order, so the last bits of a score may differ, and with them near ties.
                assert_eq!(found.len(), expected.len(), "{terms:?}, {limit}");
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        (found.score - expected.score).abs() <= 1e-5 * expected.score,
                        "{terms:?}, {limit}: {found:?} {expected:?}"
                    );
                }
            }
        }
    }
}
