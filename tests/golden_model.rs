//! Whole networks against float64 reference vectors: the repository's own in `tests/golden`, and every folder named in
//! `PALIMPSEST_GOLDEN` (colon-separated, same layout). The recurrence alone (`op_*`) is the kernels' own golden test.

use std::path::{Path, PathBuf};

use palimpsest::checkpoint::{Checkpoint, Dialect};
use palimpsest::kernels::{Dtype, Kernels};
use palimpsest::model::{Model, Scratch};
use palimpsest::model::{Sequence, Want};
use palimpsest::state::{LayerOffsets, State, layer_offsets};
use safetensors::SafeTensors;

const BOUND: f64 = 1e-4;

fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let named = std::env::var("PALIMPSEST_GOLDEN").unwrap_or_default();
    std::iter::once(own).chain(named.split(':').filter(|f| !f.is_empty()).map(PathBuf::from)).collect()
}

/// The reader that `model_*` belong to: the pilot.
fn pilot() -> Result<PathBuf, String> {
    if let Some(folder) = std::env::var_os("PALIMPSEST_PILOT") {
        return Ok(folder.into());
    }
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let ships = std::fs::read_dir(&models).into_iter().flatten().flatten().map(|e| e.path()).find(|folder| {
        std::fs::read_to_string(folder.join("MODEL_CARD.md")).is_ok_and(|card| card.starts_with("# pilot-reader"))
    });
    ships.ok_or_else(|| {
        "model_* vectors belong to pilot-reader, which does not ship in models/: name its folder in PALIMPSEST_PILOT".into()
    })
}

fn safetensors_below(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            safetensors_below(&path, out);
        } else if path.extension().is_some_and(|e| e == "safetensors") {
            out.push(path);
        }
    }
}

#[test]
fn golden_models() {
    let mut failures = Vec::new();
    for folder in folders() {
        let mut files = Vec::new();
        safetensors_below(&folder, &mut files);
        for file in files {
            let inside = file.strip_prefix(&folder).expect("below the folder").display().to_string();
            let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let parent = file.parent().expect("a file lies in a folder");
            if name.starts_with("op_") {
                continue;
            }
            let result = match name {
                "model.safetensors" if parent.ends_with("nvidia_hybrid") => refused(parent),
                "model.safetensors" => Checkpoint::open(parent).map(|_| ()).map_err(|e| e.to_string()),
                "golden.safetensors" => compare(parent, &file),
                _ if name.starts_with("model_") => pilot().and_then(|pilot| compare(&pilot, &file)),
                _ => Err("no test knows what this file is: op_*, model_*, or model and golden in a folder of their own".into()),
            };
            match result {
                Ok(()) => println!("golden {inside} ok"),
                Err(e) => failures.push(format!("golden {inside}: {e}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn refused(folder: &Path) -> Result<(), String> {
    match Checkpoint::open(folder) {
        Err(e) if e.to_string().contains("hybrid") && e.to_string().contains("transformer.h.1.attn.attn.weight") => Ok(()),
        Err(e) => Err(format!("refused, but not by the name of its attention: {e}")),
        Ok(_) => Err("a hybrid was not refused".into()),
    }
}

fn compare(reader: &Path, golden: &Path) -> Result<(), String> {
    let checkpoint = Checkpoint::open(reader).map_err(|e| e.to_string())?;
    let bytes = std::fs::read(golden).map_err(|e| e.to_string())?;
    let vectors = SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?;
    let ids: Vec<u32> = ints(&vectors, "ids")?;
    let c = checkpoint.config().clone();
    for isa in palimpsest::kernels::Isa::available() {
        let kernels = Kernels::new(isa).map_err(|e| e.to_string())?;
        let model = Model::load(&checkpoint, kernels, Dtype::F32).map_err(|e| e.to_string())?;
        let mut state = State::empty(&c);
        let mut logits = Vec::new();
        let mut batch = [Sequence { ids: &ids, state: &mut state }];
        model
            .forward(&mut batch, Want::All, &mut Scratch::default(), &mut |_, position, row| {
                if position % 8 == 0 {
                    logits.extend_from_slice(row);
                }
                if position + 1 == ids.len() {
                    logits.extend_from_slice(row);
                }
            })
            .map_err(|e| e.to_string())?;
        let mut reference = floats(&vectors, "logits_every8")?;
        if (ids.len() - 1).is_multiple_of(8) {
            // The last row was pushed twice: once as an eighth, once as the last.
            assert_eq!(reference.len() + c.vocabulary, logits.len());
        }
        reference.extend(floats(&vectors, "logits_last")?);
        let part = |from: fn(LayerOffsets) -> usize, n: usize| -> Vec<f32> {
            (0..c.layers).flat_map(|l| state.data()[from(layer_offsets(&c, l))..][..n].to_vec()).collect()
        };
        for (what, got, want) in [
            ("logits", logits, reference),
            ("states", part(|o| o.recurrent, c.value_heads * c.key_dim * c.value_dim), floats(&vectors, "states")?),
            ("conv_q", part(|o| o.conv_q, 3 * c.key_width()), floats(&vectors, "conv_q")?),
            ("conv_v", part(|o| o.conv_v, 3 * c.value_width()), floats(&vectors, "conv_v")?),
        ] {
            let error = distance(&got, &want)?;
            if error.is_nan() || error > BOUND {
                return Err(format!(
                    "{what} on {isa} are off by {error:.2e}, the bound is {BOUND:.0e} ({} dialect)",
                    dialect(&checkpoint)
                ));
            }
        }
    }
    Ok(())
}

fn dialect(checkpoint: &Checkpoint) -> &'static str {
    match checkpoint.dialect() {
        Dialect::Nvidia => "nvidia",
        Dialect::Fla => "fla",
    }
}

/// ‖got - want‖ / ‖want‖
fn distance(got: &[f32], want: &[f32]) -> Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{} values, the reference has {}", got.len(), want.len()));
    }
    let square = |x: f64| x * x;
    let off: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    Ok((off / norm).sqrt())
}

fn floats(vectors: &SafeTensors<'_>, name: &str) -> Result<Vec<f32>, String> {
    let view = vectors.tensor(name).map_err(|e| format!("{name}: {e}"))?;
    Ok(view.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn ints(vectors: &SafeTensors<'_>, name: &str) -> Result<Vec<u32>, String> {
    let view = vectors.tensor(name).map_err(|e| format!("{name}: {e}"))?;
    Ok(view.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
}
