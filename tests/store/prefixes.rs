//! Is it the longest prefix that is found?

use std::fs;

use palimpsest::snapshot::{Refusal, Restore};
use palimpsest::store::Store;
use tempfile::tempdir;

use crate::states::*;

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
