//! Is the budget held, and what goes first?

use std::path::PathBuf;

use palimpsest::snapshot::Refusal;
use palimpsest::store::{Store, StoreError};
use tempfile::tempdir;

use crate::states::*;

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
