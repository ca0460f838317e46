//! Tiny random readers, written to a folder in either dialect: what the tests read with when no trained reader is needed.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// xorshift64 in [-1, 1).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f32 {
        self.bits() as f32 / (1u64 << 31) as f32 - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n.max(1) as u64) as usize
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 32
    }
}

/// The shape of a tiny reader.
#[derive(Clone)]
pub struct Tiny {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub value_heads: usize,
    pub key_dim: usize,
    pub value_dim: usize,
    pub hidden: usize,
    pub vocabulary: usize,
    pub tied: bool,
    pub seed: u64,
}

impl Tiny {
    /// Grouped value heads, V != K, a head of its own.
    pub fn odd() -> Self {
        Self {
            layers: 2,
            width: 40,
            heads: 2,
            value_heads: 4,
            key_dim: 16,
            value_dim: 24,
            hidden: 56,
            vocabulary: 300,
            tied: false,
            seed: 7,
        }
    }

    pub fn tied(self) -> Self {
        Self { value_heads: self.heads, value_dim: self.key_dim, tied: true, ..self }
    }

    /// Tensors in flash-linear-attention's words.
    pub fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let mut noise = Noise(self.seed | 1);
        let (d, hk, hv, rank) = (self.width, self.heads * self.key_dim, self.value_heads * self.value_dim, 8);
        let mut out = BTreeMap::new();
        let mut add = |name: String, shape: &[usize], scale: f32, offset: f32| {
            let n = shape.iter().product();
            out.insert(name, (shape.to_vec(), (0..n).map(|_| noise.next() * scale + offset).collect()));
        };
        add("model.embeddings.weight".into(), &[self.vocabulary, d], 1.0, 0.0);
        add("model.norm.weight".into(), &[d], 0.2, 1.0);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocabulary, d], 0.4, 0.0);
        }
        for i in 0..self.layers {
            let n = |part: &str| format!("model.layers.{i}.{part}");
            let s = 1.5 / (d as f32).sqrt();
            add(n("attn_norm.weight"), &[d], 0.2, 1.0);
            add(n("mlp_norm.weight"), &[d], 0.2, 1.0);
            for (part, rows) in [("q", hk), ("k", hk), ("v", hv), ("b", hk), ("w", hv)] {
                add(n(&format!("attn.{part}_proj.weight")), &[rows, d], s, 0.0);
            }
            for (part, rows) in [("q", hk), ("k", hk), ("v", hv)] {
                add(n(&format!("attn.{part}_conv1d.weight")), &[rows, 1, 4], 0.6, 0.0);
            }
            add(n("attn.f_proj.0.weight"), &[rank, d], s, 0.0);
            add(n("attn.f_proj.1.weight"), &[hk, rank], 0.5, 0.0);
            add(n("attn.g_proj.0.weight"), &[rank, d], s, 0.0);
            add(n("attn.g_proj.1.weight"), &[hv, rank], 0.5, 0.0);
            add(n("attn.g_proj.1.bias"), &[hv], 0.5, 0.0);
            add(n("attn.A_log"), &[self.heads], 1.0, 0.0);
            add(n("attn.dt_bias"), &[hk], 1.0, -3.0);
            add(n("attn.o_norm.weight"), &[self.value_dim], 0.2, 1.0);
            add(n("attn.o_proj.weight"), &[d, hv], s, 0.0);
            add(n("mlp.gate_proj.weight"), &[self.hidden, d], s, 0.0);
            add(n("mlp.up_proj.weight"), &[self.hidden, d], s, 0.0);
            add(n("mlp.down_proj.weight"), &[d, self.hidden], 0.2, 0.0);
        }
        out
    }

    pub fn config_json(&self) -> serde_json::Value {
        serde_json::json!({
            "model_type": "gdn2", "hidden_size": self.width, "num_hidden_layers": self.layers, "num_heads": self.heads,
            "num_v_heads": self.value_heads, "head_dim": self.key_dim, "expand_v": self.value_dim as f64 / self.key_dim as f64,
            "intermediate_size": self.hidden, "vocab_size": self.vocabulary, "conv_size": 4, "norm_eps": 1e-5,
            "tie_word_embeddings": self.tied,
        })
    }

    /// Writes a reader in flash-linear-attention's names, weights stored as `dtype`.
    pub fn write_fla(&self, folder: &Path, dtype: Dtype) {
        std::fs::create_dir_all(folder).expect("folder");
        std::fs::write(folder.join("config.json"), self.config_json().to_string()).expect("config.json");
        write_tensors(&folder.join("model.safetensors"), &self.tensors(), dtype);
    }

    /// Writes the same weights in NVIDIA's names: no config.json, everything is told from the tensors.
    pub fn write_nvidia(&self, folder: &Path, dtype: Dtype) {
        std::fs::create_dir_all(folder).expect("folder");
        let renamed = self.tensors().into_iter().map(|(name, tensor)| (nvidia(&name), tensor)).collect();
        write_tensors(&folder.join("model.safetensors"), &renamed, dtype);
    }
}

pub fn nvidia(name: &str) -> String {
    name.replace("model.layers", "transformer.h")
        .replace("model.embeddings", "transformer.wte")
        .replace("model.norm", "transformer.ln_f")
        .replace("attn_norm", "norm_1")
        .replace("mlp_norm", "norm_2")
        .replace("mlp.gate_proj", "mlp.swiglu.w1")
        .replace("mlp.up_proj", "mlp.swiglu.w2")
        .replace("mlp.down_proj", "mlp.swiglu.w3")
}

pub fn write_tensors(file: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>, dtype: Dtype) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = match dtype {
                Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
                Dtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
                other => panic!("tiny readers are not written as {other:?}"),
            };
            (name, shape, bytes)
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, b)| (name.as_str(), TensorView::new(dtype, (*shape).clone(), b).expect("bytes fit the shape")));
    safetensors::serialize_to_file(views, None, file).expect("written");
}

/// A tokenizer of another kind than the shipped reader's: whole words and single characters, no marks.
pub fn write_word_tokenizer(folder: &Path, words: &[&str]) {
    let mut vocab = serde_json::Map::new();
    vocab.insert("[UNK]".into(), 0.into());
    for c in (' '..='~').map(String::from).chain(words.iter().map(|w| w.to_string())) {
        let id = vocab.len();
        vocab.entry(c).or_insert(id.into());
    }
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Split", "pattern": { "Regex": "\\w+|\\s|[^\\w\\s]" }, "behavior": "Isolated", "invert": false },
        "post_processor": null, "decoder": { "type": "Fuse" },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("tokenizer.json");
}

/// An int8 tensor that counts up from 0 in each row.
pub fn int8(name: &str, shape: &[usize]) -> (String, Vec<usize>, Vec<u8>) {
    let data = (0..shape[0]).flat_map(|_| (0..shape[1]).map(|i| (i % 100) as u8)).collect();
    (name.into(), shape.to_vec(), data)
}

/// Writes `tensors` as f32 and one int8 tensor, with its scales (0.5 for every row) or without.
pub fn write_with_int8(
    file: &Path,
    tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    (name, shape, data): &(String, Vec<usize>, Vec<u8>),
    scales: bool,
) {
    let float = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let mut bytes: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> =
        tensors.iter().map(|(n, (s, v))| (n.clone(), Dtype::F32, s.clone(), float(v))).collect();
    bytes.push((name.clone(), Dtype::I8, shape.clone(), data.clone()));
    if scales {
        bytes.push((format!("{name}_scale"), Dtype::F32, vec![shape[0]], float(&vec![0.5; shape[0]])));
    }
    let views = bytes.iter().map(|(n, d, s, b)| (n.as_str(), TensorView::new(*d, s.clone(), b).expect("bytes fit the shape")));
    safetensors::serialize_to_file(views, None, file).expect("written");
}
