//! How fast does a GPU decode? Greedily, against the bytes that a step must read.

use std::time::Instant;

use serde::Serialize;

use super::{pseudo_random, rates};
use crate::cancel::Pace;
use crate::device::DeviceModel;
use crate::error::{Error, Result};
use crate::model::{Sequence, Want};
use crate::state::{SEGMENT, State};

/// Rates of decoding some sequences together.
#[derive(Debug, Clone, Serialize)]
pub struct DecodeBench {
    /// Where.
    pub device: String,
    /// Sequences decoded together.
    pub batch: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Tokens of all of them a second, as a caller sees it, who gets the likeliest token of each.
    pub tokens_per_s: f64,
    /// The same by the GPU's own clock: a recorded step with its logits, nothing taken from the GPU.
    pub device_tokens_per_s: f64,
    /// Bytes that a step must read and write: every weight once, every state twice.
    pub bytes_per_step: usize,
    /// Those of the steps of a second, by the GPU's clock.
    pub bytes_per_s: f64,
    /// Read and written by a large copy, measured in this run.
    pub copy_bytes_per_s: f64,
    /// The former over the latter.
    pub ratio_copy: f64,
}

/// Decodes `tokens` tokens of `batch` sequences after a segment of noise.
///
/// # Errors
/// As [`crate::model::Model::forward`].
pub fn bench_decode(model: &DeviceModel, batch: usize, tokens: usize) -> Result<DecodeBench> {
    if batch == 0 || tokens == 0 {
        return Err(Error::Input("a benchmark needs at least one sequence and one token".into()));
    }
    let vocabulary = model.config().vocabulary as u64;
    let mut noise = pseudo_random().map(|x| (x % vocabulary) as u32);
    let texts: Vec<Vec<u32>> = (0..batch).map(|_| noise.by_ref().take(SEGMENT).collect()).collect();
    let mut states: Vec<State> = texts.iter().map(|_| State::empty(model.config())).collect();
    let mut next = vec![0u32; batch];
    let mut forward = |ids: &[&[u32]], next: &mut Vec<u32>| {
        let mut sequences: Vec<_> = ids.iter().zip(&mut states).map(|(ids, state)| Sequence { ids, state }).collect();
        model.forward_at(&mut sequences, Want::Largest, &mut Pace::free(), &mut |i, _, id| next[i] = id[0] as u32)
    };
    forward(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut next)?;
    let mut clock = Instant::now();
    for step in 0..=tokens {
        let ids = next.clone();
        forward(&ids.iter().map(std::slice::from_ref).collect::<Vec<_>>(), &mut next)?;
        if step == 0 {
            // The first one warms up.
            clock = Instant::now();
        }
    }
    let tokens_per_s = (batch * tokens) as f64 / clock.elapsed().as_secs_f64();
    let bytes_per_step = model.weight_bytes() + 2 * batch * State::bytes(model.config());
    let device_tokens_per_s = batch as f64 / model.step_s(batch, 50)?;
    let copy_bytes_per_s = rates::gpu_bytes_per_s(model.gpu())?;
    let bytes_per_s = device_tokens_per_s / batch as f64 * bytes_per_step as f64;
    Ok(DecodeBench {
        device: format!("cuda ({})", model.gpu().name()),
        batch,
        tokens,
        tokens_per_s,
        device_tokens_per_s,
        bytes_per_step,
        bytes_per_s,
        copy_bytes_per_s,
        ratio_copy: bytes_per_s / copy_bytes_per_s,
    })
}
