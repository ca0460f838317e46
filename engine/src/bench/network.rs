//! A network alone, without tokenizer and prompts: of a reader's folder, or of a named shape with random weights.

use std::sync::{Mutex, PoisonError};

use palimpsest_kernels::cuda::Gpu;
use palimpsest_kernels::{Dtype, Isa, Kernels};

use super::pseudo_random;
use crate::checkpoint::{Checkpoint, Part};
use crate::device::DeviceModel;
use crate::error::{Error, Result};
use crate::files::ReaderFiles;
use crate::model::{Config, Model, Scratch, Sequence, Want};

/// The shape called `name`: `pilot` (32 million parameters), `151m`, or NVIDIA's `1.3b`. `None` for other names.
#[must_use]
pub fn shape(name: &str) -> Option<Config> {
    if name == "1.3b" {
        return Some(Config {
            layers: 18,
            width: 2304,
            vocabulary: 32_000,
            heads: 16,
            value_heads: 16,
            key_dim: 128,
            value_dim: 128,
            hidden: 6208,
            decay_rank: 128,
            gate_rank: 128,
            ..Config::default()
        });
    }
    let (width, heads, hidden, vocabulary, tied) = match name {
        "pilot" => (384, 6, 1024, 16_384, true),
        "151m" => (768, 12, 2048, 32_000, false),
        _ => return None,
    };
    Some(Config {
        layers: 12,
        width,
        vocabulary,
        heads,
        value_heads: heads,
        key_dim: 64,
        value_dim: 64,
        hidden,
        decay_rank: 64,
        gate_rank: 64,
        tied,
        ..Config::default()
    })
}

/// A network and the threads it runs on.
pub struct Network {
    model: Model,
    dtype: Dtype,
    threads: rayon::ThreadPool,
    scratch: Mutex<Scratch>,
}

impl Network {
    /// The network in `files`; `dtype` as in [`crate::ReaderOptions`]; the best instruction set, or what `PALIMPSEST_ISA` forces, where `isa`
    /// is `None`.
    ///
    /// # Errors
    /// As [`crate::Reader::open`].
    pub fn open(files: &ReaderFiles, isa: Option<Isa>, dtype: Option<Dtype>, threads: Option<usize>) -> Result<Self> {
        let checkpoint = Checkpoint::open_files(files)?;
        let int8 = checkpoint.stored_as(checkpoint.head()).is_some_and(|stored| stored == "I8");
        let dtype = dtype.unwrap_or(if int8 { Dtype::Int8 } else { Dtype::F32 });
        Self::of(dtype, threads, |dtype| Model::load(&checkpoint, kernels(isa)?, dtype))
    }

    /// A network of `config`'s shape and random weights.
    ///
    /// # Errors
    /// [`Error::Input`] for a shape that is none, [`Error::Kernel`] for an instruction set that is not there.
    pub fn random(config: Config, isa: Option<Isa>, dtype: Dtype, threads: Option<usize>) -> Result<Self> {
        config.validate().map_err(Error::Input)?;
        Self::of(dtype, threads, |dtype| Model::of(config, kernels(isa)?, dtype, &noise))
    }

    fn of(dtype: Dtype, threads: Option<usize>, load: impl FnOnce(Dtype) -> Result<Model> + Send) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build();
        let pool = pool.map_err(|e| Error::Input(format!("{threads:?} threads cannot be started: {e}")))?;
        let model = pool.install(|| load(dtype))?;
        Ok(Self { model, dtype, threads: pool, scratch: Mutex::default() })
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(super) fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    pub(super) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }

    pub(super) fn forward(&self, batch: &mut [Sequence<'_>], want: Want) -> Result<()> {
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let scratch = &mut *scratch;
        self.threads.install(|| self.model.forward(batch, want, scratch, &mut |_, _, _| {}))
    }
}

/// A network of `config`'s shape and random weights on `gpu`.
///
/// # Errors
/// As [`DeviceModel::load`].
pub fn random_on_gpu(config: Config, gpu: Gpu) -> Result<DeviceModel> {
    config.validate().map_err(Error::Input)?;
    DeviceModel::of(config, gpu, &noise)
}

fn noise(part: Part<'_>, shape: &[usize]) -> Result<Vec<f32>> {
    let n = shape.iter().product();
    // Norms near 1, matrices that keep the size of a row, decays that forget slowly: nothing overflows.
    let (scale, offset) = match (part, shape) {
        (Part::FinalNorm, _) => (0.1, 1.0),
        (Part::InLayer(_, "attn.dt_bias"), _) => (1.0, -3.0),
        (Part::InLayer(_, name), [_]) if name.ends_with("norm.weight") => (0.1, 1.0),
        (_, [_, cols]) => (1.7 / (*cols as f32).sqrt(), 0.0),
        _ => (0.5, 0.0),
    };
    // Four uniform numbers are bell-shaped, nearly: weights then have the magnitudes of trained ones, and take as many bytes.
    let four = |x: u64| (0..4).map(|i| (x >> (16 * i) & 0xffff) as f32 / (1 << 15) as f32 - 1.0).sum::<f32>() / 2.0;
    Ok(pseudo_random().take(n).map(|x| four(x) * scale + offset).collect())
}

fn kernels(isa: Option<Isa>) -> Result<Kernels> {
    Ok(match isa {
        Some(isa) => Kernels::new(isa)?,
        None => Kernels::detect()?,
    })
}
