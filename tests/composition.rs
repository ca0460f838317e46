//! Is the affine update what composition says it is? Exact in the first layer, and honest about the rest.

mod tiny;

use std::path::Path;

use palimpsest::compose::Part;
use palimpsest::model::Sequence;
use palimpsest::state::{State, layer_offsets};
use palimpsest::{Reader, ReaderOptions};
use safetensors::Dtype;
use tiny::{Noise, Tiny, write_tensors, write_word_tokenizer};

/// A tiny reader; `alone`: convolutions look at the current token only, so that nothing but the state crosses a border.
fn reader(folder: &Path, alone: bool) -> Reader {
    let tiny = Tiny::odd();
    tiny.write_fla(folder, Dtype::F32);
    write_word_tokenizer(folder, &[]);
    if alone {
        let mut tensors = tiny.tensors();
        for (_, (_, taps)) in tensors.iter_mut().filter(|(name, _)| name.contains("conv1d")) {
            taps.chunks_exact_mut(4).for_each(|t| t[..3].fill(0.0));
        }
        write_tensors(&folder.join("model.safetensors"), &tensors, Dtype::F32);
    }
    Reader::open(folder, &ReaderOptions::default()).expect("a tiny reader")
}

fn ids(noise: &mut Noise, n: usize) -> Vec<u32> {
    (0..n).map(|_| noise.below(95) as u32).collect()
}

fn in_sequence(reader: &Reader, passages: &[Vec<u32>]) -> State {
    let mut state = State::empty(reader.config());
    for ids in passages {
        reader.append(&mut [Sequence { ids, state: &mut state }]).expect("read");
    }
    state
}

/// |a - b| / |b| of the recurrent part of a layer.
fn apart(reader: &Reader, layer: usize, a: &State, b: &State) -> f64 {
    let at = layer_offsets(reader.config(), layer);
    let (a, b) = (&a.data()[at.recurrent..at.conv_q], &b.data()[at.recurrent..at.conv_q]);
    let off: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (off / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()).sqrt()
}

#[test]
fn passages_put_together_are_exact_in_the_first_layer() {
    let folder = tempfile::tempdir().expect("folder");
    let mut noise = Noise(3);
    for alone in [true, false] {
        let reader = reader(&folder.path().join(format!("{alone}")), alone);
        for lengths in [[1, 1, 1], [64, 7, 65], [130, 3, 20]] {
            let passages: Vec<Vec<u32>> = lengths.iter().map(|n| ids(&mut noise, *n)).collect();
            let slices: Vec<&[u32]> = passages.iter().map(Vec::as_slice).collect();
            let parts = Part::read(&reader, &slices).expect("read");
            for (part, ids) in parts.iter().zip(&passages) {
                assert_eq!(
                    part.state(),
                    &in_sequence(&reader, std::slice::from_ref(ids)),
                    "beside its transition a part is a reading"
                );
            }
            let composed = Part::compose(reader.config(), &parts).expect("of one shape").expect("of three");
            let sequence = in_sequence(&reader, &passages);
            assert_eq!(composed.tokens(), sequence.tokens());
            let first = apart(&reader, 0, &composed, &sequence);
            // With convolutions that look back, the first tokens behind a border differ: how much is chance.
            assert!(!alone || first <= 1e-5, "{lengths:?}: {first:.1e}");
            // The last inputs of the convolutions are those of the last passage, where it has three.
            if alone && lengths[2] >= 3 {
                let at = layer_offsets(reader.config(), 0).conv_q;
                let end = layer_offsets(reader.config(), 1).recurrent;
                assert_eq!(composed.data()[at..end], sequence.data()[at..end]);
            }
            assert!(lengths == [1, 1, 1] || apart(&reader, 1, &composed, &sequence) > 1e-3, "above, it cannot be");
        }
    }
    let reader = reader(&folder.path().join("true"), true);
    assert_eq!(Part::compose(reader.config(), &[]).expect("nothing"), None);
    let other = palimpsest::model::Config { layers: 1, ..reader.config().clone() };
    let part = Part::read(&reader, &[&[1, 2]]).expect("read").remove(0);
    assert!(part.after(&other, &State::empty(&other)).is_err(), "another shape is refused");
}
