//! The GPU's kernels as they are embedded are what their sources make.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is the report

use std::io::Read;
use std::path::Path;
use std::process::Command;

/// What is embedded was made from the sources beside it; where there is the compiler, it is made again and compared.
#[test]
fn embedded_code_is_that_of_its_sources() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    if !folder.exists() {
        return println!("skipped: embedded_code_is_that_of_its_sources: no sources here");
    }
    let made = Command::new("bash").arg("build.sh").arg("--hash").current_dir(&folder).output().expect("bash runs");
    let hash = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let kept = std::fs::read_to_string(folder.join("code/sources.sha256")).unwrap();
    assert_eq!(hash, kept.trim(), "the sources changed: run kernels/cuda/build.sh");
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".into());
    let version = Command::new(&nvcc).arg("--version").output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    match version {
        Ok(version) if version.contains("V13.0.88") => {}
        Ok(version) => return println!("skipped: making it again: {nvcc} is not 13.0.88: {version}"),
        Err(e) => return println!("skipped: making it again: {nvcc}: {e}"),
    }
    let again = Path::new(env!("CARGO_TARGET_TMPDIR")).join("embedded-again");
    let status = Command::new("bash").arg("build.sh").arg(&again).current_dir(&folder).status().unwrap();
    assert!(status.success());
    for name in ["kernels.ptx.zst", "kernels.cubin.zst"] {
        // What is packed is compared: packers differ.
        let [kept, made] = [folder.join("code").join(name), again.join(name)].map(|f| {
            let mut all = Vec::new();
            let packed = std::fs::File::open(f).unwrap();
            ruzstd::decoding::StreamingDecoder::new(packed).unwrap().read_to_end(&mut all).unwrap();
            all
        });
        assert!(kept == made, "{name} is not what its sources make: run kernels/cuda/build.sh");
    }
}
