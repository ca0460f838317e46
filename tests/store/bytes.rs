//! Are the bytes of a snapshot those of its state, and refused where they are not?

use palimpsest::snapshot::{Chain, Fingerprint, Form, Refusal, Restore, Snapshot};
use palimpsest::store::{Store, StoreOptions};
use tempfile::tempdir;

use crate::states::*;

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
    assert_eq!(store.longest(&reader(), &ids(5)).1, Restore::Near { tokens: 70 }, "never said to be exact");
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

#[test]
fn another_arithmetic_serves_only_who_asks_for_it() {
    let folder = tempdir().expect("folder");
    let other = Fingerprint::new([1; 32], [2; 32], 3, "cpu avx2 F32");
    let other_weights = Fingerprint::new([9; 32], [2; 32], 3, "cpu avx2 F32");
    let longer = [&ids(1)[..], &[7, 7]].concat();
    put(&open(folder.path(), options(64 * MIB)), 1, 100, 1.0);
    let strict = open(folder.path(), options(64 * MIB));
    assert!(matches!(strict.longest(&other, &ids(1)).1, Restore::Refused(Refusal::OtherArithmetic { .. })));
    drop(strict);
    let store = open(folder.path(), StoreOptions { other_arithmetic: true, ..options(64 * MIB) });
    for ids in [&ids(1), &longer] {
        let (snapshot, restore) = store.longest(&other, ids);
        assert_eq!(restore, Restore::Near { tokens: 70 });
        assert_eq!(bits(&snapshot.expect("a state").data), bits(&state(1, 100)));
    }
    assert!(matches!(store.longest(&other_weights, &ids(1)).1, Restore::Refused(Refusal::OtherReader { .. })));
    assert_eq!(store.longest(&reader(), &ids(1)).1, Restore::Exact { tokens: 70 }, "its own comes first");
    assert_eq!((store.stats().near_hits, store.stats().hits), (2, 1));
}
