//! `palimpsest bench …`: how fast is it, and how much memory does it take?

use std::path::PathBuf;
use std::sync::Arc;

use palimpsest_engine::bench::decode::bench_decode;
use palimpsest_engine::bench::kernels::{KernelsBench, bench_kernels_on_cpu, bench_kernels_on_gpu};
use palimpsest_engine::bench::{
    Network, bench_context, bench_decode_on_cpu, bench_memory, bench_read, bench_read_on_gpu, bench_spans, random_on_gpu, shape,
};
use palimpsest_engine::device::DeviceModel;
use palimpsest_engine::kernels::Dtype;
use palimpsest_engine::kernels::cuda::Gpu;
use palimpsest_engine::{Error, Reader, ReaderFiles, Result, default_reader};
use serde::Serialize;

use crate::args::{self, BenchVerb};
use crate::show::{self, Output};
use crate::verbs::{io, open_reader};

pub(crate) fn bench(args: &args::Bench, out: Output) -> Result<()> {
    match &args.verb {
        BenchVerb::Read { tokens, rounds, network } => match self::network(network)? {
            On::Cpu(network) => table(&bench_read(&network, *tokens, *rounds)?, out),
            On::Gpu(gpu) => table(&bench_read_on_gpu(gpu.model()?, *tokens, *rounds)?, out),
        },
        BenchVerb::Decode { batch, tokens, rounds, network } => match self::network(network)? {
            On::Cpu(network) => table(&bench_decode_on_cpu(&network, *tokens, *batch, *rounds)?, out),
            On::Gpu(gpu) => table(&bench_decode(gpu.model()?, *batch, *tokens)?, out),
        },
        BenchVerb::Kernels { device } => table(&kernels(*device)?, out),
        BenchVerb::Context { file, question, rounds, reader } => {
            let (reader, work) = (Arc::new(open_reader(reader)?), Work::make()?);
            table(&bench_context(&reader, file, question, &work.0, *rounds)?, out)
        }
        BenchVerb::Spans { file, answers, reader } => {
            let (reader, work) = (Arc::new(open_reader(reader)?), Work::make()?);
            table(&bench_spans(&reader, file, &work.0, *answers)?, out)
        }
        BenchVerb::Memory { tokens, reader } => {
            let (reader, work) = (Arc::new(open_reader(reader)?), Work::make()?);
            let bar = show::progress_bar();
            let measured = bench_memory(&reader, &work.0, *tokens, &mut |read, all| {
                bar.set_length(all);
                bar.set_position(read);
            })?;
            bar.finish_and_clear();
            table(&measured, out)
        }
    }
}

enum On {
    Cpu(Box<Network>),
    Gpu(OnGpu),
}

enum OnGpu {
    Reader(Box<Reader>),
    Random(Box<DeviceModel>),
}

impl OnGpu {
    fn model(&self) -> Result<&DeviceModel> {
        match self {
            Self::Reader(reader) => reader.device_model().ok_or_else(|| Error::Input("the reader reads on the CPU".into())),
            Self::Random(model) => Ok(model),
        }
    }
}

/// On a GPU where there is one and nothing says otherwise.
fn network(args: &args::NetworkArgs) -> Result<On> {
    let reader = &args.reader;
    let dtype = reader.dtype.map(Into::into);
    let gpu = reader.device != args::Device::Cpu && args.isa.is_none();
    if let Some(config) = args.shape.as_deref().and_then(shape) {
        return match Gpu::open() {
            Ok(there) if gpu => Ok(On::Gpu(OnGpu::Random(Box::new(random_on_gpu(config, there)?)))),
            Err(missing) if reader.device == args::Device::Cuda => Err(missing.into()),
            _ => {
                let network = Network::random(config, args.isa, dtype.unwrap_or(Dtype::F32), reader.threads)?;
                Ok(On::Cpu(Box::new(network)))
            }
        };
    }
    if gpu {
        let opened = open_reader(reader)?;
        if opened.device_model().is_some() {
            return Ok(On::Gpu(OnGpu::Reader(Box::new(opened))));
        }
    }
    let folder = reader.model.clone().map_or_else(default_reader, Ok)?;
    Ok(On::Cpu(Box::new(Network::open(&ReaderFiles::at(folder)?, args.isa, dtype, reader.threads)?)))
}

fn kernels(device: args::Device) -> Result<KernelsBench> {
    match (device, Gpu::open()) {
        (args::Device::Cuda | args::Device::Auto, Ok(gpu)) => bench_kernels_on_gpu(&gpu),
        (args::Device::Cuda, Err(missing)) => Err(missing.into()),
        _ => bench_kernels_on_cpu(),
    }
}

fn table(measured: &impl Serialize, out: Output) -> Result<()> {
    out.table(serde_json::to_value(measured).map_err(|e| Error::Input(e.to_string()))?)
}

/// A folder that goes when this does.
struct Work(PathBuf);

impl Work {
    fn make() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("palimpsest-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| io(&folder, e))?;
        Ok(Self(folder))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
