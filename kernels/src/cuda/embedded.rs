//! The kernels as they are embedded, made and packed by `kernels/cuda/build.sh` from the sources beside it.

/// Machine code for sm_90; none if what is embedded is damaged.
#[cfg(any(target_os = "linux", windows))]
pub(super) fn cubin() -> Option<Vec<u8>> {
    unpacked(include_bytes!("../../cuda/code/kernels.cubin.zst"))
}

/// PTX, which the driver compiles for later GPUs.
#[cfg(any(target_os = "linux", windows))]
pub(super) fn ptx() -> Option<Vec<u8>> {
    unpacked(include_bytes!("../../cuda/code/kernels.ptx.zst"))
}

#[cfg(any(target_os = "linux", windows))]
fn unpacked(packed: &[u8]) -> Option<Vec<u8>> {
    let (mut all, mut stream) = (Vec::new(), ruzstd::decoding::StreamingDecoder::new(packed).ok()?);
    std::io::Read::read_to_end(&mut stream, &mut all).ok()?;
    // The stream itself does not compare them.
    (stream.decoder.get_checksum_from_data() == stream.decoder.get_calculated_checksum()).then_some(all)
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

/// Longest row that a product makes itself: ring.cu.
pub(super) const RING_LONGEST: usize = 8192;

/// `RingShared<EIGHTS>`.
const fn ring(eights: u32) -> u32 {
    let own_row = if eights == 1 { RING_LONGEST as u32 } else { 8 };
    10 * 32 * 576 + 2 * 8 * eights * 32 * 16 + 2 * 10 * 8 + 4 * 32 + 2 * own_row
}

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
    early("ring_1", 384, ring(1)),
    early("ring_4", 384, ring(4)),
    early("ring_1_gated", 384, ring(1)),
    early("ring_4_gated", 384, ring(4)),
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
    fn both_forms_unpack_and_have_every_kernel() {
        let (cubin, ptx) = (super::cubin().unwrap(), super::ptx().unwrap());
        let has = |code: &[u8], name: &str| code.windows(name.len()).any(|at| at == name.as_bytes());
        for kernel in super::KERNELS {
            assert!(has(&cubin, &format!(".text.{}\0", kernel.name)), "{}", kernel.name);
            assert!(has(&ptx, &format!(".entry {}(", kernel.name)), "{}", kernel.name);
        }
    }

    #[test]
    fn what_is_damaged_is_not_unpacked() {
        let whole = include_bytes!("../../cuda/code/kernels.cubin.zst");
        assert!(super::unpacked(whole).is_some());
        for at in (4..whole.len()).step_by(whole.len() / 20) {
            let mut damaged = whole.to_vec();
            damaged[at] ^= 1;
            assert!(super::unpacked(&damaged).is_none(), "bit 0 of byte {at}");
        }
        assert!(super::unpacked(&whole[..whole.len() - 1]).is_none());
    }
}
