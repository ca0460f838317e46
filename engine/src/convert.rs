//! A checkpoint -> the same checkpoint stored smaller: bf16, or int8 with one f32 scale a row.
//!
//! Names and dialect stay. Matrices (projections, embedding, head) are converted; vectors, taps and norms stay f32. An int8
//! matrix `X` `[N, K]` lies beside `X_scale` `[N]`: `value = int8 * scale`, `scale = max |row| / 127`.

use std::path::Path;

use half::bf16;
use palimpsest_kernels::quantise;
use safetensors::tensor::{Dtype, View};
use serde::Serialize;

use crate::calibration;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};

/// What matrices are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// 2 bytes a weight.
    Bf16,
    /// 1 byte a weight and 4 a row.
    Int8,
}

/// What a conversion came to.
#[derive(Debug, Clone, Serialize)]
pub struct Converted {
    /// Bytes of the weights before.
    pub bytes_before: u64,
    /// Bytes of the weights after.
    pub bytes_after: u64,
    /// Matrices that were converted.
    pub matrices: usize,
}

/// Writes the reader in `from` to the folder `to`, its tokenizer, prompt form and calibration with it.
///
/// # Errors
/// [`Error::Reader`] for what cannot be read; [`Error::Input`] when `to` already holds weights; [`Error::Io`].
pub fn convert(from: &Path, to: &Path, stored: Stored) -> Result<Converted> {
    let checkpoint = Checkpoint::open(from)?;
    let file = to.join("model.safetensors");
    if file.exists() {
        return Err(Error::Input(format!("{} already holds weights: name another folder", to.display())));
    }
    std::fs::create_dir_all(to).map_err(|e| Error::io(to, e))?;
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    let mut matrices = 0;
    for (name, shape) in checkpoint.tensors() {
        let values = checkpoint.stored(&name, &shape)?;
        match (&shape[..], stored) {
            ([_, _], Stored::Bf16) => tensors.push((name, Tensor::bf16(shape, &values))),
            ([rows, cols], Stored::Int8) => {
                let (weights, scales) = quantise(*cols, &values)?;
                let bytes = weights.into_iter().map(i8::cast_unsigned).collect();
                tensors.push((format!("{name}_scale"), Tensor::f32(vec![*rows], &scales)));
                tensors.push((name, Tensor { dtype: Dtype::I8, shape, bytes }));
            }
            _ => {
                tensors.push((name, Tensor::f32(shape, &values)));
                continue;
            }
        }
        matrices += 1;
    }
    let part = to.join("model.part");
    safetensors::serialize_to_file(tensors, None, &part).map_err(|e| Error::reader(&part, format!("cannot be written: {e}")))?;
    for name in ["config.json", "tokenizer.json", "reader.json", calibration::FILE, "MODEL_CARD.md"] {
        if from.join(name).is_file() {
            std::fs::copy(from.join(name), to.join(name)).map_err(|e| Error::io(from.join(name), e))?;
        }
    }
    std::fs::rename(&part, &file).map_err(|e| Error::io(&file, e))?;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |m| m.len());
    Ok(Converted { bytes_before: checkpoint.files().map(size).sum(), bytes_after: size(&file), matrices })
}

struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    fn f32(shape: Vec<usize>, values: &[f32]) -> Self {
        Self { dtype: Dtype::F32, shape, bytes: values.iter().flat_map(|x| x.to_le_bytes()).collect() }
    }

    fn bf16(shape: Vec<usize>, values: &[f32]) -> Self {
        Self { dtype: Dtype::BF16, shape, bytes: values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect() }
    }
}

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
