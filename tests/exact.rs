//! The state is a function of the ids alone: bit for bit the same however a text is split, whatever is read beside it, on
//! any number of threads; and the fast network is the plain one.

mod tiny;

use palimpsest::checkpoint::Checkpoint;
use palimpsest::kernels::{Dtype, Isa, Kernels};
use palimpsest::model::{Model, Scratch, Sequence, Want};
use palimpsest::state::State;
use palimpsest::twin::Twin;
use safetensors::Dtype as Stored;
use tiny::{Noise, Tiny};

const UGLY: [usize; 9] = [0, 1, 15, 16, 17, 63, 64, 65, 131];

fn load(tiny: &Tiny, isa: Isa) -> (tempfile::TempDir, Checkpoint, Model) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    tiny.write_fla(folder.path(), Stored::F32);
    let checkpoint = Checkpoint::open(folder.path()).expect("checkpoint");
    let model = Model::load(&checkpoint, Kernels::new(isa).expect("available"), Dtype::F32).expect("model");
    (folder, checkpoint, model)
}

fn ids(n: usize, seed: u64, vocabulary: usize) -> Vec<u32> {
    let mut noise = Noise(seed | 1);
    (0..n).map(|_| noise.below(vocabulary) as u32).collect()
}

/// Reads `ids` in the given pieces from the empty state: the state, and the logits after the last token.
fn read(model: &Model, ids: &[u32], cuts: &[usize]) -> (State, Vec<f32>) {
    let mut state = State::empty(model.config());
    let mut last = Vec::new();
    let mut scratch = Scratch::default();
    let mut from = 0;
    for &to in cuts.iter().chain([&ids.len()]) {
        let mut batch = [Sequence { ids: &ids[from..to], state: &mut state }];
        model.forward(&mut batch, Want::Last, &mut scratch, &mut |_, _, row| last = row.to_vec()).expect("read");
        from = to;
    }
    (state, last)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

fn same(a: &(State, Vec<f32>), b: &(State, Vec<f32>)) -> bool {
    a.0.tokens() == b.0.tokens() && bits(a.0.data()) == bits(b.0.data()) && bits(&a.1) == bits(&b.1)
}

#[test]
fn segments_equal_steps_and_any_split() {
    for isa in Isa::available() {
        let (_folder, _, model) = load(&Tiny::odd(), isa);
        for n in UGLY {
            let ids = ids(n, 3 + n as u64, 300);
            let whole = read(&model, &ids, &[]);
            let steps: Vec<usize> = (1..n).collect();
            assert!(same(&whole, &read(&model, &ids, &steps)), "{n} tokens, one at a time, on {isa}");
            let mut noise = Noise(n as u64 + 99);
            for _ in 0..4 {
                let mut cuts: Vec<usize> = (0..3).map(|_| noise.below(n + 1)).collect();
                cuts.sort_unstable();
                assert!(same(&whole, &read(&model, &ids, &cuts)), "{n} tokens cut at {cuts:?} on {isa}");
            }
        }
    }
}

#[test]
fn neighbours_and_threads_change_nothing() {
    for isa in Isa::available() {
        let (_folder, _, model) = load(&Tiny::odd(), isa);
        let texts: Vec<Vec<u32>> = [131, 0, 65, 700, 1, 64].iter().enumerate().map(|(i, &n)| ids(n, i as u64 + 5, 300)).collect();
        let alone: Vec<_> = texts.iter().map(|t| read(&model, t, &[])).collect();
        for threads in 1..=4 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let mut states: Vec<State> = texts.iter().map(|_| State::empty(model.config())).collect();
            let mut last = vec![Vec::new(); texts.len()];
            let mut batch: Vec<_> = texts.iter().zip(&mut states).map(|(ids, state)| Sequence { ids, state }).collect();
            pool.install(|| {
                model.forward(&mut batch, Want::Last, &mut Scratch::default(), &mut |i, _, row| last[i] = row.to_vec())
            })
            .expect("read");
            for (i, (state, last)) in states.into_iter().zip(last).enumerate() {
                assert!(same(&alone[i], &(state, last)), "sequence {i} beside others, {threads} threads, {isa}");
            }
        }
    }
}

#[test]
fn the_fast_network_is_the_plain_one() {
    for (name, tiny) in [("odd", Tiny::odd()), ("tied", Tiny::odd().tied())] {
        let ids = ids(77, 11, 300);
        for isa in Isa::available() {
            let (_folder, checkpoint, model) = load(&tiny, isa);
            let twin = Twin::load(&checkpoint).expect("twin").forward(&ids).expect("twin reads");
            let mut state = State::empty(model.config());
            let mut logits = Vec::new();
            let mut batch = [Sequence { ids: &ids, state: &mut state }];
            model
                .forward(&mut batch, Want::All, &mut Scratch::default(), &mut |_, _, row| logits.extend_from_slice(row))
                .expect("read");
            for (what, got, want) in [("logits", logits.as_slice(), &twin.logits), ("state", state.data(), &twin.state)] {
                let off: f64 = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                let norm: f64 = want.iter().map(|b| f64::from(*b).powi(2)).sum();
                let error = (off / norm).sqrt();
                assert!(got.len() == want.len() && error < 1e-4, "{what} of {name} on {isa}: {error:.2e}");
            }
            only_two_logits(&model, &ids, &logits);
        }
    }
}

/// The logits of two ids alone are those of all ids, where the embedding is the head; elsewhere they are refused.
fn only_two_logits(model: &Model, ids: &[u32], all: &[f32]) {
    let (two, vocabulary) = ([3, 299], model.config().vocabulary);
    let mut state = State::empty(model.config());
    let mut batch = [Sequence { ids, state: &mut state }];
    let mut at = 0;
    let read = model.forward(&mut batch, Want::Only(two), &mut Scratch::default(), &mut |_, position, row| {
        assert_eq!((position, row.len()), (at, 2));
        for (got, id) in row.iter().zip(two) {
            let want = all[at * vocabulary + id as usize];
            assert!((got - want).abs() < 1e-4 * (1.0 + want.abs()), "{got} for {want} at {at}");
        }
        at += 1;
    });
    assert_eq!(read.is_ok(), model.config().tied);
    assert_eq!(at, if model.config().tied { ids.len() } else { 0 });
}

#[test]
fn both_dialects_hold_the_same_network_but_for_the_gate() {
    let tiny = Tiny::odd();
    let folder = tempfile::tempdir().expect("a temporary folder");
    tiny.write_nvidia(&folder.path().join("n"), Stored::F32);
    tiny.write_fla(&folder.path().join("f"), Stored::F32);
    let n = Checkpoint::open(&folder.path().join("n")).expect("nvidia");
    let f = Checkpoint::open(&folder.path().join("f")).expect("fla");
    let mut expected = f.config().clone();
    expected.output_gate = palimpsest::kernels::OutputGate::Silu;
    assert_eq!(n.config(), &expected);
}

#[test]
fn stored_halves_are_read_as_what_they_are() {
    let tiny = Tiny::odd();
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (stored, bound) in [(Stored::F16, 1e-3), (Stored::BF16, 8e-3)] {
        let path = folder.path().join(format!("{stored:?}"));
        tiny.write_fla(&path, stored);
        let got = Checkpoint::open(&path).expect("open").tensor("lm_head.weight", &[300, 40]).expect("tensor");
        let (_, want) = &tiny.tensors()["lm_head.weight"];
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 0.0 && worst < bound, "{stored:?}: {worst}");
    }
}
