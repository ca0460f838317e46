//! Do the verbs of `bench` say what they measured, and refuse what cannot be measured?

#[path = "../../../tests/tiny/mod.rs"]
mod tiny;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tiny::{Tiny, write_word_tokenizer};

/// Exit code, the object on stdout, lines on stderr.
fn bench(arguments: &[&str]) -> (Option<i32>, Value, usize) {
    let out = Command::new(env!("CARGO_BIN_EXE_palimpsest"))
        .arg("bench")
        .args(arguments)
        .arg("--json")
        .env_remove("PALIMPSEST_ISA")
        .output()
        .expect("the program starts");
    let object = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
    (out.status.code(), object, String::from_utf8_lossy(&out.stderr).lines().count())
}

/// A reader of two layers that knows a few words.
fn write_reader(folder: &Path) -> &str {
    Tiny::odd().write_fla(folder, safetensors::Dtype::F32);
    write_word_tokenizer(folder, &["gate"]);
    folder.to_str().expect("Unicode")
}

/// Every key is there, and is a number above 0 where it is no name.
fn holds(object: &Value, names: &[(&str, &str)], numbers: &[&str]) {
    for (key, expected) in names {
        assert_eq!(object[key], *expected, "{key} of {object}");
    }
    for key in numbers {
        assert!(object[key].as_f64().is_some_and(|x| x > 0.0 && x.is_finite()), "{key} of {object}");
    }
    assert_eq!(object.as_object().map(serde_json::Map::len), Some(names.len() + numbers.len()), "{object}");
}

#[test]
fn reading_and_decoding_say_what_they_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = write_reader(folder.path());
    let common = ["--model", model, "--device", "cpu", "--threads", "1", "--rounds", "2", "--isa", "scalar"];
    for dtype in ["f32", "bf16", "int8"] {
        let names = [("isa", "scalar"), ("dtype", dtype)];
        let (code, object, _) = bench(&[&["read", "--tokens", "70", "--dtype", dtype], &common[..]].concat());
        assert_eq!(code, Some(0), "{object}");
        let rates = ["tokens_per_s", "gemm_tokens_per_s", "ratio_gemm", "candle_tokens_per_s", "ratio_candle"];
        holds(&object, &names, &[&rates[..], &["tokens", "rounds", "threads", "state_bytes"]].concat());
        assert_eq!((&object["tokens"], &object["rounds"], &object["threads"]), (&70.into(), &2.into(), &1.into()));

        let (code, object, _) = bench(&[&["decode", "--tokens", "3", "--batch", "2", "--dtype", dtype], &common[..]].concat());
        assert_eq!(code, Some(0), "{object}");
        let rates = ["tokens_per_s", "weights_gb_per_s", "buffer_gb_per_s", "ratio_buffer"];
        let counts = ["tokens", "sequences", "rounds", "threads", "parameters", "weight_bytes"];
        holds(&object, &names, &[&rates[..], &counts[..]].concat());
        assert_eq!((&object["tokens"], &object["sequences"]), (&3.into(), &2.into()), "{object}");
    }
}

#[test]
fn memory_and_context_say_what_they_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = write_reader(folder.path());
    let reader = ["--model", model, "--device", "cpu", "--threads", "1"];
    let (code, object, _) = bench(&[&["memory", "--tokens", "3000"], &reader[..]].concat());
    if cfg!(target_os = "linux") {
        assert_eq!(code, Some(0), "{object}");
        assert!(object["tokens"].as_u64().is_some_and(|n| n > 1000) && object["more_mib"].is_number(), "{object}");
        for key in ["short_bytes", "long_bytes", "state_bytes", "disk_bytes"] {
            assert!(object[key].as_u64().is_some_and(|n| n > 0), "{key} of {object}");
        }
    } else {
        assert_ne!(code, Some(0), "only Linux tells: {object}");
    }

    let text = folder.path().join("text.txt");
    std::fs::write(&text, "gate ".repeat(300)).expect("written");
    let text = text.to_str().expect("Unicode");
    let (code, object, _) = bench(&[&["context", text, "--question", "gate", "--rounds", "1"], &reader[..]].concat());
    assert_eq!(code, Some(0), "{object}");
    holds(&object, &[], &["tokens", "rounds", "threads", "cold_ms", "warm_ms", "store_ms", "ratio"]);
}

#[test]
fn what_cannot_be_measured_is_refused_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = write_reader(folder.path());
    let nowhere = folder.path().join("nowhere");
    let nowhere = nowhere.to_str().expect("Unicode");
    let cpu = ["--model", model, "--device", "cpu"];
    for arguments in [
        &[&["read", "--tokens", "0"], &cpu[..]].concat()[..],
        &[&["read", "--rounds", "0"], &cpu[..]].concat(),
        &[&["decode", "--tokens", "0"], &cpu[..]].concat(),
        &[&["decode", "--batch", "0"], &cpu[..]].concat(),
        &[&["context", model, "--rounds", "0"], &cpu[..]].concat(),
        &[&["context", nowhere], &cpu[..]].concat(),
        &["read", "--model", nowhere, "--device", "cpu"],
    ] {
        let (code, object, lines) = bench(arguments);
        assert!(code.is_some_and(|code| code > 2), "{arguments:?}: {code:?} {object}");
        assert!(object["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{arguments:?}: {object}");
        assert_eq!(lines, 1, "{arguments:?}");
    }
    // An instruction set that no machine has both of: one of the two is missing.
    let refused = ["neon", "avx2"].map(|isa| bench(&[&["read", "--isa", isa, "--tokens", "1"], &cpu[..]].concat()));
    let (code, object, _) = refused.iter().find(|(code, ..)| *code != Some(0)).expect("one is missing");
    assert_eq!((*code, &object["error"]["kind"]), (Some(6), &"processor".into()), "{object}");
    // Words that are no measurement are wrong usage.
    for arguments in [&["read", "--isa", "mmx"][..], &["read", "--shape", "huge"], &["memory", "--tokens", "many"], &["speed"]] {
        assert_eq!(bench(arguments).0, Some(2), "{arguments:?}");
    }
}
