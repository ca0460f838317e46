//! `palimpsest eval …`: is it right, and how far can its confidence be trusted?

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use palimpsest_engine::calibrate::calibrate;
use palimpsest_engine::collection::{self, Collection, CollectionScores, Extent};
use palimpsest_engine::measure::{self, given_paragraph, questions};
use palimpsest_engine::ranking::{self, AtWeight};
use palimpsest_engine::words::measure_words;
use palimpsest_engine::{AskOptions, Error, Reader, Result, fidelity, index, retrieval};
use serde_json::{Value, json};

use crate::args::{self, EvalVerb};
use crate::show::{self, Output};
use crate::verbs::{io, open_reader};

pub(crate) fn eval(args: &args::Eval, out: Output) -> Result<()> {
    match &args.verb {
        EvalVerb::Qa { file, limit, rows, question_first, reader_alone, reader } => {
            let questions = questions(file, *limit)?;
            let mut reader = open_reader(reader)?;
            if *reader_alone {
                let alone = reader.calibration().clone().without_hints();
                reader = reader.with_calibration(alone);
            }
            let bar = show::progress_bar();
            bar.set_length(questions.len() as u64);
            let mut sink = Rows::create(rows.as_deref())?;
            let scores = given_paragraph(&reader, &questions, &mut |row| {
                bar.inc(1);
                sink.write(row);
            })?;
            let first = question_first.then(|| measure::question_first(&reader, &questions, &mut || bar.inc(1))).transpose()?;
            bar.finish_and_clear();
            sink.finish()?;
            let mut value = json!({ "n": questions.len(), "tiers": scores });
            if let Some(first) = first {
                value["question_first"] = json!(first);
            }
            out.object(value, || {
                println!("{} questions", questions.len());
                for (tier, s) in [("tier A", Some(scores.a)), ("tier B", Some(scores.b)), ("the question first", first)] {
                    let auc = s.and_then(|s| s.auc_answerable).map(|auc| format!("  AUC {auc:.3}")).unwrap_or_default();
                    s.into_iter().for_each(|s| println!("{tier}: EM {:.1}  F1 {:.1}{auc}", s.em, s.f1));
                }
            })
        }
        EvalVerb::Collection { file, limit, rows, plot, passages, rerank, min_confidence, only_a, timed, reader } => {
            let collection = Collection::open(file, *limit)?;
            let reader = open_reader(reader)?;
            let mut options = AskOptions { passages: *passages, rerank: *rerank, ..AskOptions::default() };
            options.min_confidence = min_confidence.unwrap_or(options.min_confidence);
            let scores = measured(
                &reader,
                &collection,
                &options,
                Extent { tier_b: !only_a, timed: *timed },
                rows.as_deref(),
                plot.as_deref(),
            )?;
            table(&scores, json!({}), out)
        }
        EvalVerb::Words { file, limit } => {
            let got = measure_words(&questions(file, *limit)?)?;
            out.object(json!(got), || {
                println!("{} questions: AUC {:.3}", got.n, got.auc_answerable.unwrap_or(f64::NAN));
                println!("weights that fit them (constant, told, strange, negated, opposite): {:.3?}", got.fitted);
            })
        }
        EvalVerb::Calibrate { file, questions, measure, limit, plot, dry_run, reader } => {
            let training = Collection::open(file, None)?;
            let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let bar = show::progress_bar();
            let reader = calibrate(open_reader(reader)?, &training, *questions, &name, &mut || bar.inc(1))?;
            bar.finish_and_clear();
            drop(training);
            if !dry_run {
                reader.calibration().save(reader.folder())?;
            }
            let fitted = json!({ "calibration": reader.calibration(), "written": !dry_run });
            let Some(measure) = measure else { return out.table(fitted) };
            let collection = Collection::open(measure, None)?.some(*limit);
            let scores = measured(
                &reader,
                &collection,
                &AskOptions::default(),
                Extent { tier_b: true, timed: 30 },
                None,
                plot.as_deref(),
            )?;
            table(&scores, fitted, out)
        }
        EvalVerb::States { file, limit, reader } => {
            let (questions, reader) = (questions(file, *limit)?, open_reader(reader)?);
            let bar = show::progress_bar();
            bar.set_length(questions.len() as u64);
            let (n, table) = fidelity::forms(&reader, &questions, &mut || bar.inc(1))?;
            bar.finish_and_clear();
            out.fidelity(n, &table)
        }
        EvalVerb::Composition { file, limit, passages, reader } => {
            let (questions, reader) = (questions(file, *limit)?, open_reader(reader)?);
            let bar = show::progress_bar();
            bar.set_length(questions.len() as u64);
            let (n, table) = fidelity::composition(&reader, &questions, *passages, &mut || bar.inc(1))?;
            bar.finish_and_clear();
            out.fidelity(n, &table)
        }
        EvalVerb::Perplexity { file, limit, reader } => {
            let (questions, reader) = (questions(file, *limit)?, open_reader(reader)?);
            let bar = show::progress_bar();
            bar.set_length(questions.len() as u64);
            let (tokens, perplexity) = fidelity::perplexity(&reader, &questions, &mut || bar.inc(1))?;
            bar.finish_and_clear();
            out.table(json!({ "tokens": tokens, "perplexity": perplexity }))
        }
        EvalVerb::Rerank { path, candidates, limit, reader } => {
            let reader = open_reader(reader)?;
            let bar = show::progress_bar();
            let mut each = || bar.inc(1);
            let weights = if path.join("qrels.tsv").is_file() {
                ranking::judged(&reader, path, *candidates, &mut each)?
            } else {
                ranking::paragraphs(&reader, &Collection::open(path, None)?.some(*limit), *candidates, &mut each)?
            };
            bar.finish_and_clear();
            out.object(json!({ "candidates": candidates, "weights": weights }), || {
                println!("the best {candidates} passages, by the weight of the question's likelihood (0: BM25 alone)");
                for AtWeight { question, ndcg_at_10, mrr_at_10 } in &weights {
                    println!("{question:5.2}  nDCG@10 {ndcg_at_10:.4}  MRR@10 {mrr_at_10:.4}");
                }
            })
        }
        EvalVerb::Retrieval { folder, k1, b, dense } => {
            let usual = index::Weights::default();
            let weights = index::Weights { k1: k1.unwrap_or(usual.k1), b: b.unwrap_or(usual.b) };
            let bar = show::ingest_bar();
            let found = retrieval::evaluate(folder, weights, dense.encoder.as_deref(), &|p| show::ingest_progress(&bar, p))?;
            bar.finish_and_clear();
            out.object(serde_json::to_value(&found).unwrap_or_default(), || {
                let all = [("BM25", Some(found.bm25)), ("dense", found.dense), ("fused", found.fused)];
                for (name, s) in all.into_iter().filter_map(|(name, scores)| Some((name, scores?))) {
                    let (ndcg, recall, mrr) = (s.ndcg_at_10, s.recall_at_100, s.mrr_at_10);
                    println!("{name:5}  nDCG@10 {ndcg:.4}  recall@100 {recall:.4}  MRR@10 {mrr:.4}");
                }
            })
        }
    }
}

fn measured(
    reader: &Reader,
    collection: &Collection,
    options: &AskOptions,
    extent: Extent,
    rows: Option<&Path>,
    plot: Option<&Path>,
) -> Result<CollectionScores> {
    let bar = show::progress_bar();
    bar.set_length(collection.questions.len() as u64);
    let mut sink = Rows::create(rows)?;
    let scores = collection::evaluate(reader, collection, options, extent, &mut |row| {
        bar.set_position(row.n as u64);
        sink.write(row);
    })?;
    bar.finish_and_clear();
    sink.finish()?;
    if let Some(file) = plot {
        std::fs::write(file, scores.plot()).map_err(|e| io(file, e))?;
    }
    Ok(scores)
}

/// The scores and what `more` holds: all of it as JSON; for people without the curves, which `--plot` draws.
fn table(scores: &CollectionScores, more: Value, out: Output) -> Result<()> {
    let mut value = serde_json::to_value(scores).map_err(|e| Error::Input(e.to_string()))?;
    for (key, more) in more.as_object().into_iter().flatten() {
        value[key] = more.clone();
    }
    if !out.json {
        for (key, trust) in [("confidence", &scores.confidence), ("confidence_b", &scores.confidence_b)] {
            let auc = trust.auc_answerable.map_or(String::new(), |auc| format!(", AUC answerable {auc:.3}"));
            value[key] = json!(format!("ECE {:.3}{auc}", trust.ece));
        }
        let tiers: Vec<String> = scores.tiers.iter().map(|(tier, s)| format!("{tier}: EM {:.1} F1 {:.1}", s.em, s.f1)).collect();
        value["tiers"] = json!(tiers.join("; "));
    }
    out.table(value)
}

/// JSON lines to a file, where one was named. The first failure is kept for the end.
struct Rows<'a> {
    path: Option<&'a Path>,
    file: Option<BufWriter<File>>,
    failed: Option<std::io::Error>,
}

impl<'a> Rows<'a> {
    fn create(path: Option<&'a Path>) -> Result<Self> {
        let file = path.map(|p| File::create(p).map(BufWriter::new).map_err(|e| io(p, e))).transpose()?;
        Ok(Self { path, file, failed: None })
    }

    fn write(&mut self, row: &impl serde::Serialize) {
        if let Some(file) = &mut self.file {
            let written = serde_json::to_writer(&mut *file, row).map_err(Into::into).and_then(|()| file.write_all(b"\n"));
            self.failed = self.failed.take().or(written.err());
        }
    }

    fn finish(mut self) -> Result<()> {
        let flushed = self.file.as_mut().map_or(Ok(()), Write::flush);
        match (self.path, self.failed.or(flushed.err())) {
            (Some(path), Some(e)) => Err(io(path, e)),
            _ => Ok(()),
        }
    }
}
