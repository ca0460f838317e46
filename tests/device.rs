//! The network on a GPU: it is the network on the CPU, and its states are a function of the ids alone.
//!
//! On an NVIDIA GPU where there is one; and, as the kernels' sources compiled for the host, wherever there is a C++ compiler. What
//! a machine has not is named as skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is the report

mod tiny;

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use palimpsest::cancel::Pace;
use palimpsest::checkpoint::Checkpoint;
use palimpsest::device::DeviceModel;
use palimpsest::kernels::cuda::Gpu;
use palimpsest::kernels::{Dtype, Kernels};
use palimpsest::model::{Model, Scratch, Sequence, Want};
use palimpsest::state::{SEGMENT, State, layer_offsets};
use safetensors::Dtype as Stored;
use tiny::{Noise, Tiny};

/// The devices of this machine, each with whether it is slow.
fn devices(test: &str) -> Vec<(Gpu, bool)> {
    static EMULATOR: OnceLock<Result<Gpu, String>> = OnceLock::new();
    let mut found = Vec::new();
    let emulator = EMULATOR.get_or_init(emulator).clone();
    for (what, device) in [("GPU", Gpu::open().map_err(|e| e.to_string())), ("emulator", emulator)] {
        match device {
            Ok(device) => found.push((device, what == "emulator")),
            Err(reason) => println!("skipped on the {what}: {test}: {reason}"),
        }
    }
    found
}

fn emulator() -> Result<Gpu, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/cuda");
    let library = std::env::temp_dir().join(format!("palimpsest-emulated-{}.so", std::process::id()));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let built = Command::new(&compiler)
        .args(["-O2", "-std=c++17", "-w", "-fPIC", "-shared", "emulate.cpp", "-o"])
        .arg(&library)
        .current_dir(&sources)
        .output()
        .map_err(|e| format!("{compiler} in {}: {e}", sources.display()))?;
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let gpu = Gpu::emulated(&library).map_err(|e| e.to_string());
    let _ = std::fs::remove_file(&library);
    gpu
}

/// Shapes that the GPU's kernels are made for.
fn shapes() -> [Tiny; 2] {
    let odd = Tiny { width: 48, key_dim: 64, value_dim: 64, hidden: 72, ..Tiny::odd() };
    [Tiny { heads: 1, value_heads: 2, value_dim: 128, ..odd.clone() }, Tiny { layers: 1, ..odd }.tied()]
}

fn load(tiny: &Tiny, gpu: &Gpu, nvidia: bool) -> (DeviceModel, Model) {
    let folder = tempfile::tempdir().unwrap();
    if nvidia {
        tiny.write_nvidia(folder.path(), Stored::F32)
    } else {
        tiny.write_fla(folder.path(), Stored::F32)
    }
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let cpu = Model::load(&checkpoint, Kernels::detect().unwrap(), Dtype::F32).unwrap();
    (DeviceModel::load(&checkpoint, gpu.clone()).unwrap(), cpu)
}

fn ids(n: usize, seed: u64) -> Vec<u32> {
    let mut noise = Noise(seed | 1);
    (0..n).map(|_| noise.below(300) as u32).collect()
}

/// Reads `ids` in pieces; the state, and the logits of every token.
fn read(model: &DeviceModel, ids: &[u32], cuts: &[usize]) -> (State, Vec<f32>) {
    let mut state = State::empty(model.config());
    let mut logits = Vec::new();
    let mut from = 0;
    for &to in cuts.iter().chain([&ids.len()]) {
        let mut batch = [Sequence { ids: &ids[from..to], state: &mut state }];
        let mut next = 0;
        model
            .forward_at(&mut batch, Want::All, &mut Pace::free(), &mut |_, position, row| {
                assert_eq!(position, next);
                next += 1;
                logits.extend_from_slice(row);
            })
            .unwrap();
        from = to;
    }
    (state, logits)
}

fn first_largest(row: &[f32]) -> f32 {
    let most = row.iter().copied().fold(f32::MIN, f32::max);
    row.iter().position(|&x| x == most).unwrap() as f32
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let off: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let all: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    let ratio = (off / all).sqrt();
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn it_is_the_network_of_the_cpu() {
    for (gpu, slow) in devices("it_is_the_network_of_the_cpu") {
        for (i, tiny) in shapes().iter().enumerate() {
            let (model, cpu) = load(tiny, &gpu, i == 0);
            for n in if slow { vec![70] } else { vec![1, 15, 16, 63, 64, 65, 131, 1000] } {
                let ids = ids(n, 5 + n as u64);
                let mut expected = Vec::new();
                let mut state = State::empty(cpu.config());
                let mut batch = [Sequence { ids: &ids, state: &mut state }];
                cpu.forward(&mut batch, Want::All, &mut Scratch::default(), &mut |_, _, row| expected.extend_from_slice(row))
                    .unwrap();
                let (got, logits) = read(&model, &ids, &[]);
                let off = distance(&logits, &expected);
                println!("{n} tokens on {}: logits off by {off:.1e}", gpu.name());
                assert!(off < 2e-2, "{n} tokens: logits off by {off:.2e}");
                if n <= 70 {
                    let mut state = State::empty(cpu.config());
                    let mut largest = Vec::new();
                    let mut batch = [Sequence { ids: &ids, state: &mut state }];
                    let mut sink = |_: usize, position: usize, id: &[f32]| largest.push((position, id.to_vec()));
                    model.forward_at(&mut batch, Want::Largest, &mut Pace::free(), &mut sink).unwrap();
                    assert_eq!(largest, [(n - 1, vec![first_largest(&logits[(n - 1) * cpu.config().vocabulary..])])]);
                    let mut state = State::empty(cpu.config());
                    let mut batch = [Sequence { ids: &ids, state: &mut state }];
                    let mut on_cpu = 0.0;
                    cpu.forward(&mut batch, Want::Largest, &mut Scratch::default(), &mut |_, _, id| on_cpu = id[0]).unwrap();
                    assert_eq!(on_cpu, first_largest(&expected[(n - 1) * cpu.config().vocabulary..]));
                }
                // A state's data is that of the last boundary.
                let boundary = n / SEGMENT * SEGMENT;
                if boundary == n {
                    for layer in 0..cpu.config().layers {
                        let from = layer_offsets(cpu.config(), layer);
                        for part in [from.recurrent..from.conv_q, from.conv_q..from.conv_v] {
                            let off = distance(&got.data()[part.clone()], &state.data()[part]);
                            assert!(off < 2e-2, "{n} tokens, layer {layer}: state off by {off:.2e}");
                        }
                    }
                }
                assert_eq!((got.tokens(), got.tail()), (n as u64, &ids[boundary..]));
            }
        }
    }
}

#[test]
fn states_and_logits_are_a_function_of_the_ids_alone() {
    for (gpu, slow) in devices("states_and_logits_are_a_function_of_the_ids_alone") {
        let tiny = &shapes()[usize::from(slow)];
        let (model, _) = load(tiny, &gpu, false);
        let n = if slow { 75 } else { 391 };
        let ids = ids(n, 11);
        let (state, logits) = read(&model, &ids, &[]);
        let vocabulary = model.config().vocabulary;
        let mut cuts = vec![vec![50], vec![64], vec![1, 2, 3, 63, 66, 70]];
        if !slow {
            cuts.extend([vec![300], (1..n).collect(), vec![130, 131, 200, 256, 320, 390]]);
        }
        for cuts in cuts {
            let (other, other_logits) = read(&model, &ids, &cuts);
            assert_eq!(bits(other.data()), bits(state.data()), "states, cut at {cuts:?}");
            assert_eq!(other, state);
            // Logits of whole segments come from the wide way only where a call had all of the segment; those of the tail agree.
            let tail = n / SEGMENT * SEGMENT * vocabulary;
            assert_eq!(bits(&other_logits[tail..]), bits(&logits[tail..]), "logits, cut at {cuts:?}");
        }
        // Beside others, of other lengths, and from a state taken up again.
        let mut states: Vec<State> = (0..5).map(|_| State::empty(model.config())).collect();
        let lens = [n, 3, 64, 70, 0];
        let texts: Vec<Vec<u32>> =
            lens.iter().map(|&len| if len == n { ids.clone() } else { self::ids(len, len as u64) }).collect();
        let mut batch: Vec<Sequence<'_>> = texts.iter().zip(&mut states).map(|(ids, state)| Sequence { ids, state }).collect();
        let mut order = Vec::new();
        let mut last = Vec::new();
        model
            .forward_at(&mut batch, Want::Last, &mut Pace::free(), &mut |i, position, row| {
                order.push((i, position));
                if i == 0 {
                    last = row.to_vec();
                }
            })
            .unwrap();
        assert_eq!(order, [(0, n - 1), (1, 2), (2, 63), (3, 69)]);
        assert_eq!(bits(&last), bits(&logits[(n - 1) * vocabulary..]), "logits beside others");
        assert_eq!(states[0], state, "a state beside others");
        // The likeliest token alone, of the same batch.
        let mut states: Vec<State> = (0..5).map(|_| State::empty(model.config())).collect();
        let mut batch: Vec<Sequence<'_>> = texts.iter().zip(&mut states).map(|(ids, state)| Sequence { ids, state }).collect();
        let mut largest = Vec::new();
        model.forward_at(&mut batch, Want::Largest, &mut Pace::free(), &mut |i, _, id| largest.push((i, id[0]))).unwrap();
        assert_eq!(largest.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 1, 2, 3]);
        for (i, id) in largest {
            let alone = read(&model, &texts[i], &[]).1;
            assert_eq!(id, first_largest(&alone[alone.len() - vocabulary..]), "the likeliest token of sequence {i}");
        }
        let kept = State::from_parts(model.config(), state.tokens(), state.data()).unwrap();
        let more = self::ids(9, 77);
        let go_on = |mut state: State| {
            let mut last = Vec::new();
            let mut batch = [Sequence { ids: &more, state: &mut state }];
            model
                .forward_at(&mut batch, Want::Last, &mut Pace::free(), &mut |_, _, row| last = row.to_vec())
                .map(|()| (state, bits(&last)))
        };
        let refused = go_on(kept.clone()).expect_err("its last ids are not there").to_string();
        assert!(refused.contains("ids"), "{refused}");
        let (fork, from_fork) = go_on(state.clone()).unwrap();
        let (taken_up, from_kept) = go_on(kept.with_tail(&ids)).unwrap();
        assert_eq!((fork, from_fork), (taken_up, from_kept), "a restored state goes on as the one that was kept");
        assert_eq!(state, states[0], "a fork leaves what it came from");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    for (gpu, _) in devices("what_does_not_fit_is_refused") {
        let folder = tempfile::tempdir().unwrap();
        Tiny::odd().write_fla(folder.path(), Stored::F32);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let Err(refused) = DeviceModel::load(&checkpoint, gpu.clone()) else { panic!("K of 16 was taken") };
        assert!(refused.to_string().contains("K of 64 or 128"), "{refused}");
        let (model, cpu) = load(&shapes()[1], &gpu, false);
        let mut state = State::empty(cpu.config());
        let mut batch = [Sequence { ids: &[300], state: &mut state }];
        assert!(model.forward_at(&mut batch, Want::Last, &mut Pace::free(), &mut |_, _, _| {}).is_err(), "an unknown id");
        let mut state = State::empty(&palimpsest::model::Config { layers: 7, ..cpu.config().clone() });
        let mut batch = [Sequence { ids: &[1], state: &mut state }];
        assert!(model.forward_at(&mut batch, Want::Last, &mut Pace::free(), &mut |_, _, _| {}).is_err(), "another's state");
    }
}
