//! x86-64 with AMX: eight tiles of 16 rows x 64 bytes, for products of bf16 and int8; the rest, and one row of int8, is AVX-512.
//!
//! A step takes 16 lines of a panel, which are two tiles of weights as they lie in memory (32 columns; rows 128 bytes apart),
//! and 16 words of each of 32 rows, which are two tiles of inputs as they lie in the block; and adds the four products to
//! four tiles of results. So 4 loads feed 4 products, the best ratio that 8 tiles allow. Folded weights are unfolded a panel at a
//! time. One row of bf16 goes without tiles (`amx_row.rs`) or, where that cannot be, takes the same way with 16 rows in its tile of
//! which 15 are not looked at: its bits are those of the same row among many.
//!
//! Idea and layout: Intel 64 Architectures Software Developer's Manual, volume 1, chapter 18 (programming with AMX).

use std::arch::asm;
use std::ops::Range;
use std::sync::OnceLock;

use super::avx512::{self, F32x16};
use super::block::{Block, CHUNK, MOST_ROWS, Most, Room, STRIDE};
use super::dense::{self, Bf16, Dot, Int8};
use super::vector::Vector;
use super::{Product, Table, amx_row, folded};
use crate::folded::{UNITS, Unit};
use crate::matrix::{Dtype, PANEL};

/// Lines of a panel, and words of a row, that a step takes.
const STEP: usize = 16;
/// Rows of a step.
const ROWS: usize = 32;
/// Bytes of a cache line.
const CACHE_LINE: usize = 64;
/// Cache lines of weights in a step.
const STEP_LINES: usize = 4 * PANEL * STEP / CACHE_LINE;
/// How many bytes ahead of a tile that is alone weights are asked for.
const AHEAD: usize = 8 << 10;
/// Two segments, the most that the engine reads at once, 264 KiB: with half as many, small products took 1.3 to 1.7 times as long.
const MOST: Most = Most { rows: MOST_ROWS, tile: ROWS };

pub(super) static TABLE: Table = Table { most: MOST, take, product, ..avx512::TABLE };

/// Does this processor have AMX for bf16 and int8, and does the system let this process use it?
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        // EDX: bit 22 AMX-BF16, 24 AMX-TILE, 25 AMX-INT8.
        let has = |bit: u32| leaf.edx >> bit & 1 == 1;
        has(22) && has(24) && has(25) && permitted()
    })
}

/// Asks Linux for the tiles' registers, which it gives a process on demand only.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let result: i64;
    // SAFETY: the system call reads no memory and changes only which registers this process may use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// Other systems are not asked: nobody has tried there.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Is it AVX-512 that multiplies? A single row of int8 comes faster so, since that goes over eight panels at once; sums of int8 are
/// exact, so that its bits are the same.
fn is_for_avx512(dtype: Dtype, block: &Block) -> bool {
    dtype == Dtype::F32 || dtype == Dtype::Int8 && block.rows() == 1
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")]
unsafe fn take(x: &[f32], dtype: Dtype, block: &Block, rows: Range<usize>) {
    // SAFETY: the caller's promise.
    unsafe {
        match dtype {
            _ if is_for_avx512(dtype, block) => (avx512::TABLE.take)(x, dtype, block, rows),
            Dtype::Int8 => dense::take::<Int8>(x, block, rows, false),
            _ => amx_row::take(x, block, rows),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma")]
unsafe fn product(job: &Product<'_>, panels: Range<usize>) {
    // SAFETY: the caller's promise, and that of the table: AMX is there and permitted.
    unsafe {
        match job.w.dtype() {
            dtype if is_for_avx512(dtype, job.block) => (avx512::TABLE.product)(job, panels),
            Dtype::Int8 => tiles::<Int8>(&mut Amx::begin(true), job, panels),
            _ if let Some(folded) = amx_row::weights(job) => amx_row::product(job, folded, panels),
            _ => tiles::<Bf16>(&mut Amx::begin(false), job, panels),
        }
    }
}

/// What each step asks for beside its products: `lines` cache lines, one after another from `at` on, which may be any address.
struct Ahead {
    at: *const u8,
    lines: usize,
}

/// What the algorithm needs of the tiles: four of results, 2 x 2.
trait Tiles {
    /// Sets the results to 0.
    unsafe fn zero(&mut self);
    /// Adds `steps` steps. Inputs: 16 rows, or 32 if `both`, `STRIDE` words apart. Weights: lines of 32 words.
    unsafe fn multiply(&mut self, inputs: *const u32, weights: *const u32, steps: usize, both: bool, ahead: &mut Ahead);
    /// Writes the results to 16 rows, or 32 if `both`, of 32 words.
    unsafe fn store(&mut self, to: *mut u32, both: bool);
}

/// A part of a product: its rows times some panels.
#[inline(always)]
unsafe fn tiles<D: Dot>(tiles: &mut impl Tiles, job: &Product<'_>, panels: Range<usize>) {
    let (block, n, rows) = (job.block, job.w.rows(), job.rows.len());
    let mut results = [[0u32; PANEL]; ROWS];
    let mut room = job.w.folded().map(|folded| (folded, Room::of(job.w)));
    for p in panels {
        // The tiles of a panel ask for the next, in turn; where there is one tile, which sees each line once, it asks for
        // what it needs itself some steps later.
        let (weights, mut ahead) = match (&mut room, rows.div_ceil(ROWS)) {
            (Some((folded, room)), tiles) => {
                // SAFETY: AVX-512 is there, as the caller promises; the room has a panel's lines.
                unsafe { folded::unfold::<F32x16, 2>(folded, p, room.lines()) };
                let lines = (UNITS * size_of::<Unit>() / CACHE_LINE).div_ceil(tiles.max(1));
                (room.lines().as_ptr().cast::<u32>(), Ahead { at: folded.units(p).as_ptr_range().end.cast(), lines })
            }
            (None, tiles) => {
                let weights = job.w.panel(p).as_ptr_range();
                let (at, lines) = match tiles {
                    0 | 1 => (weights.start.cast::<u8>().wrapping_add(AHEAD), STEP_LINES),
                    tiles => (weights.end.cast(), STEP_LINES.div_ceil(tiles)),
                };
                (weights.start.cast::<u32>(), Ahead { at, lines })
            }
        };
        for r in job.rows.clone().step_by(ROWS) {
            let left = job.rows.end - r;
            // SAFETY: a block has 32 rows more than it says and 16 words more than a row has, filled up to the next
            // step; a panel has whole steps of lines. Results go to rows and columns of `out` that this part owns.
            unsafe {
                tiles.zero();
                let mut from = 0;
                while from < block.words_per_row() {
                    let steps = (block.words_per_row() - from).min(CHUNK).div_ceil(STEP);
                    tiles.multiply(block.row(from, r), weights.add(from * PANEL), steps, left > STEP, &mut ahead);
                    from += CHUNK;
                }
                tiles.store(results.as_mut_ptr().cast(), left > STEP);
                for (i, sums) in results.iter().enumerate().take(left) {
                    let (scale, mut column) = (*block.scale(r + i), p * PANEL);
                    for half in sums.chunks_exact(F32x16::LANES) {
                        if column < n {
                            let sum = D::end(F32x16::load(half.as_ptr().cast()), scale, job.w, column);
                            let out = job.at(r + i, column);
                            let sum = if job.add { F32x16::load_n(out, n - column).add(sum) } else { sum };
                            sum.store_n(out, n - column);
                        }
                        column += F32x16::LANES;
                    }
                }
            }
        }
    }
}

/// The tiles themselves: results in 0..4, inputs in 4 and 5, weights in 6 and 7. No compiler keeps anything in them.
struct Amx {
    int8: bool,
}

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Shapes>() == 64);

impl Amx {
    /// Makes all eight tiles 16 rows of 64 bytes.
    unsafe fn begin(int8: bool) -> Self {
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
        shapes.bytes_per_row[..8].fill(64);
        shapes.rows[..8].fill(16);
        // SAFETY: AMX is there and permitted, as the caller promises; the instruction reads `shapes` alone.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, readonly)) };
        Self { int8 }
    }
}

impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: AMX is there, since `begin` was called. Gives the registers back, so that a change of threads need not save them.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// A step, with `$dot` as the product; `both:` takes 32 rows, `one:` 16.
macro_rules! step {
    ($dot:literal, both: $inputs:ident, $weights:ident) => {
        asm!(
            "tileloadd tmm6, [{w} + {line}]",
            "tileloadd tmm4, [{x} + {row}]",
            concat!($dot, " tmm0, tmm4, tmm6"),
            "tileloadd tmm7, [{w} + {line} + 64]",
            concat!($dot, " tmm1, tmm4, tmm7"),
            "tileloadd tmm5, [{y} + {row}]",
            concat!($dot, " tmm2, tmm5, tmm6"),
            concat!($dot, " tmm3, tmm5, tmm7"),
            w = in(reg) $weights,
            x = in(reg) $inputs,
            y = in(reg) $inputs.wrapping_add(STEP * STRIDE),
            line = in(reg) 4 * PANEL,
            row = in(reg) 4 * STRIDE,
            options(nostack, readonly),
        )
    };
    ($dot:literal, one: $inputs:ident, $weights:ident) => {
        asm!(
            "tileloadd tmm6, [{w} + {line}]",
            "tileloadd tmm4, [{x} + {row}]",
            concat!($dot, " tmm0, tmm4, tmm6"),
            "tileloadd tmm7, [{w} + {line} + 64]",
            concat!($dot, " tmm1, tmm4, tmm7"),
            w = in(reg) $weights,
            x = in(reg) $inputs,
            line = in(reg) 4 * PANEL,
            row = in(reg) 4 * STRIDE,
            options(nostack, readonly),
        )
    };
}

impl Tiles for Amx {
    #[inline(always)]
    unsafe fn zero(&mut self) {
        // SAFETY: `begin` was called.
        unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem)) };
    }

    #[inline(always)]
    unsafe fn multiply(&mut self, mut inputs: *const u32, mut weights: *const u32, steps: usize, both: bool, ahead: &mut Ahead) {
        for _ in 0..steps {
            // SAFETY: `begin` was called; the caller vouches for rows and lines.
            unsafe {
                match (self.int8, both) {
                    (false, true) => step!("tdpbf16ps", both: inputs, weights),
                    (false, false) => step!("tdpbf16ps", one: inputs, weights),
                    (true, true) => step!("tdpbssd", both: inputs, weights),
                    (true, false) => step!("tdpbssd", one: inputs, weights),
                }
            }
            for _ in 0..ahead.lines {
                F32x16::prefetch(ahead.at.cast());
                ahead.at = ahead.at.wrapping_add(CACHE_LINE);
            }
            inputs = inputs.wrapping_add(STEP);
            weights = weights.wrapping_add(STEP * PANEL);
        }
    }

    #[inline(always)]
    unsafe fn store(&mut self, to: *mut u32, both: bool) {
        // SAFETY: `begin` was called; the caller vouches for the room.
        unsafe {
            asm!(
                "tilestored [{to} + {line}], tmm0",
                "tilestored [{to} + {line} + 64], tmm1",
                to = in(reg) to,
                line = in(reg) 4 * PANEL,
                options(nostack),
            );
            if both {
                asm!(
                    "tilestored [{to} + {line}], tmm2",
                    "tilestored [{to} + {line} + 64], tmm3",
                    to = in(reg) to.add(STEP * PANEL),
                    line = in(reg) 4 * PANEL,
                    options(nostack),
                );
            }
        }
    }
}

/// The algorithm on tiles that are modelled in plain Rust, so that all but the instructions is tested where there is no AMX.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::cpu::Shared;
    use crate::matrix::Matrix;

    /// What is below the smallest normal number is 0 to AMX.
    fn flushed(x: f32) -> f32 {
        if x.abs() < f32::MIN_POSITIVE { 0.0f32.copysign(x) } else { x }
    }

    /// The four tiles of results, as the manual describes the instructions.
    struct Model {
        int8: bool,
        results: [[u32; PANEL]; ROWS],
    }

    impl Tiles for Model {
        unsafe fn zero(&mut self) {
            self.results = [[0; PANEL]; ROWS];
        }

        unsafe fn multiply(&mut self, inputs: *const u32, weights: *const u32, steps: usize, both: bool, _: &mut Ahead) {
            for step in 0..steps {
                for (i, row) in self.results.iter_mut().enumerate().take(if both { ROWS } else { STEP }) {
                    for (j, sum) in row.iter_mut().enumerate() {
                        // TDPBF16PS: even and odd k by themselves, then both added to what was there.
                        let (mut even, mut odd, mut whole) = (0.0f32, 0.0f32, 0i32);
                        for word in 0..STEP {
                            // SAFETY: the caller vouches for rows and lines.
                            let (x, w) = unsafe {
                                (*inputs.add(i * STRIDE + step * STEP + word), *weights.add((step * STEP + word) * PANEL + j))
                            };
                            let low = |x: u32| flushed(f32::from_bits(x << 16));
                            let high = |x: u32| flushed(f32::from_bits(x & 0xffff_0000));
                            even = flushed(low(x).mul_add(low(w), even));
                            odd = flushed(high(x).mul_add(high(w), odd));
                            for (x, w) in x.to_le_bytes().into_iter().zip(w.to_le_bytes()) {
                                whole += i32::from(x as i8) * i32::from(w as i8);
                            }
                        }
                        *sum = if self.int8 {
                            (*sum as i32 + whole) as u32
                        } else {
                            flushed(f32::from_bits(*sum) + flushed(even + odd)).to_bits()
                        };
                    }
                }
            }
        }

        unsafe fn store(&mut self, to: *mut u32, both: bool) {
            for (i, row) in self.results.iter().enumerate().take(if both { ROWS } else { STEP }) {
                // SAFETY: the caller vouches for the room.
                unsafe { to.add(i * PANEL).copy_from_nonoverlapping(row.as_ptr(), PANEL) };
            }
        }
    }

    /// What AVX-512 without dot products is enough for. Returns whether it went without tiles.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn modelled(x: &[f32], w: &Matrix, out: &mut [f32], add: bool) -> bool {
        let (m, panels, results) = (x.len() / w.cols(), 0..w.panels(), [[0; PANEL]; ROWS]);
        let (int8, out) = (w.dtype() == Dtype::Int8, Shared(out.as_mut_ptr()));
        Block::with(m, w.cols().div_ceil(w.dtype().word()), |block| {
            let (middle, mut without_tiles) = (m / 2, false);
            for rows in [0..middle, middle..m].into_iter().filter(|rows| !rows.is_empty()) {
                let job = Product { x, block, rows: rows.clone(), w, out, stride: w.rows(), add, side_by_side: 8 };
                // SAFETY: the test found AVX-512 here; lengths fit.
                unsafe {
                    if int8 {
                        dense::take::<Int8>(x, block, rows, false);
                        tiles::<Int8>(&mut Model { int8, results }, &job, panels.clone());
                    } else {
                        amx_row::take(x, block, rows);
                        without_tiles = amx_row::weights(&job).is_some();
                        match amx_row::weights(&job) {
                            Some(folded) => amx_row::product(&job, folded, panels.clone()),
                            None => tiles::<Bf16>(&mut Model { int8, results }, &job, panels.clone()),
                        }
                    }
                }
            }
            without_tiles
        })
    }

    fn has_avx512() -> bool {
        let dword_and_byte = is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512bw");
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") && dword_and_byte
    }

    #[test]
    fn a_row_without_tiles_has_their_bits() {
        if !has_avx512() {
            println!("not run here: no AVX-512");
            return;
        }
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        // Exponents (2 to the power of) of inputs and weights, and whether they can do without tiles: the least that a product is a multiple of is
        // 2^(x + w - 14), the greatest that a sum can be below 2^(x + w + 20).
        for (x, w, expected) in
            [(0, -5, true), (-60, -52, true), (-60, -53, false), (-112, 0, true), (-113, 0, false), (-126, 14, true)]
                .into_iter()
                .chain([(60, 34, true), (60, 35, false), (-127, 60, false), (10, -127, false), (127, -100, false)])
        {
            for (n, k) in [(33, 17), (97, 600), (300, 130), (64, 1024)] {
                let mut number = |exponent: i32| {
                    let (sign, mantissa) = (random() % 2, random() % 128);
                    if exponent < -126 {
                        return f32::from_bits(sign << 31 | 1 << 16);
                    }
                    f32::from_bits(sign << 31 | ((exponent + 127) as u32) << 23 | mantissa << 16)
                };
                let rows: Vec<f32> = (0..2 * k).map(|i| if i % 11 == 3 { 0.0 } else { number(x) }).collect();
                // Seven pairs of binades, and exceptions; those that matter, the least, are among them.
                let some = |i: usize| if i % 1_200 == 7 || i == 8 { w } else { (w + 2 + (i % 12) as i32).min(126).max(w) };
                let weights: Vec<f32> =
                    (0..n * k).map(|i| number(if w < -126 && i % 1_200 != 7 { -20 } else { some(i) })).collect();
                let matrix = Matrix::pack(n, k, &weights, Dtype::Bf16).unwrap();
                let mut two = vec![f32::NAN; 2 * n];
                // SAFETY: lengths fit, and AVX-512 is here.
                assert!(!unsafe { modelled(&rows, &matrix, &mut two, false) });
                for (row, two) in rows.chunks_exact(k).zip(two.chunks_exact(n)) {
                    let mut one = vec![f32::NAN; n];
                    // SAFETY: as above.
                    let without_tiles = unsafe { modelled(row, &matrix, &mut one, false) };
                    assert_eq!(without_tiles, expected && matrix.folded().is_some(), "2^{x} times 2^{w} [{n}, {k}]");
                    let bits = |x: &[f32]| x.iter().map(|x| if x.is_nan() { 0 } else { x.to_bits() }).collect::<Vec<_>>();
                    assert_eq!(bits(&one), bits(two), "2^{x} times 2^{w} [{n}, {k}]");
                }
                assert!(n * k < 50_000 || matrix.folded().is_some());
            }
        }
    }

    #[test]
    fn tiles_agree_with_scalar_where_avx512_is() {
        if !has_avx512() {
            println!("not run here: no AVX-512");
            return;
        }
        let numbers = |n: usize| -> Vec<f32> {
            (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
        };
        for dtype in [Dtype::Bf16, Dtype::Int8] {
            for (m, n, k) in [(1, 1, 1), (1, 33, 17), (5, 64, 130), (16, 31, 64), (17, 32, 65), (33, 70, 600), (70, 40, 2100)] {
                let (x, w) = (numbers(m * k), numbers(n * k + 7).split_off(7));
                let w = Matrix::pack(n, k, &w, dtype).unwrap();
                let (mut out, mut expected, mut one) = (vec![1.0f32; m * n], vec![1.0f32; m * n], vec![f32::NAN; n]);
                crate::Kernels::new(Isa::Scalar).unwrap().matmul_add(&x, &w, &mut expected).unwrap();
                // SAFETY: lengths fit, and AVX-512 is here.
                unsafe { modelled(&x, &w, &mut out, true) };
                for (i, (a, b)) in out.iter().zip(&expected).enumerate() {
                    let bound = if dtype == Dtype::Int8 { 0.0 } else { 1e-4 * (k as f32).sqrt() + 1e-4 * b.abs() };
                    assert!((a - b).abs() <= bound, "{dtype:?} [{m}, {n}, {k}] {i}: {a} {b}");
                }
                out.fill(f32::NAN);
                // SAFETY: as above.
                unsafe { modelled(&x, &w, &mut out, false) };
                for (i, row) in x.chunks_exact(k).enumerate() {
                    // SAFETY: as above.
                    unsafe { modelled(row, &w, &mut one, false) };
                    assert_eq!(one, out[i * n..(i + 1) * n], "{dtype:?} [{m}, {n}, {k}] row {i}");
                }
            }
        }
    }
}
