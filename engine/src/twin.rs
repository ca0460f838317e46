//! The plain, obvious network in candle's tensors: what `model.rs` is tested against. One token at a time, no tricks, slow.

use candle_core::{D, DType, Device, Tensor};
use palimpsest_kernels::OutputGate;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::Config;
use crate::state::{CARRIED, LayerOffsets, State, layer_offsets};

/// The twin: weights as candle tensors, f32 on the CPU.
pub struct Twin {
    config: Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    final_norm: Tensor,
    head: Tensor,
}

struct Layer {
    attn_norm: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    b: Tensor,
    w: Tensor,
    f: [Tensor; 2],
    g: [Tensor; 2],
    g_bias: Tensor,
    taps: [Tensor; 3],
    a_log: Tensor,
    dt_bias: Tensor,
    o_norm: Tensor,
    o: Tensor,
    mlp_norm: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// What the twin saw: logits `[T, vocabulary]` after every token, and the state in the layout of `state.rs`.
pub struct TwinOutput {
    /// `[T, vocabulary]`
    pub logits: Vec<f32>,
    /// As [`State::data`].
    pub state: Vec<f32>,
}

fn candle(e: candle_core::Error) -> Error {
    Error::Input(format!("candle refused: {e}"))
}

impl Twin {
    /// Loads the same tensors as the fast path.
    ///
    /// # Errors
    /// As [`crate::model::Model::load`].
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        let c = checkpoint.config().clone();
        let dialect = checkpoint.dialect();
        let (d, hk, hv) = (c.width, c.key_width(), c.value_width());
        let get = |name: &str, shape: &[usize]| -> Result<Tensor> {
            Tensor::from_vec(checkpoint.tensor(name, shape)?, shape, &Device::Cpu).map_err(candle)
        };
        let layers = (0..c.layers)
            .map(|i| {
                let t = |part: &str, shape: &[usize]| get(&dialect.in_layer(i, part), shape);
                Ok(Layer {
                    attn_norm: t("attn_norm.weight", &[d])?,
                    q: t("attn.q_proj.weight", &[hk, d])?,
                    k: t("attn.k_proj.weight", &[hk, d])?,
                    v: t("attn.v_proj.weight", &[hv, d])?,
                    b: t("attn.b_proj.weight", &[hk, d])?,
                    w: t("attn.w_proj.weight", &[hv, d])?,
                    f: [t("attn.f_proj.0.weight", &[c.decay_rank, d])?, t("attn.f_proj.1.weight", &[hk, c.decay_rank])?],
                    g: [t("attn.g_proj.0.weight", &[c.gate_rank, d])?, t("attn.g_proj.1.weight", &[hv, c.gate_rank])?],
                    g_bias: t("attn.g_proj.1.bias", &[hv])?,
                    taps: [
                        t("attn.q_conv1d.weight", &[hk, 1, 4])?,
                        t("attn.k_conv1d.weight", &[hk, 1, 4])?,
                        t("attn.v_conv1d.weight", &[hv, 1, 4])?,
                    ],
                    a_log: t("attn.A_log", &[c.heads])?,
                    dt_bias: t("attn.dt_bias", &[hk])?,
                    o_norm: t("attn.o_norm.weight", &[c.value_dim])?,
                    o: t("attn.o_proj.weight", &[d, hv])?,
                    mlp_norm: t("mlp_norm.weight", &[d])?,
                    gate: t("mlp.gate_proj.weight", &[c.hidden, d])?,
                    up: t("mlp.up_proj.weight", &[c.hidden, d])?,
                    down: t("mlp.down_proj.weight", &[d, c.hidden])?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            embedding: get(dialect.embedding(), &[c.vocabulary, d])?,
            final_norm: get(dialect.final_norm(), &[d])?,
            head: get(checkpoint.head(), &[c.vocabulary, d])?,
            layers,
            config: c,
        })
    }

    /// Reads `ids` from the empty state.
    ///
    /// # Errors
    /// [`Error::Input`] when candle refuses, as for an id outside the vocabulary.
    pub fn forward(&self, ids: &[u32]) -> Result<TwinOutput> {
        self.run(ids).map_err(candle)
    }

    fn run(&self, ids: &[u32]) -> candle_core::Result<TwinOutput> {
        let mut state = vec![0.0; State::elements(&self.config)];
        let mut x = self.embedding.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        for (i, layer) in self.layers.iter().enumerate() {
            x = (&x + self.mixer(layer, &self.norm(&x, &layer.attn_norm)?, layer_offsets(&self.config, i), &mut state)?)?;
            let h = self.norm(&x, &layer.mlp_norm)?;
            let h = (linear(&h, &layer.gate)?.silu()? * linear(&h, &layer.up)?)?;
            x = (x + linear(&h, &layer.down)?)?;
        }
        let logits = linear(&self.norm(&x, &self.final_norm)?, &self.head)?.flatten_all()?.to_vec1()?;
        Ok(TwinOutput { logits, state })
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(self.config.norm_eps))?.sqrt()?;
        x.broadcast_div(&scale)?.broadcast_mul(weight)
    }

    fn mixer(&self, l: &Layer, x: &Tensor, at: LayerOffsets, state: &mut [f32]) -> candle_core::Result<Tensor> {
        let c = &self.config;
        let t = x.dim(0)?;
        let (h, hv, k, v) = (c.heads, c.value_heads, c.key_dim, c.value_dim);
        let keys = |x: Tensor| x.reshape((t, h, k))?.repeat_heads(hv / h);
        let q = keys(l2(&conv(&linear(x, &l.q)?, &l.taps[0], &mut state[at.conv_q..])?.reshape((t, h, k))?)?)?;
        let key = keys(l2(&conv(&linear(x, &l.k)?, &l.taps[1], &mut state[at.conv_k..])?.reshape((t, h, k))?)?)?;
        let value = conv(&linear(x, &l.v)?, &l.taps[2], &mut state[at.conv_v..])?.reshape((t, hv, v))?;
        let erase = if c.allow_neg_eigval { 2.0 } else { 1.0 };
        let b = keys((sigmoid(&linear(x, &l.b)?)? * erase)?)?;
        let write = if c.doubled_write { 2.0 } else { 1.0 };
        let w = (sigmoid(&linear(x, &l.w)?)? * write)?.reshape((t, hv, v))?;
        let f = linear(&linear(x, &l.f[0])?, &l.f[1])?.broadcast_add(&l.dt_bias)?.reshape((t, h, k))?;
        // softplus(f) = max(f, 0) + ln(1 + exp(-|f|))
        let softplus = (f.relu()? + ((f.abs()?.neg()?.exp()? + 1.0)?).log()?)?;
        let g = keys(softplus.broadcast_mul(&l.a_log.exp()?.neg()?.reshape((1, h, 1))?)?)?;

        let mut s = Tensor::zeros((hv, k, v), DType::F32, x.device())?;
        let mut rows = Vec::with_capacity(t);
        for i in 0..t {
            // S <- Diag(exp g) S;  S <- S + k (w * v - S^T (b * k))^T;  o = S^T q / sqrt(K)      (eq. 9)
            s = s.broadcast_mul(&g.get(i)?.exp()?.unsqueeze(2)?)?;
            let erased = (b.get(i)? * key.get(i)?)?.unsqueeze(1)?.matmul(&s)?;
            let written = ((w.get(i)? * value.get(i)?)?.unsqueeze(1)? - erased)?;
            s = (s + key.get(i)?.unsqueeze(2)?.matmul(&written)?)?;
            rows.push((q.get(i)?.unsqueeze(1)?.matmul(&s)?.squeeze(1)? / (k as f64).sqrt())?);
        }
        let s: Vec<f32> = s.flatten_all()?.to_vec1()?;
        state[at.recurrent..at.recurrent + s.len()].copy_from_slice(&s);

        let gate = linear(&linear(x, &l.g[0])?, &l.g[1])?.broadcast_add(&l.g_bias)?.reshape((t, hv, v))?;
        let gate = match c.output_gate {
            OutputGate::Sigmoid => sigmoid(&gate)?,
            OutputGate::Silu => gate.silu()?,
        };
        let o = (self.norm(&Tensor::stack(&rows, 0)?, &l.o_norm)? * gate)?;
        linear(&o.reshape((t, hv * v))?, &l.o)
    }
}

trait RepeatHeads: Sized {
    fn repeat_heads(self, times: usize) -> candle_core::Result<Self>;
}

impl RepeatHeads for Tensor {
    /// `[T, H, K]` -> `[T, H * times, K]`, each head `times` times in a row.
    fn repeat_heads(self, times: usize) -> candle_core::Result<Self> {
        let (t, h, k) = self.dims3()?;
        self.unsqueeze(2)?.broadcast_as((t, h, times, k))?.contiguous()?.reshape((t, h * times, k))
    }
}

fn linear(x: &Tensor, w: &Tensor) -> candle_core::Result<Tensor> {
    x.matmul(&w.t()?)
}

fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

fn l2(x: &Tensor) -> candle_core::Result<Tensor> {
    x.broadcast_div(&(x.sqr()?.sum_keepdim(D::Minus1)? + 1e-6)?.sqrt()?)
}

/// Causal depthwise convolution of width 4 and SiLU, from zeros; the last three inputs go to `carried` `[3, dim]`.
fn conv(x: &Tensor, taps: &Tensor, carried: &mut [f32]) -> candle_core::Result<Tensor> {
    let (t, dim) = x.dims2()?;
    let padded = Tensor::cat(&[&Tensor::zeros((CARRIED, dim), DType::F32, x.device())?, x], 0)?;
    let taps = taps.reshape((dim, CARRIED + 1))?.t()?;
    let mut y = Tensor::zeros((t, dim), DType::F32, x.device())?;
    for i in 0..=CARRIED {
        y = (y + padded.narrow(0, i, t)?.broadcast_mul(&taps.get(i)?)?)?;
    }
    let last: Vec<f32> = padded.narrow(0, t, CARRIED)?.flatten_all()?.to_vec1()?;
    carried[..last.len()].copy_from_slice(&last);
    y.silu()
}
