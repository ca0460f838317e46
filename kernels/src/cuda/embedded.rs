//! The kernels as they are embedded, made by `kernels/cuda/build.sh` from the sources beside it.

/// Machine code for sm_90.
pub(super) static CUBIN: &[u8] = include_bytes!("../../cuda/code/kernels.cubin");
/// PTX, which the driver compiles for later GPUs.
pub(super) static PTX: &str = include_str!("../../cuda/code/kernels.ptx");

/// The hash of their sources.
pub(super) static SOURCES: &str = include_str!("../../cuda/code/sources.sha256");

/// Every kernel, with the threads of a block and the bytes of shared memory it needs, as their sources have them.
pub(super) struct Kernel {
    pub(super) name: &'static str,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

const fn kernel(name: &'static str, threads: u32, shared_bytes: u32) -> Kernel {
    Kernel { name, threads, shared_bytes }
}

/// `PrepareShared<K>` of four warps.
const fn prepare(k: u32) -> u32 {
    4 * (4 * 16 * (k + 8) * 2 + 2 * 16 * 20 * 4 + 16 * 24 * 2 + 32 * 4)
}

/// `ScanShared<K, warps, stages>`.
const fn scan(k: u32, warps: u32, stages: u32) -> u32 {
    stages * (100 * k + 1024 + 2 * warps * 16 * 24 * 2 + 16)
}

/// `StepShared<K, V>`.
const fn step(k: u32, v: u32) -> u32 {
    4 * (4 * k + 3 * v + 2 * 8 * v + 8 * 3 + 8)
}

pub(super) static KERNELS: &[Kernel] = &[
    kernel("gdn2_prepare_k64", 128, prepare(64)),
    kernel("gdn2_prepare_k128", 128, prepare(128)),
    kernel("gdn2_scan_k64_w2", 64, scan(64, 2, 4)),
    kernel("gdn2_scan_k64_w4", 128, scan(64, 4, 4)),
    kernel("gdn2_scan_k128_w2", 64, scan(128, 2, 4)),
    kernel("gdn2_scan_k128_w4", 128, scan(128, 4, 4)),
    kernel("gdn2_step_k64_v64", 256, step(64, 64)),
    kernel("gdn2_step_k64_v128", 256, step(64, 128)),
    kernel("gdn2_step_k128_v64", 256, step(128, 64)),
    kernel("gdn2_step_k128_v128", 256, step(128, 128)),
    kernel("narrow_1", 256, 4096),
    kernel("narrow_2", 256, 2 * 4096),
    kernel("narrow_4", 256, 4 * 4096),
    kernel("narrow_8", 256, 8 * 4096),
    kernel("embed", 256, 0),
    kernel("rms_norm", 256, 64),
    kernel("swiglu", 256, 0),
    kernel("gated_norm", 256, 0),
    kernel("conv_silu", 256, 0),
    kernel("conv_carry", 256, 0),
    kernel("top", 256, 64),
];

/// The kernel `name`; one of [`KERNELS`].
pub(super) fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}
