//! States, their keys, and stores of them: what every question about the store begins with.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};

use palimpsest::snapshot::{Chain, Fingerprint, Refusal, SnapshotKey};
use palimpsest::store::{Store, StoreEvent, StoreOptions};

pub const MIB: u64 = 1 << 20;

pub fn reader() -> Fingerprint {
    Fingerprint::new([1; 32], [2; 32], 3, "cpu scalar F32")
}

/// Numbers that look drawn (splitmix64).
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// The state that belongs to text number `text`.
pub fn state(text: u64, elements: usize) -> Vec<f32> {
    let mut draw = Draw(text);
    (0..elements).map(|_| (draw.next() >> 40) as f32 / (1 << 22) as f32 - 2.0).collect()
}

pub fn ids(text: u64) -> Vec<u32> {
    (0..70).map(|i| (text as u32).wrapping_mul(31).wrapping_add(i)).collect()
}

pub fn key_of(reader: &Fingerprint, ids: &[u32]) -> SnapshotKey {
    let mut chain = Chain::new(reader);
    chain.extend(ids);
    chain.key()
}

pub fn key(text: u64) -> SnapshotKey {
    key_of(&reader(), &ids(text))
}

pub fn bits(data: &[f32]) -> Vec<u32> {
    data.iter().map(|x| x.to_bits()).collect()
}

pub fn options(budget_bytes: u64) -> StoreOptions {
    StoreOptions { budget_bytes, ..StoreOptions::default() }
}

/// Nothing in memory: every hit comes from disk.
pub fn cold(budget_bytes: u64) -> StoreOptions {
    StoreOptions { memory_bytes: 0, ..options(budget_bytes) }
}

pub fn open(folder: &Path, options: StoreOptions) -> Store {
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

pub fn put(store: &Store, text: u64, elements: usize, cost_ms: f32) {
    store.put(&key(text), &reader(), 70, &state(text, elements), cost_ms).expect("there is room");
}

/// What `get` gives for a text: its state bit for bit, or a refusal. Anything else fails here.
pub fn get(store: &Store, text: u64, elements: usize) -> Result<(), Refusal> {
    let snapshot = store.get(&key(text), &reader())?;
    assert_eq!(snapshot.tokens, 70);
    assert!(bits(&snapshot.data) == bits(&state(text, elements)), "text {text} came back with other bytes");
    Ok(())
}

/// Blocks that the files below `folder` take, in bytes.
pub fn on_disk(folder: &Path) -> u64 {
    let listing = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry"));
    listing
        .map(|e| if e.path().is_dir() { on_disk(&e.path()) } else { e.metadata().expect("a file").len().next_multiple_of(4096) })
        .sum()
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found.sort();
    found
}

pub fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).expect("below"));
        fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        fs::copy(&file, &to).expect("a copy");
    }
}
