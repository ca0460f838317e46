//! Does every index folder open that was ever shipped?
//!
//! `museum/format-1` was made by `cargo test -p palimpsest-index --test museum -- --ignored`. A change of format adds a folder
//! and changes none.

use std::fs;
use std::path::{Path, PathBuf};

use palimpsest_index::{Document, Filter, Index, SearchOptions};

const TEXT: &str = "# Palimpsest\n\nA parchment that is scraped and written over again. ÄÖ 日本語 🍎\n";

fn museum(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/museum").join(format)
}

/// The exhibits are not to be written to, not even by a lock.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

#[test]
fn format_1_opens_and_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    copy(&museum("format-1"), dir.path());
    let index = Index::open(dir.path()).expect("opened");
    assert_eq!(index.document("old").expect("read").expect("there").text, TEXT);
    let mut options = SearchOptions::default();
    options.filter = Some(Filter::at_least("year", 2026i64));
    let hits = index.search_with("scraped parchments", &options).expect("hits");
    assert_eq!((hits.len(), hits[0].document.as_str()), (1, "old"));
    index.add(Document::new("new", "New", "written over")).expect("added");
    index.commit().expect("committed");
    assert_eq!(index.documents().expect("listed").len(), 2);
}

#[test]
#[ignore = "makes the exhibit"]
fn make() {
    let dir = museum("format-1");
    assert!(!dir.exists(), "an exhibit is made once");
    let index = Index::open(&dir).expect("an index");
    let mut document = Document::new("old", "Palimpsest", TEXT);
    document.metadata.insert("year".into(), 2026i64.into());
    index.add(document).expect("added");
    index.ingest(&[], &|_| {}).expect("committed");
}
