//! What the operations take: rows cut into tiles, states in a table, a mixer's weights, views of a mixer's rows.

use std::sync::Arc;

use super::{Buffer, CudaError, View};
use crate::Gdn2Shape;
use crate::rows::OutputGate;
use crate::shape::length;

/// How a pass's rows are cut: each sequence into tiles of [`TILE`] tokens, the last one shorter.
pub struct Tiles {
    pub(super) tiles: Buffer,
    pub(super) first_tile: Buffer,
    pub(super) count: usize,
    pub(super) longest: usize,
    pub(super) sequences: usize,
    pub(super) rows: usize,
}

impl Tiles {
    /// Rows in all.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// States of a pass's sequences: a table of addresses on the GPU. Keeps them alive.
pub struct Table {
    pub(super) addresses: Buffer,
    pub(super) states: Vec<Arc<Buffer>>,
}

impl Table {
    /// Makes it the table of other states, no more than it was made for. What was queued before still sees the old ones.
    ///
    /// # Errors
    /// [`CudaError::Shape`] when there are too many.
    pub fn set(&mut self, states: Vec<Arc<Buffer>>) -> Result<(), CudaError> {
        let addresses: Vec<u64> = states.iter().map(|s| s.address()).collect();
        self.addresses.write(0, &addresses)?;
        self.states = states;
        Ok(())
    }

    /// Lets go of the states; the table on the GPU stays as it is, for what was queued.
    pub fn release(&mut self) {
        self.states.clear();
    }

    pub(super) fn check(&self, op: &'static str, sequences: usize, elements: usize) -> Result<u64, CudaError> {
        if self.states.len() < sequences {
            length(op, "states", self.states.len(), sequences)?;
        }
        for state in &self.states[..sequences] {
            if state.bytes() < elements * size_of::<f32>() {
                length(op, "state", state.bytes() / size_of::<f32>(), elements)?;
            }
        }
        Ok(self.addresses.address())
    }
}

/// Weights of one layer's mixer besides its matrices, in f32.
#[derive(Debug)]
pub struct Mixer {
    /// Heads and their sizes.
    pub shape: Gdn2Shape,
    /// `[2 * H * K + HV * V, 4]`: the taps of q, k and v.
    pub taps: Buffer,
    /// `[H]`
    pub a_log: Buffer,
    /// `[H, K]`
    pub dt_bias: Buffer,
    /// `[V]`
    pub o_norm: Buffer,
    /// `[HV, V]`
    pub gate_bias: Buffer,
    /// What the output gate's logits go through.
    pub gate: OutputGate,
    /// 1, or 2 with negative eigenvalues.
    pub erase_scale: f32,
    /// Of the norm.
    pub eps: f32,
}

/// Rows of bf16 that a mixer takes: what its projections put out.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// `[M, 2 * H * K + HV * V]`: q, k and v side by side.
    pub qkv: View<'a>,
    /// `[M, H, K]`: the decay's inputs.
    pub f: View<'a>,
    /// `[M, H, K]`: the erase gate's.
    pub b: View<'a>,
    /// `[M, HV, V]`: the write gate's.
    pub w: View<'a>,
    /// `[M, HV, V]`: the output gate's.
    pub gate: View<'a>,
    /// Where it is there, `f` and `gate` are `[M, rank]`, and the step makes the rest of their products.
    pub up: Option<GatesUp<'a>>,
}

/// The up-projections of the decay's and the output gate's inputs: see [`super::Gpu::makes_gates`].
#[derive(Debug, Clone, Copy)]
pub struct GatesUp<'a> {
    /// `[H * K, rank]`
    pub f: &'a Buffer,
    /// `[HV * V, rank]`
    pub gate: &'a Buffer,
    /// Of both.
    pub rank: usize,
}

/// What the recurrence takes: all bf16 but for `g`.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// `[M, H, K]`
    pub q: View<'a>,
    /// `[M, H, K]`
    pub k: View<'a>,
    /// `[M, HV, V]`
    pub v: View<'a>,
    /// `[M, H, K]`: the log-decay in f32; with `gates` its inputs in bf16.
    pub g: View<'a>,
    /// `[M, H, K]`
    pub b: View<'a>,
    /// `[M, HV, V]`
    pub w: View<'a>,
    /// `[M, HV, V]`
    pub out: View<'a>,
    /// `a_log`, `dt_bias` and the erase gate's scale, where softplus, sigmoids and L2 norms are to be computed; else q and k
    /// have norm 1, and b and w are the gates.
    pub gates: Option<(&'a Buffer, &'a Buffer, f32)>,
}

/// Rows of a product that are made first: RMSNorm of rows of the residual stream (f32), times a weight.
#[derive(Debug, Clone, Copy)]
pub struct Normed<'a> {
    /// `[M, K]`
    pub residual: &'a Buffer,
    /// `[K]`
    pub weight: &'a Buffer,
    /// Added to the mean square.
    pub eps: f32,
    /// bf16 `[M, K]`: where they may be put.
    pub into: &'a Buffer,
}

/// Where a product goes.
#[derive(Debug, Clone, Copy)]
pub enum Out<'a> {
    /// bf16.
    Rounded(View<'a>),
    /// f32.
    Sum(View<'a>),
    /// f32, added to what is there.
    Added(View<'a>),
}
