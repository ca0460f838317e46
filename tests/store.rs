//! Is what comes out of the snapshot store what went in, whatever happened to it in between?
//!
//! `PALIMPSEST_KILLS=500 cargo test --release --test store killed` kills the writer that often (20 times by default).
//! `cargo test --test store -- --ignored write_golden` makes the files of `tests/snapshots/` of the current version anew.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use palimpsest::snapshot::{Chain, Fingerprint, Form, Refusal, Restore, Snapshot, SnapshotKey};
use palimpsest::store::{Store, StoreError, StoreEvent, StoreOptions};
use tempfile::tempdir;

const MIB: u64 = 1 << 20;

fn reader() -> Fingerprint {
    Fingerprint::new([1; 32], [2; 32], 3, "cpu scalar F32")
}

/// Numbers that look drawn (splitmix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The state that belongs to text number `text`.
fn state(text: u64, elements: usize) -> Vec<f32> {
    let mut draw = Draw(text);
    (0..elements).map(|_| (draw.next() >> 40) as f32 / (1 << 22) as f32 - 2.0).collect()
}

fn ids(text: u64) -> Vec<u32> {
    (0..70).map(|i| (text as u32).wrapping_mul(31).wrapping_add(i)).collect()
}

fn key_of(reader: &Fingerprint, ids: &[u32]) -> SnapshotKey {
    let mut chain = Chain::new(reader);
    chain.extend(ids);
    chain.key()
}

fn key(text: u64) -> SnapshotKey {
    key_of(&reader(), &ids(text))
}

fn bits(data: &[f32]) -> Vec<u32> {
    data.iter().map(|x| x.to_bits()).collect()
}

fn options(budget_bytes: u64) -> StoreOptions {
    StoreOptions { budget_bytes, ..StoreOptions::default() }
}

/// Nothing in memory: every hit comes from disk.
fn cold(budget_bytes: u64) -> StoreOptions {
    StoreOptions { memory_bytes: 0, ..options(budget_bytes) }
}

fn open(folder: &Path, options: StoreOptions) -> Store {
    // A child that another test starts holds a copy of every open lock for a moment.
    for _ in 0..100 {
        let (store, events) = Store::open(folder, options.clone()).expect("the store opens");
        if !matches!(&events[..], [StoreEvent::ReadOnly { .. }]) {
            assert_eq!(events, [], "nothing was wrong with it");
            return store;
        }
        drop(store);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("{} stays in use", folder.display());
}

fn put(store: &Store, text: u64, elements: usize, cost_ms: f32) {
    store.put(&key(text), &reader(), 70, &state(text, elements), cost_ms).expect("there is room");
}

/// What `get` gives for a text: its state bit for bit, or a refusal. Anything else fails here.
fn get(store: &Store, text: u64, elements: usize) -> Result<(), Refusal> {
    let snapshot = store.get(&key(text), &reader())?;
    assert_eq!(snapshot.tokens, 70);
    assert!(bits(&snapshot.data) == bits(&state(text, elements)), "text {text} came back with other bytes");
    Ok(())
}

/// Blocks that the files below `folder` take, in bytes.
fn on_disk(folder: &Path) -> u64 {
    let listing = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry"));
    listing
        .map(|e| if e.path().is_dir() { on_disk(&e.path()) } else { e.metadata().expect("a file").len().next_multiple_of(4096) })
        .sum()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::copy(&file, &to).expect("a copy");
    }
}

// Bytes.

#[test]
fn every_bit_of_a_float_survives() {
    let odd = [0x7fc0_1234, 0xffff_ffff, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 1, 0x7f80_0001, 0x3f80_0000];
    let data: Vec<f32> = odd.iter().map(|b| f32::from_bits(*b)).collect();
    let folder = tempdir().expect("folder");
    let store = open(folder.path(), cold(64 * MIB));
    store.put(&key(1), &reader(), u64::MAX, &data, 1.0).expect("put");
    store.put(&key(2), &reader(), 0, &[], 1.0).expect("put");
    drop(store);
    let store = open(folder.path(), cold(64 * MIB));
    let back = store.get(&key(1), &reader()).expect("kept");
    assert_eq!((bits(&back.data), back.tokens), (odd.to_vec(), u64::MAX));
    assert_eq!(store.get(&key(2), &reader()), Ok(Snapshot { tokens: 0, data: vec![] }));
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let data = state(1, 90);
    for form in [Form::F32, Form::F16, Form::Int8] {
        let bytes = Snapshot::encode(70, &data, &reader(), &key(1), form);
        assert!(Snapshot::decode(&bytes, &reader(), &key(1)).is_ok());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(Snapshot::decode(&flipped, &reader(), &key(1)).is_err(), "bit {bit} of byte {at}");
            }
        }
        for length in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..length], &reader(), &key(1)).is_err(), "cut to {length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Snapshot::decode(&longer, &reader(), &key(1)).is_err(), "a byte too many");
    }
}

#[test]
fn a_refusal_names_what_differs() {
    let bytes = Snapshot::encode(70, &state(1, 9), &reader(), &key(1), Form::F32);
    let decode = |fingerprint: &Fingerprint| Snapshot::decode(&bytes, fingerprint, &key_of(fingerprint, &ids(1)));
    let others = [
        Fingerprint::new([9; 32], [2; 32], 3, "cpu scalar F32"),
        Fingerprint::new([1; 32], [9; 32], 3, "cpu scalar F32"),
        Fingerprint::new([1; 32], [2; 32], 9, "cpu scalar F32"),
        Fingerprint::new([1; 32], [2; 32], 3, "cpu avx2 F32"),
    ];
    let is = |got: &Refusal, at: usize| match got {
        Refusal::OtherReader { .. } => at == 0,
        Refusal::OtherTokenizer { .. } => at == 1,
        Refusal::OtherFormat { stored: 3, wanted: 9 } => at == 2,
        Refusal::OtherArithmetic { .. } => at == 3,
        _ => false,
    };
    let store = Store::in_memory(MIB);
    put(&store, 1, 9, 1.0);
    for (at, other) in others.iter().enumerate() {
        let refused = decode(other).expect_err("another reader's");
        assert!(is(&refused, at), "{refused}");
        // A store that has the same text of another reader says so too, whether asked by key or by ids.
        let refused = store.get(&key_of(other, &ids(1)), other).expect_err("another reader's");
        assert!(is(&refused, at), "{refused}");
        match store.longest(other, &ids(1)) {
            (None, Restore::Refused(refused)) => assert!(is(&refused, at), "{refused}"),
            got => panic!("{got:?}"),
        }
    }
    let other_text = Snapshot::decode(&bytes, &reader(), &key(2));
    assert!(matches!(other_text, Err(Refusal::OtherText { .. })), "{other_text:?}");
    assert_eq!(get(&store, 2, 9), Err(Refusal::NeverSeen));
    let misses = store.stats().misses;
    assert_eq!((misses.other_reader, misses.other_tokenizer, misses.other_format, misses.other_arithmetic), (2, 2, 2, 2));
    assert_eq!(misses.never_seen, 1);
}

#[test]
fn rounded_forms_are_near_and_never_taken_for_exact() {
    let data = state(5, 1000);
    let error = |form| {
        let bytes = Snapshot::encode(70, &data, &reader(), &key(5), form);
        assert_eq!(Snapshot::form_of(&bytes), Ok(form));
        let back = Snapshot::decode(&bytes, &reader(), &key(5)).expect("whole").data;
        let worst = data.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        (worst, bytes.len())
    };
    assert_eq!(error(Form::F32), (0.0, 160 + 4000));
    // Elements are within ±2: half a unit of the last place of f16, half a step of 2/127.
    let (f16, f16_bytes) = error(Form::F16);
    assert!(f16 > 0.0 && f16 <= 1.0 / 2048.0, "{f16}");
    assert_eq!(f16_bytes, 160 + 2000);
    let (int8, int8_bytes) = error(Form::Int8);
    assert!(int8 > 0.0 && int8 <= 1.001 / 127.0, "{int8}");
    assert_eq!(int8_bytes, 160 + 1000 + 16 * 4);
    // What a form cannot hold is kept exactly.
    for (form, beyond) in [(Form::F16, 1e6), (Form::Int8, f32::NAN), (Form::Int8, f32::INFINITY)] {
        let bytes = Snapshot::encode(1, &[1.0, beyond], &reader(), &key(1), form);
        assert_eq!(Snapshot::form_of(&bytes), Ok(Form::F32));
    }
    let folder = tempdir().expect("folder");
    let store = open(folder.path(), StoreOptions { form: Form::Int8, ..options(64 * MIB) });
    put(&store, 5, 1000, 1.0);
    let (once, twice) = (store.get(&key(5), &reader()), store.get(&key(5), &reader()));
    assert_eq!(once, twice, "from disk and from memory alike");
    assert_ne!(once.expect("kept").data, data);
    drop(store);
    let store = open(folder.path(), options(64 * MIB));
    assert!(matches!(get(&store, 5, 1000), Err(Refusal::OtherForm { stored: Form::Int8, wanted: Form::F32 })));
    put(&store, 5, 1000, 1.0);
    assert_eq!(get(&store, 5, 1000), Ok(()));
}

#[test]
fn a_key_is_a_function_of_reader_and_ids() {
    let mut draw = Draw(3);
    let ids: Vec<u32> = (0..3000).map(|_| draw.next() as u32).collect();
    for length in [0, 1, 63, 64, 65, 255, 256, 1023, 1024, 1025, 3000] {
        let whole = key_of(&reader(), &ids[..length]);
        let mut pieces = Chain::new(&reader());
        let mut at = 0;
        while at < length {
            let n = (1 + draw.below(90) as usize).min(length - at);
            pieces.extend(&ids[at..at + n]);
            at += n;
        }
        assert_eq!((pieces.key(), pieces.tokens()), (whole, length as u64));
        pieces.push(7);
        assert_ne!(pieces.key(), whole);
        assert_ne!(key_of(&Fingerprint([0; 32]), &ids[..length]), whole);
    }
}

// The tree of prefixes.

#[test]
fn the_longest_ancestor_is_found() {
    let mut draw = Draw(11);
    for round in 0..30 {
        let store = Store::in_memory(64 * MIB);
        let mut kept: Vec<Vec<u32>> = Vec::new();
        for _ in 0..40 {
            // Branches off what is there, at any length.
            let mut ids = match kept.len() as u64 {
                0 => Vec::new(),
                n => kept[draw.below(n) as usize].clone(),
            };
            ids.truncate(draw.below(ids.len() as u64 + 1) as usize);
            let more = draw.below(90);
            ids.extend((0..more).map(|_| draw.below(2) as u32));
            if ids.is_empty() {
                continue;
            }
            store.put(&key_of(&reader(), &ids), &reader(), ids.len() as u64, &[ids.len() as f32], 1.0).expect("put");
            kept.push(ids);
        }
        for _ in 0..60 {
            let mut asked = kept[draw.below(kept.len() as u64) as usize].clone();
            if draw.below(3) > 0 {
                asked.truncate(draw.below(asked.len() as u64 + 1) as usize);
                asked.extend((0..draw.below(70)).map(|_| draw.below(2) as u32));
            }
            let expected = kept.iter().filter(|k| asked.starts_with(k)).map(Vec::len).max();
            let (snapshot, restore) = store.longest(&reader(), &asked);
            assert_eq!(snapshot.as_ref().map(|s| s.tokens as usize), expected, "round {round}, {} ids", asked.len());
            match (expected, restore) {
                (None, Restore::Refused(Refusal::NeverSeen)) => {}
                (Some(n), Restore::Exact { tokens }) => assert_eq!((n, tokens as usize), (asked.len(), n)),
                (Some(n), Restore::Prefix { tokens }) => assert!(n < asked.len() && n == tokens as usize),
                (expected, got) => panic!("{got:?} where {expected:?} is kept"),
            }
        }
    }
}

#[test]
fn a_damaged_ancestor_gives_way_to_the_one_before() {
    let folder = tempdir().expect("folder");
    let ids = ids(1);
    let store = open(folder.path(), cold(64 * MIB));
    for length in [10, 65, 70] {
        // Of different sizes, so that each lies in a file of its own.
        store.put(&key_of(&reader(), &ids[..length]), &reader(), length as u64, &vec![1.0; 100 * length], 1.0).expect("put");
    }
    for (damaged, expected) in [(70, 65), (65, 10)] {
        let name = format!("-{}.slab", (224 + 400 * damaged as u64).next_multiple_of(64));
        let file = files(folder.path()).into_iter().find(|f| f.to_string_lossy().ends_with(&name)).expect("its file");
        let mut bytes = fs::read(&file).expect("read");
        bytes[1000] ^= 1;
        fs::write(&file, bytes).expect("write");
        let (snapshot, restore) = store.longest(&reader(), &ids);
        assert_eq!(restore, Restore::Prefix { tokens: expected });
        assert_eq!(snapshot.expect("a state").tokens, expected);
    }
    assert_eq!(store.stats().entries, 1);
}

// Budget and eviction.

#[test]
fn what_saves_least_a_byte_goes_first() {
    for on_disk in [false, true] {
        let folder = tempdir().expect("folder");
        // Room for four states of 200 kB.
        let elements = 50_000;
        let store = if on_disk { open(folder.path(), options(900_000)) } else { Store::in_memory(900_000) };
        for (text, cost) in [(1, 50.0), (2, 10.0), (3, 30.0), (4, 20.0)] {
            put(&store, text, elements, cost);
        }
        put(&store, 5, elements, 40.0);
        let kept = |store: &Store| (1..=9).filter(|t| store.contains(&key(*t))).collect::<Vec<u64>>();
        assert_eq!(kept(&store), [1, 3, 4, 5], "2 was the cheapest");
        assert_eq!(get(&store, 2, elements), Err(Refusal::Evicted));
        // The clock stands at 10 now: a new one at 12 is above 4, which was used before the clock moved.
        put(&store, 6, elements, 12.0);
        assert_eq!(kept(&store), [1, 3, 5, 6]);
        // Use lifts: 6 (at 22) would go next, but it is used at clock 20.
        assert_eq!(get(&store, 6, elements), Ok(()));
        put(&store, 7, elements, 15.0);
        assert_eq!(kept(&store), [1, 5, 6, 7], "3 had not been used since the clock stood at 0");
        // A pinned one stays, however cheap.
        store.pin(&key(6)).expect("kept");
        for text in 10..20 {
            put(&store, text, elements, 100.0);
        }
        assert_eq!(kept(&store), [6]);
        let stats = store.stats();
        assert_eq!((stats.entries, stats.puts, stats.evictions), (4, 17, 13));
        store.unpin(&key(6)).expect("kept");
        put(&store, 20, elements, 100.0);
        assert_eq!(kept(&store), [0u64; 0]);
    }
}

#[test]
fn small_ones_that_cost_the_same_outlive_large_ones() {
    let folder = tempdir().expect("folder");
    let store = open(folder.path(), options(2 * MIB));
    put(&store, 1, 200_000, 10.0);
    for text in 2..30 {
        put(&store, text, 5_000, 10.0);
    }
    put(&store, 30, 200_000, 10.0);
    put(&store, 31, 100_000, 10.0);
    assert_eq!(get(&store, 1, 200_000), Err(Refusal::Evicted));
    (2..30).for_each(|text| assert_eq!(get(&store, text, 5_000), Ok(())));
}

#[test]
fn refusals_to_put_carry_their_values() {
    let folder = tempdir().expect("folder");
    for store in [open(folder.path(), options(400_000)), Store::in_memory(400_000)] {
        let large = store.put(&key(1), &reader(), 70, &state(1, 100_000), 1.0);
        assert!(matches!(large, Err(StoreError::TooLarge { bytes: 400_000.., budget_bytes: 400_000 })), "{large:?}");
        put(&store, 2, 50_000, 1.0);
        store.pin(&key(2)).expect("kept");
        let full = store.put(&key(3), &reader(), 70, &state(3, 50_000), 1.0);
        assert!(matches!(full, Err(StoreError::AllPinned { pinned_bytes: 200_000.., .. })), "{full:?}");
        assert_eq!(get(&store, 2, 50_000), Ok(()));
        assert!(matches!(store.pin(&key(3)), Err(StoreError::NothingToPin { .. })));
    }
}

#[test]
fn the_budget_holds_on_disk() {
    let folder = tempdir().expect("folder");
    let budget = 12 * MIB;
    let mut draw = Draw(5);
    let sizes = [1_000, 1_024, 3_333, 60_000, 300_000];
    for session in 0..3 {
        let store = open(folder.path(), options(budget));
        for step in 0..400 {
            // The mix changes, so that files of one size make room for another.
            let elements = sizes[(draw.below(3) + step / 150) as usize];
            let text = draw.below(1 << 40);
            put(&store, text, elements, draw.below(100) as f32);
            assert_eq!(get(&store, text, elements), Ok(()));
            if step % 50 == 0 {
                store.flush().expect("flushed");
            }
            if step % 20 == 0 {
                let (disk, told) = (on_disk(folder.path()), store.stats().disk_bytes);
                assert!(disk <= budget, "{disk} bytes in session {session}, step {step}");
                assert!(disk.abs_diff(told) <= budget / 20, "{told} told, {disk} on disk");
            }
        }
        assert!(store.stats().evictions > 0);
        assert!(store.stats().disk_bytes > budget * 85 / 100, "the budget is used: {:?}", store.stats());
        assert_eq!(store.verify(false).expect("verified").damaged, [""; 0]);
    }
    drop(open(folder.path(), options(budget / 4)));
    let disk = on_disk(folder.path());
    assert!(disk <= budget / 4, "a lower budget holds from the opening on: {disk}");
    let store = open(folder.path(), options(budget / 4));
    assert!(store.stats().entries > 0);
    store.clear().expect("cleared");
    assert_eq!(store.stats().entries, 0);
    assert!(on_disk(folder.path()) <= 3 * 4096);
}

#[test]
fn what_moved_to_make_room_is_kept_and_can_go() {
    let folder = tempdir().expect("folder");
    let store = open(folder.path(), cold(2 * MIB));
    // The cheapest lie scattered, so that those behind them move when they go.
    (0..100).for_each(|text| put(&store, text, 2_000, if text % 4 == 0 { 1.0 } else { 90.0 }));
    put(&store, 200, 350_000, 1e6);
    let left: Vec<u64> = (0..100).filter(|text| get(&store, *text, 2_000).is_ok()).collect();
    assert!((60..95).contains(&left.len()) && left.iter().filter(|t| *t % 4 != 0).count() >= 60, "{left:?}");
    assert_eq!(store.verify(false).expect("verified").entries, left.len() as u64 + 1);
    store.clear().expect("cleared");
    assert_eq!(files(&folder.path().join("slots")), [""; 0].map(PathBuf::from));
}

#[test]
fn admission_is_generous_until_half_full() {
    let store = Store::in_memory(100_000);
    assert!(store.admits(&key(1)), "the store is empty");
    put(&store, 1, 13_000, 1.0);
    assert!(!store.admits(&key(2)), "first use");
    assert!(store.seen(&key(2)) && !store.seen(&key(3)));
    assert!(store.admits(&key(2)), "second use");
    assert!(store.admits(&key(1)), "kept already");
}

// Opening.

#[test]
fn what_was_evicted_is_known_after_opening() {
    let folder = tempdir().expect("folder");
    let store = open(folder.path(), options(2 * MIB + 200_000));
    (1..20).for_each(|text| put(&store, text, 50_000, text as f32));
    store.pin(&key(19)).expect("kept");
    assert_eq!(get(&store, 1, 50_000), Err(Refusal::Evicted));
    drop(store);
    // The catalogue does not fit into 4% of so small a budget; with one there is more to know.
    let store = open(folder.path(), options(2 * MIB + 200_000));
    assert_eq!(store.stats().pinned_bytes, 200_160);
    drop(store);
    let folder = tempdir().expect("folder");
    let store = open(folder.path(), options(64 * MIB));
    (1..20).for_each(|text| put(&store, text, 1_000_000, text as f32));
    assert_eq!(get(&store, 1, 1_000_000), Err(Refusal::Evicted));
    drop(store);
    let store = open(folder.path(), options(64 * MIB));
    assert_eq!(get(&store, 1, 1_000_000), Err(Refusal::Evicted));
    assert_eq!(get(&store, 19, 1_000_000), Ok(()));
    assert_eq!(store.verify(true).expect("verified").catalogue_whole, Some(true));
}

#[test]
fn a_second_one_reads_or_is_refused() {
    let folder = tempdir().expect("folder");
    let first = open(folder.path(), options(64 * MIB));
    put(&first, 1, 1000, 1.0);
    let (second, events) = Store::open(folder.path(), options(64 * MIB)).expect("read beside it");
    assert!(matches!(&events[..], [StoreEvent::ReadOnly { .. }]), "{events:?}");
    assert_eq!(get(&second, 1, 1000), Ok(()));
    assert!(second.stats().read_only);
    assert!(!second.admits(&key(2)));
    let refused = second.put(&key(2), &reader(), 70, &state(2, 10), 1.0);
    assert!(matches!(refused, Err(StoreError::ReadOnly { .. })), "{refused:?}");
    assert!(matches!(second.verify(true), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(second.pin(&key(1)), Err(StoreError::ReadOnly { .. })));
    second.flush().expect("nothing to do");
    let exclusive = Store::open(folder.path(), StoreOptions { exclusive: true, ..options(64 * MIB) });
    match exclusive {
        Err(e @ StoreError::InUse { holder, .. }) => {
            assert_eq!(holder, Some(std::process::id()));
            assert!(e.to_string().contains(&std::process::id().to_string()), "{e}");
        }
        other => panic!("{other:?}"),
    }
    // What the first one drops, the second one misses.
    first.clear().expect("cleared");
    let before = files(folder.path());
    let (third, _) = Store::open(folder.path(), StoreOptions { read_only: true, ..cold(MIB) }).expect("opens");
    assert!(matches!(get(&third, 1, 1000), Err(Refusal::NeverSeen)));
    drop((second, third));
    assert_eq!(files(folder.path()), before, "a reader leaves every file as it is");
    put(&first, 3, 1000, 1.0);
    drop(first);
    let again = open(folder.path(), options(64 * MIB));
    assert_eq!(get(&again, 3, 1000), Ok(()));
}

#[test]
fn what_lies_in_the_way_is_set_aside() {
    let folder = tempdir().expect("folder");
    let at = folder.path().join("store");
    fs::write(&at, "a file").expect("written");
    let (store, events) = Store::open(&at, options(64 * MIB)).expect("opens");
    assert!(matches!(&events[..], [StoreEvent::SetAside { path, .. }] if path.is_file()), "{events:?}");
    put(&store, 1, 1000, 1.0);
    drop(store);
    fs::remove_dir_all(at.join("slots")).expect("removed");
    fs::write(at.join("slots"), "a file").expect("written");
    let (store, events) = Store::open(&at, options(64 * MIB)).expect("opens");
    assert!(matches!(&events[..], [StoreEvent::SetAside { .. }]), "{events:?}");
    // The catalogue knew it, its file is gone.
    assert!(get(&store, 1, 1000).is_err());
    put(&store, 1, 1000, 1.0);
    assert_eq!(get(&store, 1, 1000), Ok(()));
    drop(store);
    fs::remove_file(at.join("lock")).expect("removed");
    fs::create_dir(at.join("lock")).expect("made");
    let (store, events) = Store::open(&at, options(64 * MIB)).expect("opens");
    assert!(matches!(&events[..], [StoreEvent::SetAside { .. }]), "{events:?}");
    assert_eq!(get(&store, 1, 1000), Ok(()));
}

/// A small store with a catalogue, of texts 0..24 in slots of three sizes.
fn small_store(folder: &Path) -> HashMap<u64, usize> {
    let texts: HashMap<u64, usize> = (0..24).map(|text| (text, [50, 300, 2000][text as usize % 3])).collect();
    let store = open(folder, options(64 * MIB));
    texts.iter().for_each(|(text, elements)| put(&store, *text, *elements, 3.0));
    store.pin(&key(3)).expect("kept");
    texts
}

/// Opens a store that something was done to, and uses it: nothing but right bytes and refusals may come of it.
fn use_damaged(folder: &Path, texts: &HashMap<u64, usize>, what: &str) -> (usize, Vec<StoreEvent>) {
    let (store, events) = Store::open(folder, cold(64 * MIB)).unwrap_or_else(|e| panic!("{what}: {e}"));
    let report = store.verify(false).expect("verified");
    let lost: Vec<u64> = texts.iter().filter(|(t, e)| get(&store, **t, **e).is_err()).map(|(t, _)| *t).collect();
    assert!(report.damaged.len() <= lost.len(), "{what}");
    // What was lost can be put again, and all is well after the next opening.
    lost.iter().for_each(|text| put(&store, *text, texts[text], 3.0));
    drop(store);
    let store = open(folder, cold(64 * MIB));
    texts.iter().for_each(|(text, elements)| assert_eq!(get(&store, *text, *elements), Ok(()), "{what}"));
    (lost.len(), events)
}

#[test]
fn a_flipped_byte_in_any_file_changes_nothing_silently() {
    let folder = tempdir().expect("folder");
    let (whole, damaged) = (folder.path().join("whole"), folder.path().join("damaged"));
    let texts = small_store(&whole);
    let mut draw = Draw(17);
    let mut noticed = 0;
    let all = files(&whole);
    assert!(all.iter().any(|f| f.ends_with("catalogue.seal")), "{all:?}");
    for round in 0..300 {
        let file = &all[round % all.len()];
        let mut bytes = fs::read(file).expect("read");
        if bytes.is_empty() {
            continue;
        }
        let at = draw.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << draw.below(8);
        let _ = fs::remove_dir_all(&damaged);
        copy(&whole, &damaged);
        let name = file.strip_prefix(&whole).expect("below");
        fs::write(damaged.join(name), bytes).expect("written");
        let (lost, events) = use_damaged(&damaged, &texts, &format!("byte {at} of {}", name.display()));
        let in_slots = name.starts_with("slots");
        assert!(lost <= usize::from(in_slots), "byte {at} of {}: {lost} lost", name.display());
        if name.starts_with("catalogue") || name.ends_with("catalogue.seal") {
            assert!(matches!(&events[..], [StoreEvent::SetAside { .. }]), "byte {at} of {}: {events:?}", name.display());
        }
        noticed += lost + events.len();
    }
    assert!(noticed > 150, "flips were seen: {noticed}");
}

#[test]
fn files_cut_short_emptied_or_gone_are_survived() {
    let folder = tempdir().expect("folder");
    let (whole, damaged) = (folder.path().join("whole"), folder.path().join("damaged"));
    let texts = small_store(&whole);
    let mut draw = Draw(23);
    for file in files(&whole) {
        let bytes = fs::read(&file).expect("read");
        let name = file.strip_prefix(&whole).expect("below").to_path_buf();
        let cuts = [0, draw.below(bytes.len() as u64 + 1) as usize, bytes.len().saturating_sub(1)];
        for cut in cuts.into_iter().map(Some).chain([None]) {
            let _ = fs::remove_dir_all(&damaged);
            copy(&whole, &damaged);
            match cut {
                Some(cut) => fs::write(damaged.join(&name), &bytes[..cut]).expect("written"),
                None => fs::remove_file(damaged.join(&name)).expect("removed"),
            }
            use_damaged(&damaged, &texts, &format!("{} cut to {cut:?}", name.display()));
        }
        let _ = fs::remove_dir_all(&damaged);
        copy(&whole, &damaged);
        let noise: Vec<u8> = (0..bytes.len() + 100).map(|_| draw.next() as u8).collect();
        fs::write(damaged.join(&name), noise).expect("written");
        use_damaged(&damaged, &texts, &format!("{} full of noise", name.display()));
    }
}

#[test]
fn verify_finds_and_repairs() {
    let folder = tempdir().expect("folder");
    let texts = small_store(folder.path());
    let store = open(folder.path(), cold(64 * MIB));
    assert_eq!(store.verify(false).expect("verified").entries, 24);
    let file = files(&folder.path().join("slots")).pop().expect("a file");
    let mut bytes = fs::read(&file).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).expect("written");
    let found = store.verify(false).expect("verified");
    assert_eq!((found.damaged.len(), found.repaired), (1, 0));
    assert_eq!(store.verify(true).expect("verified").repaired, 1);
    assert_eq!(store.verify(true).expect("verified").damaged, [""; 0]);
    assert_eq!(store.stats().entries, 23);
    drop(store);
    let store = open(folder.path(), cold(64 * MIB));
    assert_eq!(texts.iter().filter(|(t, e)| get(&store, **t, **e).is_err()).count(), 1);
}

#[test]
fn a_slot_that_was_only_begun_is_free() {
    let folder = tempdir().expect("folder");
    let texts = small_store(folder.path());
    fs::remove_file(folder.path().join("catalogue.seal")).expect("sealed");
    for file in files(&folder.path().join("slots")) {
        // The next slot: its cleared envelope, and a part of what follows it.
        let bytes = fs::read(&file).expect("read");
        let stride = file.to_string_lossy().rsplit(['-', '.']).nth(1).and_then(|n| n.parse().ok()).expect("a stride");
        let begun = [bytes.clone(), vec![0; bytes.len().next_multiple_of(stride) - bytes.len() + 64]].concat();
        for more in [0, 1, 159, 161] {
            fs::write(&file, [&begun[..], &vec![7; more]].concat()).expect("written");
            let (store, events) = Store::open(folder.path(), StoreOptions { read_only: true, ..cold(64 * MIB) }).expect("opens");
            assert_eq!((store.stats().entries, events), (24, vec![]));
        }
        fs::write(&file, [&begun[..], &[7; 64]].concat()).expect("written");
    }
    let store = open(folder.path(), cold(64 * MIB));
    (100..103).for_each(|text| put(&store, text, [50, 300, 2000][text as usize % 3], 1.0));
    texts.iter().for_each(|(text, elements)| assert_eq!(get(&store, *text, *elements), Ok(())));
}

// Threads and kills.

#[test]
fn many_threads_get_right_bytes_or_a_refusal() {
    let folder = tempdir().expect("folder");
    // Tight, and of two sizes, so that slots are written over and moved while others read them.
    let store = open(folder.path(), StoreOptions { memory_bytes: 300_000, ..options(2 * MIB) });
    let hits: u64 = std::thread::scope(|scope| {
        let work: Vec<_> = (0..8)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || {
                    let mut draw = Draw(thread);
                    let mut hits = 0;
                    for step in 0..400 {
                        let text = draw.below(90);
                        let elements = if text.is_multiple_of(3) { 20_000 } else { 5_000 };
                        match get(store, text, elements) {
                            Ok(()) => hits += 1,
                            Err(Refusal::NeverSeen | Refusal::Evicted) => put(store, text, elements, (text % 7) as f32),
                            Err(other) => panic!("{other}"),
                        }
                        if step % 100 == thread * 10 {
                            store.flush().expect("flushed");
                        }
                    }
                    hits
                })
            })
            .collect();
        work.into_iter().map(|w| w.join().expect("no panic")).sum()
    });
    let stats = store.stats();
    assert!(hits > 300 && stats.evictions > 300, "{hits} hits, {stats:?}");
    assert!(on_disk(folder.path()) <= 2 * MIB);
    assert_eq!(store.verify(false).expect("verified").damaged, [""; 0]);
    drop(store);
    drop(open(folder.path(), options(2 * MIB)));
}

const WRITER: &str = "PALIMPSEST_STORE_WRITER";

fn killed_elements(text: u64) -> usize {
    [1000, 300_000, 30_000][text as usize % 3]
}

/// Writes without end, and says what has reached the disk. Runs only where [`killed_writers_lose_nothing_they_flushed`]
/// starts it.
#[test]
fn writer_to_be_killed() {
    let Ok(work) = std::env::var(WRITER) else { return };
    let (from, folder) = work.split_once(' ').expect("a number and a folder");
    let (store, events) = Store::open(Path::new(folder), options(24 * MIB)).expect("opens");
    println!("\nopened {events:?}");
    let from: u64 = from.parse().expect("a number");
    for text in from.. {
        put(&store, text, killed_elements(text), 5.0);
        let _ = get(&store, text.saturating_sub(text % 17), killed_elements(text.saturating_sub(text % 17)));
        if text % 5 == 0 {
            store.flush().expect("flushed");
            println!("flushed {text}");
        }
    }
}

#[test]
fn killed_writers_lose_nothing_they_flushed() {
    let kills: u64 = std::env::var("PALIMPSEST_KILLS").ok().map_or(20, |n| n.parse().expect("a number"));
    let folder = tempdir().expect("folder");
    let mut draw = Draw(std::process::id().into());
    let (mut acknowledged, mut missing, mut next) = (0u64, 0u64, 0);
    let mut flushed: Vec<u64> = Vec::new();
    for round in 0..kills {
        let mut writer = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env(WRITER, format!("{next} {}", folder.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a writer");
        let mut said = BufReader::new(writer.stdout.take().expect("its output")).lines().map_while(Result::ok);
        let opened = said.find(|line| line.starts_with("opened")).expect("it opens the store");
        assert_eq!(opened, "opened []", "round {round}: a kill is no damage");
        std::thread::sleep(Duration::from_micros(draw.below(120_000)));
        writer.kill().expect("killed");
        if let Some(last) = said.filter_map(|l| l.strip_prefix("flushed ").and_then(|n| n.parse::<u64>().ok())).last() {
            // The last ones are within the budget whatever was written after them.
            flushed.extend(last.saturating_sub(5).max(next)..=last);
        }
        writer.wait().expect("gone");
        next += 1000;
        if round % 2 == 0 && round + 1 < kills {
            // The next writer finds what the kill left, not what a look at it made of it.
            continue;
        }
        let store = open(folder.path(), cold(24 * MIB));
        let report = store.verify(false).expect("verified");
        assert!(report.damaged.is_empty(), "round {round}: {:?}", report.damaged);
        for text in flushed.drain(..) {
            acknowledged += 1;
            match get(&store, text, killed_elements(text)) {
                Ok(()) => {}
                Err(Refusal::Evicted | Refusal::NeverSeen) => missing += 1,
                Err(other) => panic!("round {round}, text {text}: {other}"),
            }
        }
        assert!(on_disk(folder.path()) <= 24 * MIB + 24 * MIB / 20);
    }
    println!("{kills} kills, {acknowledged} flushed snapshots looked at, {missing} of them evicted since");
    assert!(acknowledged >= kills / 2 && missing * 2 <= acknowledged, "{missing} of {acknowledged} are gone");
}

// Golden files.

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
