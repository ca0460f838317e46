//! What a machine can do at most: bytes copied and multiply-adds of one large product, a second, measured now.

use std::sync::Arc;
use std::time::Instant;

use half::bf16;
use palimpsest_kernels::cuda::{Buffer, CudaError, Gpu, Out, View};
use palimpsest_kernels::{Dtype, Kernels, Matrix, ShapeError};

use super::{median, pseudo_random};

/// Bytes of a copy: many times any cache.
const COPIED_BYTES: usize = 1 << 30;
/// Rows, columns and depth of a GPU's large product.
const LARGE: usize = 8192;
const ROUNDS: usize = 5;

/// Bytes read and written by a large copy on `gpu`, a second.
pub(super) fn gpu_bytes_per_s(gpu: &Gpu) -> Result<f64, CudaError> {
    let (from, to) = (gpu.allocate(COPIED_BYTES)?, gpu.allocate(COPIED_BYTES)?);
    from.zero()?;
    let ms = gpu_ms(gpu, ROUNDS, || to.copy_from(&from))?;
    Ok(2.0 * COPIED_BYTES as f64 / ms * 1e3)
}

/// Operations of a large product of bf16 on `gpu`, a second, on random numbers.
pub(super) fn gpu_flops_per_s(gpu: &Gpu) -> Result<f64, CudaError> {
    let (x, w) = (noise(gpu, LARGE * LARGE)?, noise(gpu, LARGE * LARGE)?);
    let out = gpu.allocate(LARGE * LARGE * size_of::<bf16>())?;
    let (rows, out) = (View::dense(&x, LARGE), View::dense(&out, LARGE));
    let ms = gpu_ms(gpu, ROUNDS, || gpu.wide(rows, LARGE, &w, LARGE, LARGE, Out::Rounded(out)))?;
    Ok(2.0 * (LARGE as f64).powi(3) / ms * 1e3)
}

/// The median of the milliseconds that `work` takes on `gpu`, by its clock, after two calls to warm up.
pub(super) fn gpu_ms(gpu: &Gpu, rounds: usize, mut work: impl FnMut() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    let mut times = Vec::new();
    for round in 0..rounds + 2 {
        let ms = gpu.time_ms(&mut work)?;
        if round >= 2 {
            times.push(f64::from(ms));
        }
    }
    Ok(median(times))
}

/// Milliseconds that a state of 18 MiB takes to pinned memory, and back, by the host's clock: medians.
pub(super) fn state_ms(gpu: &Gpu) -> Result<(f64, f64), CudaError> {
    let state = Arc::new(noise(gpu, 9 << 20)?);
    let (mut to_host, mut from_host) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS * 4 + 1 {
        gpu.synchronise()?;
        let clock = Instant::now();
        let host = state.fetch()?.wait()?;
        let there = clock.elapsed().as_secs_f64() * 1e3;
        let clock = Instant::now();
        drop(gpu.send(&host)?);
        // The first one pins the memory.
        if round > 0 {
            to_host.push(there);
            from_host.push(clock.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok((median(to_host), median(from_host)))
}

/// `n` random bf16 in -1..1 on `gpu`: a few million, over and over.
pub(super) fn noise(gpu: &Gpu, n: usize) -> Result<Buffer, CudaError> {
    let buffer = gpu.allocate(n * size_of::<bf16>())?;
    let some: Vec<bf16> =
        pseudo_random().take(n.min(1 << 22)).map(|x| bf16::from_f32((x % 2001) as f32 / 1000.0 - 1.0)).collect();
    buffer.write(0, &some)?;
    for at in (some.len()..n).step_by(some.len().max(1)) {
        buffer.gather::<bf16>(at, &buffer, 0, some.len().min(n - at))?;
    }
    Ok(buffer)
}

/// Bytes read and written by a large copy on one thread of the CPU, a second.
pub(super) fn cpu_bytes_per_s() -> f64 {
    let from = vec![1u8; COPIED_BYTES / 4];
    let mut to = vec![0u8; from.len()];
    let s = cpu_s(ROUNDS, || to.copy_from_slice(&from));
    2.0 * from.len() as f64 / s
}

/// Operations of a product of 256 rows by `[1024, 1024]` in `dtype` on the CPU, a second.
pub(super) fn cpu_flops_per_s(kernels: &Kernels, dtype: Dtype) -> Result<f64, ShapeError> {
    let (m, n) = (256, 1024);
    let x: Vec<f32> = pseudo_random().take(m * n).map(|x| (x % 2001) as f32 / 1000.0 - 1.0).collect();
    let w = Matrix::pack(n, n, &x.repeat(n / m), dtype)?;
    let mut out = vec![0.0; m * n];
    kernels.matmul(&x, &w, &mut out)?;
    let s = cpu_s(ROUNDS, || drop(kernels.matmul(&x, &w, &mut out)));
    Ok(2.0 * (m * n * n) as f64 / s)
}

/// The median of the seconds that `work` takes.
pub(super) fn cpu_s(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let times = (0..rounds).map(|_| {
        let clock = Instant::now();
        work();
        clock.elapsed().as_secs_f64()
    });
    median(times.collect())
}
