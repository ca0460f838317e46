//! Can passages that were read apart be put together without reading again? **Experimental**: what comes of it is near nothing
//! else's state, and `engine/STORE.md` has what it costs.
//!
//! A head's update is affine in its state: a token makes `S' = P S + U` of S, with `P = (I - k (b * k)^T) Diag(exp g)` and
//! `U = k (w * v)^T`, and so do many tokens: P is the product of theirs, U what they make of the empty state. Kept for a passage,
//! they put it behind any other: `S_12 = P_2 S_1 + U_2`.
//!
//! In the first layer that is what reading the two in sequence gives, up to rounding, but for the first 3 tokens of the second
//! passage, whose convolution would have looked back into the first. Above it is not: there q, k, v, g, b and w come from rows that
//! would have been others had the passage been read behind the first.

use palimpsest_kernels::Gdn2Shape;

use crate::error::{Error, Result};
use crate::model::{Config, Sequence};
use crate::read::Reader;
use crate::state::{State, layer_offsets};

/// A passage read from the empty state, ready to be put behind others.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// U of every head, and the last inputs of the convolutions.
    state: State,
    /// P of every head: `[layers, H, K, K]`
    transition: Vec<f32>,
}

impl Part {
    /// Reads each passage from the empty state, all in one batch.
    ///
    /// # Errors
    /// As [`crate::model::Model::forward`].
    pub fn read(reader: &Reader, passages: &[&[u32]]) -> Result<Vec<Self>> {
        let identity = identity(reader.config());
        let mut states: Vec<State> = passages.iter().map(|_| State::empty(reader.config())).collect();
        let mut batch: Vec<_> = passages.iter().zip(&mut states).map(|(ids, state)| Sequence { ids, state }).collect();
        let transitions = reader.append_with_transitions(&mut batch, vec![identity; passages.len()])?;
        Ok(states.into_iter().zip(transitions).map(|(state, transition)| Self { state, transition }).collect())
    }

    /// The state after the passage alone, exactly.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Bytes of a part, beside the state of the same configuration.
    #[must_use]
    pub fn transition_bytes(config: &Config) -> usize {
        config.layers * config.heads * config.key_dim * config.key_dim * size_of::<f32>()
    }

    /// About the state after what `before` has read and then this passage.
    ///
    /// # Errors
    /// [`Error::Input`] when `before` or this are not of `config`'s shape.
    pub fn after(&self, config: &Config, before: &State) -> Result<State> {
        let elements = State::elements(config);
        let fits = self.transition.len() * size_of::<f32>() == Self::transition_bytes(config);
        if before.data().len() != elements || self.state.data().len() != elements || !fits {
            return Err(Error::Input("a part or a state is of another reader's size".into()));
        }
        let mut data = self.state.data().to_vec();
        let Gdn2Shape { heads, value_heads, key_dim, value_dim } = config.gdn2();
        for layer in 0..config.layers {
            let at = layer_offsets(config, layer).recurrent;
            for head in 0..value_heads {
                let p = (layer * heads + head / (value_heads / heads)) * key_dim * key_dim;
                let p = &self.transition[p..p + key_dim * key_dim];
                let from = at + head * key_dim * value_dim;
                let s = &before.data()[from..from + key_dim * value_dim];
                let out = &mut data[from..from + key_dim * value_dim];
                for (p, out) in p.chunks_exact(key_dim).zip(out.chunks_exact_mut(value_dim)) {
                    for (p, s) in p.iter().zip(s.chunks_exact(value_dim)) {
                        out.iter_mut().zip(s).for_each(|(o, s)| *o += p * s);
                    }
                }
            }
        }
        let tokens = before.tokens() + self.state.tokens();
        State::from_parts(config, tokens, &data).ok_or_else(|| Error::Input("a state is of another reader's size".into()))
    }

    /// All of `parts`, one behind the other. `None` of none.
    ///
    /// # Errors
    /// As [`Part::after`].
    pub fn compose(config: &Config, parts: &[Self]) -> Result<Option<State>> {
        let Some((first, rest)) = parts.split_first() else { return Ok(None) };
        rest.iter().try_fold(first.state.clone(), |state, part| part.after(config, &state)).map(Some)
    }
}

/// `[layers, H, K, K]`
fn identity(config: &Config) -> Vec<f32> {
    let k = config.key_dim;
    let one = (0..k * k).map(|i| f32::from(u8::from(i / k == i % k)));
    let one: Vec<f32> = one.collect();
    one.repeat(config.layers * config.heads)
}
