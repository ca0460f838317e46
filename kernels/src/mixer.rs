//! The middle of a mixer: all that lies between the projections of its input and that of its output.
//!
//! Convolutions, norms, gates, the two small products, the recurrence and the gated norm: heads do not touch one another in
//! any of them. So a thread takes some heads through all of it, and a decode step asks its threads once a layer instead of a
//! dozen times; what a head writes is read by the thread that wrote it. Where there are more threads than heads to go round, the operations go one by
//! one, each over all threads (but not those of a row that goes through its layer at once, `layer.rs`). Both ways are the same operations in the same order for each element, and so have the same bits.

use std::ops::Range;

use crate::Kernels;
use crate::cpu::{Conv, Recurrence, Shared};
use crate::gdn2::{Gdn2Shape, STATES, TAPS};
use crate::matrix::{Matrix, PANEL};
use crate::parallel::split;
use crate::rows::OutputGate;
use crate::sequences::{Rows, each_few};
use crate::shape::{ShapeError, length, rows_in, sequences};

/// The weights between the projections: `HK` = H K columns on the key side, `HV V` on the value side.
#[derive(Debug, Clone, Copy)]
pub struct Mixer<'a> {
    /// Heads and their sizes.
    pub shape: Gdn2Shape,
    /// Taps of the convolution of queries `[4, HK]`; a checkpoint and the GPU have `[HK, 4]`.
    pub q_taps: &'a [f32],
    /// Of keys `[4, HK]`.
    pub k_taps: &'a [f32],
    /// Of values `[4, HV V]`.
    pub v_taps: &'a [f32],
    /// From the decay's low rank to its logits `[HK, rank]`.
    pub f_up: &'a Matrix,
    /// Logarithms of the decay's rates `[H]`.
    pub a_log: &'a [f32],
    /// What is added to the decay's logits `[HK]`.
    pub dt_bias: &'a [f32],
    /// From the output gate's low rank to its logits `[HV V, rank]`.
    pub g_up: &'a Matrix,
    /// What is added to them `[HV V]`.
    pub g_bias: &'a [f32],
    /// Weights of the norm of each head's output `[V]`.
    pub o_norm: &'a [f32],
    /// Epsilon of that norm.
    pub eps: f32,
    /// What the output gate's logits go through.
    pub output_gate: OutputGate,
    /// Largest erase gate: 2 where negative eigenvalues are allowed, else 1.
    pub erase_scale: f32,
    /// Largest write gate.
    pub write_scale: f32,
}

/// The rows of a round, M of them: what the projections made of them, and room for what becomes of that.
#[derive(Debug)]
pub struct MixerRows<'a> {
    /// Projected queries `[M, HK]`.
    pub raw_q: &'a mut [f32],
    /// Projected keys `[M, HK]`.
    pub raw_k: &'a mut [f32],
    /// Projected values `[M, HV V]`.
    pub raw_v: &'a mut [f32],
    /// The decay's low rank `[M, rank]`.
    pub decay_low: &'a mut [f32],
    /// The output gate's low rank `[M, rank]`.
    pub gate_low: &'a mut [f32],
    /// Logits of the erase gate in, the gate out `[M, HK]`.
    pub b: &'a mut [f32],
    /// Logits of the write gate in, the gate out `[M, HV V]`.
    pub w: &'a mut [f32],
    /// Queries `[M, HK]`, out.
    pub q: &'a mut [f32],
    /// Keys `[M, HK]`, out.
    pub k: &'a mut [f32],
    /// Values `[M, HV V]`, out.
    pub v: &'a mut [f32],
    /// Log-decays `[M, HK]`, out.
    pub g: &'a mut [f32],
    /// The output gate's logits `[M, HV V]`, out.
    pub gate: &'a mut [f32],
    /// What the recurrence gives `[M, HV V]`, out.
    pub out: &'a mut [f32],
    /// The same, normed and gated: what is to be projected `[M, HV V]`, out.
    pub mixed: &'a mut [f32],
}

/// Where in a sequence's state a layer's parts begin: three last inputs of each convolution `[3, width]`, and `S [HV, K, V]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerOffsets {
    /// The convolution of queries.
    pub conv_q: usize,
    /// Of keys.
    pub conv_k: usize,
    /// Of values.
    pub conv_v: usize,
    /// The recurrence.
    pub recurrent: usize,
}

/// About the most rows of heads that go through all operations at once, unless one alone has more: what lies between them stays in the first cache.
pub(crate) const ROW_HEADS: usize = 8;

impl Kernels {
    /// Takes the rows of all sequences through the middle of a mixer: from raw projections to `mixed`. Sequence i has `lens[i]`
    /// of the M rows, and its state is `states[i].as_mut()`.
    ///
    /// # Errors
    /// [`ShapeError`] when a slice, a matrix or a state has the wrong size; nothing was written then.
    pub fn mix<S: AsMut<[f32]>>(
        &self,
        mixer: &Mixer<'_>,
        lens: &[usize],
        rows: MixerRows<'_>,
        states: &mut [S],
        at: LayerOffsets,
    ) -> Result<(), ShapeError> {
        mixer.check(lens, &rows, states, at)?;
        let unit = mixer.unit();
        let (units, threads) = (mixer.shape.heads / unit, rayon::current_num_threads());
        if units * lens.iter().filter(|len| **len > 0).count() < threads {
            return self.mix_one_by_one(mixer, lens, rows, states, at);
        }
        let places = Places::of(rows);
        each_few(lens, states, &|sequences| {
            // Sequences together read the small products' weights once: so as many together as leave every thread some parts.
            let groups = (4 * threads).div_ceil(units).min(sequences.len());
            let together = sequences.len().div_ceil(if threads == 1 { 1 } else { groups });
            let groups = sequences.len().div_ceil(together);
            let tokens = sequences.iter().map(|s| s.len).sum::<usize>().div_ceil(groups);
            // Of few rows several heads at once: what is short of each lies together.
            let at_once = (ROW_HEADS / (tokens * unit)).max(1);
            split(units * groups, mixer.cost(unit, tokens), &|mut parts| {
                while !parts.is_empty() {
                    let (group, first) = (parts.start / units, parts.start % units);
                    let until = units.min(first + parts.len().min(at_once));
                    let some = &sequences[group * together..sequences.len().min((group + 1) * together)];
                    // SAFETY: the table fits this processor; sizes were checked; parts have their own heads or sequences.
                    unsafe { self.mix_heads(mixer, &places, some, at, first * unit..until * unit) }
                    parts.start += until - first;
                }
            });
        });
        Ok(())
    }

    /// As [`Kernels::mix`], one operation after the other, each over all threads: its twin.
    ///
    /// # Errors
    /// As [`Kernels::mix`].
    pub fn mix_one_by_one<S: AsMut<[f32]>>(
        &self,
        mixer: &Mixer<'_>,
        lens: &[usize],
        rows: MixerRows<'_>,
        states: &mut [S],
        at: LayerOffsets,
    ) -> Result<(), ShapeError> {
        mixer.check(lens, &rows, states, at)?;
        let m = mixer;
        let MixerRows { raw_q, raw_k, raw_v, decay_low, gate_low, q, k, v, b, w, g, gate, out, mixed } = rows;
        self.conv_silu(lens, raw_q, m.q_taps, states, at.conv_q, q)?;
        self.conv_silu(lens, raw_k, m.k_taps, states, at.conv_k, k)?;
        self.conv_silu(lens, raw_v, m.v_taps, states, at.conv_v, v)?;
        self.l2_norm(q, m.shape.key_dim)?;
        self.l2_norm(k, m.shape.key_dim)?;
        self.sigmoid(b, m.erase_scale)?;
        self.sigmoid(w, m.write_scale)?;
        self.matmul(decay_low, m.f_up, g)?;
        self.log_decay(g, m.a_log, m.dt_bias)?;
        self.gdn2(&m.shape, lens, q, k, v, g, b, w, states, at.recurrent, out)?;
        for row in gate.chunks_exact_mut(m.g_bias.len().max(1)) {
            row.copy_from_slice(m.g_bias);
        }
        self.matmul_add(gate_low, m.g_up, gate)?;
        self.gated_rms_norm(out, gate, m.o_norm, m.eps, m.output_gate, mixed)
    }

    /// Some heads of consecutive sequences, at least one.
    pub(crate) unsafe fn mix_heads(&self, m: &Mixer<'_>, to: &Places, sequences: &[Rows], at: LayerOffsets, heads: Range<usize>) {
        let (table, s) = (self.table, &m.shape);
        let (first, m_rows) = (sequences[0].first, sequences.iter().map(|s| s.len).sum::<usize>());
        let value_heads = heads.start * s.value_heads / s.heads..heads.end * s.value_heads / s.heads;
        let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
        let key_columns = heads.start * s.key_dim..heads.end * s.key_dim;
        let value_columns = value_heads.start * s.value_dim..value_heads.end * s.value_dim;
        let rows = first..first + m_rows;
        // SAFETY: sizes were checked by `check`; rows are those of these sequences and columns those of these heads, which this part
        // alone reads and writes, and whole panels of both matrices. The table fits this processor.
        unsafe {
            let columns = [(keys, &key_columns), (keys, &key_columns), (values, &value_columns)];
            let convolutions = [
                (to.raw_q, m.q_taps, to.q, at.conv_q),
                (to.raw_k, m.k_taps, to.k, at.conv_k),
                (to.raw_v, m.v_taps, to.v, at.conv_v),
            ];
            for ((x, taps, out, at), (width, columns)) in convolutions.into_iter().zip(columns) {
                for r in sequences {
                    let (from, until) = (r.first * width, (r.first + r.len) * width);
                    let (state, out) = (Shared(r.state.get().add(at)), Shared(out.get().add(from)));
                    let job = Conv { channels: width, tokens: r.len, x: x.read(from..until), taps, state, out };
                    (table.conv_silu)(&job, columns.clone());
                }
            }
            let key_row = |x: Shared, row: usize| x.part(row * keys + key_columns.start..row * keys + key_columns.end);
            let value_row = |x: Shared, row: usize| x.part(row * values + value_columns.start..row * values + value_columns.end);
            for row in rows.clone() {
                (table.l2_norm)(key_row(to.q, row), s.key_dim);
                (table.l2_norm)(key_row(to.k, row), s.key_dim);
                (table.sigmoid)(key_row(to.b, row), m.erase_scale);
                (table.sigmoid)(value_row(to.w, row), m.write_scale);
                value_row(to.gate, row).copy_from_slice(&m.g_bias[value_columns.clone()]);
            }
            self.up(to.decay_low, m.f_up, to.g, &rows, &key_columns, false);
            self.up(to.gate_low, m.g_up, to.gate, &rows, &value_columns, true);
            for row in rows.clone() {
                let (a_log, dt_bias) = (&m.a_log[heads.clone()], &m.dt_bias[key_columns.clone()]);
                (table.log_decay)(key_row(to.g, row), a_log, dt_bias);
            }
            for r in sequences {
                let key = |x: Shared| x.get().add(r.first * keys).cast_const();
                let value = |x: Shared| x.get().add(r.first * values);
                let job = Recurrence {
                    shape: s,
                    tokens: r.len,
                    q: key(to.q),
                    k: key(to.k),
                    g: key(to.g),
                    b: key(to.b),
                    v: value(to.v),
                    w: value(to.w),
                    state: Shared(r.state.get().add(at.recurrent)),
                    out: Shared(value(to.out)),
                };
                (table.gdn2)(&job, value_heads.clone());
            }
            for row in rows {
                let (out, gate, mixed) = (value_row(to.out, row), value_row(to.gate, row), value_row(to.mixed, row));
                (table.gated_rms_norm)(out, gate, m.o_norm, m.eps, m.output_gate, mixed);
            }
        }
    }

    /// Some rows times the panels of some columns.
    unsafe fn up(&self, x: Shared, w: &Matrix, out: Shared, rows: &Range<usize>, columns: &Range<usize>, add: bool) {
        // SAFETY: the rows lie in `x` and `out`; the columns are whole panels, of the caller alone.
        unsafe {
            let x = x.read(rows.start * w.cols()..rows.end * w.cols());
            let out = Shared(out.get().add(rows.start * w.rows()));
            self.product_here(x, w, out, add, columns.start / PANEL..columns.end.div_ceil(PANEL));
        }
    }
}

/// [`MixerRows`], to be written by many.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) raw_q: Shared,
    pub(crate) raw_k: Shared,
    pub(crate) raw_v: Shared,
    pub(crate) decay_low: Shared,
    pub(crate) gate_low: Shared,
    pub(crate) b: Shared,
    pub(crate) w: Shared,
    pub(crate) q: Shared,
    pub(crate) k: Shared,
    pub(crate) v: Shared,
    pub(crate) g: Shared,
    pub(crate) gate: Shared,
    pub(crate) out: Shared,
    pub(crate) mixed: Shared,
}

impl Places {
    pub(crate) fn of(rows: MixerRows<'_>) -> Self {
        let of = |x: &mut [f32]| Shared(x.as_mut_ptr());
        Self {
            raw_q: of(rows.raw_q),
            raw_k: of(rows.raw_k),
            raw_v: of(rows.raw_v),
            decay_low: of(rows.decay_low),
            gate_low: of(rows.gate_low),
            b: of(rows.b),
            w: of(rows.w),
            q: of(rows.q),
            k: of(rows.k),
            v: of(rows.v),
            g: of(rows.g),
            gate: of(rows.gate),
            out: of(rows.out),
            mixed: of(rows.mixed),
        }
    }
}

impl MixerRows<'_> {
    /// The same, lent again.
    pub(crate) fn again(&mut self) -> MixerRows<'_> {
        MixerRows {
            raw_q: self.raw_q,
            raw_k: self.raw_k,
            raw_v: self.raw_v,
            decay_low: self.decay_low,
            gate_low: self.gate_low,
            b: self.b,
            w: self.w,
            q: self.q,
            k: self.k,
            v: self.v,
            g: self.g,
            gate: self.gate,
            out: self.out,
            mixed: self.mixed,
        }
    }
}

impl Mixer<'_> {
    /// The fewest heads whose columns are whole panels of both matrices; all of them, where no fewer are.
    pub(crate) fn unit(&self) -> usize {
        let s = &self.shape;
        let values = s.value_heads / s.heads * s.value_dim;
        let whole =
            |u: usize| s.heads.is_multiple_of(u) && (u * s.key_dim).is_multiple_of(PANEL) && (u * values).is_multiple_of(PANEL);
        (1..s.heads).find(|u| whole(*u)).unwrap_or(s.heads)
    }

    /// Nanoseconds that `unit` heads take for so many tokens, about: the recurrence, and as much again for all the rest.
    pub(crate) fn cost(&self, unit: usize, tokens: usize) -> usize {
        let s = &self.shape;
        2 * tokens * unit * (s.value_heads / s.heads) * s.key_dim * s.value_dim / STATES
    }

    pub(crate) fn check<S: AsMut<[f32]>>(
        &self,
        lens: &[usize],
        rows: &MixerRows<'_>,
        states: &mut [S],
        at: LayerOffsets,
    ) -> Result<(), ShapeError> {
        let op = "mix";
        let s = &self.shape;
        s.check(op)?;
        let (keys, values, m) = (s.heads * s.key_dim, s.value_heads * s.value_dim, rows_in(lens));
        let of = |width: usize| m.saturating_mul(width);
        for (name, got, expected) in [
            ("q_taps", self.q_taps.len(), TAPS * keys),
            ("k_taps", self.k_taps.len(), TAPS * keys),
            ("v_taps", self.v_taps.len(), TAPS * values),
            ("f_up (its N)", self.f_up.rows(), keys),
            ("a_log", self.a_log.len(), s.heads),
            ("dt_bias", self.dt_bias.len(), keys),
            ("g_up (its N)", self.g_up.rows(), values),
            ("g_bias", self.g_bias.len(), values),
            ("o_norm", self.o_norm.len(), s.value_dim),
            ("raw_q", rows.raw_q.len(), of(keys)),
            ("raw_k", rows.raw_k.len(), of(keys)),
            ("raw_v", rows.raw_v.len(), of(values)),
            ("decay_low", rows.decay_low.len(), of(self.f_up.cols())),
            ("gate_low", rows.gate_low.len(), of(self.g_up.cols())),
            ("b", rows.b.len(), of(keys)),
            ("w", rows.w.len(), of(values)),
            ("q", rows.q.len(), of(keys)),
            ("k", rows.k.len(), of(keys)),
            ("v", rows.v.len(), of(values)),
            ("g", rows.g.len(), of(keys)),
            ("gate", rows.gate.len(), of(values)),
            ("out", rows.out.len(), of(values)),
            ("mixed", rows.mixed.len(), of(values)),
        ] {
            length(op, name, got, expected)?;
        }
        let inputs = TAPS - 1;
        let mut parts = [
            (at.conv_q, inputs * keys),
            (at.conv_k, inputs * keys),
            (at.conv_v, inputs * values),
            (at.recurrent, s.state_elements()),
        ];
        parts.sort_unstable();
        let mut end = 0;
        for (from, len) in parts {
            // Two threads may write two parts at the same time.
            if from < end {
                return Err(ShapeError::Overlap { op, name: "a part of a state", at: from });
            }
            end = from.saturating_add(len);
        }
        sequences(op, lens, m, states, end)
    }
}
