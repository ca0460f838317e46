//! One pass through all blocks: rows of whole segments, or one token of each of some sequences.

use half::bf16;
use palimpsest_kernels::cuda::{Buffer, Chunk, CudaError, GatesUp, Gpu, Normed, Out, Projection, Table, View};

use super::{DeviceModel, LOGIT_ROWS, Logits};
use crate::cancel::Pace;
use crate::error::Result;
use crate::model::Config;
use crate::state::layer_offsets;

/// Segments of a sequence that the recurrence prepares while it goes through as many.
const PREPARED_SEGMENTS: usize = 64;

/// Activations of a pass of at most `rows` rows.
pub(super) struct Scratch {
    pub(super) rows: usize,
    pub(super) ids: Buffer,
    pub(super) residual: Buffer,
    pub(super) normed: Buffer,
    /// `[M, 2 HK + HV + HK + HV + ranks]`: what `into` puts out.
    pub(super) projected: Buffer,
    pub(super) qkv: Buffer,
    /// `[M, HK + HV]`: the inputs of the decay and of the output gate.
    pub(super) gates: Buffer,
    pub(super) read: Buffer,
    pub(super) mixed: Buffer,
    pub(super) gate_up: Buffer,
    pub(super) hidden: Buffer,
    pub(super) records: Buffer,
    pub(super) wanted: Buffer,
    pub(super) logits: Buffer,
    /// Of each of its rows, the id.
    pub(super) largest: Buffer,
}

/// Columns of `projected`.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    keys: usize,
    values: usize,
    b: usize,
    w: usize,
    decay_low: usize,
    gate_low: usize,
    all: usize,
}

impl Columns {
    fn of(c: &Config) -> Self {
        let (keys, values) = (c.key_width(), c.value_width());
        let b = 2 * keys + values;
        let w = b + keys;
        let decay_low = w + values;
        let gate_low = decay_low + c.decay_rank;
        Self { keys, values, b, w, decay_low, gate_low, all: gate_low + c.gate_rank }
    }
}

impl Scratch {
    pub(super) fn new(gpu: &Gpu, c: &Config, rows: usize, segments: bool) -> Result<Self, CudaError> {
        let columns = Columns::of(c);
        let f32s = |n: usize| gpu.allocate(n * size_of::<f32>());
        let bf16s = |n: usize| gpu.allocate(rows * n * size_of::<bf16>());
        let records = if segments { Gpu::chunk_scratch_bytes(&c.gdn2(), 1, PREPARED_SEGMENTS) } else { 0 };
        Ok(Self {
            rows,
            ids: gpu.allocate(rows * size_of::<u32>())?,
            residual: f32s(rows * c.width)?,
            normed: bf16s(c.width)?,
            projected: bf16s(columns.all)?,
            qkv: bf16s(2 * columns.keys + columns.values)?,
            gates: bf16s(columns.keys + columns.values)?,
            read: bf16s(columns.values)?,
            mixed: bf16s(columns.values)?,
            gate_up: bf16s(if segments { 2 * c.hidden } else { 0 })?,
            hidden: bf16s(c.hidden)?,
            records: gpu.allocate(records)?,
            wanted: gpu.allocate(LOGIT_ROWS * size_of::<u32>())?,
            logits: f32s(rows.min(LOGIT_ROWS) * c.vocabulary)?,
            largest: gpu.allocate(LOGIT_ROWS * size_of::<u32>())?,
        })
    }
}

impl DeviceModel {
    /// `scratch.ids`, `lens[i]` of each sequence, through all blocks; the residual stream is left in `scratch`.
    pub(super) fn wide_pass(&self, s: &Scratch, lens: &[usize], table: &Table, pace: &Pace<'_>) -> Result<()> {
        let (c, gpu, columns) = (&self.config, &self.gpu, Columns::of(&self.config));
        let tiles = gpu.tiles(lens)?;
        let (m, d) = (tiles.rows(), c.width);
        let normed = View::dense(&s.normed, d);
        let projected = View::dense(&s.projected, columns.all);
        let qkv = View::dense(&s.qkv, 2 * columns.keys + columns.values);
        let [read, mixed] = [&s.read, &s.mixed].map(|b| View::dense(b, columns.values));
        let decay = View::dense(&s.gates, columns.keys + columns.values);
        let gate = decay.from(columns.keys);
        let residual = View::dense(&s.residual, d);
        gpu.embed(&s.ids, m, &self.embedding, d, &s.residual)?;
        for (layer, b) in self.blocks.iter().enumerate() {
            pace.check()?;
            let at = layer_offsets(c, layer).recurrent;
            gpu.rms_norm(&s.residual, None, m, &b.attn_norm, c.norm_eps, &s.normed)?;
            gpu.wide(normed, m, &b.into, columns.all, d, Out::Rounded(projected))?;
            gpu.conv_silu(&b.mixer, &tiles, projected, table, at, qkv)?;
            gpu.wide(projected.from(columns.decay_low), m, &b.f_up, columns.keys, c.decay_rank, Out::Rounded(decay))?;
            gpu.wide(projected.from(columns.gate_low), m, &b.g_up, columns.values, c.gate_rank, Out::Rounded(gate))?;
            let chunk = Chunk {
                q: qkv,
                k: qkv.from(columns.keys),
                v: qkv.from(2 * columns.keys),
                g: decay,
                b: projected.from(columns.b),
                w: projected.from(columns.w),
                out: read,
                gates: Some((&b.mixer.a_log, &b.mixer.dt_bias, b.mixer.erase_scale)),
            };
            gpu.chunk(&b.mixer.shape, &tiles, &chunk, table, at, &s.records)?;
            gpu.gated_norm(&b.mixer, m, read, gate, mixed)?;
            gpu.wide(mixed, m, &b.out, d, columns.values, Out::Added(residual))?;
            gpu.rms_norm(&s.residual, None, m, &b.mlp_norm, c.norm_eps, &s.normed)?;
            gpu.wide(normed, m, &b.gate_up, 2 * c.hidden, d, Out::Rounded(View::dense(&s.gate_up, 2 * c.hidden)))?;
            gpu.swiglu(&s.gate_up, m, c.hidden, &s.hidden)?;
            gpu.wide(View::dense(&s.hidden, c.hidden), m, &b.down, d, c.hidden, Out::Added(residual))?;
        }
        Ok(())
    }

    /// One token of each of `m` sequences through all blocks, and what is wanted of its logits.
    pub(super) fn step_pass(&self, s: &Scratch, table: &Table, m: usize, logits: Logits) -> Result<(), CudaError> {
        let (c, gpu, columns) = (&self.config, &self.gpu, Columns::of(&self.config));
        let d = c.width;
        let projected = View::dense(&s.projected, columns.all);
        let mixed = View::dense(&s.mixed, columns.values);
        let decay = View::dense(&s.gates, columns.keys + columns.values);
        let gate = decay.from(columns.keys);
        let residual = View::dense(&s.residual, d);
        gpu.embed(&s.ids, m, &self.embedding, d, &s.residual)?;
        for (layer, b) in self.blocks.iter().enumerate() {
            let at = layer_offsets(c, layer).recurrent;
            let normed = |weight| Normed { residual: &s.residual, weight, eps: c.norm_eps, into: &s.normed };
            gpu.narrow_of(normed(&b.attn_norm), m, &b.into, columns.all, d, Out::Rounded(projected))?;
            let (decay_low, gate_low) = (projected.from(columns.decay_low), projected.from(columns.gate_low));
            let (mut f, mut g, mut up) = (decay, gate, None);
            // With more sequences each would read these matrices again.
            if m == 1 && Gpu::makes_gates(&b.mixer.shape, c.decay_rank, c.gate_rank) {
                (f, g, up) = (decay_low, gate_low, Some(GatesUp { f: &b.f_up, gate: &b.g_up, rank: c.decay_rank }));
            } else if c.decay_rank == c.gate_rank {
                let (w, n) = ([&b.f_up, &b.g_up], [columns.keys, columns.values]);
                gpu.narrow_two(decay_low, m, w, n, c.decay_rank, Out::Rounded(decay))?;
            } else {
                gpu.narrow(decay_low, m, &b.f_up, columns.keys, c.decay_rank, Out::Rounded(decay))?;
                gpu.narrow(gate_low, m, &b.g_up, columns.values, c.gate_rank, Out::Rounded(gate))?;
            }
            let (b_view, w_view) = (projected.from(columns.b), projected.from(columns.w));
            let projection = Projection { qkv: projected, f, b: b_view, w: w_view, gate: g, up };
            gpu.step(&b.mixer, m, &projection, table, at, mixed)?;
            gpu.narrow(mixed, m, &b.out, d, columns.values, Out::Added(residual))?;
            gpu.narrow_gated(normed(&b.mlp_norm), m, &b.gate_up, c.hidden, d, &s.hidden)?;
            gpu.narrow(View::dense(&s.hidden, c.hidden), m, &b.down, d, c.hidden, Out::Added(residual))?;
        }
        if logits != Logits::None {
            self.logits(s, None, m)?;
        }
        if logits == Logits::Largest { self.largest(s, m) } else { Ok(()) }
    }

    /// The ids of the largest of `m` rows of logits.
    pub(super) fn largest(&self, s: &Scratch, m: usize) -> Result<(), CudaError> {
        self.gpu.top(&s.logits, m, self.config.vocabulary, 1, &s.largest, None)
    }

    /// Logits of `m` rows of the residual stream: the first, or those that `rows` names.
    pub(super) fn logits(&self, s: &Scratch, rows: Option<&Buffer>, m: usize) -> Result<(), CudaError> {
        let (n, d) = (self.config.vocabulary, self.config.width);
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let out = Out::Sum(View::dense(&s.logits, n));
        if rows.is_none() {
            let normed = Normed { residual: &s.residual, weight: &self.final_norm, eps: self.config.norm_eps, into: &s.normed };
            return self.gpu.narrow_of(normed, m, head, n, d, out);
        }
        self.gpu.rms_norm(&s.residual, rows, m, &self.final_norm, self.config.norm_eps, &s.normed)?;
        self.gpu.narrow(View::dense(&s.normed, d), m, head, n, d, out)
    }
}
