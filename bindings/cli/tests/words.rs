//! `eval words`, and what any verb does when nobody reads what it prints.

use std::process::{Command, Stdio};

use serde_json::Value;

const ASKED: &str =
    r#"{"context": "The treaty was signed in 1959.", "question": "When was the treaty signed?", "answers": [{"text": "1959"}]}"#;
const BENT: &str =
    r#"{"context": "The treaty was signed in 1959.", "question": "When was the treaty not signed by Sweden?", "answers": []}"#;

fn words(lines: &[&str], name: &str) -> Command {
    let file = std::env::temp_dir().join(format!("palimpsest-words-{}-{name}.jsonl", std::process::id()));
    std::fs::write(&file, lines.join("\n")).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_palimpsest"));
    command.args(["eval", "words", "--json"]).arg(file);
    command
}

#[test]
fn both_kinds_of_questions_are_told_apart_and_one_kind_is_refused() {
    let out = words(&[ASKED, BENT, ASKED, BENT], "both").output().expect("the program starts");
    let got: Value = serde_json::from_slice(&out.stdout).expect("an object");
    assert_eq!((&got["n"], &got["auc_answerable"]), (&4.into(), &1.0.into()), "{got}");
    assert_eq!(got["fitted"].as_array().map(Vec::len), Some(5));
    let out = words(&[ASKED], "one").output().expect("the program starts");
    let got: Value = serde_json::from_slice(&out.stdout).expect("an object");
    assert_eq!((out.status.code(), &got["error"]["kind"]), (Some(3), &"input".into()), "{got}");
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child =
        words(&[ASKED, BENT], "pipe").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    drop(child.stdout.take());
    let out = child.wait_with_output().expect("it ends");
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stderr).as_ref()), (Some(0), ""));
}
