//! The recurrence and the short convolution before it: what carries a state from token to token.
//!
//! Per value head, `S [K, V]`, one token (arXiv 2605.22791, eq. 9; `*` is elementwise):
//!
//! ```text
//! S <- Diag(exp g) S        y = S^T (b * k)        S <- S + k (w * v - y)^T        o = S^T q / sqrt(K)
//! ```
//!
//! Ranges: `g <= 0`; `b` in `[0, 1]` (`[0, 2]` where negative eigenvalues are allowed); `w` in `[0, 1]`; `q` and `k` of L2
//! norm 1. Nothing outside them is refused: the arithmetic is the same.
//!
//! It goes token by token, in the same operations in the same order whatever the number of tokens in a call. Sequences, heads
//! and columns of `S` do not touch one another, and are what is spread over threads.

use crate::Kernels;
use crate::cpu::{Conv, Recurrence, Shared};
use crate::parallel::{grain, split};
use crate::shape::{ShapeError, length, rows_of, sequences};

/// Taps of the short convolution.
const TAPS: usize = 4;
/// Channels that a thread takes at once.
const CHANNELS: usize = 64;
/// Elements of a state that a token goes through in a nanosecond, and channels of a convolution, about.
const STATES: usize = 12;
const CONVOLUTIONS: usize = 2;

/// The recurrence's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gdn2Shape {
    /// H, heads of q, k, g and b.
    pub heads: usize,
    /// HV, heads of v and w, a multiple of H: value head j goes with head `j / (HV / H)`.
    pub value_heads: usize,
    /// K, per head.
    pub key_dim: usize,
    /// V, per value head.
    pub value_dim: usize,
}

impl Gdn2Shape {
    /// Elements of one layer's state `[HV, K, V]`.
    #[must_use]
    pub fn state_elements(&self) -> usize {
        self.value_heads * self.key_dim * self.value_dim
    }

    fn check(&self, op: &'static str) -> Result<(), ShapeError> {
        let named =
            [("heads", self.heads), ("value_heads", self.value_heads), ("key_dim", self.key_dim), ("value_dim", self.value_dim)];
        if let Some(&(name, _)) = named.iter().find(|(_, size)| *size == 0) {
            return Err(ShapeError::Zero { op, name });
        }
        if !self.value_heads.is_multiple_of(self.heads) {
            return Err(ShapeError::Ragged { op, name: "value_heads", got: self.value_heads, unit: self.heads });
        }
        Ok(())
    }
}

impl Kernels {
    /// The recurrence over every token of every sequence. `q, k, g, b [M, H, K]`; `v, w, out [M, HV, V]`; sequence i has
    /// `lens[i]` of the M tokens, and its `S [HV, K, V]` is `states[i].as_mut()[at..]`, taken as it is and left as it becomes.
    ///
    /// # Errors
    /// [`ShapeError`] when a slice or a state is too short or too long; nothing was written then.
    #[allow(clippy::too_many_arguments)]
    pub fn gdn2<S: AsMut<[f32]> + Send>(
        &self,
        shape: &Gdn2Shape,
        lens: &[usize],
        q: &[f32],
        k: &[f32],
        v: &[f32],
        g: &[f32],
        b: &[f32],
        w: &[f32],
        states: &mut [S],
        at: usize,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        let op = "gdn2";
        shape.check(op)?;
        let (key_width, value_width) = (shape.heads * shape.key_dim, shape.value_heads * shape.value_dim);
        let rows = rows_of(op, "q", q, key_width)?;
        for (name, slice) in [("k", k), ("g", g), ("b", b)] {
            length(op, name, slice.len(), rows * key_width)?;
        }
        for (name, slice) in [("v", v), ("w", w), ("out", &*out)] {
            length(op, name, slice.len(), rows * value_width)?;
        }
        sequences(op, lens, rows, states, at + shape.state_elements())?;
        let out = Shared(out.as_mut_ptr());
        each_sequence(lens, states, 0, shape.state_elements() / STATES, &|len, first, state: &mut [f32]| {
            let keys = first * key_width..(first + len) * key_width;
            let values = first * value_width..(first + len) * value_width;
            let job = Recurrence {
                shape,
                tokens: len,
                q: &q[keys.clone()],
                k: &k[keys.clone()],
                g: &g[keys.clone()],
                b: &b[keys],
                v: &v[values.clone()],
                w: &w[values],
                state: Shared(state[at..].as_mut_ptr()),
                // SAFETY: `first` tokens are within `out`, whose length was checked.
                out: Shared(unsafe { out.get().add(first * value_width) }),
            };
            split(shape.value_heads, len * shape.key_dim * shape.value_dim / STATES, &|heads| {
                // SAFETY: the table fits this processor; lengths were checked; parts have their own heads of state and output.
                unsafe { (self.table.gdn2)(&job, heads) }
            });
        });
        Ok(())
    }

    /// Causal depthwise convolution of width 4 and then SiLU: `out[t, d] = silu(sum_j taps[d, j] * x[t - 3 + j, d])`, where
    /// tokens before the first are the state. `x, out [M, D]`; `taps [D, 4]`, the last one for the current token; sequence i's
    /// state is `states[i].as_mut()[at..at + 3 * D]`, its last three inputs `[3, D]`, oldest first.
    ///
    /// # Errors
    /// [`ShapeError`] when a slice or a state is too short or too long; nothing was written then.
    #[allow(clippy::too_many_arguments)]
    pub fn conv_silu<S: AsMut<[f32]> + Send>(
        &self,
        lens: &[usize],
        x: &[f32],
        taps: &[f32],
        states: &mut [S],
        at: usize,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        let op = "conv_silu";
        let channels = rows_of(op, "taps", taps, TAPS)?;
        let rows = rows_of(op, "x", x, channels)?;
        length(op, "out", out.len(), rows * channels)?;
        sequences(op, lens, rows, states, at + (TAPS - 1) * channels)?;
        let out = Shared(out.as_mut_ptr());
        each_sequence(lens, states, 0, channels / CONVOLUTIONS, &|len, first, state: &mut [f32]| {
            let job = Conv {
                channels,
                tokens: len,
                x: &x[first * channels..(first + len) * channels],
                taps,
                state: Shared(state[at..].as_mut_ptr()),
                // SAFETY: `first` tokens are within `out`, whose length was checked.
                out: Shared(unsafe { out.get().add(first * channels) }),
            };
            split(channels.div_ceil(CHANNELS), len * CHANNELS / CONVOLUTIONS, &|blocks| {
                let part = blocks.start * CHANNELS..(blocks.end * CHANNELS).min(channels);
                // SAFETY: the table fits this processor; lengths were checked; parts have their own channels.
                unsafe { (self.table.conv_silu)(&job, part) }
            });
        });
        Ok(())
    }
}

/// Calls `work(len, first row, state)` for every sequence with tokens, several at a time where `cost`, that of a token, says
/// it pays.
fn each_sequence<S: AsMut<[f32]> + Send>(
    lens: &[usize],
    states: &mut [S],
    first: usize,
    cost: usize,
    work: &(impl Fn(usize, usize, &mut [f32]) + Sync),
) {
    fn halves<S: AsMut<[f32]> + Send>(
        lens: &[usize],
        states: &mut [S],
        first: usize,
        grain: usize,
        work: &(impl Fn(usize, usize, &mut [f32]) + Sync),
    ) {
        if lens.len() <= grain {
            let mut first = first;
            for (&len, state) in lens.iter().zip(states).filter(|(len, _)| **len > 0) {
                work(len, first, state.as_mut());
                first += len;
            }
            return;
        }
        let middle = lens.len() / 2;
        let tokens: usize = lens[..middle].iter().sum();
        let (left, right) = states.split_at_mut(middle);
        rayon::join(
            || halves(&lens[..middle], left, first, grain, work),
            || halves(&lens[middle..], right, first + tokens, grain, work),
        );
    }
    let tokens: usize = lens.iter().sum();
    let grain = grain(lens.len(), cost * tokens / lens.len().max(1));
    halves(lens, states, first, grain, work);
}
