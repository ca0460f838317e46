//! Readers that are not the shipped one: random weights, another tokenizer, plain text or marks of their own.

#[path = "../examples/large/random.rs"]
mod random;
mod tiny;

use palimpsest::index::Document;
use palimpsest::kernels::Dtype;
use palimpsest::{AskOptions, Engine, Options};
use safetensors::Dtype as Stored;
use tiny::{Tiny, write_word_tokenizer};

const WORDS: [&str; 12] =
    ["Nairobi", "is", "the", "capital", "of", "Kenya", "Question", "Answer", "Which", "city", "Lake", "Victoria"];

/// Asks a random reader: whatever it says, the answer must stand in its source.
fn ask(with_form: Option<&str>) {
    let folder = tempfile::tempdir().expect("folder");
    let reader = folder.path().join("reader");
    Tiny::odd().write_nvidia(&reader, Stored::BF16);
    write_word_tokenizer(&reader, &WORDS);
    if let Some(form) = with_form {
        std::fs::write(reader.join("reader.json"), form).expect("reader.json");
    }
    let documents = folder.path().join("documents");
    std::fs::create_dir(&documents).expect("folder");
    std::fs::write(documents.join("kenya.txt"), "Nairobi is the capital of Kenya. Lake Victoria lies in the west.")
        .expect("text");
    let engine =
        Engine::open(Options { reader: Some(reader.into()), ..Options::new(folder.path().join("store")) }).expect("opens");
    engine.ingest(&[documents], &|_| {}).expect("ingest");
    let options = AskOptions { min_confidence: 0.0, ..AskOptions::default() };
    let answer = engine.ask("Which city is the capital of Kenya?", &options).expect("asked");
    let text = answer.answer.as_deref().expect("with no threshold and no mark for none, some span is the best");
    assert!(answer.citations[0].quote.contains(text), "{answer:?}");
    let again = engine.ask("Which city is the capital of Kenya?", &options).expect("asked");
    assert_eq!((again.answer, again.citations), (answer.answer, answer.citations));
    assert!(again.tokens_restored > 0);
}

#[test]
fn plain_text_without_reader_json() {
    ask(None);
}

#[test]
fn plain_text_with_a_form_of_its_own() {
    ask(Some(
        r#"{"prompt": {"passage": "Lake {passage} of {title}", "question": "Which: {question}", "answer": " Answer", "end": "\n"}}"#,
    ));
}

/// The small twin of `examples/large`: what that does with NVIDIA's 1.3B configuration.
#[test]
fn a_reader_in_nvidias_shards_reads_and_answers() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = folder.path().join("reader");
    let shape = random::Shape { layers: 3, width: 48, heads: 2, head_dim: 32, hidden: 80, vocabulary: 300 };
    random::write(&reader, shape).expect("written");
    write_word_tokenizer(&reader, &WORDS);
    assert_eq!(std::fs::read_dir(&reader).expect("folder").count(), 4 + 2, "a shard a block, one for the rest, index, tokenizer");
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
        let store = folder.path().join(format!("{dtype:?}"));
        let options = Options { reader: Some(reader.clone().into()), dtype: Some(dtype), ..Options::new(store) };
        let engine = Engine::open(options).expect("opens");
        let text = "Nairobi is the capital of Kenya. Lake Victoria lies in the west.";
        engine.index().add(Document::new("kenya", "Kenya", text)).expect("added");
        engine.index().commit().expect("committed");
        let options = AskOptions { min_confidence: 0.0, ..AskOptions::default() };
        let answer = engine.ask("Which city is the capital of Kenya?", &options).expect("asked");
        assert!(answer.citations[0].quote.contains(answer.answer.as_deref().expect("some span")), "{answer:?}");
        let free = engine.ask("Is Nairobi the capital?", &AskOptions { free: true, ..options }).expect("asked");
        assert!(text.contains(&free.citations[0].quote) && free.tokens_restored > 0, "{free:?}");
    }
}
