//! The surface as a host sees it, called from Rust: closing, cancelling, a hundred questions, and what a job leaves behind.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use futures_lite::future::{block_on, zip};
use palimpsest_ffi::{
    AskEvent, AskOptions, EngineHandle, EngineOptions, FieldMap, Filter, IngestOptions, PalimpsestError, ReaderSource,
    SearchOptions, TextDocument, Value, open_engine, rehearse_panic,
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
        snapshot_form: None,
        language: None,
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

#[test]
fn many_questions_are_answered_as_each_alone() {
    let folder = tempfile::tempdir().expect("folder");
    let engine = open(folder.path()).expect("opens");
    block_on(engine.put(vec![text("kenya", "Nairobi is the capital of Kenya. The shilling is its currency.")])).expect("put");
    let questions = ["What is the capital of Kenya?", "What is the currency of Kenya?"].map(String::from);
    let together = engine.ask_many(questions.to_vec(), AskOptions::default()).expect("begun");
    let together = block_on(together.result()).expect("answered");
    for (question, answer) in questions.into_iter().zip(&together) {
        let alone = block_on(engine.ask(question, AskOptions::default()).expect("begun").result()).expect("answered");
        assert_eq!((&alone.answer, alone.confidence), (&answer.answer, answer.confidence));
    }
    assert_eq!(together.len(), 2);
    let cancelled = engine.ask_many(vec!["What is the capital of Kenya?".into(); 500], AskOptions::default()).expect("begun");
    cancelled.cancel();
    assert!(matches!(block_on(cancelled.result()), Err(PalimpsestError::Cancelled(_))));
}

#[test]
fn files_come_in_with_metadata_and_tables_as_records() {
    let folder = tempfile::tempdir().expect("folder");
    let table = folder.path().join("stock.csv");
    std::fs::write(&table, "sku,name,about,price\n7,Lamp,A lamp for the desk,30\n8,Chair,A chair of oak,90\n").expect("written");
    let engine = open(&folder.path().join("store")).expect("opens");
    let ingest = |fields| {
        let metadata = HashMap::from([("shop".to_string(), Value::Text { value: "north".into() })]);
        engine.ingest(vec![table.to_string_lossy().into_owned()], IngestOptions { metadata, fields })
    };
    assert!(matches!(ingest(Some(FieldMap::default())).err(), Some(PalimpsestError::Input(_))));
    let map = FieldMap {
        text: vec!["about".into()],
        id: Some("sku".into()),
        title: Some("name".into()),
        metadata: vec!["price".into()],
    };
    let report = block_on(ingest(Some(map)).expect("begun").result()).expect("ingested");
    assert_eq!(report.added, 2, "{report:?}");
    let found = |field: &str, value| {
        let filter = Some(Filter::Equals { field: field.into(), value });
        block_on(engine.search("lamp chair".into(), SearchOptions { limit: None, filter })).expect("searched").len()
    };
    assert_eq!(found("price", Value::Integer { value: 90 }), 1);
    assert_eq!(found("shop", Value::Text { value: "north".into() }), 2);
}

#[test]
fn a_file_read_again_is_brought_up_to_date_and_who_comes_second_is_told_to_wait() {
    let folder = tempfile::tempdir().expect("folder");
    let store = folder.path().join("store");
    let (engine, other) = (open(&store).expect("opens"), open(&store).expect("opens beside it"));
    let file = folder.path().join("kenya.txt");
    let read = |engine: &EngineHandle| block_on(engine.read_file("kenya".into(), file.display().to_string(), None)?.result());
    assert!(matches!(read(&engine).err(), Some(PalimpsestError::Input(_))), "there is no file yet");
    let first = "Nairobi is the capital of Kenya. ".repeat(20);
    std::fs::write(&file, &first).expect("written");
    let context = read(&engine).expect("read");
    let status = |of: &Arc<palimpsest_ffi::ContextHandle>| block_on(of.clone().status()).expect("status");
    let before = status(&context);
    assert_eq!((before.text_bytes, before.tokens_left), (first.len() as u64, 0));
    assert_eq!(status(&read(&engine).expect("the same again")), before);
    std::fs::write(&file, first.clone() + "Its second city is Mombasa.").expect("written");
    let again = read(&engine).expect("brought up to date");
    assert_eq!((status(&again).text_bytes, status(&again).tokens_left), (first.len() as u64 + 27, 0));
    assert_eq!(status(&context), status(&again), "both handles are to one context");

    let second = block_on(other.open_context("kenya".into())).expect("may look");
    let asked = second.clone().ask("What is the capital of Kenya?".into()).expect("begun");
    let busy = block_on(asked.result());
    assert!(matches!(&busy, Err(PalimpsestError::Busy(said)) if said.contains("in use")), "{busy:?}");
    block_on(engine.put(vec![text("a", "Something.")])).expect("put");
    let busy = block_on(other.put(vec![text("b", "Something else.")]));
    assert!(matches!(busy, Err(PalimpsestError::Busy(_))), "{busy:?}");
    block_on(engine.shut());
    block_on(other.put(vec![text("b", "Something else.")])).expect("its turn");
}

#[test]
fn a_panic_inside_is_an_error_and_everything_goes_on() {
    let panicked = block_on(rehearse_panic());
    assert!(matches!(&panicked, Err(PalimpsestError::Internal(said)) if said.contains("as a rehearsal")), "{panicked:?}");
    assert_eq!(block_on(rehearse_panic()), panicked);
}
