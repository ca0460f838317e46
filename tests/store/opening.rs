//! What is known after opening, and who may open?

use std::fs;

use palimpsest::snapshot::Refusal;
use palimpsest::store::{Store, StoreError, StoreEvent, StoreOptions};
use tempfile::tempdir;

use crate::states::*;

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
