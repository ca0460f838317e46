//! End to end: every paragraph goes in, questions are asked of all of them, and what comes out is scored.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use palimpsest_index::{Document, Index};
use serde::Serialize;

use crate::ask::{Answer, AskOptions, Tier, answers, ask};
use crate::cancel::Cancel;
use crate::consider::{Consideration, Sources, consider};
use crate::error::{Error, Result};
use crate::measure::{Question, Scores, questions, squad_scores};
use crate::plot::{Curve, Panel, svg};
use crate::read::Reader;
use crate::store::Store;
use crate::trust::{Judged, Trust, trust};

/// Documents and the questions asked of all of them.
pub struct Collection {
    /// The documents.
    pub index: Index,
    /// The questions.
    pub questions: Vec<Question>,
}

/// What a collection of questions came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CollectionScores {
    /// Questions asked.
    pub n: usize,
    /// Of these, those that have an answer.
    pub answerable: usize,
    /// Documents they were asked of.
    pub documents: usize,
    /// EM and F1 of the answers given, an answer withheld counting as an empty one; `A` and, where it was asked, `B`.
    pub tiers: BTreeMap<&'static str, Scores>,
    /// Of the answerable questions, those whose citation lies in the right document (tier A), 0..1.
    pub right_document: f64,
    /// The same, tier B.
    pub right_document_b: f64,
    /// Of the citations, those that lie in the right document (tier A), 0..1.
    pub citation_precision: f64,
    /// Of the questions, those that got no answer (tier A), 0..1.
    pub abstained: f64,
    /// nDCG@10 of the documents as they were found, 0..1.
    pub ndcg_at_10: f64,
    /// Median time from question to answer, tier A, passages read before, in milliseconds.
    pub latency_ms_p50: f64,
    /// The 99th percentile of the same.
    pub latency_ms_p99: f64,
    /// Median time of tier B, passages not read before, in milliseconds.
    pub latency_cold_b_ms_p50: f64,
    /// The 99th percentile of the same.
    pub latency_cold_b_ms_p99: f64,
    /// Questions the times were taken of, spread over all.
    pub latency_n: usize,
    /// Tokens run through the reader, both tiers, without those of the timed questions.
    pub tokens_read: u64,
    /// Tokens that snapshots held, both tiers.
    pub tokens_restored: u64,
    /// Confidence against what is exactly right, of the best answer to every question, shown or not (tier A).
    pub confidence: Trust,
    /// The same, tier B.
    pub confidence_b: Trust,
}

/// What is measured of a collection.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Tier B as well as A.
    pub tier_b: bool,
    /// Questions that are asked one by one for their time, at most.
    pub timed: usize,
}

impl Default for Extent {
    fn default() -> Self {
        Self { tier_b: true, timed: 100 }
    }
}

/// Questions asked in one batch.
const TOGETHER: usize = 16;

/// Bytes for the states of passages, in memory.
const STORE_BYTES: u64 = 3 << 30;

/// One passage that was asked in tier A: what the weights of the score are fitted on.
#[derive(Debug, Clone, Serialize)]
pub struct ConsideredRow {
    /// Number of the question.
    pub n: usize,
    /// Whether it has an answer.
    pub answerable: bool,
    /// Rank in the order that the passages were read in, from 0.
    pub rank: usize,
    /// BM25 score.
    pub bm25: f32,
    /// BM25 score over the best one's.
    pub relative_score: f32,
    /// Mean log-probability of the question's tokens after the passage, where it was reranked.
    pub question_logprob: Option<f32>,
    /// Log-odds of the answer's first token against none.
    pub margin: Option<f32>,
    /// Mean log-probability of the span's further tokens.
    pub rest: Option<f32>,
    /// Tokens of the span.
    pub tokens: usize,
    /// Whether the question's own paragraph is in this document.
    pub right: bool,
    /// Exact match of the answer.
    pub em: f64,
    /// F1 of the answer.
    pub f1: f64,
}

impl Collection {
    /// Every paragraph of `file` (`.jsonl`, `.jsonl.zst`) as a document and its first `limit` questions; or the documents of a
    /// folder with those of its `questions.jsonl`.
    ///
    /// # Errors
    /// Those of the file and the index.
    pub fn open(file: &Path, limit: Option<usize>) -> Result<Self> {
        let folder = file.is_dir();
        let mut all = questions(&if folder { file.join("questions.jsonl") } else { file.to_path_buf() }, None)?;
        let index = Index::in_memory()?;
        if folder {
            let mut paths: Vec<_> =
                std::fs::read_dir(file).map_err(|e| Error::io(file, e))?.flatten().map(|e| e.path()).collect();
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
        all.truncate(limit.unwrap_or(usize::MAX));
        Ok(Self { index, questions: all })
    }

    /// The same documents with `n` questions, spread evenly over all.
    #[must_use]
    pub fn some(mut self, n: Option<usize>) -> Self {
        let kept = self.spread(n.unwrap_or(usize::MAX));
        self.questions = kept.into_iter().map(|i| self.questions[i].clone()).collect();
        self
    }

    /// Numbers of at most `n` questions, spread evenly over all.
    #[must_use]
    pub fn spread(&self, n: usize) -> Vec<usize> {
        let all = self.questions.len();
        (0..n.min(all)).map(|i| i * all / n.min(all)).collect()
    }

    /// Whether the document holds the question's own paragraph; without one, whether it holds an answer.
    pub(crate) fn holds(&self, document: &str, q: &Question) -> Result<bool> {
        let paragraph = q.context.trim();
        let right = |text: &str| match paragraph {
            "" => q.answers.iter().any(|a| text.contains(&a.text)),
            paragraph => text.contains(paragraph),
        };
        Ok(self.index.document(document)?.is_some_and(|d| right(&d.text)))
    }

    /// The right document is the best one that holds the question's paragraph.
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
}

/// What a question came to.
pub struct Outcome<'a> {
    /// Its number.
    pub n: usize,
    /// What was asked.
    pub question: &'a Question,
    /// All that was read for it.
    pub all: &'a Consideration,
    /// What was answered.
    pub answer: &'a Answer,
}

/// Asks the questions with the numbers `which`, in batches, and hands out what came of each.
///
/// # Errors
/// Those of the index and the reader, and of `each`.
pub fn ask_all(
    reader: &Reader,
    collection: &Collection,
    store: &Store,
    which: &[usize],
    options: &AskOptions,
    each: &mut dyn FnMut(Outcome<'_>) -> Result<()>,
) -> Result<()> {
    let from = Sources { retriever: &collection.index, reader, store };
    let cancel = Cancel::new();
    for some in which.chunks(TOGETHER) {
        let asked: Vec<&str> = some.iter().map(|&n| collection.questions[n].question.as_str()).collect();
        let batch = consider(from, &asked, options, &cancel, &mut |_| {})?;
        let answers = answers(from, &batch, &asked, options, &cancel)?;
        for ((&n, all), answer) in some.iter().zip(&batch.questions).zip(&answers) {
            each(Outcome { n, question: &collection.questions[n], all, answer })?;
        }
    }
    Ok(())
}

/// Asks all questions of `collection`. `each` gets every passage that was asked in tier A.
///
/// # Errors
/// Those of the index and the reader.
pub fn evaluate(
    reader: &Reader,
    collection: &Collection,
    options: &AskOptions,
    extent: Extent,
    each: &mut dyn FnMut(&ConsideredRow),
) -> Result<CollectionScores> {
    let store = Store::in_memory(STORE_BYTES);
    let n = collection.questions.len();
    let which: Vec<usize> = (0..n).collect();
    let tier = |tier| AskOptions { tier: Some(tier), ..options.clone() };
    let (mut a, mut b) = (Sums::default(), Sums::default());
    ask_all(reader, collection, &store, &which, &tier(Tier::A), &mut |o| {
        for row in rows(collection, &o)? {
            each(&row);
        }
        a.add(reader, collection, &o)
    })?;
    if extent.tier_b {
        ask_all(reader, collection, &store, &which, &tier(Tier::B), &mut |o| b.add(reader, collection, &o))?;
    }
    let (warm, cold) = times(reader, collection, &store, options, extent)?;
    let mut ndcg = 0.0;
    for q in &collection.questions {
        ndcg += collection.ndcg(q)?;
    }
    let per = 1.0 / n.max(1) as f64;
    let with = 1.0 / a.answerable.max(1) as f64;
    let tiers = [("A", &a), ("B", &b)].into_iter().take(if extent.tier_b { 2 } else { 1 });
    Ok(CollectionScores {
        n,
        answerable: a.answerable,
        documents: collection.index.documents()?.len(),
        tiers: tiers.map(|(name, sums)| (name, sums.scores(per))).collect(),
        right_document: a.cited_right as f64 * with,
        right_document_b: b.cited_right as f64 * with,
        citation_precision: (a.right_citations as f64) / (a.citations.max(1) as f64),
        abstained: a.abstained as f64 * per,
        ndcg_at_10: ndcg * per,
        latency_ms_p50: at(&warm, 0.5),
        latency_ms_p99: at(&warm, 0.99),
        latency_cold_b_ms_p50: at(&cold, 0.5),
        latency_cold_b_ms_p99: at(&cold, 0.99),
        latency_n: warm.len(),
        tokens_read: a.tokens_read + b.tokens_read,
        tokens_restored: a.tokens_restored + b.tokens_restored,
        confidence: trust(&a.judged),
        confidence_b: trust(&b.judged),
    })
}

impl CollectionScores {
    /// Reliability and risk against coverage, as a picture.
    #[must_use]
    pub fn plot(&self) -> String {
        let tiers = [("tier A", &self.confidence), ("tier B", &self.confidence_b)];
        let reliability = |t: &Trust| t.reliability.iter().map(|&(confidence, right, _)| (confidence, right)).collect();
        let curves = |points: &dyn Fn(&Trust) -> Vec<(f64, f64)>| {
            tiers.iter().map(|(name, trust)| Curve { name, points: points(trust) }).collect()
        };
        svg(&[
            Panel {
                title: "Reliability",
                x: "confidence",
                y: "share exactly right",
                diagonal: true,
                curves: curves(&reliability),
            },
            Panel {
                title: "Risk and coverage",
                x: "share of questions answered",
                y: "share of these answers wrong",
                diagonal: false,
                curves: curves(&|t| t.risk_coverage.clone()),
            },
        ])
    }
}

/// Sums over questions, one tier.
#[derive(Default)]
struct Sums {
    answerable: usize,
    em: f64,
    f1: f64,
    cited_right: usize,
    citations: usize,
    right_citations: usize,
    abstained: usize,
    tokens_read: u64,
    tokens_restored: u64,
    judged: Vec<Judged>,
}

impl Sums {
    fn add(&mut self, reader: &Reader, collection: &Collection, o: &Outcome<'_>) -> Result<()> {
        let (q, answer) = (o.question, o.answer);
        let answerable = !q.answers.is_empty();
        self.answerable += usize::from(answerable);
        let (em, f1) = squad_scores(answer.answer.as_deref().unwrap_or_default(), &q.answers);
        self.em += em;
        self.f1 += f1;
        let mut cited_right = false;
        for c in &answer.citations {
            let right = collection.holds(&c.document, q)?;
            cited_right |= right;
            self.citations += 1;
            self.right_citations += usize::from(right);
        }
        self.cited_right += usize::from(cited_right && answerable);
        self.abstained += usize::from(answer.answer.is_none());
        self.tokens_read += answer.tokens_read;
        self.tokens_restored += answer.tokens_restored;
        self.judged.push(judged(reader, o));
        Ok(())
    }

    fn scores(&self, per: f64) -> Scores {
        Scores { em: self.em * 100.0 * per, f1: self.f1 * 100.0 * per, auc_answerable: None }
    }
}

/// The best answer to a question and its confidence, shown or not. No answer at all is one without confidence.
fn judged(reader: &Reader, o: &Outcome<'_>) -> Judged {
    let answerable = !o.question.answers.is_empty();
    let best = o.all.ranked(reader.calibration()).first().copied();
    let Some((score, i)) = best else { return Judged { confidence: 0.0, right: false, answerable } };
    let confidence = reader.calibration().odds(o.all.tier).chance(score);
    let right = answerable && squad_scores(text(o.all, i), &o.question.answers).0 == 1.0;
    Judged { confidence, right, answerable }
}

fn text(all: &Consideration, i: usize) -> &str {
    let c = &all.considered[i];
    c.answer_bytes().map(|bytes| &c.candidate.hit.text[bytes]).unwrap_or_default()
}

/// What each passage says to a question.
fn rows(collection: &Collection, o: &Outcome<'_>) -> Result<Vec<ConsideredRow>> {
    let row = |(rank, c): (usize, &crate::consider::Considered)| {
        let (em, f1) = squad_scores(text(o.all, rank), &o.question.answers);
        let span = c.span.as_ref().filter(|s| s.margin().is_finite());
        Ok(ConsideredRow {
            n: o.n,
            answerable: !o.question.answers.is_empty(),
            rank,
            bm25: c.candidate.hit.score,
            relative_score: c.candidate.relative_score,
            question_logprob: c.candidate.question_logprob,
            margin: span.map(crate::answer::Span::margin),
            rest: span.map(|s| s.rest),
            tokens: span.map_or(0, |s| s.ids.len()),
            right: collection.holds(&c.candidate.hit.document, o.question)?,
            em,
            f1,
        })
    };
    o.all.considered.iter().enumerate().map(row).collect()
}

/// Sorted milliseconds of tier A with its passages read before, and of tier B with nothing read before.
fn times(
    reader: &Reader,
    collection: &Collection,
    store: &Store,
    options: &AskOptions,
    extent: Extent,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut warm, mut cold) = (Vec::new(), Vec::new());
    let cancel = Cancel::new();
    let one = |store: &Store, question: &str, tier| {
        let options = AskOptions { tier: Some(tier), ..options.clone() };
        let from = Sources { retriever: &collection.index, reader, store };
        ask(from, question, &options, &[], &cancel, &mut |_| {}).map(|answer| answer.timings_ms.total)
    };
    for n in collection.spread(extent.timed) {
        let question = &collection.questions[n].question;
        // What the store had to let go is read again first.
        one(store, question, Tier::A)?;
        warm.push(one(store, question, Tier::A)?);
        if extent.tier_b {
            cold.push(one(&Store::in_memory(64 << 20), question, Tier::B)?);
        }
    }
    warm.sort_by(f64::total_cmp);
    cold.sort_by(f64::total_cmp);
    Ok((warm, cold))
}

/// The value below which `part` of the sorted ones lie.
fn at(sorted: &[f64], part: f64) -> f64 {
    sorted.get(((sorted.len() as f64 - 1.0) * part).round() as usize).copied().unwrap_or_default()
}
