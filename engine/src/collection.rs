//! End to end: every paragraph goes in, questions are asked of all of them, and what comes out is scored.

use std::collections::HashMap;
use std::path::Path;

use palimpsest_index::{Document, Index};
use serde::Serialize;

use crate::ask::{AskOptions, Tier, ask};
use crate::cancel::Cancel;
use crate::consider::{Consideration, Sources, consider};
use crate::error::{Error, Result};
use crate::measure::{Question, Scores, Tiers, questions, squad_scores};
use crate::read::Reader;
use crate::store::Store;

/// What a collection of questions came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CollectionScores {
    /// Questions asked.
    pub n: usize,
    /// Documents they were asked of.
    pub documents: usize,
    /// EM and F1 of the answers given, an answer withheld counting as an empty one.
    pub tiers: Tiers,
    /// Of the questions, those whose citation lies in the right document (tier A), 0..1.
    pub right_document: f64,
    /// Of the citations, those that lie in the right document (tier A), 0..1.
    pub citation_precision: f64,
    /// Of the questions, those that got no answer (tier A), 0..1.
    pub abstained: f64,
    /// nDCG@10 of the documents as BM25 ranks them, 0..1.
    pub ndcg_at_10: f64,
    /// Median time from question to answer, tier A, passages read before, in milliseconds.
    pub latency_ms_p50: f64,
    /// The 99th percentile of the same.
    pub latency_ms_p99: f64,
    /// Median time of tier B, passages not read before, in milliseconds.
    pub latency_cold_b_ms_p50: f64,
    /// Tokens run through the reader, both tiers.
    pub tokens_read: u64,
    /// Tokens that snapshots held, both tiers.
    pub tokens_restored: u64,
}

/// One passage that was read for one question: what the weights of the score are fitted on.
#[derive(Debug, Clone, Serialize)]
pub struct ConsideredRow {
    /// Number of the question.
    pub n: usize,
    /// Rank in BM25's order, from 0.
    pub rank: usize,
    /// BM25 score.
    pub bm25: f32,
    /// BM25 score over the best one's.
    pub relative_score: f32,
    /// Log-odds of the answer's first token against none.
    pub margin: Option<f32>,
    /// Log-probability of the whole span.
    pub logprob: Option<f32>,
    /// Tokens of the span.
    pub tokens: usize,
    /// Whether the question's own paragraph is this one.
    pub right: bool,
    /// F1 of the answer.
    pub f1: f64,
}

/// Asks the questions of `file` (the first `limit`) of all its paragraphs, or those of `questions.jsonl` in a folder of its
/// other documents. `each` gets every passage that was read for a question in tier A.
///
/// # Errors
/// Those of the file, the index and the reader.
pub fn evaluate(
    reader: &Reader,
    file: &Path,
    limit: Option<usize>,
    options: &AskOptions,
    each: &mut dyn FnMut(&ConsideredRow),
) -> Result<CollectionScores> {
    let folder = file.is_dir();
    let all = questions(&if folder { file.join("questions.jsonl") } else { file.to_path_buf() }, None)?;
    let index = Index::in_memory()?;
    if folder {
        let mut paths: Vec<_> = std::fs::read_dir(file).map_err(|e| Error::io(file, e))?.flatten().map(|e| e.path()).collect();
        paths.retain(|p| p.file_name().is_none_or(|n| n != "questions.jsonl"));
        index.ingest(&paths, &|_| {})?;
    } else {
        let mut seen = HashMap::new();
        for q in &all {
            let next = seen.len();
            if *seen.entry(q.context.as_str()).or_insert(next) == next {
                index.add(Document::new(format!("paragraph-{next}"), q.title.as_str(), q.context.as_str()))?;
            }
        }
        index.commit()?;
    }
    let documents = index.documents()?.len();
    let store = Store::in_memory(512 << 20);
    let asked = &all[..limit.unwrap_or(all.len()).min(all.len())];
    let mut sums = Sums {
        index: &index,
        reader,
        store: &store,
        options,
        scores: CollectionScores::default(),
        warm: Vec::new(),
        cold: Vec::new(),
    };
    for (n, q) in asked.iter().enumerate() {
        sums.question(n, q, each)?;
    }
    Ok(sums.finish(asked.len(), documents))
}

struct Sums<'a> {
    index: &'a Index,
    reader: &'a Reader,
    store: &'a Store,
    options: &'a AskOptions,
    scores: CollectionScores,
    warm: Vec<f64>,
    cold: Vec<f64>,
}

impl Sums<'_> {
    fn question(&mut self, n: usize, q: &Question, each: &mut dyn FnMut(&ConsideredRow)) -> Result<()> {
        let (index, reader, store) = (self.index, self.reader, self.store);
        let tier = |tier| AskOptions { tier, ..self.options.clone() };
        // Cold: a store of its own, so that nothing was read before.
        let (cold, cancel) = (Store::in_memory(64 << 20), Cancel::new());
        let b = ask(Sources { retriever: index, reader, store: &cold }, &q.question, &tier(Tier::B), &[], &cancel, &mut |_| {})?;
        let warm = Sources { retriever: index, reader, store };
        let considered = consider(warm, &[&q.question], &tier(Tier::A), &cancel, &mut |_| {})?.questions.remove(0);
        let a = ask(warm, &q.question, &tier(Tier::A), &[], &cancel, &mut |_| {})?;
        self.cold.push(b.timings_ms.total);
        self.warm.push(a.timings_ms.total);
        for (sum, answer) in [(&mut self.scores.tiers.a, &a), (&mut self.scores.tiers.b, &b)] {
            let (em, f1) = squad_scores(answer.answer.as_deref().unwrap_or_default(), &q.answers);
            *sum = Scores { em: sum.em + em, f1: sum.f1 + f1 };
        }
        for c in &a.citations {
            let right = self.holds(&c.document, q)?;
            self.scores.right_document += f64::from(u8::from(right));
            self.scores.citation_precision += 1.0;
        }
        self.scores.abstained += f64::from(u8::from(a.answer.is_none()));
        self.scores.ndcg_at_10 += self.ndcg(q)?;
        self.scores.tokens_read += a.tokens_read + b.tokens_read;
        self.scores.tokens_restored += a.tokens_restored + b.tokens_restored;
        self.rows(n, q, &considered, each)
    }

    fn holds(&self, document: &str, q: &Question) -> Result<bool> {
        Ok(self.index.document(document)?.is_some_and(|d| d.text.contains(q.context.trim())))
    }

    /// The right documents are those that hold the question's paragraph, each of gain 1.
    fn ndcg(&self, q: &Question) -> Result<f64> {
        let mut ranked: Vec<String> = Vec::new();
        for hit in self.index.search(&q.question, 50)? {
            if !ranked.contains(&hit.document) {
                ranked.push(hit.document);
            }
        }
        for (rank, document) in ranked.iter().take(10).enumerate() {
            if self.holds(document, q)? {
                return Ok(1.0 / (rank as f64 + 2.0).log2());
            }
        }
        Ok(0.0)
    }

    fn rows(&self, n: usize, q: &Question, all: &Consideration, each: &mut dyn FnMut(&ConsideredRow)) -> Result<()> {
        for (rank, c) in all.considered.iter().enumerate() {
            let hit = &c.candidate.hit;
            let answer = c.answer_bytes().map(|r| &hit.text[r]).unwrap_or_default();
            let span = c.span.as_ref();
            each(&ConsideredRow {
                n,
                rank,
                bm25: hit.score,
                relative_score: c.candidate.relative_score,
                margin: span.map(crate::answer::Span::margin).filter(|m| m.is_finite()),
                logprob: span.map(|s| s.logprob),
                tokens: span.map_or(0, |s| s.ids.len()),
                right: self.holds(&hit.document, q)?,
                f1: squad_scores(answer, &q.answers).1,
            });
        }
        Ok(())
    }

    fn finish(self, n: usize, documents: usize) -> CollectionScores {
        let mut scores = self.scores;
        let per = 1.0 / n.max(1) as f64;
        scores.citation_precision = scores.right_document / scores.citation_precision.max(1.0);
        for mean in [&mut scores.right_document, &mut scores.abstained, &mut scores.ndcg_at_10] {
            *mean *= per;
        }
        for tier in [&mut scores.tiers.a, &mut scores.tiers.b] {
            *tier = Scores { em: tier.em * 100.0 * per, f1: tier.f1 * 100.0 * per };
        }
        let at = |mut times: Vec<f64>, part: f64| {
            times.sort_by(f64::total_cmp);
            times.get(((times.len() as f64 - 1.0) * part).round() as usize).copied().unwrap_or_default()
        };
        scores.latency_ms_p50 = at(self.warm.clone(), 0.5);
        scores.latency_ms_p99 = at(self.warm, 0.99);
        scores.latency_cold_b_ms_p50 = at(self.cold, 0.5);
        CollectionScores { n, documents, ..scores }
    }
}
