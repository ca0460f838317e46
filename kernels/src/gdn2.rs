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
//! It goes token by token, in the same operations in the same order whatever the number of tokens in a call. Sequences
//! and heads do not touch one another, and are what is spread over threads.

use crate::Kernels;
use crate::cpu::{Conv, Recurrence, Shared};
use crate::sequences::{Rows, each_part};
use crate::shape::{ShapeError, length, rows_of, sequences};

/// Taps of the short convolution.
pub(crate) const TAPS: usize = 4;
/// Channels that a thread takes at once.
const CHANNELS: usize = 64;
/// Elements of a state that a token goes through in a nanosecond, and channels of a convolution, about.
pub(crate) const STATES: usize = 12;
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

    pub(crate) fn check(&self, op: &'static str) -> Result<(), ShapeError> {
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
    pub fn gdn2<S: AsMut<[f32]>>(
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
        let cost = shape.key_dim * shape.value_dim;
        each_part(lens, states, shape.value_heads, &|tokens| tokens * cost / STATES, &|sequence, heads| {
            let Rows { first, len, state } = sequence;
            let keys = |x: &[f32]| x[first * key_width..].as_ptr();
            let values = |x: &[f32]| x[first * value_width..].as_ptr();
            let job = Recurrence {
                shape,
                tokens: len,
                q: keys(q),
                k: keys(k),
                g: keys(g),
                b: keys(b),
                v: values(v),
                w: values(w),
                // SAFETY: the state has `at` elements and more; `first` tokens are within `out`. Both lengths were checked.
                state: Shared(unsafe { state.get().add(at) }),
                // SAFETY: as above.
                out: Shared(unsafe { out.get().add(first * value_width) }),
            };
            // SAFETY: the table fits this processor; lengths were checked; parts have their own heads of state and output.
            unsafe { (self.table.gdn2)(&job, heads) }
        });
        Ok(())
    }

    /// Causal depthwise convolution of width 4 and then SiLU: `out[t, d] = silu(sum_j taps[j, d] * x[t - 3 + j, d])`, where
    /// tokens before the first are the state. `x, out [M, D]`; `taps [4, D]`, the last one for the current token; sequence i's
    /// state is `states[i].as_mut()[at..at + 3 * D]`, its last three inputs `[3, D]`, oldest first.
    ///
    /// # Errors
    /// [`ShapeError`] when a slice or a state is too short or too long; nothing was written then.
    #[allow(clippy::too_many_arguments)]
    pub fn conv_silu<S: AsMut<[f32]>>(
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
        let cost = |tokens: usize| tokens * CHANNELS / CONVOLUTIONS;
        each_part(lens, states, channels.div_ceil(CHANNELS), &cost, &|sequence, blocks| {
            let Rows { first, len, state } = sequence;
            let job = Conv {
                channels,
                tokens: len,
                x: &x[first * channels..(first + len) * channels],
                taps,
                // SAFETY: the state has `at` elements and more; `first` tokens are within `out`. Both lengths were checked.
                state: Shared(unsafe { state.get().add(at) }),
                // SAFETY: as above.
                out: Shared(unsafe { out.get().add(first * channels) }),
            };
            let part = blocks.start * CHANNELS..(blocks.end * CHANNELS).min(channels);
            // SAFETY: the table fits this processor; lengths were checked; parts have their own channels.
            unsafe { (self.table.conv_silu)(&job, part) }
        });
        Ok(())
    }
}
