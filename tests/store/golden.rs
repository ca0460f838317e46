//! Do the bytes of every version that ever was still open?
//!
//! `cargo test --test store -- --ignored write_golden` makes the files of `tests/snapshots/` of the current version anew.

use std::fs;
use std::path::{Path, PathBuf};

use palimpsest::snapshot::{Form, Snapshot};
use tempfile::tempdir;

use crate::states::*;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")
}

const GOLDEN: [(&str, Form); 3] =
    [("v1_f32.snapshot", Form::F32), ("v1_f16.snapshot", Form::F16), ("v1_int8.snapshot", Form::Int8)];

/// Elements that every form holds exactly: multiples of 1/32 below 127/32, of which each block has the largest.
fn golden_state() -> Vec<f32> {
    (0..200u32).map(|i| if i % 64 == 0 { 127.0 / 32.0 } else { (i as f32 * 7.0 % 255.0 - 127.0) / 32.0 }).collect()
}

#[test]
#[ignore = "makes the golden files of the current version anew"]
fn write_golden() {
    fs::create_dir_all(golden()).expect("a folder");
    for (name, form) in GOLDEN {
        fs::write(golden().join(name), Snapshot::encode(70, &golden_state(), &reader(), &key(1), form)).expect("written");
    }
    let at = golden().join("v1_store");
    let _ = fs::remove_dir_all(&at);
    drop({
        let store = open(&at, options(MIB));
        store.put(&key(1), &reader(), 70, &golden_state(), 3.0).expect("put");
        store.put(&key(2), &reader(), 70, &golden_state()[..10], 3.0).expect("put");
        store.pin(&key(2)).expect("kept");
        store
    });
    let _ = fs::remove_file(at.join("lock"));
}

#[test]
fn golden_files_of_every_version_open() {
    for (name, form) in GOLDEN {
        let bytes = fs::read(golden().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let snapshot = Snapshot::decode(&bytes, &reader(), &key(1)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((snapshot.tokens, bits(&snapshot.data)), (70, bits(&golden_state())), "{name}");
        assert_eq!(Snapshot::form_of(&bytes), Ok(form), "{name}");
        println!("golden {name} ok");
    }
    let folder = tempdir().expect("folder");
    copy(&golden().join("v1_store"), folder.path());
    let store = open(folder.path(), options(MIB));
    assert_eq!(store.get(&key(1), &reader()).expect("kept").data, golden_state());
    assert_eq!(store.get(&key(2), &reader()).expect("kept").data, golden_state()[..10]);
    assert_eq!(store.stats().pinned_bytes, 200);
    println!("golden v1_store ok");
}
