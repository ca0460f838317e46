//! How fast are single operations, against the two floors: their bytes at the rate of a copy, their arithmetic at the rate of a
//! large product, both measured in the same run?

use std::sync::Arc;

use half::bf16;
use palimpsest_kernels::cuda::{Buffer, Chunk, Gpu, Mixer, Out, Projection, View};
use palimpsest_kernels::{Dtype, Gdn2Shape, Kernels, Matrix, OutputGate};
use serde::Serialize;

use super::{pseudo_random, rates};
use crate::error::Result;

/// An operation's rate.
#[derive(Debug, Clone, Serialize)]
pub struct KernelRate {
    /// Which.
    pub kernel: &'static str,
    /// On what.
    pub shape: String,
    /// How long it takes: a median.
    pub ms: f64,
    /// Bytes that it must read and write, a second.
    pub bytes_per_s: f64,
    /// Operations that the definition needs, a second: two for each multiply-add.
    pub flops_per_s: f64,
    /// How long its bytes take at the rate of a copy.
    pub bytes_floor_ms: f64,
    /// How long its arithmetic takes at the rate of a large product.
    pub flops_floor_ms: f64,
    /// The larger floor over the time: 1 is as fast as can be.
    pub ratio_floor: f64,
}

/// Rates of the operations of one device.
#[derive(Debug, Clone, Serialize)]
pub struct KernelsBench {
    /// Where.
    pub device: String,
    /// Bytes read and written by a large copy, a second.
    pub copy_bytes_per_s: f64,
    /// Operations of a large product, a second.
    pub gemm_flops_per_s: f64,
    /// On a GPU: a state of 18 MiB to the host's pinned memory, by the host's clock.
    pub state_to_host_ms: Option<f64>,
    /// And back.
    pub state_from_host_ms: Option<f64>,
    /// The operations.
    pub kernels: Vec<KernelRate>,
}

impl KernelsBench {
    fn add(&mut self, kernel: &'static str, shape: String, seconds: f64, bytes: f64, flops: f64) {
        let (bytes_floor, flops_floor) = (bytes / self.copy_bytes_per_s, flops / self.gemm_flops_per_s);
        self.kernels.push(KernelRate {
            kernel,
            shape,
            ms: seconds * 1e3,
            bytes_per_s: bytes / seconds,
            flops_per_s: flops / seconds,
            bytes_floor_ms: bytes_floor * 1e3,
            flops_floor_ms: flops_floor * 1e3,
            ratio_floor: bytes_floor.max(flops_floor) / seconds,
        });
    }
}

/// The recurrence, a product of many rows and one of one row, on the CPU.
///
/// # Errors
/// [`crate::Error::Kernel`] when `PALIMPSEST_ISA` asks for what this processor lacks.
pub fn bench_kernels_on_cpu() -> Result<KernelsBench> {
    let kernels = Kernels::detect()?;
    let mut bench = KernelsBench {
        device: format!("cpu ({})", kernels.isa()),
        copy_bytes_per_s: rates::cpu_bytes_per_s(),
        gemm_flops_per_s: rates::cpu_flops_per_s(&kernels, Dtype::F32)?,
        state_to_host_ms: None,
        state_from_host_ms: None,
        kernels: Vec::new(),
    };
    let noise = |n: usize| -> Vec<f32> { pseudo_random().take(n).map(|x| (x % 2001) as f32 / 2001.0 - 0.5).collect() };
    for (tokens, key_dim) in [(512, 64), (512, 128), (1, 128)] {
        let s = Gdn2Shape { heads: 4, value_heads: 4, key_dim, value_dim: key_dim };
        let n = tokens * 4 * key_dim;
        let (x, g) = (noise(n), vec![-0.05; n]);
        let (mut state, mut out) = ([vec![0.0f32; s.state_elements()]], vec![0.0; n]);
        let mut work = || kernels.gdn2(&s, &[tokens], &x, &x, &x, &g, &x, &x, &mut state, 0, &mut out);
        work()?;
        let seconds = rates::cpu_s(9, || drop(work()));
        let bytes = (7 * n + 2 * s.state_elements()) * size_of::<f32>();
        bench.add(
            "gdn2",
            format!("T{tokens} H4 K{key_dim} V{key_dim}, f32"),
            seconds,
            bytes as f64,
            recurrence_flops(&s, tokens),
        );
    }
    for (rows, n) in [(64, 1024), (1, 2048)] {
        let (x, w) = (noise(rows * n), Matrix::pack(n, n, &noise(n * n), Dtype::F32)?);
        let mut out = vec![0.0; rows * n];
        kernels.matmul(&x, &w, &mut out)?;
        let seconds = rates::cpu_s(9, || drop(kernels.matmul(&x, &w, &mut out)));
        let bytes = w.bytes() + 2 * rows * n * size_of::<f32>();
        bench.add("matmul", format!("{rows} x [{n}, {n}], f32"), seconds, bytes as f64, 2.0 * (rows * n * n) as f64);
    }
    Ok(bench)
}

/// The recurrence over many tokens and over one, and products, on `gpu`.
///
/// # Errors
/// [`crate::Error::Cuda`].
pub fn bench_kernels_on_gpu(gpu: &Gpu) -> Result<KernelsBench> {
    let (to_host, from_host) = rates::state_ms(gpu)?;
    let mut bench = KernelsBench {
        device: format!("cuda ({})", gpu.name()),
        copy_bytes_per_s: rates::gpu_bytes_per_s(gpu)?,
        gemm_flops_per_s: rates::gpu_flops_per_s(gpu)?,
        state_to_host_ms: Some(to_host),
        state_from_host_ms: Some(from_host),
        kernels: Vec::new(),
    };
    for (sequences, tokens, heads) in [(1, 8192, 64), (1, 8192, 16), (8, 1024, 64), (1, 131_072, 16)] {
        chunk(gpu, &mut bench, sequences, tokens, heads)?;
    }
    for sequences in [1, 32, 256] {
        step(gpu, &mut bench, sequences)?;
    }
    for (m, n, k) in [(4096, 10_496, 2304), (4096, 2304, 6208)] {
        let (x, w) = (rates::noise(gpu, m * k)?, rates::noise(gpu, n * k)?);
        let out = gpu.allocate(m * n * size_of::<bf16>())?;
        let out = Out::Rounded(View::dense(&out, n));
        let ms = rates::gpu_ms(gpu, 20, || gpu.wide(View::dense(&x, k), m, &w, n, k, out))?;
        let bytes = (m * k + n * k + m * n) * size_of::<bf16>();
        bench.add("wide", format!("{m} x [{n}, {k}], bf16"), ms / 1e3, bytes as f64, 2.0 * (m * n * k) as f64);
    }
    for (m, n, k) in [(1, 10_496, 2304), (32, 10_496, 2304), (1, 32_000, 2304), (32, 32_000, 2304)] {
        // Several matrices in turn, or the cache answers.
        let sets = (256 << 20) / (n * k * size_of::<bf16>()) + 1;
        let x = rates::noise(gpu, m * k)?;
        let w = (0..sets).map(|_| Ok(rates::noise(gpu, n * k)?)).collect::<Result<Vec<Buffer>>>()?;
        let out = gpu.allocate(m * n * size_of::<f32>())?;
        let all = || w.iter().try_for_each(|w| gpu.narrow(View::dense(&x, k), m, w, n, k, Out::Sum(View::dense(&out, n))));
        let graph = gpu.record(all)?;
        let ms = rates::gpu_ms(gpu, 20, || gpu.run(&graph))? / sets as f64;
        let bytes = (m * k + n * k) * size_of::<bf16>() + m * n * size_of::<f32>();
        bench.add("narrow", format!("{m} x [{n}, {k}], bf16"), ms / 1e3, bytes as f64, 2.0 * (m * n * k) as f64);
    }
    Ok(bench)
}

/// Four multiply-adds for each element of a state and token.
fn recurrence_flops(s: &Gdn2Shape, tokens: usize) -> f64 {
    8.0 * (s.state_elements() * tokens) as f64
}

fn chunk(gpu: &Gpu, bench: &mut KernelsBench, sequences: usize, tokens: usize, heads: usize) -> Result<()> {
    let s = Gdn2Shape { heads, value_heads: heads, key_dim: 128, value_dim: 128 };
    let width = heads * s.key_dim;
    let n = sequences * tokens * width;
    let x = (0..6).map(|_| Ok(rates::noise(gpu, n)?)).collect::<Result<Vec<Buffer>>>()?;
    let [q, k, v, f, b, w] = [0, 1, 2, 3, 4, 5].map(|i: usize| View::dense(&x[i], width));
    let out = gpu.allocate(n * size_of::<bf16>())?;
    let (a_log, dt_bias) = (gpu.upload(&vec![0.5f32; heads])?, gpu.upload(&vec![-3.0f32; width])?);
    let states = (0..sequences).map(|_| zeros(gpu, s.state_elements())).collect::<Result<Vec<_>>>()?;
    let (tiles, table) = (gpu.tiles(&vec![tokens; sequences])?, gpu.table(states)?);
    let scratch = gpu.allocate(Gpu::chunk_scratch_bytes(&s, sequences, 64))?;
    let gates = Some((&a_log, &dt_bias, 1.0));
    let job = Chunk { q, k, v, g: f, b, w, out: View::dense(&out, width), gates };
    let ms = rates::gpu_ms(gpu, 10, || gpu.chunk(&s, &tiles, &job, &table, 0, &scratch))?;
    let bytes = 7 * n * size_of::<bf16>() + 2 * sequences * s.state_elements() * size_of::<f32>();
    let shape = format!("B{sequences} T{tokens} H{heads} K128 V128, bf16");
    bench.add("gdn2_chunk", shape, ms / 1e3, bytes as f64, recurrence_flops(&s, sequences * tokens));
    Ok(())
}

fn step(gpu: &Gpu, bench: &mut KernelsBench, sequences: usize) -> Result<()> {
    let s = Gdn2Shape { heads: 16, value_heads: 16, key_dim: 128, value_dim: 128 };
    let width = s.heads * s.key_dim;
    let elements = s.state_elements() + 9 * width;
    // Several sets of states in turn, or the cache answers.
    let sets = if sequences == 1 { 64 } else { 4 };
    let f32s = |n: usize, x: f32| gpu.upload(&vec![x; n]);
    let mixer = Mixer {
        shape: s,
        taps: f32s(12 * width, 0.3)?,
        a_log: f32s(s.heads, 0.5)?,
        dt_bias: f32s(width, -3.0)?,
        o_norm: f32s(s.value_dim, 1.0)?,
        gate_bias: f32s(width, 0.0)?,
        gate: OutputGate::Silu,
        erase_scale: 1.0,
        eps: 1e-5,
    };
    let x = rates::noise(gpu, sequences * 7 * width)?;
    let row = View::dense(&x, 7 * width);
    let projection = Projection {
        qkv: row,
        f: row.from(3 * width),
        b: row.from(4 * width),
        w: row.from(5 * width),
        gate: row.from(6 * width),
        up: None,
    };
    let out = gpu.allocate(sequences * width * size_of::<bf16>())?;
    let tables = (0..sets)
        .map(|_| {
            let states = (0..sequences).map(|_| zeros(gpu, elements)).collect::<Result<Vec<_>>>()?;
            Ok(gpu.table(states)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let all = || tables.iter().try_for_each(|t| gpu.step(&mixer, sequences, &projection, t, 0, View::dense(&out, width)));
    let graph = gpu.record(all)?;
    let ms = rates::gpu_ms(gpu, 20, || gpu.run(&graph))? / sets as f64;
    let bytes = sequences * (2 * elements * size_of::<f32>() + 8 * width * size_of::<bf16>());
    bench.add("gdn2_step", format!("B{sequences} H16 K128 V128"), ms / 1e3, bytes as f64, recurrence_flops(&s, sequences));
    Ok(())
}

fn zeros(gpu: &Gpu, elements: usize) -> Result<Arc<Buffer>> {
    let buffer = gpu.allocate(elements * size_of::<f32>())?;
    buffer.zero()?;
    Ok(Arc::new(buffer))
}
