//! A byte is flipped in one file of a store, any file: does the program still say the same, or say what is wrong?
//!
//! `PALIMPSEST_FLIPS=20 cargo test -p palimpsest-cli --test flipped` flips that many bytes of each file, in turn (2 by default).

#[path = "../../../tests/tiny/mod.rs"]
mod tiny;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tiny::{Noise, Tiny, write_word_tokenizer};

const QUESTION: &str = "Which gate does the writer open?";

/// What a run of the program came to.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    object: Value,
    /// For the message of a test that fails.
    #[allow(dead_code)]
    stderr: String,
}

fn run(args: &[&str], folder: &Path, store: &Path) -> Said {
    let out = Command::new(env!("CARGO_BIN_EXE_palimpsest"))
        .args(args)
        .arg("--json")
        .env("PALIMPSEST_STORE", store)
        .env("PALIMPSEST_MODEL", folder.join("reader"))
        .current_dir(folder)
        .output()
        .expect("the program starts");
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    let object = serde_json::from_str(&stdout).unwrap_or(Value::Null);
    Said { code: out.status.code(), object, stderr: String::from_utf8_lossy(&out.stderr).into_owned() }
}

/// What an answer is, without what may differ between two right runs: times, tokens restored, notices.
fn answer(object: &Value) -> Value {
    let mut kept = object.clone();
    for varies in ["timings_ms", "tokens_read", "tokens_restored", "notices", "store"] {
        kept.as_object_mut().map(|o| o.remove(varies));
    }
    kept
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::copy(&file, &to).expect("a copy");
    }
}

#[test]
fn a_flipped_byte_anywhere_under_the_store_changes_no_answer_silently() {
    let flips: usize = std::env::var("PALIMPSEST_FLIPS").ok().map_or(2, |n| n.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("folder");
    let (whole, damaged) = (folder.path().join("whole"), folder.path().join("damaged"));
    Tiny::odd().write_fla(&folder.path().join("reader"), safetensors::Dtype::F32);
    write_word_tokenizer(&folder.path().join("reader"), &["gate", "writer", "erase", "opens"]);
    fs::create_dir(folder.path().join("documents")).expect("made");
    for (name, line) in
        [("a", "The writer opens the erase gate."), ("b", "Decay is a gate, too."), ("c", "Nobody opens the sea.")]
    {
        let text = format!("# {name}\n\n{}\n\nThe gate of {name} has a writer.\n", [line; 12].join(" "));
        fs::write(folder.path().join(format!("documents/{name}.md")), text).expect("written");
    }
    let ask = ["ask", QUESTION, "--min-confidence", "0"];
    let made = run(&["ask", QUESTION, "documents", "--min-confidence", "0"], folder.path(), &whole);
    assert_eq!(made.code, Some(0), "{made:?}");
    for args in [&["context", "read", "book", "documents/a.md"][..], &["context", "ask", "book", "And the decay?"]] {
        let made = run(args, folder.path(), &whole);
        assert_eq!(made.code, Some(0), "{made:?}");
    }
    let context = ["context", "ask", "book", QUESTION];
    let show = ["show", "a"];
    let document = made.object["citations"][0]["document"].as_str().map(str::to_string);
    let show = document.as_deref().map_or(show, |d| ["show", d]);
    let commands: [&[&str]; 3] = [&ask, &context, &show];
    let right: Vec<Value> = commands
        .iter()
        .map(|args| {
            copy(&whole, &damaged);
            let said = run(args, folder.path(), &damaged);
            assert_eq!((said.code, said.object["notices"].as_array().map_or(0, Vec::len)), (Some(0), 0), "{said:?}");
            answer(&said.object)
        })
        .collect();
    let all = files(&whole);
    for part in ["index", "snapshots/slots", "snapshots/catalogue", "contexts/book"] {
        assert!(all.iter().any(|f| f.starts_with(whole.join(part))), "{part} is there: {all:?}");
    }
    let mut noise = Noise(11);
    let (mut told, mut silent) = (0, Vec::new());
    for file in &all {
        let name = file.strip_prefix(&whole).expect("below");
        let bytes = fs::read(file).expect("read");
        for _ in 0..flips.min(bytes.len()) {
            let (at, bit) = (noise.below(bytes.len()), noise.below(8));
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            // A context is asked by one command, the rest is used by the others.
            let in_context = name.starts_with("contexts");
            for (args, right) in commands.iter().zip(&right).filter(|(args, _)| (args[0] == "context") == in_context) {
                copy(&whole, &damaged);
                fs::write(damaged.join(name), &flipped).expect("flipped");
                let said = run(args, folder.path(), &damaged);
                let what = format!("bit {bit} of byte {at} of {}, {}: {said:?}", name.display(), args[0]);
                match said.code {
                    Some(0) => {
                        let notices = said.object["notices"].as_array().map_or(0, Vec::len);
                        told += usize::from(notices > 0);
                        if notices == 0 && answer(&said.object) != *right {
                            silent.push(what);
                        }
                    }
                    Some(3..=5) => {
                        assert!(said.object["error"]["message"].is_string(), "{what}");
                        told += 1;
                    }
                    _ => panic!("{what}"),
                }
            }
        }
    }
    assert!(silent.is_empty(), "{} changed answers silently:\n{}", silent.len(), silent.join("\n"));
    assert!(told > all.len() / 2, "flips were seen: {told} in {} files", all.len());
    println!("{} files, {flips} flips in each, {told} told of", all.len());
}
