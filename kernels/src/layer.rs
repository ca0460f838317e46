//! A layer as a whole: `x += mixer(norm(x)); x += swiglu(norm(x))`.
//!
//! One row, a decode step, is some microseconds of work in five stages, each of which needs all of the one before. So threads go through
//! the stages together (`parallel.rs`), and each makes for itself what a stage's products begin with, the row's norm and words: that takes
//! less than to wait for one that makes them for all. Many rows go operation by operation, each over all threads. Both are the same operations
//! in the same order for each element, and so have the same bits.

use crate::Kernels;
use crate::cpu::Shared;
use crate::matrix::Matrix;
use crate::mixer::{LayerOffsets, Mixer, MixerRows, Places, ROW_HEADS};
use crate::parallel::{Parts, Stage, stages};
use crate::product::{Job, cost, panels_of};
use crate::sequences::Rows;
use crate::shape::{ShapeError, length};

/// A layer's weights: rows of `D`, hidden ones of `F`; `HK` and `HV V` as in [`Mixer`], whose epsilon is that of both norms.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    /// Weights of the first norm `[D]`.
    pub mixer_norm: &'a [f32],
    /// Queries `[HK, D]`.
    pub q: &'a Matrix,
    /// Keys `[HK, D]`.
    pub k: &'a Matrix,
    /// Values `[HV V, D]`.
    pub v: &'a Matrix,
    /// The erase gate's logits `[HK, D]`.
    pub b: &'a Matrix,
    /// The write gate's logits `[HV V, D]`.
    pub w: &'a Matrix,
    /// To the decay's low rank `[rank, D]`.
    pub f_down: &'a Matrix,
    /// To the output gate's low rank `[rank, D]`.
    pub g_down: &'a Matrix,
    /// What lies between these projections and the next.
    pub mixer: Mixer<'a>,
    /// The mixer's output `[D, HV V]`.
    pub o: &'a Matrix,
    /// Weights of the second norm `[D]`.
    pub mlp_norm: &'a [f32],
    /// What SwiGLU gates with `[F, D]`.
    pub gate: &'a Matrix,
    /// What it gates `[F, D]`.
    pub up: &'a Matrix,
    /// Its output `[D, F]`.
    pub down: &'a Matrix,
}

/// The rows of a round, M of them, and room for what becomes of them.
#[derive(Debug)]
pub struct LayerRows<'a> {
    /// The residual stream `[M, D]`, in and out.
    pub x: &'a mut [f32],
    /// Its norm `[M, D]`; one row mostly does without.
    pub normed: &'a mut [f32],
    /// What becomes of it in the mixer; all of them out.
    pub mixer: MixerRows<'a>,
    /// SwiGLU's hidden rows `[M, F]`.
    pub hidden: &'a mut [f32],
}

impl Kernels {
    /// Takes the rows of all sequences through a layer. Sequence i has `lens[i]` of the M rows, and its state is `states[i].as_mut()`.
    ///
    /// # Errors
    /// [`ShapeError`] when a slice, a matrix or a state has the wrong size; nothing was written then.
    pub fn layer<S: AsMut<[f32]>>(
        &self,
        layer: &Layer<'_>,
        lens: &[usize],
        rows: LayerRows<'_>,
        states: &mut [S],
        at: LayerOffsets,
    ) -> Result<(), ShapeError> {
        layer.check(lens, &rows, states, at)?;
        let one = lens.iter().sum::<usize>() == 1;
        match lens.iter().zip(&mut *states).find(|(len, _)| **len == 1) {
            Some((_, state)) if one && layer.fits_one_row() => {
                self.layer_of_one_row(layer, rows, Shared(state.as_mut().as_mut_ptr()), at);
                Ok(())
            }
            _ => self.layer_one_by_one(layer, lens, rows, states, at),
        }
    }

    /// As [`Kernels::layer`], one operation after the other: its twin.
    ///
    /// # Errors
    /// As [`Kernels::layer`].
    pub fn layer_one_by_one<S: AsMut<[f32]>>(
        &self,
        layer: &Layer<'_>,
        lens: &[usize],
        mut rows: LayerRows<'_>,
        states: &mut [S],
        at: LayerOffsets,
    ) -> Result<(), ShapeError> {
        layer.check(lens, &rows, states, at)?;
        let (l, eps) = (layer, layer.mixer.eps);
        let LayerRows { x, normed, mixer: r, hidden } = &mut rows;
        self.rms_norm(x, l.mixer_norm, eps, normed)?;
        self.matmul_each(
            normed,
            [l.q, l.k, l.v, l.b, l.w, l.f_down, l.g_down],
            [&mut *r.raw_q, &mut *r.raw_k, &mut *r.raw_v, &mut *r.b, &mut *r.w, &mut *r.decay_low, &mut *r.gate_low],
        )?;
        self.mix(&l.mixer, lens, r.again(), states, at)?;
        self.matmul_add(r.mixed, l.o, x)?;
        self.rms_norm(x, l.mlp_norm, eps, normed)?;
        self.matmul_swiglu(normed, l.gate, l.up, hidden)?;
        self.matmul_add(hidden, l.down, x)
    }

    /// What was checked, of one row.
    fn layer_of_one_row(&self, layer: &Layer<'_>, rows: LayerRows<'_>, state: Shared, at: LayerOffsets) {
        let (l, mixer) = (layer, &layer.mixer);
        let width = l.mixer_norm.len();
        let [x, hidden] = [rows.x, rows.hidden].map(|row| Shared(row.as_mut_ptr()));
        let places = Places::of(rows.mixer);
        let inputs = [
            (l.q, places.raw_q),
            (l.k, places.raw_k),
            (l.v, places.raw_v),
            (l.b, places.b),
            (l.w, places.w),
            (l.f_down, places.decay_low),
            (l.g_down, places.gate_low),
        ]
        .map(|(w, out)| Job::of_one_row(w, out, false));
        let (unit, at_once) = (mixer.unit(), (ROW_HEADS / mixer.unit()).max(1));
        let [output, gated, down] =
            [(l.o, x, true), (l.gate, hidden, false), (l.down, x, true)].map(|(w, out, add)| [Job::of_one_row(w, out, add)]);
        let normed = |weight| Some((weight, mixer.eps));
        // SAFETY: of this one and the four that follow, lengths were checked. What a stage reads, those before it have written, and no part of it
        // writes; its parts have their own columns, or heads. The table fits this processor.
        let project = |parts: &mut Parts<'_>| unsafe {
            self.with_row(x.read(0..width), normed(l.mixer_norm), l.q.dtype(), |row| {
                parts.for_each(|panels| self.some_panels(&inputs, row, panels));
            });
        };
        let mix = |parts: &mut Parts<'_>| {
            for heads in parts {
                for first in heads.clone().step_by(at_once) {
                    let some = first * unit..heads.end.min(first + at_once) * unit;
                    // SAFETY: as above.
                    unsafe { self.mix_heads(mixer, &places, &[Rows { first: 0, len: 1, state }], at, some) }
                }
            }
        };
        // SAFETY: as above.
        let project_back = |parts: &mut Parts<'_>| unsafe {
            self.with_row(places.mixed.read(0..l.o.cols()), None, l.o.dtype(), |row| {
                parts.for_each(|panels| self.some_panels(&output, row, panels));
            });
        };
        // SAFETY: as above.
        let gate = |parts: &mut Parts<'_>| unsafe {
            self.with_row(x.read(0..width), normed(l.mlp_norm), l.gate.dtype(), |row| {
                parts.for_each(|panels| self.swiglu_panels(l.gate, l.up, hidden, row, panels));
            });
        };
        // SAFETY: as above.
        let narrow = |parts: &mut Parts<'_>| unsafe {
            self.with_row(hidden.read(0..l.down.cols()), None, l.down.dtype(), |row| {
                parts.for_each(|panels| self.some_panels(&down, row, panels));
            });
        };
        stages(&[
            Stage::of(panels_of(&inputs), cost(&inputs, 1), &project),
            Stage::of(mixer.shape.heads / unit, mixer.cost(unit, 1), &mix),
            Stage::of(panels_of(&output), cost(&output, 1), &project_back),
            Stage::of(panels_of(&gated), 2 * cost(&gated, 1), &gate),
            Stage::of(panels_of(&down), cost(&down, 1), &narrow),
        ]);
    }
}

impl Layer<'_> {
    /// Are its first products of one type of weights? One row is made into words once for all of them.
    fn fits_one_row(&self) -> bool {
        [self.k, self.v, self.b, self.w, self.f_down, self.g_down].iter().all(|w| w.dtype() == self.q.dtype())
    }

    fn check<S: AsMut<[f32]>>(
        &self,
        lens: &[usize],
        rows: &LayerRows<'_>,
        states: &mut [S],
        at: LayerOffsets,
    ) -> Result<(), ShapeError> {
        self.mixer.check(lens, &rows.mixer, states, at)?;
        let (s, width, hidden, m) = (&self.mixer.shape, self.mixer_norm.len(), self.gate.rows(), lens.iter().sum::<usize>());
        let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
        let expect = |name, got, expected| length("layer", name, got, expected);
        let matrix = |[rows, cols]: [&'static str; 2], w: &Matrix, n, k| {
            expect(rows, w.rows(), n)?;
            expect(cols, w.cols(), k)
        };
        matrix(["q (its N)", "q (its K)"], self.q, keys, width)?;
        matrix(["k (its N)", "k (its K)"], self.k, keys, width)?;
        matrix(["v (its N)", "v (its K)"], self.v, values, width)?;
        matrix(["b (its N)", "b (its K)"], self.b, keys, width)?;
        matrix(["w (its N)", "w (its K)"], self.w, values, width)?;
        matrix(["f_down (its N)", "f_down (its K)"], self.f_down, self.mixer.f_up.cols(), width)?;
        matrix(["g_down (its N)", "g_down (its K)"], self.g_down, self.mixer.g_up.cols(), width)?;
        matrix(["o (its N)", "o (its K)"], self.o, width, values)?;
        matrix(["gate (its N)", "gate (its K)"], self.gate, hidden, width)?;
        matrix(["up (its N)", "up (its K)"], self.up, hidden, width)?;
        matrix(["down (its N)", "down (its K)"], self.down, width, hidden)?;
        expect("up (bytes of a weight)", self.up.dtype().bytes(), self.gate.dtype().bytes())?;
        expect("mlp_norm", self.mlp_norm.len(), width)?;
        expect("x", rows.x.len(), m * width)?;
        expect("normed", rows.normed.len(), m * width)?;
        expect("hidden", rows.hidden.len(), m * hidden)
    }
}
