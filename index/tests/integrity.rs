//! Does a byte that changes on the disk ever change an answer?

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use palimpsest_index::{Document, Index, IndexError};

const QUESTIONS: [&str; 3] = ["orchard fruit", "what grows in the south?", "number 17"];

fn filled(dir: &Path) {
    let index = Index::open(dir).expect("an index");
    for round in 0..2 {
        for i in 0..40 {
            let text = format!("number {i} grows in the orchard.\n\nA fruit of the south, round {round}. ").repeat(1 + i % 5);
            index.add(Document::new(format!("id-{}", i + 30 * round), format!("Title {i}"), text)).expect("added");
        }
        index.commit().expect("committed");
    }
    index.forget("id-3").expect("forgotten");
    // An ingest, of nothing, tidies up: no file is left that nobody reads.
    index.ingest(&[], &|_| {}).expect("tidied");
}

type Answers = Vec<(String, Vec<(String, u64, String)>)>;

fn answers(index: &Index) -> Result<Answers, IndexError> {
    let mut all = Vec::new();
    for question in QUESTIONS {
        let hits = index.search(question, 20)?;
        all.push((question.to_string(), hits.into_iter().map(|h| (h.document, h.range.start, h.text)).collect()));
    }
    let documents = index.documents()?.into_iter().map(|d| (d.id, d.text_bytes, d.text_sha256)).collect();
    all.push(("documents".to_string(), documents));
    Ok(all)
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("listed").map(|e| e.expect("an entry"));
    entries.map(|e| (e.file_name().into_string().expect("Unicode"), fs::read(e.path()).expect("read"))).collect()
}

#[test]
fn a_flipped_byte_is_refused_or_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let expected = answers(&Index::open(dir.path()).expect("opened")).expect("answers");
    assert!(expected.iter().all(|(_, found)| !found.is_empty()));
    let (mut refused, mut harmless) = (0, BTreeMap::new());
    for (name, bytes) in files(dir.path()) {
        let path = dir.path().join(&name);
        let step = (bytes.len() / 40).max(1);
        for at in (0..bytes.len()).step_by(step).chain(bytes.len().saturating_sub(12)..bytes.len()) {
            for flip in [0x01, 0x80] {
                let mut broken = bytes.clone();
                broken[at] ^= flip;
                fs::write(&path, &broken).expect("written");
                match Index::open(dir.path()).and_then(|index| answers(&index)) {
                    Err(IndexError::Damaged { .. } | IndexError::Version { .. }) => refused += 1,
                    Err(other) => panic!("{name}, byte {at}: {other}"),
                    Ok(found) => {
                        assert_eq!(found, expected, "{name}, byte {at} of {}", bytes.len());
                        *harmless.entry(name.clone()).or_insert(0) += 1;
                    }
                }
            }
        }
        fs::write(&path, &bytes).expect("written");
    }
    assert_eq!(answers(&Index::open(dir.path()).expect("opened")).expect("answers"), expected);
    let unseen: i32 = harmless.values().sum();
    assert!(refused > 20 * unseen, "{refused} refused, these changed nothing: {harmless:?}");
}

#[test]
fn a_file_that_is_cut_or_gone_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    for (name, bytes) in files(dir.path()).into_iter().filter(|(name, bytes)| !bytes.is_empty() && name != ".managed.json") {
        let path = dir.path().join(&name);
        for kept in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&path, &bytes[..kept]).expect("written");
            let opened = Index::open(dir.path());
            assert!(matches!(opened, Err(IndexError::Damaged { .. })), "{name}, {kept} bytes: {:?}", opened.err());
        }
        fs::remove_file(&path).expect("removed");
        let opened = Index::open(dir.path());
        assert!(matches!(opened, Err(IndexError::Damaged { .. })), "{name} gone: {:?}", opened.err());
        fs::write(&path, &bytes).expect("written");
    }
    Index::open(dir.path()).expect("opened").verify().expect("sound");
}

#[test]
fn another_format_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    filled(dir.path());
    let path = dir.path().join("palimpsest.json");
    let kept = fs::read_to_string(&path).expect("read");
    let line = kept.find("\n#palimpsest").expect("a seal");
    let newer = kept[..line].replace("\"format\":1", "\"format\":7");
    fs::write(&path, format!("{newer}\n#palimpsest crc32 {:08x}\n", crc32fast::hash(newer.as_bytes()))).expect("written");
    let opened = Index::open(dir.path());
    assert!(matches!(opened, Err(IndexError::Version { found: 7, expected: 1, .. })), "{:?}", opened.err());
}
