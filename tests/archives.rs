//! A reader in one archive is the reader of the folder, wherever the archive lies.

mod tiny;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use palimpsest::{AskOptions, Engine, Error, Options, Reader, ReaderFiles, ReaderOptions};
use safetensors::Dtype;
use tiny::{Tiny, write_word_tokenizer};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// A tiny reader in `folder`, and the archive of it.
fn reader(folder: &Path) -> Vec<u8> {
    Tiny::odd().write_fla(folder, Dtype::F32);
    write_word_tokenizer(folder, &["Nairobi", "is", "the", "capital", "of", "Kenya"]);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_dir_all(".", folder).expect("packed");
    archive.into_inner().expect("packed")
}

fn fingerprint(files: &ReaderFiles) -> String {
    Reader::open_files(files, &ReaderOptions::default()).expect("opens").fingerprint().to_string()
}

#[test]
fn folder_file_stretch_and_bytes_are_one_reader() {
    let (f, other) = (folder(), folder());
    let archive = reader(f.path());
    let whole = other.path().join("reader.tar");
    std::fs::write(&whole, &archive).expect("written");
    // As an asset lies in an app's package: something before it, something after.
    let package = other.path().join("package");
    let mut file = File::create(&package).expect("created");
    file.write_all(&[7; 1234]).and_then(|()| file.write_all(&archive)).and_then(|()| file.write_all(&[9; 777])).expect("written");
    let want = fingerprint(&ReaderFiles::folder(f.path()));
    assert_eq!(fingerprint(&ReaderFiles::at(&whole).expect("a file")), want);
    assert_eq!(fingerprint(&ReaderFiles::at(f.path()).expect("a folder")), want);
    let stretch = ReaderFiles::stretch(File::open(&package).expect("open"), 1234, Some(archive.len() as u64)).expect("listed");
    assert_eq!(fingerprint(&stretch), want);
    assert_eq!(fingerprint(&ReaderFiles::bytes(archive).expect("listed")), want);
}

#[test]
fn what_is_no_whole_archive_is_refused() {
    let f = folder();
    let archive = reader(f.path());
    let refused = |bytes: &[u8]| match ReaderFiles::bytes(bytes.to_vec()) {
        Err(Error::Reader { reason, .. }) => assert!(reason.contains("tar"), "{reason}"),
        other => panic!("{} bytes: {other:?}", bytes.len()),
    };
    refused(&[]);
    refused(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
    refused(&vec![b'x'; 4096]);
    let weights = archive.len() - 1024 - 600;
    refused(&archive[..weights]);
    let beyond = File::open(f.path().join("config.json")).expect("open");
    assert!(matches!(ReaderFiles::stretch(beyond, 1 << 40, None), Err(Error::Reader { .. })));
    assert!(matches!(ReaderFiles::at(f.path().join("tokenizer.json")), Err(Error::Reader { .. })));
}

#[test]
fn memory_that_was_let_go_comes_back() {
    let (f, store) = (folder(), folder());
    let files = ReaderFiles::bytes(reader(f.path())).expect("listed");
    let engine = Engine::open(Options { reader: Some(files), ..Options::new(store.path()) }).expect("opens");
    assert_eq!(engine.trim_memory(), 0, "nothing is loaded yet");
    engine.index().add(palimpsest::index::Document::new("a", "Kenya", "Nairobi is the capital of Kenya.")).expect("added");
    engine.index().commit().expect("committed");
    let ask = || engine.ask("capital of Kenya?", &AskOptions { min_confidence: 0.0, ..AskOptions::default() }).expect("asked");
    let before = ask();
    let held = engine.reader().expect("loaded");
    assert_eq!(engine.trim_memory(), 0, "it is in use");
    drop(held);
    assert!(engine.trim_memory() > 0);
    let after = ask();
    assert_eq!((before.answer, before.confidence), (after.answer, after.confidence));
}
