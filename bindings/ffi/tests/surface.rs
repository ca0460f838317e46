//! The surface as a host sees it, called from Rust: closing, cancelling, a hundred questions, and what a job leaves behind.

use std::path::Path;
use std::sync::Arc;

use futures_lite::future::{block_on, zip};
use palimpsest_ffi::{
    AskEvent, AskOptions, EngineHandle, EngineOptions, PalimpsestError, ReaderSource, TextDocument, open_engine,
};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn open(store: &Path) -> Result<Arc<EngineHandle>, PalimpsestError> {
    block_on(open_engine(EngineOptions {
        store: store.to_string_lossy().into_owned(),
        reader: Some(ReaderSource::Path { path: root().join("models/reader-small").to_string_lossy().into_owned() }),
        device: None,
        threads: None,
        weights: None,
        snapshot_budget_bytes: None,
    }))
}

fn text(id: &str, text: &str) -> TextDocument {
    TextDocument { id: id.into(), title: id.into(), text: text.into(), metadata: Default::default() }
}

#[test]
fn closing_cancels_waits_and_lets_the_store_go() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = open(folder.path()).expect("opens");
    block_on(engine.put(vec![text("kenya", "Nairobi is the capital of Kenya.")])).expect("put");
    let long = "Nairobi is the capital of Kenya. ".repeat(20_000);
    let reading = engine.read_text("long".into(), "Kenya".into(), long).expect("begun");
    assert!(block_on(reading.next()).expect("progress").is_some());
    let (read, ()) = block_on(zip(reading.result(), engine.shut()));
    assert!(matches!(read, Err(PalimpsestError::Cancelled(_))), "{:?}", read.err());
    engine.shut_now();
    assert!(matches!(block_on(engine.status()), Err(PalimpsestError::Closed(_))));
    let asked = engine.ask("Which?".into(), AskOptions::default());
    assert!(matches!(asked.err(), Some(PalimpsestError::Closed(_))));
    let again = open(folder.path()).expect("opens again at once");
    let context = block_on(again.open_context("long".into())).expect("what was read is kept");
    let status = block_on(context.status()).expect("status");
    assert!(status.tokens > 0 && status.tokens_left > 0, "{status:?}");
}

#[test]
fn a_hundred_questions_at_once_are_all_answered_alike() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = open(folder.path()).expect("opens");
    block_on(engine.put(vec![text("kenya", "Nairobi is the capital of Kenya.")])).expect("put");
    let ask = || engine.ask("What is the capital of Kenya?".into(), AskOptions::default()).expect("begun");
    let alone = block_on(ask().result()).expect("answered");
    let jobs: Vec<_> = (0..100).map(|_| ask()).collect();
    for job in jobs {
        let answer = block_on(job.result()).expect("answered");
        assert_eq!((answer.answer, answer.confidence), (alone.answer.clone(), alone.confidence));
    }
}

#[test]
fn events_end_with_the_answer_and_a_cancelled_question_with_its_error() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = open(folder.path()).expect("opens");
    block_on(engine.put(vec![text("kenya", "Nairobi is the capital of Kenya.")])).expect("put");
    let job = engine.ask("What is the capital of Kenya?".into(), AskOptions::default()).expect("begun");
    let mut last = None;
    while let Some(event) = block_on(job.next()).expect("no error") {
        last = Some(event);
    }
    let answer = block_on(job.result()).expect("answered");
    assert_eq!(last, Some(AskEvent::Done { answer }));
    let job = engine.ask("What is the capital of Kenya?".into(), AskOptions::default()).expect("begun");
    job.cancel();
    assert!(matches!(block_on(job.result()), Err(PalimpsestError::Cancelled(_))));
}
