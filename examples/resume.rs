//! Read once, ask for ever: what one engine read, another restores, bit for bit or not at all.
//!
//!     cargo run --release -p palimpsest-rag --example resume

use palimpsest::{Answer, AskOptions, Engine, Options, Result};

fn ask_anew(store: &std::path::Path, question: &str) -> Result<Answer> {
    // A new engine every time, as if the app had been closed in between: nothing but the folder is shared.
    let engine = Engine::open(Options::new(store))?;
    engine.ingest(&["examples/documents/iceland.md".into()], &|_progress| {})?;
    let answer = engine.ask(question, &AskOptions::default())?;
    println!("{question}");
    println!("  {}", answer.answer.as_deref().unwrap_or("(no answer)"));
    println!("  {} tokens read, {} restored, {:.0} ms", answer.tokens_read, answer.tokens_restored, answer.timings_ms.total);
    Ok(answer)
}

fn main() -> Result<()> {
    let store = std::env::temp_dir().join(format!("palimpsest-example-resume-{}", std::process::id()));
    let assembly = "Which legislative assembly was established in Iceland in 930?";

    let first = ask_anew(&store, assembly)?;
    // Another question reads only the passages that the first one had no use for.
    ask_anew(&store, "When did Iceland join the European Economic Area?")?;
    // The first question again: its passages are restored, and the answer is the same to the last bit.
    let again = ask_anew(&store, assembly)?;
    assert_eq!(first.answer, again.answer);
    assert_eq!(first.confidence.to_bits(), again.confidence.to_bits());

    // The store is a cache of the documents: losing it loses time only.
    let _ = std::fs::remove_dir_all(&store);
    Ok(())
}
