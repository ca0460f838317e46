//! What does a text mean, as a vector? Feature `dense`: sentence-transformers of the BERT family, run through candle.
//!
//! A folder as sentence-transformers writes it: `config.json`, `tokenizer.json`, weights as safetensors, and where they are
//! there `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json` and `config_sentence_transformers.json`. BERT,
//! RoBERTa and XLM-RoBERTa (post-norm encoders with absolute positions), mean or first-token pooling; anything else is
//! refused by name. Vectors come out with length 1.
//!
//! The network is that of *BERT* (arXiv 1810.04805), pooled as in *Sentence-BERT* (arXiv 1908.10084).

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{D, Device, Tensor};
use palimpsest_index::{Encoder, IndexError, Role};
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::{Error, Result};
use crate::files::ReaderFiles;
use crate::weights::WeightFiles;

/// Texts that go through the network together, of about the same length.
const BATCH: usize = 16;

#[derive(Deserialize)]
struct Config {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    vocab_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    #[serde(default)]
    pad_token_id: usize,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

fn absolute() -> String {
    "absolute".to_string()
}

/// `1_Pooling/config.json`.
#[derive(Deserialize)]
struct Pooling {
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

/// `sentence_bert_config.json`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Lengths {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

/// `config_sentence_transformers.json`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Use {
    prompts: std::collections::BTreeMap<String, String>,
    similarity_fn_name: Option<String>,
}

/// One of `modules.json`.
#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Clone, Copy)]
enum Activation {
    Gelu,
    GeluTanh,
    Relu,
}

struct Linear {
    /// `[in, out]`
    weight: Tensor,
    bias: Tensor,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    after_attention: Norm,
    up: Linear,
    down: Linear,
    after: Norm,
}

/// A sentence-transformer.
pub struct SentenceTransformer {
    config: Config,
    words: Tensor,
    positions: Tensor,
    kind: Tensor,
    embedded: Norm,
    layers: Vec<Layer>,
    activation: Activation,
    first_token: bool,
    tokenizer: Tokenizer,
    lower_case: bool,
    question: String,
    passage: String,
    fingerprint: String,
}

fn candle(e: candle_core::Error) -> Error {
    Error::Input(format!("candle refused: {e}"))
}

/// A JSON file of the folder; `None` when it is not there.
fn json<T: for<'a> Deserialize<'a>>(folder: &Path, name: &str) -> Result<Option<T>> {
    let file = folder.join(name);
    match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::encoder(&file, e.to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(&file, e)),
    }
}

impl SentenceTransformer {
    /// Opens the folder, or the `model` folder in it, as packages of models have it.
    ///
    /// # Errors
    /// [`Error::Reader`] with the file and what it lacks, or what of it is not run here.
    pub fn open(folder: &Path) -> Result<Self> {
        let within = folder.join("model");
        let folder = if !folder.join("config.json").exists() && within.join("config.json").exists() { &within } else { folder };
        let config: Config = json(folder, "config.json")?
            .ok_or_else(|| Error::encoder(folder, "it has no config.json: a sentence-transformers folder was expected"))?;
        let refused = |what: String| Error::encoder(folder.join("config.json"), what);
        if !["bert", "roberta", "xlm-roberta", "camembert"].contains(&config.model_type.as_str()) {
            return Err(refused(format!("models of type {:?} are not run here; BERT and RoBERTa are", config.model_type)));
        }
        if config.position_embedding_type != "absolute" {
            return Err(refused(format!("positions of type {:?} are not run here", config.position_embedding_type)));
        }
        if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return Err(refused(format!("{} heads do not share a width of {}", config.num_attention_heads, config.hidden_size)));
        }
        let activation = match config.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => return Err(refused(format!("activation {other:?} is not known here"))),
        };
        let first_token = pooled_by_first_token(folder)?;
        let lengths: Lengths = json(folder, "sentence_bert_config.json")?.unwrap_or_default();
        let mut usage: Use = json(folder, "config_sentence_transformers.json")?.unwrap_or_default();
        if let Some(other) = usage.similarity_fn_name.filter(|name| name != "cosine") {
            let file = folder.join("config_sentence_transformers.json");
            return Err(Error::encoder(file, format!("vectors are compared by their cosine here, not by {other:?}")));
        }
        let longest = config.max_position_embeddings.saturating_sub(config.first_position());
        let longest = lengths.max_seq_length.unwrap_or(longest).min(longest);
        let tokenizer = tokenizer(folder, longest)?;
        let files = WeightFiles::open(&ReaderFiles::folder(folder))?;
        let fingerprint = fingerprint(folder, &files)?;
        let mut prompt = |names: [&str; 2]| names.into_iter().find_map(|name| usage.prompts.remove(name)).unwrap_or_default();
        let (question, passage) = (prompt(["query", "question"]), prompt(["document", "passage"]));
        let load = Load::new(&files);
        let (d, hidden) = (config.hidden_size, config.intermediate_size);
        let layers = (0..config.num_hidden_layers).map(|i| {
            let linear = |part: &str, shape| load.linear(&format!("encoder.layer.{i}.{part}"), shape);
            let norm = |part: &str| load.norm(&format!("encoder.layer.{i}.{part}"), d);
            Ok(Layer {
                query: linear("attention.self.query", [d, d])?,
                key: linear("attention.self.key", [d, d])?,
                value: linear("attention.self.value", [d, d])?,
                out: linear("attention.output.dense", [d, d])?,
                after_attention: norm("attention.output.LayerNorm")?,
                up: linear("intermediate.dense", [hidden, d])?,
                down: linear("output.dense", [d, hidden])?,
                after: norm("output.LayerNorm")?,
            })
        });
        Ok(Self {
            words: load.tensor("embeddings.word_embeddings.weight", &[config.vocab_size, d])?,
            positions: load.tensor("embeddings.position_embeddings.weight", &[config.max_position_embeddings, d])?,
            kind: load.tensor("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, d])?.get(0).map_err(candle)?,
            embedded: load.norm("embeddings.LayerNorm", d)?,
            layers: layers.collect::<Result<_>>()?,
            activation,
            first_token,
            tokenizer,
            lower_case: lengths.do_lower_case,
            question,
            passage,
            fingerprint,
            config,
        })
    }

    /// Vectors of `texts`, in order, each of length 1.
    ///
    /// # Errors
    /// [`Error::Input`] when the tokenizer or candle refuses.
    pub fn vectors(&self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>> {
        let prompt = match role {
            Role::Question => &self.question,
            Role::Passage => &self.passage,
        };
        let ids = |text: &&str| -> Result<Vec<u32>> {
            // White space around it is taken off, as sentence-transformers does.
            let mut text = format!("{prompt}{text}").trim().to_string();
            if self.lower_case {
                text = text.to_lowercase();
            }
            let encoding =
                self.tokenizer.encode(text, true).map_err(|e| Error::Input(format!("the encoder's tokenizer refused: {e}")))?;
            Ok(encoding.get_ids().to_vec())
        };
        let ids = texts.iter().map(ids).collect::<Result<Vec<_>>>()?;
        // Neighbours in length go together, so that little is padded.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_by_key(|&i| ids[i].len());
        let mut vectors = vec![Vec::new(); ids.len()];
        for some in order.chunks(BATCH) {
            let batch: Vec<&[u32]> = some.iter().map(|&i| ids[i].as_slice()).collect();
            let rows = self.forward(&batch).map_err(candle)?;
            some.iter().zip(rows).for_each(|(&i, row)| vectors[i] = row);
        }
        Ok(vectors)
    }

    /// `[B, hidden]` of B texts of different lengths.
    fn forward(&self, batch: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let (b, d) = (batch.len(), self.config.hidden_size);
        let t = batch.iter().map(|ids| ids.len()).max().unwrap_or(0).max(1);
        let padded = |value: fn(usize, &[u32]) -> f32| -> candle_core::Result<Tensor> {
            let rows = batch.iter().flat_map(|ids| (0..t).map(move |i| value(i, ids)));
            Tensor::from_iter(rows, &Device::Cpu)?.reshape((b, t))
        };
        let pad = self.config.pad_token_id as u32;
        let ids: Vec<u32> = batch.iter().flat_map(|ids| (0..t).map(move |i| ids.get(i).copied().unwrap_or(pad))).collect();
        let held = padded(|i, ids| f32::from(u8::from(i < ids.len())))?;
        // Padding is not attended to: [B, 1, 1, T]
        let bias = padded(|i, ids| if i < ids.len() { 0.0 } else { f32::MIN / 2.0 })?.reshape((b, 1, 1, t))?;
        let words = self.words.index_select(&Tensor::from_vec(ids, b * t, &Device::Cpu)?, 0)?.reshape((b, t, d))?;
        let positions = self.positions.narrow(0, self.config.first_position(), t)?;
        let x = words.broadcast_add(&positions)?.broadcast_add(&self.kind)?;
        let mut x = self.norm(&x, &self.embedded)?;
        for layer in &self.layers {
            let attended = linear(&self.attend(&x, layer, &bias)?, &layer.out)?;
            x = self.norm(&(x + attended)?, &layer.after_attention)?;
            let up = linear(&x, &layer.up)?;
            let up = match self.activation {
                Activation::Gelu => up.gelu_erf()?,
                Activation::GeluTanh => up.gelu()?,
                Activation::Relu => up.relu()?,
            };
            let down = linear(&up, &layer.down)?;
            x = self.norm(&(x + down)?, &layer.after)?;
        }
        let pooled = if self.first_token {
            x.narrow(1, 0, 1)?.squeeze(1)?
        } else {
            let sum = x.broadcast_mul(&held.unsqueeze(2)?)?.sum(1)?;
            sum.broadcast_div(&held.sum_keepdim(1)?)?
        };
        let length = pooled.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.clamp(1e-12f32, f32::MAX)?;
        pooled.broadcast_div(&length)?.to_vec2()
    }

    /// softmax(q k^T / sqrt(K) + bias) v, `[B, T, H * K]`.
    fn attend(&self, x: &Tensor, layer: &Layer, bias: &Tensor) -> candle_core::Result<Tensor> {
        let (b, t, d) = x.dims3()?;
        let h = self.config.num_attention_heads;
        // [B, H, T, K]
        let heads = |l: &Linear| linear(x, l)?.reshape((b, t, h, d / h))?.transpose(1, 2)?.contiguous();
        let (q, k, v) = (heads(&layer.query)?, heads(&layer.key)?, heads(&layer.value)?);
        let scores = (q.matmul(&k.t()?)? / ((d / h) as f64).sqrt())?.broadcast_add(bias)?;
        let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let scores = scores.broadcast_div(&scores.sum_keepdim(D::Minus1)?)?;
        scores.matmul(&v)?.transpose(1, 2)?.reshape((b, t, d))
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> candle_core::Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.config.layer_norm_eps)?.sqrt()?;
        centred.broadcast_div(&scale)?.broadcast_mul(&norm.weight)?.broadcast_add(&norm.bias)
    }
}

impl Config {
    /// RoBERTa counts positions from behind its padding's.
    fn first_position(&self) -> usize {
        if self.model_type == "bert" { 0 } else { self.pad_token_id + 1 }
    }
}

fn linear(x: &Tensor, l: &Linear) -> candle_core::Result<Tensor> {
    let (b, t, d) = x.dims3()?;
    x.reshape((b * t, d))?.matmul(&l.weight)?.broadcast_add(&l.bias)?.reshape((b, t, ()))
}

/// Whether the vector is the first token's, and not the mean of all.
fn pooled_by_first_token(folder: &Path) -> Result<bool> {
    let modules: Vec<Module> = json(folder, "modules.json")?.unwrap_or_default();
    let known = ["Transformer", "Pooling", "Normalize"];
    if let Some(other) = modules.iter().find(|m| !known.contains(&m.kind.rsplit('.').next().unwrap_or_default())) {
        return Err(Error::encoder(folder.join("modules.json"), format!("module {:?} is not run here", other.kind)));
    }
    let Some(pooling) = json::<Pooling>(folder, "1_Pooling/config.json")? else { return Ok(false) };
    let other = pooling.rest.iter().find(|(name, on)| name.starts_with("pooling_mode_") && **on == true);
    match (pooling.pooling_mode_cls_token, pooling.pooling_mode_mean_tokens, other) {
        (true, false, None) => Ok(true),
        (false, true, None) => Ok(false),
        _ => Err(Error::encoder(folder.join("1_Pooling/config.json"), "pooling by the mean or by the first token is run here")),
    }
}

fn tokenizer(folder: &Path, longest: usize) -> Result<Tokenizer> {
    let file = folder.join("tokenizer.json");
    let bytes = fs::read(&file).map_err(|e| Error::io(&file, e))?;
    let refused = |e: tokenizers::Error| Error::encoder(&file, format!("is no tokenizer: {e}"));
    let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(refused)?;
    tokenizer.with_padding(None);
    let truncation = TruncationParams {
        max_length: longest,
        strategy: TruncationStrategy::LongestFirst,
        stride: 0,
        direction: TruncationDirection::Right,
    };
    tokenizer.with_truncation(Some(truncation)).map_err(refused)?;
    Ok(tokenizer)
}

/// A hash of everything that changes its vectors.
fn fingerprint(folder: &Path, weights: &WeightFiles) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    let settings = [
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    ];
    let settings = settings.into_iter().map(|name| folder.join(name)).filter(|file| file.exists());
    for file in settings.chain(weights.files().map(PathBuf::from)) {
        let mut open = fs::File::open(&file).map_err(|e| Error::io(&file, e))?;
        let mut content = blake3::Hasher::new();
        content.update_reader(&mut open).map_err(|e| Error::io(&file, e))?;
        hash.update(content.finalize().as_bytes());
    }
    Ok(hash.finalize().to_hex()[..32].to_string())
}

/// Tensors by their names in a BERT, whatever the checkpoint puts before them.
struct Load<'a> {
    files: &'a WeightFiles,
    prefix: &'static str,
}

impl<'a> Load<'a> {
    fn new(files: &'a WeightFiles) -> Self {
        let prefixes = ["", "bert.", "roberta.", "model.", "0.auto_model."];
        let there = |prefix: &&str| files.holds(&format!("{prefix}embeddings.word_embeddings.weight"));
        Self { files, prefix: prefixes.into_iter().find(there).unwrap_or_default() }
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let name = format!("{}{name}", self.prefix);
        if !self.files.holds(&name) {
            let file = self.files.files().next().unwrap_or(Path::new("model.safetensors"));
            return Err(Error::encoder(file, format!("tensor {name} is missing")));
        }
        if let Some((file, found, _)) = self.files.describe(&name)
            && found != shape
        {
            return Err(Error::encoder(file, format!("tensor {name} has shape {found:?}, its config.json says {shape:?}")));
        }
        Tensor::from_vec(self.files.values(&name)?, shape, &Device::Cpu).map_err(candle)
    }

    fn linear(&self, name: &str, shape: [usize; 2]) -> Result<Linear> {
        let weight = self.tensor(&format!("{name}.weight"), &shape)?.t().and_then(|t| t.contiguous()).map_err(candle)?;
        Ok(Linear { weight, bias: self.tensor(&format!("{name}.bias"), &shape[..1])? })
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let part = |part: &str| self.tensor(&format!("{name}.{part}"), &[width]);
        Ok(Norm { weight: part("weight")?, bias: part("bias")? })
    }
}

impl Encoder for SentenceTransformer {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn dimensions(&self) -> usize {
        self.config.hidden_size
    }

    fn encode(&self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, IndexError> {
        self.vectors(texts, role).map_err(|e| IndexError::Encoder { what: e.to_string() })
    }
}
