//! How good is the retrieval, on judged questions?
//!
//! Through the product's own path: documents are cut into passages, passages are searched, and a document ranks where its
//! best passage does. Corpora are in BEIR's form: corpus.jsonl (`_id`, `title`, `text`), queries.jsonl (`_id`, `text`) and
//! qrels.tsv (query, document, relevance, below a heading).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Document, Index, IndexError, Options, Retriever, SearchOptions};

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

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

/// Measures the folder's corpus.jsonl, queries.jsonl and qrels.tsv through documents, passages and search.
///
/// # Errors
/// [`IndexError::Io`] and [`IndexError::Judgements`] for files that are missing or not in that form.
pub fn evaluate(dir: &Path) -> Result<RetrievalScores, IndexError> {
    evaluate_in(dir, &Options::default())
}

/// As [`evaluate`], through an index that is made with `options`.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_in(dir: &Path, options: &Options) -> Result<RetrievalScores, IndexError> {
    evaluate_by(dir, &corpus(dir, options)?)
}

/// Scores the order in which `retriever`, which holds the folder's corpus, puts documents: each where its best passage is.
///
/// # Errors
/// As [`evaluate`], and those of the retriever.
pub fn evaluate_by(dir: &Path, retriever: &dyn Retriever) -> Result<RetrievalScores, IndexError> {
    evaluate_with(dir, |question| {
        // As many passages as it takes to see a hundred documents.
        let mut ranked: Vec<String> = Vec::new();
        let mut limit = 200;
        loop {
            let hits = retriever.retrieve(question, &SearchOptions { limit, ..SearchOptions::default() })?;
            ranked.clear();
            let mut seen = HashSet::new();
            let found = hits.len();
            ranked.extend(hits.into_iter().map(|hit| hit.document).filter(|document| seen.insert(document.clone())));
            if ranked.len() >= 100 || found < limit {
                return Ok(ranked);
            }
            limit *= 4;
        }
    })
}

/// The documents of the folder's corpus.jsonl, in an index that is made with `options`.
///
/// # Errors
/// As [`evaluate`].
pub fn corpus(dir: &Path, options: &Options) -> Result<Index, IndexError> {
    let index = Index::in_memory_with(options)?;
    entries(&dir.join("corpus.jsonl"), |entry| {
        index.add(Document::new(entry.id, entry.title, entry.text))?;
        Ok(())
    })?;
    index.commit()?;
    Ok(index)
}

/// Scores the order in which `rank` puts documents (their ids, best first) for each question that has a judgement.
///
/// # Errors
/// As [`evaluate`], and those of `rank`.
pub fn evaluate_with(
    dir: &Path,
    mut rank: impl FnMut(&str) -> Result<Vec<String>, IndexError>,
) -> Result<RetrievalScores, IndexError> {
    let judged = judgements(&dir.join("qrels.tsv"))?;
    let (mut questions, mut ndcg, mut recall, mut mrr) = (0usize, 0.0, 0.0, 0.0);
    entries(&dir.join("queries.jsonl"), |question| {
        let Some(relevance) = judged.get(&question.id) else { return Ok(()) };
        let ranked: Vec<u32> = rank(&question.text)?.iter().take(100).map(|id| relevance.get(id).copied().unwrap_or(0)).collect();
        questions += 1;
        let mut best: Vec<u32> = relevance.values().copied().collect();
        best.sort_unstable_by(|a, b| b.cmp(a));
        let ideal = gain(&best);
        let relevant = best.iter().filter(|&&r| r > 0).count();
        if relevant > 0 {
            ndcg += gain(&ranked) / ideal;
            recall += ranked.iter().filter(|&&r| r > 0).count() as f64 / relevant as f64;
            mrr += ranked.iter().take(10).position(|&r| r > 0).map_or(0.0, |rank| 1.0 / (rank + 1) as f64);
        }
        Ok(())
    })?;
    let n = questions.max(1) as f64;
    Ok(RetrievalScores { ndcg_at_10: ndcg / n, recall_at_100: recall / n, mrr_at_10: mrr / n })
}

fn gain(relevance: &[u32]) -> f64 {
    let discounted = |(rank, &r): (usize, &u32)| (f64::from(r).exp2() - 1.0) / ((rank + 2) as f64).log2();
    relevance.iter().take(10).enumerate().map(discounted).sum()
}

fn lines(path: &Path, mut each: impl FnMut(usize, &str) -> Result<(), IndexError>) -> Result<(), IndexError> {
    let failed = |source| IndexError::Io { path: path.to_path_buf(), source };
    for (number, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let line = line.map_err(failed)?;
        if !line.trim().is_empty() {
            each(number + 1, &line)?;
        }
    }
    Ok(())
}

fn entries(path: &Path, mut each: impl FnMut(Entry) -> Result<(), IndexError>) -> Result<(), IndexError> {
    lines(path, |line, text| {
        let what = "a JSON object with the texts `_id` and `text` was expected";
        let entry = serde_json::from_str(text).map_err(|_| IndexError::Judgements { path: path.to_path_buf(), line, what })?;
        each(entry)
    })
}

/// Relevance by question and document.
fn judgements(path: &Path) -> Result<BTreeMap<String, HashMap<String, u32>>, IndexError> {
    let mut judged: BTreeMap<String, HashMap<String, u32>> = BTreeMap::new();
    lines(path, |line, text| {
        let mut parts = text.split('\t').map(str::trim);
        let (question, document, relevance) = (parts.next(), parts.next(), parts.next().map(str::parse::<i64>));
        match (question, document, relevance) {
            (Some(question), Some(document), Some(Ok(relevance))) => {
                let relevance = u32::try_from(relevance).unwrap_or(0);
                judged.entry(question.to_string()).or_default().insert(document.to_string(), relevance);
                Ok(())
            }
            // The first line names the columns.
            (Some(_), Some(_), Some(Err(_))) if line == 1 => Ok(()),
            _ => {
                let what = "a question, a document and a whole number were expected, parted by tabs";
                Err(IndexError::Judgements { path: path.to_path_buf(), line, what })
            }
        }
    })?;
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(corpus: &str, queries: &str, qrels: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, text) in [("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels.tsv", qrels)] {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        dir
    }

    #[test]
    fn scores_are_those_of_the_formulas() {
        let dir = folder(
            "",
            "{\"_id\":\"q\",\"text\":\"t\"}\n{\"_id\":\"unjudged\",\"text\":\"t\"}",
            "a\tb\tc\nq\tx\t2\nq\ty\t1\nq\tz\t0\n",
        );
        let scores = evaluate_with(dir.path(), |_| Ok(["z", "y", "other", "x"].map(String::from).to_vec())).expect("scores");
        let ideal = 3.0 + 1.0 / 3f64.log2();
        assert!((scores.ndcg_at_10 - (1.0 / 3f64.log2() + 3.0 / 5f64.log2()) / ideal).abs() < 1e-12);
        assert_eq!((scores.recall_at_100, scores.mrr_at_10), (1.0, 0.5));
    }

    #[test]
    fn the_whole_path_ranks_the_document_that_says_it() {
        let corpus = "{\"_id\":\"1\",\"title\":\"Kenya\",\"text\":\"Its capital is Nairobi.\"}\n{\"_id\":\"2\",\"title\":\"Chad\",\"text\":\"Its capital is N'Djamena.\"}\n";
        let dir = folder(corpus, "{\"_id\":\"7\",\"text\":\"capitals of Kenya?\"}\n", "7\t1\t1\n");
        assert_eq!(evaluate(dir.path()).expect("scores").mrr_at_10, 1.0);
        std::fs::write(dir.path().join("qrels.tsv"), "h\th\th\n7\t1\n").expect("written");
        assert!(matches!(evaluate(dir.path()), Err(IndexError::Judgements { line: 2, .. })));
    }
}
