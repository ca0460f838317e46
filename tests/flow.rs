//! The main job with the reader that ships: documents in, a question, a cited answer that stands in its source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use palimpsest::{Answer, AskOptions, Engine, Options};
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn engine(store: &Path) -> Engine {
    let engine = Engine::open(Options::new(store)).expect("a new store opens");
    let report = engine.ingest(&[root().join("examples/documents")], &|_| {}).expect("ingest");
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    engine
}

/// Every citation stands in its source, and the answer in one of the quotes.
fn check(engine: &Engine, answer: &Answer) {
    for c in answer.citations.iter().chain(&answer.nearest) {
        assert!(c.quote.len() <= 300, "{} bytes", c.quote.len());
        let text = engine.document(&c.document).expect("cited documents exist").text;
        assert_eq!(text.get(c.start as usize..c.end as usize), Some(c.quote.as_str()));
        let path = c.path.as_deref().expect("files have paths");
        assert!(path.is_absolute());
        if path.extension().is_some_and(|e| e == "md" || e == "txt") {
            let bytes = std::fs::read(path).expect("source");
            assert_eq!(&bytes[c.start as usize..c.end as usize], c.quote.as_bytes());
        }
    }
    match &answer.answer {
        Some(text) => assert!(answer.citations.iter().any(|c| c.quote.contains(text.as_str())), "{answer:?}"),
        None => assert!(answer.citations.is_empty() && !answer.nearest.is_empty(), "{answer:?}"),
    }
    assert!((0.0..=1.0).contains(&answer.confidence));
}

fn questions() -> Vec<Value> {
    let text = std::fs::read_to_string(root().join("tests/data/factbook_questions.jsonl")).expect("questions");
    text.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect()
}

#[test]
fn factbook_questions_are_answered_with_citations() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = engine(folder.path());
    let (mut right, mut cited, mut said) = (0, 0, Vec::new());
    let questions = questions();
    for q in &questions {
        let question = q["question"].as_str().expect("text");
        let answer = engine.ask(question, &AskOptions::default()).expect("asked");
        check(&engine, &answer);
        let name = q["path"].as_str().expect("text");
        let named = |c: &palimpsest::Citation| c.path.as_ref().is_some_and(|p| p.ends_with(name));
        cited += usize::from(answer.citations.iter().chain(&answer.nearest).any(named));
        let gold = q["answers"].as_array().expect("a list");
        right += usize::from(answer.answer.as_deref().is_some_and(|a| gold.iter().any(|g| g == a)));
        said.push(format!("{question} -> {:?} ({:.2})", answer.answer, answer.confidence));
    }
    println!("{right} of {} right, {cited} with the right document\n{}", questions.len(), said.join("\n"));
    // What the shipped reader was measured to do, less one: a change that makes it worse must be looked at.
    assert!(cited + 2 >= questions.len(), "{cited} of {}: {said:#?}", questions.len());
    assert!(right >= RIGHT_AT_LEAST, "{right} of {}: {said:#?}", questions.len());
}

/// Of the fifteen in tests/data/factbook_questions.jsonl.
const RIGHT_AT_LEAST: usize = 4;

#[test]
fn a_second_question_restores_what_the_first_read() {
    let folder = tempfile::tempdir().expect("folder");
    let options = AskOptions::default();
    let first = "What is the capital of Kenya?";
    let second = "Which city is the capital of Kenya?";
    let cold = engine(&folder.path().join("cold")).ask(second, &options).expect("asked");
    let path = folder.path().join("warm");
    let warm = {
        let engine = engine(&path);
        let answer = engine.ask(first, &options).expect("asked");
        assert_eq!(answer.tokens_restored, 0);
        assert!(answer.tokens_read > 0);
        engine.ask(second, &options).expect("asked")
    };
    assert!(warm.tokens_restored > 0 && warm.tokens_restored + warm.tokens_read == cold.tokens_read, "{warm:?}\n{cold:?}");
    let passages = warm.tokens_restored as f64 / cold.tokens_read as f64;
    println!("{} of {} tokens restored ({passages:.3})", warm.tokens_restored, cold.tokens_read);
    // Bit for bit: the same span with the same confidence, to the last bit.
    assert_eq!((warm.answer, warm.confidence.to_bits()), (cold.answer, cold.confidence.to_bits()));
    assert_eq!(warm.citations, cold.citations);
}

#[test]
fn a_source_that_changed_is_not_cited() {
    let folder = tempfile::tempdir().expect("folder");
    let documents = folder.path().join("documents");
    std::fs::create_dir(&documents).expect("folder");
    let file = documents.join("kenya.md");
    std::fs::copy(root().join("examples/documents/kenya.md"), &file).expect("copied");
    let engine = Engine::open(Options::new(folder.path().join("store"))).expect("opens");
    engine.ingest(&[documents], &|_| {}).expect("ingest");
    let options = AskOptions { min_confidence: 0.0, ..AskOptions::default() };
    let before = engine.ask("What is the capital of Kenya?", &options).expect("asked");
    assert!(before.answer.is_some() && before.notices.is_empty(), "{before:?}");
    let upper = std::fs::read_to_string(&file).expect("text").to_uppercase();
    std::fs::write(&file, upper).expect("changed");
    let after = engine.ask("What is the capital of Kenya?", &options).expect("asked");
    assert!(after.answer.is_none() && after.citations.is_empty(), "{after:?}");
    assert!(after.notices.iter().any(|n| n.contains("changed since")), "{after:?}");
}

#[test]
fn documents_are_forgotten_and_brought_up_to_date() {
    let folder = tempfile::tempdir().expect("folder");
    let documents: PathBuf = folder.path().join("documents");
    std::fs::create_dir(&documents).expect("folder");
    let texts = BTreeMap::from([
        ("a.md", "# Apples\n\nApples are red."),
        ("b.txt", "Pears are green."),
        ("c.html", "<title>C</title><p>Plums are blue.</p>"),
    ]);
    for (name, text) in &texts {
        std::fs::write(documents.join(name), text).expect("written");
    }
    let engine = Engine::open(Options::new(folder.path().join("store"))).expect("opens");
    let paths = [documents.clone()];
    assert_eq!(engine.ingest(&paths, &|_| {}).expect("ingest").added, 3);
    assert_eq!(engine.ingest(&paths, &|_| {}).expect("ingest").unchanged, 3);
    std::fs::write(documents.join("b.txt"), "Pears are yellow.").expect("changed");
    std::fs::remove_file(documents.join("a.md")).expect("removed");
    let report = engine.ingest(&paths, &|_| {}).expect("ingest");
    assert_eq!((report.updated, report.removed, report.unchanged), (1, 1, 1), "{report:?}");
    assert!(engine.search("apples", 5).expect("search").is_empty());
    assert!(engine.search("pears", 5).expect("search")[0].text.contains("yellow"));
    let plums = engine.search("plums", 5).expect("search").remove(0);
    engine.forget(&plums.document).expect("forgotten");
    assert!(engine.search("plums", 5).expect("search").is_empty());
    assert!(engine.forget(&plums.document).is_err());
}

#[test]
fn an_empty_question_and_an_empty_store_are_no_panics() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = Engine::open(Options::new(folder.path())).expect("opens");
    assert!(engine.ask("  ", &AskOptions::default()).is_err());
    let answer = engine.ask("Who?", &AskOptions::default()).expect("asked");
    assert!(answer.answer.is_none() && answer.citations.is_empty() && answer.confidence == 0.0);
}
