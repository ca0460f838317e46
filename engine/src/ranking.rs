//! Does reranking by the reader find more than BM25 alone? nDCG@10 by the weight of the question's likelihood.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use palimpsest_index::measure::{corpus, evaluate_with};
use palimpsest_index::{Index, Options};
use serde::Serialize;

use crate::calibration::{Calibration, Odds};
use crate::cancel::Pace;
use crate::collection::Collection;
use crate::error::Result;
use crate::read::{Reader, read_passages};
use crate::rerank::{Candidate, likelihoods, worth_reading};
use crate::state::State;
use crate::store::Store;

/// Weights that are tried; 0 is BM25 alone.
pub const WEIGHTS: [f32; 7] = [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2];

/// Bytes for the states of passages, in memory.
const STORE_BYTES: u64 = 4 << 30;

/// What one weight came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AtWeight {
    /// Weight of the question's mean log-probability beside `ln(relative BM25)`.
    pub question: f32,
    /// nDCG@10 of the documents, 0..1.
    pub ndcg_at_10: f64,
    /// One over the rank of the first right document of the best ten, 0..1.
    pub mrr_at_10: f64,
}

/// Candidates of a question, in BM25's order, with the reader's likelihood of the question.
fn candidates(reader: &Reader, index: &Index, store: &Store, question: &str, n: usize) -> Result<Vec<Candidate>> {
    let all = Calibration { worth_reading: 0.0, ..reader.calibration().clone() };
    let mut candidates = worth_reading(&index.search(question, n)?, n, &all);
    let tokens = candidates.iter().map(|c| reader.prompt().passage(&c.hit.title, &c.hit.text)).collect::<Result<Vec<_>>>()?;
    let read = read_passages(reader, store, tokens)?;
    let states: Vec<&State> = read.iter().map(|p| &p.state).collect();
    let ids = reader.prompt().question(question)?;
    for (c, logprob) in candidates.iter_mut().zip(likelihoods(reader, &ids, &states, &mut Pace::free())?) {
        c.question_logprob = Some(logprob);
    }
    Ok(candidates)
}

/// Documents in the order of their best candidate.
fn documents(candidates: &[Candidate], weight: f32) -> Vec<String> {
    let odds = Odds { bm25: 1.0, question: weight, ..Odds::default() };
    let mut order: Vec<&Candidate> = candidates.iter().collect();
    order.sort_by(|a, b| b.rank_score(&odds).total_cmp(&a.rank_score(&odds)));
    let mut seen = HashSet::new();
    order.iter().map(|c| c.hit.document.clone()).filter(|d| seen.insert(d.clone())).collect()
}

/// Reranks BM25's best `n` passages of every judged question of a folder in BEIR's form.
///
/// # Errors
/// Those of the folder, the index and the reader.
pub fn judged(reader: &Reader, folder: &Path, n: usize, each: &mut dyn FnMut()) -> Result<Vec<AtWeight>> {
    let index = corpus(folder, &Options::default())?;
    let store = Store::in_memory(STORE_BYTES);
    let mut found: HashMap<String, Vec<Candidate>> = HashMap::new();
    let mut failed = Ok(());
    evaluate_with(folder, |question| {
        if failed.is_ok() {
            match candidates(reader, &index, &store, question, n) {
                Ok(candidates) => drop(found.insert(question.to_string(), candidates)),
                Err(error) => failed = Err(error),
            }
        }
        each();
        Ok(Vec::new())
    })?;
    failed?;
    let at = |weight| {
        let rank = |question: &str| Ok(found.get(question).map(|c| documents(c, weight)).unwrap_or_default());
        let scores = evaluate_with(folder, rank)?;
        Ok(AtWeight { question: weight, ndcg_at_10: scores.ndcg_at_10, mrr_at_10: scores.mrr_at_10 })
    };
    WEIGHTS.iter().map(|&weight| at(weight)).collect()
}

/// Reranks BM25's best `n` passages of every question of a collection; the document that holds its paragraph is right.
///
/// # Errors
/// Those of the index and the reader.
pub fn paragraphs(reader: &Reader, collection: &Collection, n: usize, each: &mut dyn FnMut()) -> Result<Vec<AtWeight>> {
    let store = Store::in_memory(STORE_BYTES);
    let mut sums: Vec<AtWeight> =
        WEIGHTS.iter().map(|&question| AtWeight { question, ndcg_at_10: 0.0, mrr_at_10: 0.0 }).collect();
    for q in &collection.questions {
        let candidates = candidates(reader, &collection.index, &store, &q.question, n)?;
        let mut right: HashMap<&str, bool> = HashMap::new();
        for c in &candidates {
            right.insert(&c.hit.document, collection.holds(&c.hit.document, q)?);
        }
        for sum in &mut sums {
            let ranked = documents(&candidates, sum.question);
            if let Some(rank) = ranked.iter().take(10).position(|d| right[d.as_str()]) {
                sum.ndcg_at_10 += 1.0 / (rank as f64 + 2.0).log2();
                sum.mrr_at_10 += 1.0 / (rank as f64 + 1.0);
            }
        }
        each();
    }
    let per = 1.0 / collection.questions.len().max(1) as f64;
    sums.iter_mut().for_each(|s| (s.ndcg_at_10, s.mrr_at_10) = (s.ndcg_at_10 * per, s.mrr_at_10 * per));
    Ok(sums)
}
