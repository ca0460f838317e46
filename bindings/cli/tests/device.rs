//! `--device`: where there is no GPU the program says what is missing, and reads on the CPU.

#[path = "../../../tests/tiny/mod.rs"]
mod tiny;

use std::process::Command;

use palimpsest_engine::kernels::cuda::Gpu;
use serde_json::Value;
use tiny::{Tiny, write_word_tokenizer};

/// Exit code, the object on stdout, lines on stderr.
fn run(args: &[&str]) -> (Option<i32>, Value, usize) {
    let out = Command::new(env!("CARGO_BIN_EXE_palimpsest")).args(args).arg("--json").output().expect("the program starts");
    let object = serde_json::from_slice(&out.stdout).unwrap_or(Value::Null);
    (out.status.code(), object, String::from_utf8_lossy(&out.stderr).lines().count())
}

#[test]
fn without_a_gpu_cuda_is_refused_in_one_line() {
    if Gpu::open().is_ok() {
        return println!("skipped: without_a_gpu_cuda_is_refused_in_one_line: there is a GPU");
    }
    let folder = tempfile::tempdir().expect("a folder");
    Tiny::odd().write_fla(folder.path(), safetensors::Dtype::F32);
    write_word_tokenizer(folder.path(), &["gate"]);
    let model = folder.path().to_str().expect("a name");
    for verb in [&["bench", "kernels"][..], &["bench", "read", "--model", model], &["bench", "decode", "--model", model]] {
        let (code, object, lines) = run(&[verb, &["--device", "cuda"]].concat());
        assert_eq!((code, lines), (Some(6), 1), "{verb:?}: {object}");
        assert_eq!(object["error"]["kind"], "processor");
        assert!(object["error"]["message"].as_str().is_some_and(|m| m.contains("GPU")), "{object}");
    }
}

#[test]
fn the_cpu_is_measured_too() {
    let folder = tempfile::tempdir().expect("a folder");
    Tiny::odd().write_fla(folder.path(), safetensors::Dtype::F32);
    write_word_tokenizer(folder.path(), &["gate"]);
    let model = folder.path().to_str().expect("a name");
    let (code, object, _) = run(&["bench", "decode", "--batch", "2", "--tokens", "4", "--model", model, "--device", "cpu"]);
    assert_eq!(code, Some(0), "{object}");
    assert!(object["tokens_per_s"].as_f64().is_some_and(|x| x > 0.0) && object["device_tokens_per_s"].is_null(), "{object}");
    let (code, object, _) = run(&["bench", "kernels", "--device", "cpu"]);
    assert_eq!(code, Some(0), "{object}");
    let rates = object["kernels"].as_array().expect("a list");
    assert!(rates.len() >= 5 && rates.iter().all(|r| r["ratio_floor"].as_f64().is_some_and(|x| x > 0.0)), "{object}");
}
