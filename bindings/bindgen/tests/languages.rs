//! What the generator refuses, it refuses in words.

use std::process::Command;

#[test]
fn unknown_languages_and_files_that_are_no_library_are_refused() {
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_palimpsest-bindgen")).args(args).output().expect("runs");
    let none = run(&[]);
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("usage"));
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().to_string_lossy();
    let cobol = run(&["cobol", "library.so", &out]);
    assert_eq!(cobol.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&cobol.stderr).contains("cobol"));
    let missing = run(&["swift", "no-library.so", &out]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no-library.so"));
}
