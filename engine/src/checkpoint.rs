//! A folder of weights in either dialect -> named tensors of known shape, as f32.
//!
//! Two dialects are told apart by their tensor names: NVIDIA's (LitGPT names, no config.json, SiLU output gate) and
//! flash-linear-attention's (config.json beside the weights, sigmoid output gate; KDA and Gated DeltaNet in the same names are
//! taken as the tied forms that they are). Everything refused is refused by the name
//! of tensor and file.

use std::path::Path;

use palimpsest_kernels::OutputGate;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::files::ReaderFiles;
use crate::model::Config;
use crate::tied::{self, Tie, Tied};
use crate::weights::WeightFiles;

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

impl Dialect {
    /// The block and the part of it that a tensor of flash-linear-attention's names is.
    fn part(self, name: &str) -> Option<(usize, &str)> {
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        Some((layer.parse().ok()?, part)).filter(|_| self == Dialect::Fla)
    }
}

/// A tensor of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part<'n> {
    Embedding,
    Head,
    FinalNorm,
    /// Of a block, by the name that flash-linear-attention gives it.
    InLayer(usize, &'n str),
}

/// Weights on disk, opened and checked for their dialect; tensors are converted when asked for.
pub struct Checkpoint {
    from: ReaderFiles,
    weights: WeightFiles,
    dialect: Dialect,
    config: Config,
    /// Where erase and write gate are one.
    tied: Option<Tied>,
}

impl Checkpoint {
    /// Opens the weights of `folder` (safetensors, whole or in shards, or a PyTorch file) and reads the shape of the network
    /// off `config.json` or off the tensors.
    ///
    /// # Errors
    /// [`Error::Reader`] naming the file and tensor at fault.
    pub fn open(folder: &Path) -> Result<Self> {
        Self::open_files(&ReaderFiles::folder(folder))
    }

    /// As [`Checkpoint::open`], from files wherever they lie.
    ///
    /// # Errors
    /// [`Error::Reader`] naming the file and tensor at fault.
    pub fn open_files(from: &ReaderFiles) -> Result<Self> {
        let weights = WeightFiles::open(from)?;
        let dialect = detect(from.name(), &weights)?;
        let mut checkpoint = Self { from: from.clone(), weights, dialect, config: Config::default(), tied: None };
        checkpoint.config = match dialect {
            Dialect::Nvidia => checkpoint.config_from_tensors()?,
            Dialect::Fla => checkpoint.take_config_from_json()?,
        };
        checkpoint.config.validate().map_err(|reason| Error::reader(from.name(), reason))?;
        Ok(checkpoint)
    }

    /// The tensor that `part` names, as f32.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub(crate) fn part(&self, part: Part<'_>, shape: &[usize]) -> Result<Vec<f32>> {
        match part {
            Part::Embedding => self.tensor(self.dialect.embedding(), shape),
            Part::Head => self.tensor(self.head(), shape),
            Part::FinalNorm => self.tensor(self.dialect.final_norm(), shape),
            Part::InLayer(layer, name) => self.tensor(&self.dialect.in_layer(layer, name), shape),
        }
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
        self.weights.files()
    }

    /// Which tied form it is; `None` for Gated DeltaNet-2 itself.
    #[must_use]
    pub fn tie(&self) -> Option<Tie> {
        self.tied.map(|tied| tied.tie)
    }

    /// How tensor `name` is stored, as safetensors spells it, `None` when absent.
    #[must_use]
    pub fn stored_as(&self, name: &str) -> Option<String> {
        self.weights.describe(name).map(|(_, _, stored)| stored)
    }

    /// Every tensor with its shape, in order of names; scales of int8 tensors belong to their tensor and are left out.
    #[must_use]
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let names = self.weights.names().filter(|n| !n.strip_suffix("_scale").is_some_and(|of| self.weights.holds(of)));
        names.filter_map(|n| Some((n.to_string(), self.weights.describe(n)?.1))).collect()
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
        if let Some((tied, (layer, part))) = self.tied.zip(self.dialect.part(name)) {
            let read = |part: &str, shape: &[usize]| self.stored(&self.dialect.in_layer(layer, part), shape);
            if let Some(made) = tied.tensor(part, read) {
                return made;
            }
        }
        self.stored(name, shape)
    }

    /// As [`Checkpoint::tensor`], but of the checkpoint's own tensors alone, as they are.
    pub(crate) fn stored(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (file, found) = self.shape(name)?;
        if found != shape {
            return Err(Error::reader(
                file,
                format!(
                    "tensor {name} has shape {found:?}, the configuration needs {shape:?}: config.json and weights do not belong together"
                ),
            ));
        }
        self.weights.values(name)
    }

    fn shape(&self, name: &str) -> Result<(&Path, Vec<usize>)> {
        match self.weights.describe(name) {
            Some((file, shape, _)) => Ok((file, shape)),
            None => Err(Error::reader(
                self.only_file_or_folder(),
                format!("tensor {name} is missing ({} dialect)", self.dialect.name()),
            )),
        }
    }

    fn only_file_or_folder(&self) -> &Path {
        let mut files = self.weights.files();
        match (files.next(), files.next()) {
            (Some(file), None) => file,
            _ => self.from.name(),
        }
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
        let layers = (0..).take_while(|&i| self.weights.holds(&self.dialect.in_layer(i, "attn_norm.weight"))).count();
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
            doubled_write: false,
            output_gate: OutputGate::Silu,
            tied: !self.weights.holds("lm_head.weight"),
        })
    }

    fn take_config_from_json(&mut self) -> Result<Config> {
        let file = self.from.path("config.json");
        let text = self.from.read("config.json").map_err(|e| {
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
        let tie = tied::tie(&self.weights, |part| self.dialect.in_layer(0, part));
        if tie == Some(Tie::GatedDelta) && json.use_gate == Some(false) {
            return refuse("use_gate false: only Gated DeltaNet with an output gate is read".into());
        }
        let output_gate = match json.output_gate.as_deref() {
            None if tie == Some(Tie::GatedDelta) => OutputGate::Silu,
            None | Some("sigmoid") => OutputGate::Sigmoid,
            Some("silu" | "swish") => OutputGate::Silu,
            Some(other) => return refuse(format!("output_gate {other} is unknown: sigmoid and silu are read")),
        };
        let value_dim = json.head_dim as f64 * json.expand_v;
        if value_dim.fract() != 0.0 || value_dim < 1.0 {
            return refuse(format!("head_dim {} times expand_v {} is no whole number", json.head_dim, json.expand_v));
        }
        let value_heads = json.num_v_heads.unwrap_or(json.num_heads);
        if json.num_heads == 0 {
            return refuse("the number of heads is 0".into());
        }
        if !value_heads.is_multiple_of(json.num_heads) {
            return refuse(format!("num_v_heads {value_heads} is no multiple of num_heads {}", json.num_heads));
        }
        self.tied = tie.map(|tie| Tied {
            tie,
            width: json.hidden_size,
            heads: json.num_heads,
            value_heads,
            key_dim: json.head_dim,
            value_dim: value_dim as usize,
        });
        let rows = |p: &str| self.shape(&self.dialect.in_layer(0, p)).map(|(_, s)| s.first().copied().unwrap_or(0));
        let full = tie == Some(Tie::GatedDelta);
        Ok(Config {
            layers: json.num_hidden_layers,
            width: json.hidden_size,
            vocabulary: json.vocab_size,
            heads: self.tied.map_or(json.num_heads, |tied| tied.heads()),
            value_heads,
            key_dim: json.head_dim,
            value_dim: value_dim as usize,
            hidden: json.intermediate_size.map_or_else(|| rows("mlp.gate_proj.weight"), Ok)?,
            decay_rank: if full { value_heads } else { rows("attn.f_proj.0.weight")? },
            gate_rank: if full { json.hidden_size } else { rows("attn.g_proj.0.weight")? },
            norm_eps: json.norm_eps,
            allow_neg_eigval: json.allow_neg_eigval,
            doubled_write: json.allow_neg_eigval && tie.is_some(),
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
    intermediate_size: Option<usize>,
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
    use_gate: Option<bool>,
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

fn detect(folder: &Path, weights: &WeightFiles) -> Result<Dialect> {
    if let Some(name) = weights.names().find(|n| n.contains(".attn.attn.")) {
        return Err(Error::reader(
            folder,
            format!(
                "tensor {name} is sliding-window attention: a hybrid; only checkpoints that are Gated DeltaNet-2 in every layer are read"
            ),
        ));
    }
    [Dialect::Nvidia, Dialect::Fla].into_iter().find(|d| weights.holds(d.embedding())).ok_or_else(|| {
        let seen: Vec<&str> = weights.names().take(3).collect();
        Error::reader(
            folder,
            format!(
                "unknown dialect: neither {} nor {} is among its {} tensors (first: {})",
                Dialect::Nvidia.embedding(),
                Dialect::Fla.embedding(),
                weights.names().count(),
                seen.join(", ")
            ),
        )
    })
}
