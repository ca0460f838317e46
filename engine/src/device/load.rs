//! A checkpoint's weights -> matrices of bf16 and vectors of f32 on a GPU.

use std::collections::HashMap;
use std::sync::Mutex;

use half::bf16;
use palimpsest_kernels::cuda::{Buffer, CudaError, Gpu, Mixer};

use super::{DeviceModel, Work};
use crate::checkpoint::{Checkpoint, Part};
use crate::error::Result;
use crate::model::{Config, Tensors};

/// One block's weights.
pub(super) struct Block {
    pub(super) attn_norm: Buffer,
    /// q, k, v, b, w, and the first of the decay's and of the output gate's two linears, one above the other.
    pub(super) into: Buffer,
    pub(super) f_up: Buffer,
    pub(super) g_up: Buffer,
    pub(super) mixer: Mixer,
    pub(super) out: Buffer,
    pub(super) mlp_norm: Buffer,
    pub(super) gate_up: Buffer,
    pub(super) down: Buffer,
}

impl DeviceModel {
    /// Converts `checkpoint`'s weights to bf16 and brings them to the GPU.
    ///
    /// # Errors
    /// [`Error::Reader`] naming the tensor and file at fault; [`Error::Cuda`] when the GPU has no room for them, or its kernels
    /// are not made for this shape.
    pub fn load(checkpoint: &Checkpoint, gpu: Gpu) -> Result<Self> {
        Self::of(checkpoint.config().clone(), gpu, &|part, shape| checkpoint.part(part, shape))
    }

    /// A network of weights that `tensor` gives, by part and shape.
    ///
    /// # Errors
    /// Those of `tensor`, and as [`DeviceModel::load`].
    pub(crate) fn of(c: Config, gpu: Gpu, tensor: &Tensors<'_>) -> Result<Self> {
        gpu.supports(&c.gdn2())?;
        for (what, n) in [("width", c.width), ("hidden", c.hidden), ("decay rank", c.decay_rank), ("gate rank", c.gate_rank)] {
            if !n.is_multiple_of(8) {
                let needs = match what {
                    "width" => "a width that is a multiple of 8",
                    "hidden" => "a hidden width that is a multiple of 8",
                    _ => "ranks that are multiples of 8",
                };
                return Err(CudaError::Unsupported { op: "the network", needs, got: n }.into());
            }
        }
        let (d, hk, hv) = (c.width, c.key_width(), c.value_width());
        let bytes = std::cell::Cell::new(0);
        let f32s = |x: &[f32]| gpu.upload(x);
        let bf16s = |parts: &[Vec<f32>]| -> Result<Buffer> {
            let rounded: Vec<bf16> = parts.iter().flatten().map(|&x| bf16::from_f32(x)).collect();
            bytes.set(bytes.get() + size_of_val(rounded.as_slice()));
            Ok(gpu.upload(&rounded)?)
        };
        let embedding = bf16s(&[tensor(Part::Embedding, &[c.vocabulary, d])?])?;
        let head = if c.tied { None } else { Some(bf16s(&[tensor(Part::Head, &[c.vocabulary, d])?])?) };
        let blocks = (0..c.layers)
            .map(|i| {
                let of = |part: &str, shape: &[usize]| tensor(Part::InLayer(i, part), shape);
                let matrix = |part: &str, rows: usize, cols: usize| of(part, &[rows, cols]);
                let into = [
                    matrix("attn.q_proj.weight", hk, d)?,
                    matrix("attn.k_proj.weight", hk, d)?,
                    matrix("attn.v_proj.weight", hv, d)?,
                    matrix("attn.b_proj.weight", hk, d)?,
                    matrix("attn.w_proj.weight", hv, d)?,
                    matrix("attn.f_proj.0.weight", c.decay_rank, d)?,
                    matrix("attn.g_proj.0.weight", c.gate_rank, d)?,
                ];
                let taps = [
                    of("attn.q_conv1d.weight", &[hk, 1, 4])?,
                    of("attn.k_conv1d.weight", &[hk, 1, 4])?,
                    of("attn.v_conv1d.weight", &[hv, 1, 4])?,
                ]
                .concat();
                let mixer = Mixer {
                    shape: c.gdn2(),
                    taps: f32s(&taps)?,
                    a_log: f32s(&of("attn.A_log", &[c.heads])?)?,
                    dt_bias: f32s(&of("attn.dt_bias", &[hk])?)?,
                    o_norm: f32s(&of("attn.o_norm.weight", &[c.value_dim])?)?,
                    gate_bias: f32s(&of("attn.g_proj.1.bias", &[hv])?)?,
                    gate: c.output_gate,
                    erase_scale: if c.allow_neg_eigval { 2.0 } else { 1.0 },
                    eps: c.norm_eps,
                };
                let gate_up = [matrix("mlp.gate_proj.weight", c.hidden, d)?, matrix("mlp.up_proj.weight", c.hidden, d)?];
                Ok(Block {
                    attn_norm: f32s(&of("attn_norm.weight", &[d])?)?,
                    into: bf16s(&into)?,
                    f_up: bf16s(&[matrix("attn.f_proj.1.weight", hk, c.decay_rank)?])?,
                    g_up: bf16s(&[matrix("attn.g_proj.1.weight", hv, c.gate_rank)?])?,
                    mixer,
                    out: bf16s(&[matrix("attn.o_proj.weight", d, hv)?])?,
                    mlp_norm: f32s(&of("mlp_norm.weight", &[d])?)?,
                    gate_up: bf16s(&gate_up)?,
                    down: bf16s(&[matrix("mlp.down_proj.weight", d, c.hidden)?])?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let final_norm = f32s(&tensor(Part::FinalNorm, &[d])?)?;
        let weight_bytes = bytes.get();
        let work = Mutex::new(Work { wide: None, step: None, step_table: None, graphs: HashMap::new() });
        Ok(Self { gpu, config: c, embedding, head, final_norm, blocks, weight_bytes, work })
    }
}
