//! A reading that is killed goes on from where it was, and comes to the same state.

#[path = "../../../tests/tiny/mod.rs"]
mod tiny;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tiny::{Noise, Tiny, write_word_tokenizer};

/// Tokens between two times that the state is kept.
const INTERVAL_TOKENS: u64 = 8192;

fn palimpsest(folder: &Path, store: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palimpsest"));
    command.args(args).arg("--json").env("PALIMPSEST_STORE", folder.join(store)).env("PALIMPSEST_MODEL", folder.join("reader"));
    command.stdout(Stdio::piped()).stderr(Stdio::null()).current_dir(folder);
    command
}

fn object(command: &mut Command) -> Value {
    let out = command.output().expect("the program starts");
    assert!(out.status.success(), "{out:?}");
    serde_json::from_slice(&out.stdout).expect("one object")
}

#[test]
fn a_killed_reading_goes_on_and_comes_to_the_same_state() {
    let folder = tempfile::tempdir().expect("folder");
    let folder = folder.path();
    Tiny::odd().write_fla(&folder.join("reader"), safetensors::Dtype::F32);
    write_word_tokenizer(&folder.join("reader"), &["gate", "erase", "write"]);
    let mut noise = Noise(3);
    let words: Vec<&str> = (0..60_000).map(|_| ["gate", "erase", "write"][noise.below(3)]).collect();
    fs::write(folder.join("book.txt"), words.join(" ")).expect("written");
    let whole = object(&mut palimpsest(folder, "whole", &["context", "read", "book", "book.txt"]));
    let all = whole["tokens"].as_u64().expect("tokens");
    assert!(all > 10 * INTERVAL_TOKENS, "{whole}");
    let status = object(&mut palimpsest(folder, "whole", &["status"]));
    let of = &status["contexts"];
    for bytes in ["log_bytes", "index_bytes", "text_bytes"] {
        assert_eq!(of[bytes], whole[bytes], "{status}");
    }
    assert!(of["contexts"] == 1 && of["state_bytes"].as_u64() > whole["state_bytes"].as_u64(), "{status}");
    let (mut kills, mut had) = (0, 0);
    for round in 0..40 {
        let mut reading = palimpsest(folder, "killed", &["context", "read", "book", "book.txt"]).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(60 + noise.below(60 + 20 * round) as u64));
        let done = reading.try_wait().expect("a child").is_some();
        let _ = reading.kill();
        reading.wait().expect("gone");
        let list = object(&mut palimpsest(folder, "killed", &["context", "list"]));
        assert_eq!(list["notices"], Value::Array(Vec::new()), "a kill is no damage");
        if let Some(context) = list["contexts"].get(0) {
            let tokens = context["tokens"].as_u64().expect("tokens");
            assert!(tokens >= had, "{tokens} tokens are kept, and {had} were");
            had = tokens;
        }
        if done {
            break;
        }
        kills += 1;
        if had == all {
            break;
        }
    }
    let end = object(&mut palimpsest(folder, "killed", &["context", "read", "book", "book.txt"]));
    assert_eq!(end["tokens"].as_u64(), Some(all));
    let state = |store: &str| fs::read(folder.join(store).join("contexts/book/state")).expect("a state");
    assert!(state("killed") == state("whole"), "the same bytes after {kills} kills");
    assert!(kills > 0, "nothing was killed");
    println!("{kills} kills, the last left {had} of {all} tokens");
}
