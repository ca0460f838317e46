//! The shape of a network.

use palimpsest_kernels::{Gdn2Shape, OutputGate};

/// The shape of a network, in the words of its checkpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Blocks.
    pub layers: usize,
    /// D, the residual stream.
    pub width: usize,
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// H, heads of queries, keys, decay and erase gate.
    pub heads: usize,
    /// HV, heads of values and write gate; a multiple of H.
    pub value_heads: usize,
    /// K, per head.
    pub key_dim: usize,
    /// V, per head.
    pub value_dim: usize,
    /// Width of the SwiGLU layer.
    pub hidden: usize,
    /// Rank of the decay's two linears.
    pub decay_rank: usize,
    /// Rank of the output gate's two linears.
    pub gate_rank: usize,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f32,
    /// Erase gate in [0, 2] instead of [0, 1].
    pub allow_neg_eigval: bool,
    /// Write gate in [0, 2], too: what `allow_neg_eigval` means where both gates are one.
    pub doubled_write: bool,
    /// What the output gate's logits go through.
    pub output_gate: OutputGate,
    /// The head is the embedding table.
    pub tied: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            layers: 0,
            width: 0,
            vocabulary: 0,
            heads: 0,
            value_heads: 0,
            key_dim: 0,
            value_dim: 0,
            hidden: 0,
            decay_rank: 0,
            gate_rank: 0,
            norm_eps: 1e-5,
            allow_neg_eigval: false,
            doubled_write: false,
            output_gate: OutputGate::Sigmoid,
            tied: true,
        }
    }
}

impl Config {
    /// `H * K`
    #[must_use]
    pub fn key_width(&self) -> usize {
        self.heads * self.key_dim
    }

    /// `HV * V`
    #[must_use]
    pub fn value_width(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// The recurrence's shape, as the kernels take it.
    #[must_use]
    pub fn gdn2(&self) -> Gdn2Shape {
        Gdn2Shape { heads: self.heads, value_heads: self.value_heads, key_dim: self.key_dim, value_dim: self.value_dim }
    }

    /// Weights of the projections that every token goes through (without embedding and head): two FLOPs each, a token.
    #[must_use]
    pub fn projection_weights(&self) -> usize {
        let (d, hk, hv) = (self.width, self.key_width(), self.value_width());
        let mixer = d * (3 * hk + 3 * hv) + self.decay_rank * (d + hk) + self.gate_rank * (d + hv);
        self.layers * (mixer + 3 * d * self.hidden)
    }

    /// Parameters in all.
    #[must_use]
    pub fn parameters(&self) -> usize {
        let (hk, hv) = (self.key_width(), self.value_width());
        let small = 4 * (2 * hk + hv) + self.heads + hk + hv + self.value_dim + 2 * self.width;
        let tables = self.vocabulary * self.width * if self.tied { 1 } else { 2 };
        self.projection_weights() + self.layers * small + tables + self.width
    }

    /// # Errors
    /// A sentence naming the key at fault.
    pub fn validate(&self) -> Result<(), String> {
        let named = [
            ("layers", self.layers),
            ("width", self.width),
            ("vocabulary", self.vocabulary),
            ("heads", self.heads),
            ("value heads", self.value_heads),
            ("key dim", self.key_dim),
            ("value dim", self.value_dim),
            ("hidden", self.hidden),
            ("decay rank", self.decay_rank),
            ("gate rank", self.gate_rank),
        ];
        if let Some((name, _)) = named.iter().find(|(_, n)| *n == 0) {
            return Err(format!("the number of {name} is 0"));
        }
        if let Some((name, n)) = named.iter().find(|(_, n)| *n > 1 << 24) {
            return Err(format!("the number of {name} is {n}: beyond anything this engine can hold"));
        }
        if !self.value_heads.is_multiple_of(self.heads) {
            return Err(format!("{} value heads are no multiple of {} heads", self.value_heads, self.heads));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(format!("norm_eps {} is not between 0 and 1", self.norm_eps));
        }
        Ok(())
    }
}
