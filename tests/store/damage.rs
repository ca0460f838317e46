//! Is nothing but right bytes and refusals to be had of a store that something was done to?

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use palimpsest::snapshot::Refusal;
use palimpsest::store::{Store, StoreEvent, StoreOptions};
use tempfile::tempdir;

use crate::states::*;

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
