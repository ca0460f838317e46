//! Are the questions about the example documents fair? Each answer stands in the file that is said to hold it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

#[test]
fn every_answer_stands_in_its_document() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = fs::read_to_string(root.join("tests/data/factbook_questions.jsonl")).expect("the questions");
    let mut questions = BTreeSet::new();
    for line in lines.lines() {
        let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let path = row["path"].as_str().expect("path");
        let text = fs::read_to_string(root.join("examples/documents").join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let answers = row["answers"].as_array().expect("answers");
        assert!(!answers.is_empty(), "{line}");
        for answer in answers {
            assert!(text.contains(answer.as_str().expect("a string")), "{answer} does not stand in {path}");
        }
        assert!(questions.insert(row["question"].as_str().expect("question").to_string()), "asked twice: {line}");
    }
    assert!(questions.len() >= 15, "{} questions", questions.len());
}

#[test]
fn the_collection_is_what_the_readme_promises() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/documents");
    let files: Vec<_> = fs::read_dir(folder).expect("the documents").map(|e| e.expect("an entry")).collect();
    let with = |ext: &str| files.iter().filter(|f| f.path().extension().is_some_and(|e| e == ext)).count();
    assert!(with("md") >= 25 && with("html") >= 5 && with("txt") >= 4, "{} {} {}", with("md"), with("html"), with("txt"));
    let bytes: u64 = files.iter().map(|f| f.metadata().expect("a file").len()).sum();
    assert!(bytes < 1_500_000, "{bytes} bytes of examples");
}
