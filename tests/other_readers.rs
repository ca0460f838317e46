//! Readers that are not the shipped one: random weights, another tokenizer, plain text or marks of their own.

mod tiny;

use palimpsest::{AskOptions, Engine, Options};
use safetensors::Dtype;
use tiny::{Tiny, write_word_tokenizer};

const WORDS: [&str; 12] =
    ["Nairobi", "is", "the", "capital", "of", "Kenya", "Question", "Answer", "Which", "city", "Lake", "Victoria"];

/// Asks a random reader: whatever it says, the answer must stand in its source.
fn ask(with_form: Option<&str>) {
    let folder = tempfile::tempdir().expect("folder");
    let reader = folder.path().join("reader");
    Tiny::odd().write_nvidia(&reader, Dtype::BF16);
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
