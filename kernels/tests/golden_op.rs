//! Golden vectors of the recurrence, `op_*.safetensors`: those of this repository and of every folder in `PALIMPSEST_GOLDEN`
//! (separated by colons). Made by others, or by `tests/golden/make.py`; the layout stands in each file's metadata.
#![allow(clippy::unwrap_used)] // a panic is the report

mod inputs;

use std::path::{Path, PathBuf};

use inputs::{Inputs, assert_near, every_isa};
use palimpsest_kernels::Gdn2Shape;
use safetensors::{Dtype, SafeTensors};

/// Largest `||out - ref|| / ||ref||`, as the project asks.
const BOUND: f64 = 1e-5;

#[test]
fn golden_ops_hold_on_every_instruction_set() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let given = std::env::var_os("PALIMPSEST_GOLDEN").unwrap_or_default();
    let folders = std::iter::once(own).chain(std::env::split_paths(&given).filter(|path| !path.as_os_str().is_empty()));
    for folder in folders {
        let mut files = Vec::new();
        collect(&folder, &mut files);
        files.sort();
        for file in &files {
            check(file);
            println!("golden {} ok", file.strip_prefix(&folder).unwrap().display());
        }
        if files.is_empty() {
            println!("no op_*.safetensors in {}", folder.display());
        }
        assert!(!files.is_empty() || !folder.ends_with("tests/golden"), "the repository's own vectors are gone");
    }
}

/// Every `op_*.safetensors` in `folder` and below; other files belong to other tests.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            collect(&path, files);
        } else if name.starts_with("op_") && name.ends_with(".safetensors") {
            files.push(path);
        }
    }
}

fn check(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let tensor = |name: &str| {
        let view = tensors.tensor(name).unwrap_or_else(|error| panic!("{}: {name}: {error}", file.display()));
        assert_eq!((view.dtype(), view.shape().len()), (Dtype::F32, 3), "{}: {name}", file.display());
        let data: Vec<f32> = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (view.shape().to_vec(), data)
    };
    let (keys, q) = tensor("q");
    let (values, v) = tensor("v");
    let (tokens, shape) = (keys[0], Gdn2Shape { heads: keys[1], value_heads: values[1], key_dim: keys[2], value_dim: values[2] });
    let [k, g, b, w] = ["k", "g", "b", "w"].map(|name| tensor(name).1);
    let inputs = Inputs { shape, q, k, g, b, v, w };
    for kernels in every_isa() {
        let mut state = tensor("s0").1;
        let out = inputs.run(&kernels, 0, tokens, &mut state);
        assert_near(&format!("{} on {}: o", file.display(), kernels.isa()), &out, &tensor("o").1, BOUND);
        assert_near(&format!("{} on {}: s", file.display(), kernels.isa()), &state, &tensor("s").1, BOUND);
    }
}
