//! The shortest way from a folder of documents to a cited answer.
//!
//!     cargo run --release -p palimpsest-rag --example ask -- examples/documents "What is the capital of Kenya?"

use palimpsest::{AskOptions, Engine, Options};

fn main() -> palimpsest::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap_or_else(|| "examples/documents".into());
    let question = args.next().unwrap_or_else(|| "What is the capital of Kenya?".into());

    // Index and snapshots live in one folder, which can be deleted at any time.
    let engine = Engine::open(Options::new(std::env::temp_dir().join("palimpsest-example-ask")))?;

    // Taking in the same folder again costs the hashing of its files.
    let report = engine.ingest(&[folder.into()], &|_progress| {})?;
    println!("{} documents added, {} unchanged", report.added, report.unchanged);

    let answer = engine.ask(&question, &AskOptions::default())?;
    match &answer.answer {
        Some(text) => println!("{text} (confidence {:.2})", answer.confidence),
        None => println!("these documents do not say"),
    }
    // A citation was compared with its source; a passage that only came near is not one.
    for place in answer.citations.iter().chain(&answer.nearest) {
        println!("  {} [{}..{}]: {:?}", place.document, place.start, place.end, place.quote);
    }
    Ok(())
}
