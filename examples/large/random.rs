//! Random weights of any size in NVIDIA's names, as its checkpoints are published: bf16, in shards, without config.json.

#![allow(unreachable_pub)]

use std::fs::File;
use std::io::{BufWriter, Result, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

/// The shape of a network.
#[derive(Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    /// K and V.
    pub head_dim: usize,
    pub hidden: usize,
    pub vocabulary: usize,
}

/// NVIDIA's 1.3B configuration.
#[allow(dead_code)]
pub const LARGE: Shape = Shape { layers: 18, width: 2304, heads: 16, head_dim: 128, hidden: 6208, vocabulary: 32_000 };

/// What a tensor is filled with: uniform noise of this width around this value.
type Tensor = (String, Vec<usize>, f32, f32);

/// Writes `model-*.safetensors`, one shard a block and one for the rest, with their index; never more than a row in memory.
pub fn write(folder: &Path, shape: Shape) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let (d, wide, rank) = (shape.width, shape.heads * shape.head_dim, shape.head_dim);
    let mut map = Map::new();
    let mut seed = 88_172_645_463_325_252;
    for shard in 0..=shape.layers {
        let around = |name: &str, dims: &[usize], value: f32| (name.to_string(), dims.to_vec(), 0.02, value);
        let noise =
            |name: &str, dims: &[usize]| (name.to_string(), dims.to_vec(), (3.0 / dims[dims.len() - 1] as f32).sqrt(), 0.0);
        let mut tensors: Vec<Tensor> = if shard == shape.layers {
            vec![
                noise("transformer.wte.weight", &[shape.vocabulary, d]),
                noise("lm_head.weight", &[shape.vocabulary, d]),
                around("transformer.ln_f.weight", &[d], 1.0),
            ]
        } else {
            let mut all = vec![
                around("norm_1.weight", &[d], 1.0),
                around("norm_2.weight", &[d], 1.0),
                around("attn.A_log", &[shape.heads], 1.0),
                around("attn.dt_bias", &[wide], -3.0),
                around("attn.o_norm.weight", &[shape.head_dim], 1.0),
                around("attn.g_proj.1.bias", &[wide], 0.0),
                noise("attn.f_proj.0.weight", &[rank, d]),
                noise("attn.f_proj.1.weight", &[wide, rank]),
                noise("attn.g_proj.0.weight", &[rank, d]),
                noise("attn.g_proj.1.weight", &[wide, rank]),
                noise("attn.o_proj.weight", &[d, wide]),
                noise("mlp.swiglu.w1.weight", &[shape.hidden, d]),
                noise("mlp.swiglu.w2.weight", &[shape.hidden, d]),
                noise("mlp.swiglu.w3.weight", &[d, shape.hidden]),
            ];
            all.extend(["q", "k", "v", "b", "w"].map(|p| noise(&format!("attn.{p}_proj.weight"), &[wide, d])));
            all.extend(["q", "k", "v"].map(|p| noise(&format!("attn.{p}_conv1d.weight"), &[wide, 1, 4])));
            all.iter_mut().for_each(|t| t.0 = format!("transformer.h.{shard}.{}", t.0));
            all
        };
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let file = format!("model-{:05}-of-{:05}.safetensors", shard + 1, shape.layers + 1);
        write_shard(&folder.join(&file), &tensors, &mut seed)?;
        map.extend(tensors.into_iter().map(|t| (t.0, Value::from(file.clone()))));
    }
    std::fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string())
}

fn write_shard(path: &Path, tensors: &[Tensor], seed: &mut u64) -> Result<()> {
    let (mut header, mut at) = (Map::new(), 0);
    for (name, dims, ..) in tensors {
        let bytes = 2 * dims.iter().product::<usize>();
        header.insert(name.clone(), json!({ "dtype": "BF16", "shape": dims, "data_offsets": [at, at + bytes] }));
        at += bytes;
    }
    let mut header = Value::from(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for (_, dims, scale, offset) in tensors {
        for _ in 0..dims.iter().product::<usize>() {
            // xorshift64
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            let uniform = (*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
            out.write_all(&half::bf16::from_f32(uniform * scale + offset).to_le_bytes())?;
        }
    }
    out.flush()
}
