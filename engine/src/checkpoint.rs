//! A folder of weights in either dialect -> named tensors of known shape, as f32.
//!
//! Two dialects are told apart by their tensor names: NVIDIA's (LitGPT names, no config.json, SiLU output gate) and
//! flash-linear-attention's (config.json beside the weights, sigmoid output gate). Tensors are stored as f32, f16, bf16 or
//! int8 with one f32 scale a row (`X` beside `X_scale`). Everything refused is refused by the name of tensor and file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::BufferedSafetensors;
use half::{bf16, f16};
use palimpsest_kernels::OutputGate;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::model::Config;

/// How a checkpoint names its tensors, and which output gate that implies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// NVIDIA's LitGPT names, `transformer.h.{i}.attn.*`; SiLU gate.
    Nvidia,
    /// flash-linear-attention's names, `model.layers.{i}.attn.*`; sigmoid gate.
    Fla,
}

impl Dialect {
    /// The name a person knows it by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Nvidia => "nvidia",
            Dialect::Fla => "flash-linear-attention",
        }
    }

    /// Embedding table `[vocabulary, width]`.
    #[must_use]
    pub fn embedding(self) -> &'static str {
        match self {
            Dialect::Nvidia => "transformer.wte.weight",
            Dialect::Fla => "model.embeddings.weight",
        }
    }

    /// Weight of the norm before the head `[width]`.
    #[must_use]
    pub fn final_norm(self) -> &'static str {
        match self {
            Dialect::Nvidia => "transformer.ln_f.weight",
            Dialect::Fla => "model.norm.weight",
        }
    }

    /// Full name of a tensor of block `layer`; `part` is in flash-linear-attention's words.
    #[must_use]
    pub fn in_layer(self, layer: usize, part: &str) -> String {
        match self {
            Dialect::Fla => format!("model.layers.{layer}.{part}"),
            Dialect::Nvidia => {
                let part = match part {
                    "attn_norm.weight" => "norm_1.weight",
                    "mlp_norm.weight" => "norm_2.weight",
                    "mlp.gate_proj.weight" => "mlp.swiglu.w1.weight",
                    "mlp.up_proj.weight" => "mlp.swiglu.w2.weight",
                    "mlp.down_proj.weight" => "mlp.swiglu.w3.weight",
                    same => same,
                };
                format!("transformer.h.{layer}.{part}")
            }
        }
    }
}

/// Weights on disk, opened and checked for their dialect; tensors are converted when asked for.
pub struct Checkpoint {
    folder: PathBuf,
    files: Vec<(PathBuf, BufferedSafetensors)>,
    place: BTreeMap<String, usize>,
    dialect: Dialect,
    config: Config,
}

impl Checkpoint {
    /// Opens `model.safetensors`, the shards that `model.safetensors.index.json` lists, or the only `.safetensors` file of
    /// `folder`, and reads the shape of the network off `config.json` or off the tensors.
    ///
    /// # Errors
    /// [`Error::Reader`] naming the file and tensor at fault.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let mut place = BTreeMap::new();
        for path in weight_files(folder)? {
            let bytes = std::fs::read(&path).map_err(|e| Error::reader(&path, format!("cannot be read: {e}")))?;
            let tensors = BufferedSafetensors::new(bytes).map_err(|e| {
                Error::reader(&path, format!("is not a whole safetensors file ({e}): cut short or damaged? Copy it again"))
            })?;
            for (name, _) in tensors.tensors() {
                place.insert(name, files.len());
            }
            files.push((path, tensors));
        }
        let dialect = detect(folder, &place)?;
        let mut checkpoint = Self { folder: folder.to_path_buf(), files, place, dialect, config: Config::default() };
        checkpoint.config = match dialect {
            Dialect::Nvidia => checkpoint.config_from_tensors()?,
            Dialect::Fla => checkpoint.config_from_json()?,
        };
        checkpoint.config.validate().map_err(|reason| Error::reader(folder, reason))?;
        Ok(checkpoint)
    }

    /// How the tensors are named.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The shape of the network.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The files the weights lie in.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// Storage type of tensor `name`, as safetensors spells it, `None` when absent.
    #[must_use]
    pub fn stored_as(&self, name: &str) -> Option<String> {
        let file = *self.place.get(name)?;
        self.files[file].1.get(name).ok().map(|view| format!("{:?}", view.dtype()))
    }

    /// Name of the tensor that turns the last hidden row into logits: `lm_head.weight`, or the embedding when tied.
    #[must_use]
    pub fn head(&self) -> &'static str {
        if self.config.tied { self.dialect.embedding() } else { "lm_head.weight" }
    }

    /// Tensor `name` of exactly `shape`, as f32 in row-major order.
    ///
    /// # Errors
    /// [`Error::Reader`] when it is absent, of another shape, or of a type that is not f32, f16, bf16 or scaled int8.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (file, found) = self.shape(name)?;
        if found != shape {
            return Err(Error::reader(
                file,
                format!("tensor {name} has shape {found:?}, the configuration needs {shape:?}: config.json and weights do not belong together"),
            ));
        }
        self.convert(name)
    }

    fn shape(&self, name: &str) -> Result<(&Path, Vec<usize>)> {
        let index = *self.place.get(name).ok_or_else(|| {
            Error::reader(self.only_file_or_folder(), format!("tensor {name} is missing ({} dialect)", self.dialect.name()))
        })?;
        let (file, tensors) = &self.files[index];
        let view = tensors.get(name).map_err(|e| Error::reader(file, format!("tensor {name}: {e}")))?;
        Ok((file, view.shape().to_vec()))
    }

    fn only_file_or_folder(&self) -> &Path {
        match &self.files[..] {
            [(file, _)] => file,
            _ => &self.folder,
        }
    }

    fn convert(&self, name: &str) -> Result<Vec<f32>> {
        let (file, tensors) = &self.files[self.place[name]];
        let view = tensors.get(name).map_err(|e| Error::reader(file, format!("tensor {name}: {e}")))?;
        let data = view.data();
        let values: Vec<f32> = match format!("{:?}", view.dtype()).as_str() {
            "F32" => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            "F16" => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            "BF16" => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            "I8" => {
                let rows = view.shape().first().copied().unwrap_or(0);
                let scales = self.tensor(&format!("{name}_scale"), &[rows])?;
                let width = data.len().checked_div(rows).unwrap_or(0).max(1);
                data.chunks(width)
                    .zip(scales)
                    .flat_map(|(row, scale)| row.iter().map(move |b| f32::from(b.cast_signed()) * scale))
                    .collect()
            }
            other => {
                return Err(Error::reader(file, format!("tensor {name} is stored as {other}; F32, F16, BF16 and I8 with `{name}_scale` are read")));
            }
        };
        if let Some(bad) = values.iter().position(|x| !x.is_finite()) {
            return Err(Error::reader(file, format!("tensor {name} holds a value that is no number at element {bad}: damaged, or training diverged")));
        }
        Ok(values)
    }

    /// NVIDIA's checkpoints come without config.json: H = len(A_log), K = rows(q_proj)/H, V = len(o_norm), HV = rows(v_proj)/V.
    fn config_from_tensors(&self) -> Result<Config> {
        let dim = |name: &str, axis: usize| -> Result<usize> {
            let (file, shape) = self.shape(name)?;
            shape.get(axis).copied().filter(|&n| n > 0).ok_or_else(|| {
                Error::reader(file, format!("tensor {name} has shape {shape:?}: dimension {axis} is needed and must not be 0"))
            })
        };
        let part = |p: &str| self.dialect.in_layer(0, p);
        let layers = (0..).take_while(|&i| self.place.contains_key(&self.dialect.in_layer(i, "attn_norm.weight"))).count();
        let heads = dim(&part("attn.A_log"), 0)?;
        let value_dim = dim(&part("attn.o_norm.weight"), 0)?;
        Ok(Config {
            layers,
            width: dim(self.dialect.embedding(), 1)?,
            vocabulary: dim(self.dialect.embedding(), 0)?,
            heads,
            key_dim: dim(&part("attn.q_proj.weight"), 0)? / heads,
            value_heads: dim(&part("attn.v_proj.weight"), 0)? / value_dim,
            value_dim,
            hidden: dim(&part("mlp.gate_proj.weight"), 0)?,
            decay_rank: dim(&part("attn.f_proj.0.weight"), 0)?,
            gate_rank: dim(&part("attn.g_proj.0.weight"), 0)?,
            norm_eps: 1e-5,
            allow_neg_eigval: false,
            output_gate: OutputGate::Silu,
            tied: !self.place.contains_key("lm_head.weight"),
        })
    }

    fn config_from_json(&self) -> Result<Config> {
        let file = self.folder.join("config.json");
        let text = std::fs::read(&file).map_err(|e| {
            Error::reader(&file, format!("cannot be read ({e}); a checkpoint in flash-linear-attention's names needs it"))
        })?;
        let json: FlaConfig = serde_json::from_slice(&text).map_err(|e| Error::reader(&file, e.to_string()))?;
        let refuse = |what: String| Err(Error::reader(&file, what));
        if json.attn.as_ref().is_some_and(|a| !a.is_null()) {
            return refuse("key attn asks for softmax attention in some layers: hybrids are not read".into());
        }
        if json.conv_size != 4 || !json.use_short_conv || json.conv_bias {
            return refuse(format!(
                "conv_size {}, use_short_conv {}, conv_bias {}: only a short convolution of width 4 without bias is read",
                json.conv_size, json.use_short_conv, json.conv_bias
            ));
        }
        let output_gate = match json.output_gate.as_deref() {
            None | Some("sigmoid") => OutputGate::Sigmoid,
            Some("silu" | "swish") => OutputGate::Silu,
            Some(other) => return refuse(format!("output_gate {other} is unknown: sigmoid and silu are read")),
        };
        let value_dim = json.head_dim as f64 * json.expand_v;
        if value_dim.fract() != 0.0 || value_dim < 1.0 {
            return refuse(format!("head_dim {} times expand_v {} is no whole number", json.head_dim, json.expand_v));
        }
        let rank = |p: &str| self.shape(&self.dialect.in_layer(0, p)).map(|(_, s)| s.first().copied().unwrap_or(0));
        Ok(Config {
            layers: json.num_hidden_layers,
            width: json.hidden_size,
            vocabulary: json.vocab_size,
            heads: json.num_heads,
            value_heads: json.num_v_heads.unwrap_or(json.num_heads),
            key_dim: json.head_dim,
            value_dim: value_dim as usize,
            hidden: json.intermediate_size,
            decay_rank: rank("attn.f_proj.0.weight")?,
            gate_rank: rank("attn.g_proj.0.weight")?,
            norm_eps: json.norm_eps,
            allow_neg_eigval: json.allow_neg_eigval,
            output_gate,
            tied: json.tie_word_embeddings,
        })
    }
}

#[derive(Deserialize)]
struct FlaConfig {
    hidden_size: usize,
    num_hidden_layers: usize,
    num_heads: usize,
    num_v_heads: Option<usize>,
    head_dim: usize,
    #[serde(default = "one")]
    expand_v: f64,
    intermediate_size: usize,
    vocab_size: usize,
    #[serde(default = "four")]
    conv_size: usize,
    #[serde(default = "yes")]
    use_short_conv: bool,
    #[serde(default)]
    conv_bias: bool,
    #[serde(default)]
    allow_neg_eigval: bool,
    norm_eps: f32,
    output_gate: Option<String>,
    #[serde(default)]
    tie_word_embeddings: bool,
    attn: Option<serde_json::Value>,
}

fn one() -> f64 {
    1.0
}
fn four() -> usize {
    4
}
fn yes() -> bool {
    true
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let text = std::fs::read(&index).map_err(|e| Error::io(&index, e))?;
        let parsed: Index = serde_json::from_slice(&text).map_err(|e| Error::reader(&index, e.to_string()))?;
        let mut names: Vec<String> = parsed.weight_map.into_values().collect();
        names.sort();
        names.dedup();
        if let Some(odd) = names.iter().find(|n| Path::new(n).file_name() != Some(n.as_ref())) {
            return Err(Error::reader(&index, format!("names {odd:?}, which is not a file of its own folder")));
        }
        return Ok(names.into_iter().map(|n| folder.join(n)).collect());
    }
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let entries = std::fs::read_dir(folder).map_err(|e| Error::reader(folder, format!("is not a folder that can be read: {e}")))?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors")).collect();
    match found.len() {
        1 => Ok(vec![found.remove(0)]),
        0 => Err(Error::reader(folder, "holds no model.safetensors (nor model.safetensors.index.json)")),
        n => Err(Error::reader(folder, format!("holds {n} .safetensors files and no model.safetensors.index.json that lists them"))),
    }
}

fn detect(folder: &Path, place: &BTreeMap<String, usize>) -> Result<Dialect> {
    if let Some(name) = place.keys().find(|n| n.contains(".attn.attn.")) {
        return Err(Error::reader(
            folder,
            format!("tensor {name} is sliding-window attention: a hybrid; only checkpoints that are Gated DeltaNet-2 in every layer are read"),
        ));
    }
    [Dialect::Nvidia, Dialect::Fla].into_iter().find(|d| place.contains_key(d.embedding())).ok_or_else(|| {
        let seen: Vec<&str> = place.keys().take(3).map(String::as_str).collect();
        Error::reader(
            folder,
            format!(
                "unknown dialect: neither {} nor {} is among its {} tensors (first: {})",
                Dialect::Nvidia.embedding(),
                Dialect::Fla.embedding(),
                place.len(),
                seen.join(", ")
            ),
        )
    })
}
