//! What was read is not read again, and what comes back is what went in, bit for bit.

mod tiny;

use std::path::Path;

use palimpsest::checkpoint::Checkpoint;
use palimpsest::kernels::{Dtype as Kept, Isa, Kernels};
use palimpsest::model::{Model, Scratch, Sequence, Want};
use palimpsest::read::{ReadPassage, read_passages};
use palimpsest::snapshot::{Chain, Fingerprint, NEAR_TOLERANCE};
use palimpsest::state::State;
use palimpsest::store::{Store, StoreOptions};
use palimpsest::{Reader, ReaderOptions, Restore};
use safetensors::Dtype;
use tiny::{Noise, Tiny, write_word_tokenizer};

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

/// Reads `ids` into `state`: the logits after the last token.
fn logits(model: &Model, ids: &[u32], state: &mut State, pool: &rayon::ThreadPool) -> Vec<f32> {
    let mut last = Vec::new();
    let mut batch = [Sequence { ids, state }];
    let read = || model.forward(&mut batch, Want::Last, &mut Scratch::default(), &mut |_, _, row| last = row.to_vec());
    pool.install(read).expect("read");
    last
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

/// The contract of [`Restore`], for every instruction set and type of weights, over random splits, threads and neighbours: what
/// comes after a hit has the bits of what comes after a miss.
#[test]
fn logits_after_a_hit_are_those_after_a_miss() {
    let folder = tempfile::tempdir().expect("folder");
    Tiny::odd().write_fla(folder.path(), Dtype::F32);
    let checkpoint = Checkpoint::open(folder.path()).expect("checkpoint");
    let mut noise = Noise(41);
    for isa in Isa::available() {
        for kept in [Kept::F32, Kept::Bf16, Kept::Int8] {
            let model = Model::load(&checkpoint, Kernels::new(isa).expect("available"), kept).expect("model");
            let reader = Fingerprint::new([1; 32], [2; 32], 1, &format!("cpu {isa} {kept:?}"));
            let store = Store::open(&folder.path().join(format!("{isa}-{kept:?}")), StoreOptions::default()).expect("a store").0;
            for round in 0..12 {
                let ids: Vec<u32> = (0..1 + noise.below(300)).map(|_| noise.below(300) as u32).collect();
                let mut missed = State::empty(model.config());
                let miss = logits(&model, &ids, &mut missed, &pool(1));
                // What is kept is read beside others, on other threads, and cut where chance will have it.
                let at = noise.below(ids.len());
                let mut states = [(); 3].map(|()| State::empty(model.config()));
                let others: Vec<u32> = ids.iter().rev().copied().collect();
                let texts = [&others[..], &ids[..at], &others[..ids.len() / 2]];
                let mut batch: Vec<_> = texts.iter().zip(&mut states).map(|(ids, state)| Sequence { ids, state }).collect();
                let read = || model.forward(&mut batch, Want::Nothing, &mut Scratch::default(), &mut |_, _, _| {});
                pool(1 + round % 4).install(read).expect("read");
                let mut chain = Chain::new(&reader);
                chain.extend(&ids[..at]);
                store.put(&chain.key(), &reader, at as u64, states[1].data(), 1.0).expect("put");
                let (snapshot, restore) = store.longest(&reader, &ids);
                assert!(matches!(restore, Restore::Prefix { tokens } if tokens >= at as u64), "{restore:?}");
                let snapshot = snapshot.expect("a state");
                let from = snapshot.tokens as usize;
                let mut hit = State::from_parts(model.config(), snapshot.tokens, &snapshot.data).expect("its size");
                let after = logits(&model, &ids[from..], &mut hit, &pool(1 + noise.below(4)));
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert!(bits(&after) == bits(&miss), "round {round}: {from} of {} ids on {isa} {kept:?}", ids.len());
                assert!(bits(hit.data()) == bits(missed.data()), "round {round}: the state on {isa} {kept:?}");
            }
        }
    }
}

/// |a - b| / |b|
fn apart(a: &[f32], b: &[f32]) -> f32 {
    let square = |x: f32| f64::from(x).powi(2);
    let (off, norm): (f64, f64) = a.iter().zip(b).fold((0.0, 0.0), |s, (a, b)| (s.0 + square(a - b), s.1 + square(*b)));
    (off / norm).sqrt() as f32
}

/// Logits of one arithmetic against those of scalar f32, and those after a state of it was taken up by scalar f32.
fn held_to(bound: f32, model: &Model, exact: &Model, ids: &[u32], what: &str) {
    let read = |model: &Model, ids: &[u32], state: &mut State| logits(model, ids, state, &pool(2));
    let empty = || State::empty(exact.config());
    let right = read(exact, ids, &mut empty());
    let (text, last) = ids.split_at(ids.len() - 1);
    let mut other = empty();
    read(model, text, &mut other);
    let (taken_up, own) = (read(exact, last, &mut other.clone()), read(model, last, &mut other));
    let (own, taken_up) = (apart(&own, &right), apart(&taken_up, &right));
    assert!(own <= bound && taken_up <= bound, "{what}, {} tokens: {own:.1e}, taken up {taken_up:.1e}", ids.len());
}

#[test]
fn other_arithmetic_stays_within_the_stated_tolerance() {
    let folder = tempfile::tempdir().expect("folder");
    Tiny::odd().write_fla(folder.path(), Dtype::F32);
    let tiny = Checkpoint::open(folder.path()).expect("checkpoint");
    let load = |from: &Checkpoint, isa, kept| Model::load(from, Kernels::new(isa).expect("available"), kept).expect("model");
    let exact = load(&tiny, Isa::Scalar, Kept::F32);
    let mut noise = Noise(43);
    for isa in Isa::available() {
        for (kept, bound) in [(Kept::F32, 1e-4), (Kept::Bf16, 2e-2)] {
            let model = load(&tiny, isa, kept);
            for n in [2, 17, 64, 131] {
                let ids: Vec<u32> = (0..n).map(|_| noise.below(300) as u32).collect();
                held_to(bound, &model, &exact, &ids, &format!("{isa} {kept:?}"));
            }
        }
    }
    // What rounding does to random weights says little about a trained reader: the one that ships, on a real text.
    let folder = palimpsest::default_reader().expect("the reader that ships");
    let ships = Checkpoint::open(&folder).expect("checkpoint");
    let reader = Reader::open(&folder, &ReaderOptions::default()).expect("the reader that ships");
    let text = include_str!("../examples/documents/finland.md");
    let ids = &reader.prompt().passage("Finland", &text[..400]).expect("passage").ids[..24];
    let exact = load(&ships, Isa::Scalar, Kept::F32);
    for isa in Isa::available() {
        for (kept, bound) in [(Kept::F32, 1e-4), (Kept::Bf16, 1e-2), (Kept::Int8, NEAR_TOLERANCE)] {
            held_to(bound, &load(&ships, isa, kept), &exact, ids, &format!("the reader that ships, {isa} {kept:?}"));
        }
    }
}

#[test]
fn what_passages_begin_with_is_read_once() {
    let folder = tempfile::tempdir().expect("folder");
    let reader = reader(&folder.path().join("reader"), 7);
    let heading = "The erase gate and the write gate are separate: that is the news of the paper. ".repeat(3);
    let passages = |ends: &[&str]| -> Vec<_> {
        ends.iter().map(|end| reader.prompt().passage("A title", &format!("{heading}{end}")).expect("passage")).collect()
    };
    let store = store(&folder.path().join("store"));
    let read = read_passages(&reader, &store, passages(&["One.", "Another one.", "A third."])).expect("read");
    let shared = read[1].shared_tokens;
    assert!(
        shared >= 64 && shared.is_multiple_of(64) && shared == read[2].shared_tokens && read[0].shared_tokens == 0,
        "{shared}"
    );
    let fresh = Store::in_memory(64 << 20);
    for (alone, shared) in passages(&["One.", "Another one.", "A third."]).into_iter().zip(read) {
        let alone = read_passages(&reader, &fresh, vec![alone]).expect("read").remove(0);
        assert_eq!((alone.state, alone.shared_tokens), (shared.state, 0));
    }
    // The beginning is kept, too: a fourth passage goes on from it.
    let fourth = read_passages(&reader, &store, passages(&["Quite another one of them."])).expect("read").remove(0);
    assert!(matches!(fourth.restore, Restore::Prefix { tokens } if tokens >= shared), "{:?}", fourth.restore);
}
