//! What was read is not read again, and what comes back is what went in, bit for bit.

mod tiny;

use std::path::Path;

use palimpsest::model::{Sequence, Want};
use palimpsest::read::{ReadPassage, read_passages};
use palimpsest::store::{Store, StoreOptions};
use palimpsest::{Reader, ReaderOptions, Restore};
use safetensors::Dtype;
use tiny::{Tiny, write_word_tokenizer};

const TEXTS: [&str; 3] =
    ["Nairobi is the capital of Kenya.", "The erase gate and the write gate are separate: that is the news of the paper.", ""];

fn reader(folder: &Path, seed: u64) -> Reader {
    Tiny { seed, ..Tiny::odd() }.write_fla(folder, Dtype::F32);
    write_word_tokenizer(folder, &["Nairobi", "capital", "gate"]);
    Reader::open(folder, &ReaderOptions::default()).expect("a tiny reader")
}

fn store(folder: &Path) -> Store {
    Store::open(folder, StoreOptions { budget_bytes: 64 << 20, ..StoreOptions::default() }).expect("a store").0
}

fn read(reader: &Reader, store: &Store) -> Vec<ReadPassage> {
    let passages = TEXTS.iter().map(|t| reader.prompt().passage("A title", t).expect("passage")).collect();
    read_passages(reader, store, passages).expect("read")
}

/// Bits of the states, and of the logits after a question.
fn bits(reader: &Reader, read: &mut [ReadPassage]) -> Vec<Vec<u32>> {
    let question = reader.prompt().question("What is the capital?").expect("question");
    let mut out: Vec<Vec<u32>> = read.iter().map(|p| p.state.data().iter().map(|x| x.to_bits()).collect()).collect();
    let mut batch: Vec<_> = read.iter_mut().map(|p| Sequence { ids: &question, state: &mut p.state }).collect();
    reader.forward(&mut batch, Want::Last, &mut |i, _, row| out[i].extend(row.iter().map(|x| x.to_bits()))).expect("asked");
    out
}

#[test]
fn a_hit_equals_a_miss_bit_for_bit() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let path = folder.path().join("store");
    let mut cold = read(&reader, &store(&path));
    assert!(cold.iter().all(|p| p.tokens_restored() == 0), "nothing was there yet");
    let again = store(&path);
    let mut warm = read(&reader, &again);
    for p in &warm {
        assert_eq!(p.restore, Restore::Exact { tokens: p.tokens.ids.len() as u64 });
        assert_eq!(p.tokens_read(), 0);
    }
    assert_eq!(bits(&reader, &mut cold), bits(&reader, &mut warm));
}

#[test]
fn a_snapshot_of_other_weights_is_not_taken() {
    let folder = tempfile::tempdir().expect("folder");
    let store = store(&folder.path().join("store"));
    let one = reader(&folder.path().join("one"), 7);
    let other = reader(&folder.path().join("other"), 8);
    assert_ne!(one.fingerprint().to_string(), other.fingerprint().to_string());
    read(&one, &store);
    let passages = read(&other, &store);
    assert!(passages.iter().all(|p| matches!(p.restore, Restore::Refused(_)) && p.tokens_restored() == 0));
}

#[test]
fn a_longer_text_goes_on_from_the_prefix_that_is_there() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let store = store(&folder.path().join("store"));
    let whole = reader.prompt().passage("", "Nairobi is the capital of Kenya and lies high.").expect("passage");
    let mut prefix = whole.clone();
    prefix.ids.truncate(8);
    prefix.origins.truncate(8);
    read_passages(&reader, &store, vec![prefix]).expect("read");
    let fresh = Store::in_memory(1 << 20);
    let from_prefix = read_passages(&reader, &store, vec![whole.clone()]).expect("read").remove(0);
    let from_empty = read_passages(&reader, &fresh, vec![whole]).expect("read").remove(0);
    assert_eq!(from_prefix.restore, Restore::Prefix { tokens: 8 });
    assert_eq!(from_prefix.state, from_empty.state);
}
