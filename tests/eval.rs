//! Do the measurements measure? A folder and a file of questions, the calibration that comes of them, and reranking.
//! Read by a tiny random reader: the numbers mean nothing, where they come from does.

mod tiny;

use std::path::Path;

use palimpsest::calibrate::calibrate;
use palimpsest::calibration::{Calibration, Odds};
use palimpsest::collection::{Collection, CollectionScores, Extent, evaluate};
use palimpsest::files::ReaderFiles;
use palimpsest::model::{Sequence, Want};
use palimpsest::rerank::question_logprobs;
use palimpsest::state::State;
use palimpsest::{AskOptions, Cancel, Engine, Event, Options, Reader, ReaderOptions};
use safetensors::Dtype;
use serde_json::json;
use tiny::{Noise, Tiny, write_word_tokenizer};

const WORDS: [&str; 10] = ["river", "lake", "Zug", "Aare", "long", "deep", "is", "the", "and", "metres"];

fn reader(folder: &Path) -> Reader {
    let path = folder.join("reader");
    Tiny::odd().write_fla(&path, Dtype::F32);
    write_word_tokenizer(&path, &WORDS);
    Reader::open(&path, &ReaderOptions::default()).expect("a tiny reader")
}

/// Eight paragraphs with three questions each, of which one has no answer.
fn questions() -> Vec<serde_json::Value> {
    let mut noise = Noise(5);
    let mut rows = Vec::new();
    for n in 0..8 {
        let words: Vec<&str> = (0..60).map(|_| WORDS[noise.below(WORDS.len())]).collect();
        let context = format!("Number{n} lies there. {}", words.join(" "));
        for (k, word) in ["river", "lake", "Aare"].iter().enumerate() {
            let answers = if k == 2 { json!([]) } else { json!([{ "text": words[k], "start": 0 }]) };
            let question = format!("Is the {word} of Number{n} long?");
            rows.push(json!({ "title": format!("T{n}"), "context": context, "question": question, "answers": answers }));
        }
    }
    rows
}

fn write(path: &Path, rows: &[serde_json::Value]) {
    std::fs::write(path, rows.iter().map(|r| format!("{r}\n")).collect::<String>()).expect("written");
}

fn measured(reader: &Reader, collection: &Collection) -> (CollectionScores, usize) {
    let mut rows = 0;
    let extent = Extent { timed: 3, ..Extent::default() };
    let options = AskOptions { min_confidence: 0.0, ..AskOptions::default() };
    let scores = evaluate(reader, collection, &options, extent, &mut |_| rows += 1).expect("measured");
    (scores, rows)
}

#[test]
fn a_file_and_a_folder_of_the_same_come_to_the_same() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(folder.path());
    let rows = questions();
    let file = folder.path().join("questions.jsonl");
    write(&file, &rows);
    let (of_file, asked) = measured(&reader, &Collection::open(&file, None).expect("opened"));
    assert_eq!((of_file.n, of_file.answerable, of_file.documents, of_file.latency_n), (24, 16, 8, 3));
    assert!(asked >= 24, "{asked} passages were asked");
    assert_eq!(of_file.tiers.keys().copied().collect::<Vec<_>>(), ["A", "B"]);
    assert_eq!(of_file.right_document, 1.0, "only one paragraph has the number that is asked for");
    assert_eq!((of_file.citation_precision, of_file.ndcg_at_10, of_file.abstained), (1.0, 1.0, 0.0));
    assert!(of_file.latency_ms_p50 > 0.0 && of_file.latency_ms_p99 >= of_file.latency_ms_p50);
    assert!(of_file.latency_cold_b_ms_p50 > 0.0);
    assert!(of_file.tokens_read > 0 && of_file.tokens_restored > 0);
    assert!((0.0..=1.0).contains(&of_file.confidence.ece) && of_file.confidence.auc_answerable.is_some());
    assert_eq!(of_file.confidence.reliability.iter().map(|bin| bin.2).sum::<usize>(), 24);
    assert_eq!(of_file.confidence.risk_coverage.last().map(|p| p.0), Some(1.0));
    assert!(of_file.plot().starts_with("<svg") && of_file.plot().matches("<polyline").count() == 4);

    let documents = folder.path().join("documents");
    std::fs::create_dir(&documents).expect("folder");
    for row in rows.iter().step_by(3) {
        let name = format!("{}.txt", row["title"].as_str().expect("text"));
        std::fs::write(documents.join(name), row["context"].as_str().expect("text")).expect("written");
    }
    write(&documents.join("questions.jsonl"), &rows);
    let (of_folder, _) = measured(&reader, &Collection::open(&documents, Some(12)).expect("opened"));
    assert_eq!((of_folder.n, of_folder.documents, of_folder.right_document), (12, 8, 1.0));
}

#[test]
fn a_calibration_is_fitted_kept_and_used() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(folder.path());
    let file = folder.path().join("questions.jsonl");
    write(&file, &questions());
    let collection = Collection::open(&file, None).expect("opened");
    let (before, _) = measured(&reader, &collection);
    assert_eq!(reader.calibration(), &Calibration::without_none());
    let mut asked = 0;
    let fitted = calibrate(reader, &collection, 24, "questions.jsonl", &mut || asked += 1).expect("fitted");
    assert_eq!(asked, 16 + 24 + 6, "those with an answer for hints, all in tier A, one in four in tier B");
    assert!(fitted.calibration().a.hints.any(), "{:?}", fitted.calibration());
    let (after, _) = measured(&fitted, &collection);
    // On what it was fitted on, it must not be off by more than the default.
    assert!(after.confidence.ece <= before.confidence.ece, "{} {}", after.confidence.ece, before.confidence.ece);
    fitted.calibration().save(fitted.folder()).expect("saved");
    let again = Reader::open(fitted.folder(), &ReaderOptions::default()).expect("opened");
    assert_eq!(again.calibration(), fitted.calibration());
    assert_eq!(again.fingerprint().to_string(), fitted.fingerprint().to_string(), "snapshots stay good");
    assert_eq!(&Calibration::open(&ReaderFiles::folder(fitted.folder()), false).expect("there"), fitted.calibration());
}

#[test]
fn the_likelihood_of_a_question_is_that_of_its_tokens_one_by_one() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(folder.path());
    let prompt = reader.prompt();
    let question = prompt.question("Is the river Zug long and deep?").expect("ids");
    let mut states: Vec<State> = ["the river Zug is long", "Aare"]
        .iter()
        .map(|text| {
            let mut state = State::empty(reader.config());
            let ids = prompt.passage("", text).expect("ids").ids;
            reader.append(&mut [Sequence { ids: &ids, state: &mut state }]).expect("read");
            state
        })
        .collect();
    let mut plain = Vec::new();
    for state in &states {
        let (mut state, mut sum) = (state.clone(), 0.0);
        for pair in question.windows(2) {
            let mut one = [Sequence { ids: &pair[..1], state: &mut state }];
            reader
                .forward(&mut one, Want::Last, &mut |_, _, logits| {
                    let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
                    sum += f64::from(logits[pair[1] as usize]) - total.ln();
                })
                .expect("read");
        }
        plain.push(sum / (question.len() - 1) as f64);
    }
    let mut batch: Vec<Sequence<'_>> = states.iter_mut().map(|state| Sequence { ids: &question, state }).collect();
    let fast = question_logprobs(&reader, &mut batch, &mut Default::default()).expect("read");
    for (fast, plain) in fast.iter().zip(&plain) {
        assert!((f64::from(*fast) - plain).abs() < 1e-4, "{fast} {plain}");
    }
}

#[test]
fn reranking_reads_more_and_asks_the_best() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(folder.path()).folder().to_path_buf();
    // Weight on the likelihood alone, and every passage worth reading.
    let a = Odds { bm25: 0.0, question: 1000.0, ..Odds::default() };
    let weighted = Calibration { a, worth_reading: 0.0, ..Calibration::default() };
    weighted.save(&reader).expect("saved");
    let engine =
        Engine::open(Options { reader: Some(reader.into()), ..Options::new(folder.path().join("store")) }).expect("opens");
    for row in questions().iter().step_by(3) {
        let text = |key: &str| row[key].as_str().expect("text");
        let document = palimpsest::index::Document::new(text("title"), "", text("context"));
        engine.index().add(document).expect("added");
    }
    engine.index().commit().expect("committed");
    let ask = |rerank| {
        let options = AskOptions { min_confidence: 0.0, passages: 2, rerank, ..AskOptions::default() };
        let mut retrieved = 0;
        let answer = engine.ask_with("Is the river long?", &options, &Cancel::new(), &mut |event| {
            if let Event::Retrieved(hits) = event {
                retrieved = hits.len();
            }
        });
        (retrieved, answer.expect("asked"))
    };
    assert_eq!(ask(0).0, 2);
    let (retrieved, answer) = ask(8);
    assert_eq!(retrieved, 8);
    assert!(answer.answer.is_some());
    // Asked again, all passages are restored and the same comes out.
    let (_, again) = ask(8);
    assert_eq!(
        (again.answer, again.citations, again.confidence.to_bits()),
        (answer.answer, answer.citations, answer.confidence.to_bits())
    );
    assert!(again.tokens_restored > 8 * 60);
}
