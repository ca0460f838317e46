//! Files of weights -> named tensors as f32: safetensors, one file or shards with their index, and PyTorch's own files.
//!
//! Stored as f32, f16, bf16, or int8 with one f32 scale a row (`X` beside `X_scale`). PyTorch files go through candle's
//! reader, which runs none of their code; the tensors may lie at the top, or under `model` or `state_dict` beside an
//! optimiser's, as trainers save them.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::pickle::PthTensors;
use half::{bf16, f16};
use palimpsest_kernels::Mapped;
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::ReaderFiles;

/// Suffix of the tensor that holds the scales of an int8 one.
const SCALE: &str = "_scale";

enum Tensors {
    Safetensors(MappedTensors),
    Pickle(PthTensors),
}

/// Mapped where the file lies in a folder, else in memory.
type Bytes = Box<dyn Deref<Target = [u8]> + Send + Sync>;

/// A safetensors file, mapped: a tensor's bytes are read when it is asked for.
struct MappedTensors {
    bytes: Bytes,
    metadata: Metadata,
    /// Where the tensors begin.
    begin: usize,
}

impl MappedTensors {
    fn get(&self, name: &str) -> Option<(&TensorInfo, &[u8])> {
        let info = self.metadata.info(name)?;
        let (from, to) = info.data_offsets;
        Some((info, self.bytes.get(self.begin + from..self.begin + to)?))
    }
}

/// Weights on disk, opened; tensors are converted when asked for.
pub(crate) struct WeightFiles {
    files: Vec<(PathBuf, Tensors)>,
    place: BTreeMap<String, usize>,
}

impl WeightFiles {
    /// `model.safetensors`, or what its index lists; else the only `.safetensors` file there is; else the same of
    /// PyTorch's names (`pytorch_model.bin`, `.pth`, `.pt`, `.bin`).
    pub(crate) fn open(from: &ReaderFiles) -> Result<Self> {
        let mut files = Vec::new();
        let mut place = BTreeMap::new();
        for file in find(from)? {
            let path = from.path(&file);
            let tensors = match has_extension(&file, "safetensors") {
                true => safetensors(from, &file)?,
                false if from.is_folder() => pickle(&path)?,
                false => return Err(Error::reader(path, "is a PyTorch file in an archive: they are read from folders only")),
            };
            for name in tensors.names() {
                place.insert(name, files.len());
            }
            files.push((path, tensors));
        }
        Ok(Self { files, place })
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// In order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    pub(crate) fn holds(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    /// The file that holds `name`, its shape, and how it is stored, as safetensors spells it.
    pub(crate) fn describe(&self, name: &str) -> Option<(&Path, Vec<usize>, String)> {
        let (file, tensors) = &self.files[*self.place.get(name)?];
        let (shape, stored) = match tensors {
            Tensors::Safetensors(t) => {
                let (info, _) = t.get(name)?;
                (info.shape.clone(), format!("{:?}", info.dtype))
            }
            Tensors::Pickle(t) => {
                let info = t.tensor_infos().get(name)?;
                (info.layout.dims().to_vec(), info.dtype.as_str().to_uppercase())
            }
        };
        Some((file, shape, stored))
    }

    /// Tensor `name` in row-major order. It must be there.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f32>> {
        let Some(&place) = self.place.get(name) else {
            return Err(Error::Input(format!("tensor {name} is missing")));
        };
        let (file, tensors) = &self.files[place];
        let values = match tensors {
            Tensors::Safetensors(t) => {
                let (info, data) = t.get(name).ok_or_else(|| Error::reader(file, format!("tensor {name} is cut short")))?;
                match format!("{:?}", info.dtype).as_str() {
                    "F32" => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                    "F16" => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
                    "BF16" => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
                    "I8" => self.scaled(file, name, &info.shape, data)?,
                    other => {
                        return Err(Error::reader(
                            file,
                            format!("tensor {name} is stored as {other}; F32, F16, BF16 and I8 with `{name}{SCALE}` are read"),
                        ));
                    }
                }
            }
            Tensors::Pickle(t) => {
                let read = || t.get(name)?.map(|x| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()).transpose();
                let read = catch_unwind(AssertUnwindSafe(read));
                let values = read.map_err(|_| damaged(file))?.map_err(|e| Error::reader(file, format!("tensor {name}: {e}")))?;
                values.unwrap_or_default()
            }
        };
        if let Some(bad) = values.iter().position(|x: &f32| !x.is_finite()) {
            return Err(Error::reader(
                file,
                format!("tensor {name} holds a value that is no number at element {bad}: damaged, or training diverged"),
            ));
        }
        Ok(values)
    }

    fn scaled(&self, file: &Path, name: &str, shape: &[usize], data: &[u8]) -> Result<Vec<f32>> {
        let rows = shape.first().copied().unwrap_or(0);
        let scale = format!("{name}{SCALE}");
        let found = self.describe(&scale).map(|(_, shape, _)| shape);
        if found.as_deref() != Some(&[rows]) {
            let found = found.map_or("is missing".into(), |shape| format!("has shape {shape:?}"));
            return Err(Error::reader(
                file,
                format!("tensor {scale} {found}: the int8 tensor {name} of {rows} rows needs one scale a row"),
            ));
        }
        let width = data.len().checked_div(rows).unwrap_or(0).max(1);
        let rows = data.chunks(width).zip(self.values(&scale)?);
        Ok(rows.flat_map(|(row, scale)| row.iter().map(move |b| f32::from(b.cast_signed()) * scale)).collect())
    }
}

impl Tensors {
    fn names(&self) -> Vec<String> {
        match self {
            Tensors::Safetensors(t) => t.metadata.tensors().into_keys().collect(),
            Tensors::Pickle(t) => t.tensor_infos().keys().cloned().collect(),
        }
    }
}

fn damaged(path: &Path) -> Error {
    Error::reader(path, "is not a whole PyTorch file: cut short or damaged? Copy it again")
}

fn safetensors(from: &ReaderFiles, file: &str) -> Result<Tensors> {
    let path = from.path(file);
    let cannot = |e| Error::reader(&path, format!("cannot be read: {e}"));
    let bytes: Bytes = if from.is_folder() {
        Box::new(Mapped::open(&path).map_err(cannot)?)
    } else {
        Box::new(from.read(file).map_err(cannot)?)
    };
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| {
        Error::reader(&path, format!("is not a whole safetensors file ({e}): cut short or damaged? Copy it again"))
    })?;
    // The file begins with the header's length, a u64.
    Ok(Tensors::Safetensors(MappedTensors { bytes, metadata, begin: size_of::<u64>() + header }))
}

fn pickle(path: &Path) -> Result<Tensors> {
    // candle's reader panics on some damaged files.
    let open = |key: Option<&str>| catch_unwind(AssertUnwindSafe(|| PthTensors::new(path, key))).map_err(|_| damaged(path));
    let top = open(None)?
        .map_err(|e| Error::reader(path, format!("is not a whole PyTorch file ({e}): cut short or damaged? Copy it again")))?;
    if !top.tensor_infos().is_empty() {
        return Ok(Tensors::Pickle(top));
    }
    for key in ["model", "state_dict"] {
        if let Ok(nested) = open(Some(key))?
            && !nested.tensor_infos().is_empty()
        {
            return Ok(Tensors::Pickle(nested));
        }
    }
    Err(Error::reader(path, "holds no tensors at its top, nor under `model` or `state_dict`"))
}

fn has_extension(file: &str, extension: &str) -> bool {
    Path::new(file).extension().is_some_and(|e| e == extension)
}

/// Names of the files that hold the weights.
fn find(from: &ReaderFiles) -> Result<Vec<String>> {
    for index in ["model.safetensors.index.json", "pytorch_model.bin.index.json"] {
        if from.holds(index) {
            return listed(from, index);
        }
    }
    for name in ["model.safetensors", "pytorch_model.bin"] {
        if from.holds(name) {
            return Ok(vec![name.to_string()]);
        }
    }
    let all = from.names().map_err(|e| Error::reader(from.name(), format!("is not a folder that can be read: {e}")))?;
    for kinds in [&["safetensors"][..], &["pth", "pt", "bin"]] {
        let mut found: Vec<&String> = all.iter().filter(|file| kinds.iter().any(|k| has_extension(file, k))).collect();
        match found.len() {
            0 => {}
            1 => return Ok(vec![found.remove(0).clone()]),
            n => return Err(Error::reader(from.name(), format!("holds {n} .{} files and no index that lists them", kinds[0]))),
        }
    }
    Err(Error::reader(from.name(), "holds no model.safetensors (nor model.safetensors.index.json, nor a PyTorch file)"))
}

fn listed(from: &ReaderFiles, index: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = from.path(index);
    let text = from.read(index).map_err(|e| Error::io(&path, e))?;
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| Error::reader(&path, e.to_string()))?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    if let Some(odd) = names.iter().find(|n| Path::new(n).file_name() != Some(n.as_ref())) {
        return Err(Error::reader(&path, format!("names {odd:?}, which is not a file of its own folder")));
    }
    Ok(names)
}
