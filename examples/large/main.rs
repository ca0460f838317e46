//! Does a reader of NVIDIA's size run here? Writes its 1.3B configuration with random weights (2.7 GB), reads the countries of
//! `examples/documents` with it and asks. What it says is noise; that it says it, in which time and memory, is the point.
//!
//!     cargo run --release -p palimpsest-rag --example large -- FOLDER [int8|bf16|f32]
//!
//! `/usr/bin/time -f "%M KiB"` in front of it tells the peak memory.

mod random;

use std::path::{Path, PathBuf};
use std::time::Instant;

use palimpsest::kernels::Dtype;
use palimpsest::{AskOptions, Engine, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("name a folder for 2.7 GB of weights")?);
    let dtype = match args.next().as_deref() {
        None | Some("int8") => Dtype::Int8,
        Some("bf16") => Dtype::Bf16,
        Some("f32") => Dtype::F32,
        Some(other) => return Err(format!("{other}: int8, bf16 or f32").into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !folder.join("model.safetensors.index.json").exists() {
        random::write(&folder, random::LARGE)?;
        // Any tokenizer of fewer ids than the vocabulary will do.
        std::fs::copy(root.join("models/reader-small/tokenizer.json"), folder.join("tokenizer.json"))?;
    }
    let store = folder.join("store");
    let engine = Engine::open(Options { reader: Some(folder.into()), dtype: Some(dtype), ..Options::new(store) })?;
    engine.ingest(&[root.join("examples/documents")], &|_| {})?;
    let clock = Instant::now();
    let reader = engine.reader()?;
    println!("{} parameters as {dtype:?}, ready in {:.1} s", reader.config().parameters(), clock.elapsed().as_secs_f64());
    for question in ["What is the capital of Kenya?", "Which city is the capital of Kenya?"] {
        let options = AskOptions { passages: 2, min_confidence: 0.0, ..AskOptions::default() };
        let answer = engine.ask(question, &options)?;
        let t = answer.timings_ms;
        println!(
            "{question} {:?}: {} tokens read in {:.0} ms, {} restored, {:.0} ms in all",
            answer.answer, answer.tokens_read, t.read, answer.tokens_restored, t.total
        );
    }
    Ok(())
}
