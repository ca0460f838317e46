//! Are vectors those of sentence-transformers, and do documents come back by them? Feature `dense`.
//!
//! `tests/encoders/make.py` made the tiny random encoders and what sentence-transformers says with them. `PALIMPSEST_ENCODER`
//! names a real one beside whose config.json lies an expected.json of the same script.

#![cfg(feature = "dense")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use palimpsest::encoder::SentenceTransformer;
use palimpsest::index::{Document, Filter, Fused, Index, Ranking, Retriever, Role, SearchOptions};
use palimpsest::{Engine, Error, Options};
use serde_json::Value;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/encoders").join(name)
}

/// The largest difference of any component.
fn furthest(folder: &Path, expected: &Path) -> f32 {
    let expected: Value = serde_json::from_slice(&fs::read(expected).expect("expectations")).expect("JSON");
    let texts: Vec<&str> = expected["texts"].as_array().expect("texts").iter().filter_map(Value::as_str).collect();
    let encoder = SentenceTransformer::open(folder).expect("an encoder");
    let mut furthest = 0.0f32;
    for (role, name) in [(Role::Question, "questions"), (Role::Passage, "passages")] {
        let vectors = encoder.vectors(&texts, role).expect("vectors");
        let rows = expected[name].as_array().expect("vectors");
        assert_eq!(vectors.len(), rows.len());
        for (vector, row) in vectors.iter().zip(rows) {
            let row = row.as_array().expect("a vector");
            assert_eq!(vector.len(), row.len());
            for (found, expected) in vector.iter().zip(row) {
                furthest = furthest.max((found - expected.as_f64().expect("a number") as f32).abs());
            }
        }
    }
    furthest
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    for name in ["bert", "roberta"] {
        let folder = tiny(name);
        let off = furthest(&folder, &folder.join("expected.json"));
        assert!(off < 2e-5, "{name}: {off}");
    }
}

#[test]
fn vectors_of_a_real_encoder_are_those_of_sentence_transformers() {
    let Some(folder) = std::env::var_os("PALIMPSEST_ENCODER").map(PathBuf::from) else {
        eprintln!("SKIPPED: PALIMPSEST_ENCODER names no encoder");
        return;
    };
    let within = if folder.join("config.json").exists() { folder.clone() } else { folder.join("model") };
    let off = furthest(&folder, &within.join("expected.json"));
    assert!(off < 1e-5, "{off}");
    // What it means and does not say.
    let index = Index::in_memory().expect("an index");
    for (id, text) in
        [("cat", "A kitten sleeps on the sofa."), ("law", "The court rejected the appeal."), ("sea", "Waves hit the shore.")]
    {
        index.add(Document::new(id, "", text)).expect("added");
    }
    index.commit().expect("committed");
    let encoder = Arc::new(SentenceTransformer::open(&folder).expect("an encoder"));
    let fused = Fused::new(Arc::new(index), None, encoder).expect("fused");
    fused.sync(&AtomicBool::new(false), &|_| {}).expect("in step");
    for (question, id) in [("young feline", "cat"), ("judges and trials", "law"), ("ocean", "sea")] {
        let hits = fused.retrieve(question, &SearchOptions::default()).expect("hits");
        assert_eq!(hits[0].document, id, "{question}");
    }
}

#[test]
fn an_encoder_that_is_not_run_here_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let make = |file: &str, from: &str, to: &str| {
        for part in ["", "1_Pooling"] {
            fs::create_dir_all(dir.path().join(part)).expect("made");
            for entry in fs::read_dir(tiny("bert").join(part)).expect("listed").map(|e| e.expect("an entry")) {
                if entry.path().is_file() {
                    fs::copy(entry.path(), dir.path().join(part).join(entry.file_name())).expect("copied");
                }
            }
        }
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).expect("read");
        assert!(text.contains(from), "{file}: {text}");
        fs::write(&path, text.replace(from, to)).expect("written");
        match SentenceTransformer::open(dir.path()) {
            Err(Error::Encoder { file, reason }) => format!("{}: {reason}", file.display()),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{file} with {to} was opened"),
        }
    };
    for (file, from, to, said) in [
        ("config.json", "\"bert\"", "\"distilbert\"", "distilbert"),
        ("config.json", "\"gelu\"", "\"silu\"", "silu"),
        ("config.json", "\"hidden_size\": 24", "\"hidden_size\": 48", "tensor"),
        ("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "encoder.layer.2"),
        ("config.json", "{", "[", "config.json"),
        ("modules.json", "models.Normalize", "models.Dense", "Dense"),
        ("1_Pooling/config.json", "\"pooling_mode_max_tokens\": false", "\"pooling_mode_max_tokens\": true", "mean"),
    ] {
        let message = make(file, from, to);
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn vectors_stay_in_step_with_the_documents() {
    let dir = tempfile::tempdir().expect("a folder");
    let index = Arc::new(Index::open(&dir.path().join("index")).expect("an index"));
    let encoder = Arc::new(SentenceTransformer::open(&tiny("bert")).expect("an encoder"));
    let add = |id: usize, text: String| {
        let mut document = Document::new(id.to_string(), "", text);
        document.metadata.insert("even".into(), (id % 2 == 0).into());
        index.add(document).expect("added");
    };
    let text = |id: usize| format!("river {id} words {}. ", id * 7919 % 1000).repeat(1 + id % 90);
    (0..150).for_each(|id| add(id, text(id)));
    index.commit().expect("committed");
    let vectors = dir.path().join("vectors");
    let open = || Fused::new(index.clone(), Some(&vectors), encoder.clone()).expect("vectors").ranked_by(Ranking::Dense);
    let go = AtomicBool::new(false);
    let fused = open();
    assert!(fused.retrieve("river 7", &SearchOptions::default()).expect("hits").is_empty(), "none yet");
    fused.sync(&go, &|_| {}).expect("in step");
    let passages = index.status().expect("status").passages as usize;
    assert_eq!(fused.vectors().len(), passages);
    let best = |fused: &Fused, question: &str, filter: Option<Filter>| {
        let mut options = SearchOptions::default();
        (options.limit, options.filter) = (5, filter);
        fused.retrieve(question, &options).expect("hits")
    };
    // A text lies nearest to itself; of a filter's documents only are there; a second process finds what the first wrote.
    let question = text(10);
    assert_eq!(best(&fused, &question, None)[0].document, "10");
    let odd = best(&open(), &question, Some(Filter::is("even", false)));
    assert!(odd.len() == 5 && odd.iter().all(|h| h.document.parse::<usize>().expect("a number") % 2 == 1), "{odd:?}");
    let source = fused.source("10", odd[0].range.clone()).expect("read").expect("there");
    assert_eq!(source.summary.id, "10");

    // Changed, gone, and new: the old vectors are not found before the next sync, and are dropped by it.
    add(10, "another text".into());
    index.forget("12").expect("forgotten");
    add(150, text(150));
    index.commit().expect("committed");
    assert!(best(&fused, &question, None).iter().all(|h| h.document != "10"));
    assert!(best(&fused, &text(12), None).iter().all(|h| h.document != "12"));
    fused.sync(&go, &|_| {}).expect("in step");
    assert_eq!(fused.vectors().len(), index.status().expect("status").passages as usize);
    assert_eq!(best(&fused, "another text", None)[0].document, "10");
    let again = open();
    assert_eq!(again.vectors().len(), fused.vectors().len());
    assert_eq!(best(&again, "another text", None), best(&fused, "another text", None));

    // Files that changed on the disk are made anew, not believed.
    drop((again, fused));
    let folder = fs::read_dir(&vectors).expect("listed").next().expect("one").expect("an entry").path();
    for entry in fs::read_dir(&folder).expect("listed").map(|e| e.expect("an entry").path()) {
        let whole = fs::read(&entry).expect("read");
        if whole.is_empty() {
            continue;
        }
        let mut broken = whole.clone();
        broken[whole.len() / 2] ^= 1;
        fs::write(&entry, &broken).expect("written");
        assert!(open().vectors().is_empty(), "{}", entry.display());
        fs::write(&entry, &whole).expect("written");
    }
    assert!(!open().vectors().is_empty());
    fs::write(folder.join("catalogue.json"), "").expect("written");
    let anew = open();
    anew.sync(&go, &|_| {}).expect("in step");
    assert_eq!(anew.vectors().len(), index.status().expect("status").passages as usize);

    // Told to stop it keeps nothing half, and goes on later.
    go.store(true, std::sync::atomic::Ordering::Release);
    add(151, text(151));
    index.commit().expect("committed");
    assert!(anew.sync(&go, &|_| {}).is_err());
    go.store(false, std::sync::atomic::Ordering::Release);
    anew.sync(&go, &|_| {}).expect("in step");
}

#[test]
fn an_engine_finds_by_both() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("a.md"), "# River\n\nThe river flows.").expect("written");
    let options = || Options { encoder: Some(tiny("bert")), ..Options::new(dir.path().join("store")) };
    let engine = Engine::open(options()).expect("an engine");
    engine.ingest(&[dir.path().join("a.md")], &|_| {}).expect("ingested");
    engine.sync(&palimpsest::Cancel::new(), &|_| {}).expect("in step");
    let hits = engine.search("river", 10).expect("hits");
    assert_eq!(hits.len(), 1);
    // First in both rankings.
    assert!((hits[0].score - 2.0 / 61.0).abs() < 1e-6, "{}", hits[0].score);
    // No word of it is there: its meaning is.
    assert_eq!(engine.search("zzz", 10).expect("hits").len(), 1);
    engine.forget(hits[0].document.as_str()).expect("forgotten");
    assert!(engine.search("river", 10).expect("hits").is_empty());
}
