//! How fast does it decode? Beside the rate at which the same threads read a buffer of the weights' size. Both stay on those
//! threads for a round: what it takes to hand a step over from elsewhere is not in it.

use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::network::Network;
use super::{median, timed};
use crate::error::{Error, Result};
use crate::model::{Sequence, Want};
use crate::state::State;

/// Rates of decoding: medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct CpuDecodeBench {
    /// Steps in each round.
    pub tokens: usize,
    /// Sequences that are decoded together.
    pub sequences: usize,
    /// Rounds.
    pub rounds: usize,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// Storage of the weights in memory.
    pub dtype: String,
    /// Parameters.
    pub parameters: usize,
    /// Tokens of all sequences a second.
    pub tokens_per_s: f64,
    /// Bytes of weights that a step reads.
    pub weight_bytes: usize,
    /// Those bytes, times steps a second: 10^9 a second.
    pub weights_gb_per_s: f64,
    /// Reading a buffer of as many bytes with the same threads, in turn with the steps: 10^9 a second.
    pub buffer_gb_per_s: f64,
    /// Decoding over reading the buffer.
    pub ratio_buffer: f64,
}

/// Decodes `tokens` steps of `sequences` sequences and reads a buffer of the weights' size, in turn, `rounds` times.
///
/// # Errors
/// As [`crate::model::Model::forward`].
pub fn bench_decode_on_cpu(network: &Network, tokens: usize, sequences: usize, rounds: usize) -> Result<CpuDecodeBench> {
    if tokens == 0 || rounds == 0 || sequences == 0 {
        return Err(Error::Input("a benchmark needs at least one token, one sequence and one round".into()));
    }
    let model = network.model();
    // The embedding gives one row a token.
    let weight_bytes = model.projections().map(|m| m.bytes()).sum::<usize>() + model.head().bytes();
    let buffer: Vec<u64> = (0..weight_bytes as u64 / 8).collect();
    let mut states: Vec<State> = (0..sequences).map(|_| State::empty(model.config())).collect();
    let vocabulary = model.config().vocabulary as u32;
    let (mut steps, mut buffers) = (Vec::new(), Vec::new());
    let mut id = 1;
    for round in 0..=rounds {
        // Both on the network's threads as a whole, so that neither is handed over token by token.
        let seconds = timed(|| {
            network.install(|| {
                for _ in 0..tokens {
                    id = (id * 31 + 7) % vocabulary;
                    let ids = [id];
                    let mut batch: Vec<_> = states.iter_mut().map(|state| Sequence { ids: &ids, state }).collect();
                    network.forward(&mut batch, Want::Last)?;
                }
                Ok(())
            })
        })?;
        let clock = Instant::now();
        network.install(|| (0..tokens).for_each(|_| _ = std::hint::black_box(sum(&buffer))));
        let reading = clock.elapsed().as_secs_f64();
        // The first round warms up memory and threads.
        if round > 0 {
            steps.push(tokens as f64 / seconds);
            buffers.push(tokens as f64 / reading);
        }
    }
    let (steps, buffers) = (median(steps), median(buffers));
    let gb = weight_bytes as f64 / 1e9;
    Ok(CpuDecodeBench {
        tokens,
        sequences,
        rounds,
        threads: network.threads(),
        isa: model.kernels().isa().to_string(),
        dtype: format!("{:?}", network.dtype()).to_lowercase(),
        parameters: model.config().parameters(),
        tokens_per_s: steps * sequences as f64,
        weight_bytes,
        weights_gb_per_s: steps * gb,
        buffer_gb_per_s: buffers * gb,
        ratio_buffer: steps / buffers,
    })
}

/// Reads every word, in 8 chains so that no addition is waited for.
fn sum(words: &[u64]) -> u64 {
    let chunk = words.len().div_ceil(rayon::current_num_threads()).max(8);
    let part = |words: &[u64]| {
        let (eights, rest) = words.as_chunks::<8>();
        let mut sums = [0u64; 8];
        for eight in eights {
            sums.iter_mut().zip(eight).for_each(|(s, w)| *s = s.wrapping_add(*w));
        }
        sums.iter().chain(rest).fold(0u64, |a, b| a.wrapping_add(*b))
    };
    words.par_chunks(chunk).map(part).reduce(|| 0, u64::wrapping_add)
}
