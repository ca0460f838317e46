//! The kernels as they are embedded, made by `kernels/cuda/build.sh` from the sources beside it and packed by `kernels/build.rs`.

/// Machine code for sm_90; none if what is embedded is damaged.
#[cfg(any(target_os = "linux", windows))]
pub(super) fn cubin() -> Option<Vec<u8>> {
    miniz_oxide::inflate::decompress_to_vec(include_bytes!(concat!(env!("OUT_DIR"), "/kernels.cubin"))).ok()
}

/// PTX, which the driver compiles for later GPUs.
#[cfg(any(target_os = "linux", windows))]
pub(super) fn ptx() -> Option<Vec<u8>> {
    miniz_oxide::inflate::decompress_to_vec(include_bytes!(concat!(env!("OUT_DIR"), "/kernels.ptx"))).ok()
}

/// The hash of their sources.
pub(super) static SOURCES: &str = include_str!("../../cuda/code/sources.sha256");

/// Every kernel, with the threads of a block and the bytes of shared memory it needs, as their sources have them.
pub(super) struct Kernel {
    pub(super) name: &'static str,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
    /// May begin while the kernel before it runs, for which it waits itself (`after_others` in ptx.cuh).
    pub(super) early: bool,
}

const fn kernel(name: &'static str, threads: u32, shared_bytes: u32) -> Kernel {
    Kernel { name, threads, shared_bytes, early: false }
}

const fn early(name: &'static str, threads: u32, shared_bytes: u32) -> Kernel {
    Kernel { name, threads, shared_bytes, early: true }
}

/// Bytes of a segment's record: `Record<K>` in params.cuh.
pub(super) const fn record(k: u32) -> u32 {
    388 * k + 2 * 5120
}

/// `PrepareShared<K>`.
const fn prepare(k: u32) -> u32 {
    record(k) + 6 * 512 + 4 * (64 * k + 2 * 16 * 20 * 4 + k / 64 * 128 + 3 * k * 4 + 128 + 16)
}

/// `ScanShared<K, 3, 2, 2, 1>`.
const fn scan(k: u32) -> u32 {
    2 * 2 * 8192 + 3 * (256 * k + 8192 + 4 * k + 16) + 2 * (128 * k + 8192 + 16) + 2 * 8192 + 4 * 8
}

/// `StepShared<K, V>`.
const fn step(k: u32, v: u32) -> u32 {
    4 * (4 * k + 3 * v + 2 * 8 * v + 8 * 3 + 8)
}

/// The same with `GateShared`.
const fn step_gates(k: u32, v: u32) -> u32 {
    step(k, v) + 2 * 4 * 2 * 256 * 16 + 4 * 2 * 128
}

/// Longest row of a product of one row, and `OneShared`.
pub(super) const ONE_LONGEST: usize = 8192;
const ONE: u32 = 4 * (2 * 8 * 32 + 32) + 2 * ONE_LONGEST as u32;

pub(super) static KERNELS: &[Kernel] = &[
    kernel("gdn2_prepare_k64", 256, prepare(64)),
    kernel("gdn2_prepare_k128", 512, prepare(128)),
    kernel("gdn2_scan_k64", 384, scan(64)),
    kernel("gdn2_scan_k128", 384, scan(128)),
    early("gdn2_step_k64_v64", 256, step(64, 64)),
    early("gdn2_step_k64_v128", 256, step(64, 128)),
    early("gdn2_step_k128_v64", 256, step(128, 64)),
    early("gdn2_step_k128_v128", 256, step(128, 128)),
    early("gdn2_step_gates_k64_v64", 256, step_gates(64, 64)),
    early("gdn2_step_gates_k64_v128", 256, step_gates(64, 128)),
    early("gdn2_step_gates_k128_v64", 256, step_gates(128, 64)),
    early("gdn2_step_gates_k128_v128", 256, step_gates(128, 128)),
    early("narrow_1", 256, 2 * 4096),
    early("narrow_2", 256, 4 * 4096),
    early("narrow_4", 256, 8 * 4096),
    early("narrow_4_pairs", 256, 8 * 4096),
    early("narrow_8", 256, 16 * 4096),
    early("one_1", 256, ONE),
    early("one_2", 256, ONE),
    early("one_3", 256, ONE),
    early("embed", 256, 0),
    early("rms_norm", 256, 64),
    early("swiglu", 256, 0),
    early("gated_norm", 256, 0),
    kernel("conv_silu", 256, 0),
    kernel("conv_carry", 256, 0),
    early("top", 256, 64),
    early("largest", 1024, 256),
];

/// The kernel `name`; one of [`KERNELS`].
pub(super) fn find(name: &str) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.name == name)
}

#[cfg(all(test, any(target_os = "linux", windows)))]
mod tests {
    #[test]
    fn what_is_unpacked_is_what_was_made() {
        assert!(super::cubin().is_some_and(|code| code == include_bytes!("../../cuda/code/kernels.cubin")));
        assert!(super::ptx().is_some_and(|text| text == include_bytes!("../../cuda/code/kernels.ptx")));
    }
}
