//! What the reader remembers: a fixed number of bytes, whatever was read.
//!
//! One flat buffer of f32. For each layer, in order: the recurrent state `S` `[HV, K, V]`, then the last three inputs of the
//! three short convolutions, oldest first: q `[3, H*K]`, k `[3, H*K]`, v `[3, HV*V]`. The state passes into the model and
//! out of it and is never owned by it, so that a fork is a clone and a snapshot is its bytes.

use crate::model::Config;

/// Tokens of a segment. Reading is cut at multiples of it, counted from the start of the context, so that the arithmetic of
/// a token depends on the ids before it alone, also on a back end whose wide products differ from its narrow ones.
pub const SEGMENT: usize = 64;

/// Inputs a width-4 causal convolution carries over.
pub(crate) const CARRIED: usize = 3;

/// Where the parts of a layer's state lie, in elements from the start of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerOffsets {
    /// `S` `[HV, K, V]`
    pub recurrent: usize,
    /// `[3, H*K]`
    pub conv_q: usize,
    /// `[3, H*K]`
    pub conv_k: usize,
    /// `[3, HV*V]`
    pub conv_v: usize,
}

impl LayerOffsets {
    /// Offsets of layer `layer` in a state of `config`'s shape.
    #[must_use]
    pub fn of(config: &Config, layer: usize) -> Self {
        let recurrent = layer * elements_per_layer(config);
        let conv_q = recurrent + config.value_heads * config.key_dim * config.value_dim;
        let conv_k = conv_q + CARRIED * config.key_width();
        Self { recurrent, conv_q, conv_k, conv_v: conv_k + CARRIED * config.key_width() }
    }
}

fn elements_per_layer(config: &Config) -> usize {
    config.value_heads * config.key_dim * config.value_dim + CARRIED * (2 * config.key_width() + config.value_width())
}

/// The memory of one context: what `tokens` tokens left behind.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    tokens: u64,
    data: Vec<f32>,
}

impl State {
    /// The state before the first token: all zeros.
    #[must_use]
    pub fn empty(config: &Config) -> Self {
        Self { tokens: 0, data: vec![0.0; Self::elements(config)] }
    }

    /// A state taken up again from its parts. `None` when `data` is not of `config`'s size.
    #[must_use]
    pub fn from_parts(config: &Config, tokens: u64, data: Vec<f32>) -> Option<Self> {
        (data.len() == Self::elements(config)).then_some(Self { tokens, data })
    }

    /// Elements (f32) of a state of `config`'s shape.
    #[must_use]
    pub fn elements(config: &Config) -> usize {
        config.layers * elements_per_layer(config)
    }

    /// Bytes of a state of `config`'s shape: a function of the configuration alone.
    #[must_use]
    pub fn bytes(config: &Config) -> usize {
        Self::elements(config) * size_of::<f32>()
    }

    /// Tokens read since the state was empty.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The raw elements, in the layout of this module.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.tokens += tokens as u64;
    }
}

impl AsMut<[f32]> for State {
    fn as_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }
}
