//! How fast does it read? Ratios of rates measured in turn in one run, since machines are shared and noisy.
//!
//! [`mod@decode`] and [`mod@kernels`] ask the same of a decode step and of single operations, on the CPU and on a GPU.

mod context;
mod cpu_decode;
pub mod decode;
pub mod kernels;
mod memory;
mod network;
mod rates;
mod spans;

use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Serialize;

use crate::cancel::Pace;
use crate::device::DeviceModel;
use crate::error::{Error, Result};
use crate::model::{MAX_ROWS, Model, Sequence, Want};
use crate::state::State;
pub use context::{ContextBench, bench_context};
pub use cpu_decode::{CpuDecodeBench, bench_decode_on_cpu};
pub use memory::{MemoryBench, bench_memory};
pub use network::{Network, random_on_gpu, shape};
pub use spans::{SpansBench, bench_spans};

/// Rates of reading `tokens` tokens from the empty state: medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct ReadBench {
    /// Tokens read in each round.
    pub tokens: usize,
    /// Rounds.
    pub rounds: usize,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// Storage of the weights in memory.
    pub dtype: String,
    /// The reader.
    pub tokens_per_s: f64,
    /// The reader's own products alone: what the projections would allow at the rate measured in this run.
    pub gemm_tokens_per_s: f64,
    /// Reading over its products.
    pub ratio_gemm: f64,
    /// The same products in candle, f32.
    pub candle_tokens_per_s: f64,
    /// Reading over candle's products.
    pub ratio_candle: f64,
    /// Bytes of the state: the same after any number of tokens.
    pub state_bytes: usize,
}

/// Measures reading, its products alone and candle's products, in turn, `rounds` times.
///
/// # Errors
/// As [`crate::model::Model::forward`].
pub fn bench_read(network: &Network, tokens: usize, rounds: usize) -> Result<ReadBench> {
    if tokens == 0 || rounds == 0 {
        return Err(Error::Input("a benchmark needs at least one token and one round".into()));
    }
    let model = network.model();
    let vocabulary = model.config().vocabulary as u64;
    let ids: Vec<u32> = pseudo_random().take(tokens).map(|x| (x % vocabulary) as u32).collect();
    let mut state = State::empty(model.config());
    let products = Products::new(model, tokens.min(MAX_ROWS))?;
    let (mut read, mut gemm, mut candle) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        state = State::empty(model.config());
        let times = [
            timed(|| network.forward(&mut [Sequence { ids: &ids, state: &mut state }], Want::Nothing))?,
            timed(|| products.ours(network, tokens))?,
            timed(|| products.candle(network, tokens))?,
        ];
        // The first round warms up memory and threads.
        if round > 0 {
            for (rates, seconds) in [&mut read, &mut gemm, &mut candle].into_iter().zip(times) {
                rates.push(tokens as f64 / seconds);
            }
        }
    }
    let [read, gemm, candle] = [read, gemm, candle].map(median);
    Ok(ReadBench {
        tokens,
        rounds,
        threads: network.threads(),
        isa: model.kernels().isa().to_string(),
        dtype: format!("{:?}", network.dtype()).to_lowercase(),
        tokens_per_s: read,
        gemm_tokens_per_s: gemm,
        ratio_gemm: read / gemm,
        candle_tokens_per_s: candle,
        ratio_candle: read / candle,
        state_bytes: size_of_val(state.data()),
    })
}

/// Rates of reading on a GPU: medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceReadBench {
    /// Tokens read in each round.
    pub tokens: usize,
    /// Rounds.
    pub rounds: usize,
    /// The GPU.
    pub device: String,
    /// The reader, as a caller sees it; the last token's logits are not made.
    pub tokens_per_s: f64,
    /// Multiply-adds of its projections, twice, a second.
    pub flops_per_s: f64,
    /// The same of one large product, measured in this run.
    pub gemm_flops_per_s: f64,
    /// The former over the latter.
    pub ratio_gemm: f64,
    /// Bytes of the state: the same after any number of tokens.
    pub state_bytes: usize,
    /// Memory of the GPU that is taken once all was read, whoever took it.
    pub device_bytes: usize,
}

/// Measures reading on a GPU beside one large product.
///
/// # Errors
/// As [`crate::model::Model::forward`].
pub fn bench_read_on_gpu(model: &DeviceModel, tokens: usize, rounds: usize) -> Result<DeviceReadBench> {
    if tokens == 0 || rounds == 0 {
        return Err(Error::Input("a benchmark needs at least one token and one round".into()));
    }
    let vocabulary = model.config().vocabulary as u64;
    let ids: Vec<u32> = pseudo_random().take(tokens).map(|x| (x % vocabulary) as u32).collect();
    let mut read = Vec::new();
    for round in 0..=rounds {
        let mut state = State::empty(model.config());
        let seconds = timed(|| {
            let mut batch = [Sequence { ids: &ids, state: &mut state }];
            model.forward_at(&mut batch, Want::Nothing, &mut Pace::free(), &mut |_, _, _| {})?;
            Ok(model.gpu().synchronise()?)
        })?;
        if round > 0 {
            read.push(tokens as f64 / seconds);
        }
    }
    let (free, total) = model.gpu().memory()?;
    let tokens_per_s = median(read);
    let flops_per_s = tokens_per_s * 2.0 * model.config().projection_weights() as f64;
    let gemm_flops_per_s = rates::gpu_flops_per_s(model.gpu())?;
    Ok(DeviceReadBench {
        tokens,
        rounds,
        device: format!("cuda ({})", model.gpu().name()),
        tokens_per_s,
        flops_per_s,
        gemm_flops_per_s,
        ratio_gemm: flops_per_s / gemm_flops_per_s,
        state_bytes: State::bytes(model.config()),
        device_bytes: total - free,
    })
}

/// The products of reading, without anything between them.
struct Products {
    rows: usize,
    x: Vec<f32>,
    candle_x: Vec<Tensor>,
    candle_w: Vec<Tensor>,
}

impl Products {
    fn new(model: &Model, rows: usize) -> Result<Self> {
        let widest = model.projections().map(|m| m.cols()).max().unwrap_or(0);
        let noise = |n: usize| -> Vec<f32> { pseudo_random().take(n).map(|x| (x % 2001) as f32 / 1000.0 - 1.0).collect() };
        let tensor = |rows: usize, cols: usize| {
            Tensor::from_vec(noise(rows * cols), (rows, cols), &Device::Cpu)
                .map_err(|e| Error::Input(format!("candle refused: {e}")))
        };
        let mut candle_x = Vec::new();
        let mut candle_w = Vec::new();
        for m in model.projections() {
            candle_x.push(tensor(rows, m.cols())?);
            candle_w.push(tensor(m.rows(), m.cols())?);
        }
        Ok(Self { rows, x: noise(rows * widest), candle_x, candle_w })
    }

    fn ours(&self, network: &Network, tokens: usize) -> Result<()> {
        let (mut out, model) = (Vec::new(), network.model());
        network.install(|| {
            for from in (0..tokens).step_by(self.rows) {
                let rows = self.rows.min(tokens - from);
                for m in model.projections() {
                    out.resize(rows * m.rows(), 0.0);
                    model.kernels().matmul(&self.x[..rows * m.cols()], m, &mut out)?;
                }
            }
            Ok(())
        })
    }

    fn candle(&self, network: &Network, tokens: usize) -> Result<()> {
        let run = || -> candle_core::Result<()> {
            for from in (0..tokens).step_by(self.rows) {
                let rows = self.rows.min(tokens - from);
                for (x, w) in self.candle_x.iter().zip(&self.candle_w) {
                    x.narrow(0, 0, rows)?.matmul(&w.t()?)?;
                }
            }
            Ok(())
        };
        network.install(run).map_err(|e| Error::Input(format!("candle refused: {e}")))
    }
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let clock = Instant::now();
    work()?;
    Ok(clock.elapsed().as_secs_f64())
}

pub(crate) fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// xorshift64: the values do not matter, only that they are no zeros and the same in every run.
pub(crate) fn pseudo_random() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(0x9e37_79b9_7f4a_7c15_u64), |x| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        Some(x ^ (x << 17))
    })
}
