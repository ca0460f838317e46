//! One table of functions per instruction set, and what those functions are handed.
//!
//! `scalar.rs` is the definition of correct: plain code in the order of the equations. The others are compared with it.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_row;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod block;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod dense;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod folded;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod one_row;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod recurrence;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod rows;
mod scalar;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;

use std::ops::Range;

use block::{Block, Most};

use crate::gdn2::Gdn2Shape;
use crate::isa::Isa;
use crate::matrix::{Dtype, Matrix};
use crate::rows::OutputGate;

/// Most panels that one row goes through side by side.
pub(crate) const MOST_SIDE_BY_SIDE: usize = 8;

/// `o, gate, weight, eps, kind, out`
type GatedRmsNorm = unsafe fn(&[f32], &[f32], &[f32], f32, OutputGate, &mut [f32]);

/// The functions of one instruction set.
///
/// All are `unsafe` for the same two reasons: the processor must have the instruction set, and lengths must fit, as the
/// public functions of [`crate::Kernels`] check. Those that take a range may run at the same time on ranges that do not meet.
pub(crate) struct Table {
    /// How many rows of a product are turned into words at once.
    pub(crate) most: Most,
    /// `x, dtype, block, rows`: turns some rows of `x`, whose rows are those of the block, into words.
    pub(crate) take: unsafe fn(&[f32], Dtype, &Block, Range<usize>),
    /// Panels of a product.
    pub(crate) product: unsafe fn(&Product<'_>, Range<usize>),
    /// Value heads of one sequence's recurrence.
    pub(crate) gdn2: unsafe fn(&Recurrence<'_>, Range<usize>),
    /// Channels of one sequence's convolution.
    pub(crate) conv_silu: unsafe fn(&Conv<'_>, Range<usize>),
    /// `x, weight, eps, out`
    pub(crate) rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    /// `x, dim`
    pub(crate) l2_norm: unsafe fn(&mut [f32], usize),
    /// `x, scale`
    pub(crate) sigmoid: unsafe fn(&mut [f32], f32),
    /// `f, a_log, dt_bias`
    pub(crate) log_decay: unsafe fn(&mut [f32], &[f32], &[f32]),
    /// `o, gate, weight, eps, kind, out`
    pub(crate) gated_rms_norm: GatedRmsNorm,
    /// `gate, up, out`
    pub(crate) swiglu: unsafe fn(&[f32], &[f32], &mut [f32]),
}

/// `out [M, N] = x [M, K] W^T`, or `+=`, for some rows of a block: `x` and `out` begin with the block's first row and column 0,
/// though `out` may be good for the rows and columns of the part alone.
pub(crate) struct Product<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) block: &'a Block,
    pub(crate) rows: Range<usize>,
    pub(crate) w: &'a Matrix,
    pub(crate) out: Shared,
    /// Elements from one row of `out` to the next.
    pub(crate) stride: usize,
    pub(crate) add: bool,
    /// Panels that one row goes through side by side: 1 to [`MOST_SIDE_BY_SIDE`].
    pub(crate) side_by_side: usize,
}

impl Product<'_> {
    /// Where element `[r, column]` of `out` is; `r` is one of `rows`.
    pub(crate) fn at(&self, r: usize, column: usize) -> *mut f32 {
        self.out.get().wrapping_add(r * self.stride + column)
    }
}

/// One sequence through the recurrence: `q, k, g, b [T, H, K]`, `v, w, out [T, HV, V]`, `state [HV, K, V]`. Addresses, since
/// other heads of the same rows may be written meanwhile; a head's function looks at its own alone.
pub(crate) struct Recurrence<'a> {
    pub(crate) shape: &'a Gdn2Shape,
    pub(crate) tokens: usize,
    pub(crate) q: *const f32,
    pub(crate) k: *const f32,
    pub(crate) g: *const f32,
    pub(crate) b: *const f32,
    pub(crate) v: *const f32,
    pub(crate) w: *const f32,
    pub(crate) state: Shared,
    pub(crate) out: Shared,
}

/// One sequence through the convolution: `x, out [T, D]`, `taps [4, D]`, `state [3, D]`.
pub(crate) struct Conv<'a> {
    pub(crate) channels: usize,
    pub(crate) tokens: usize,
    pub(crate) x: &'a [f32],
    pub(crate) taps: &'a [f32],
    pub(crate) state: Shared,
    pub(crate) out: Shared,
}

/// A slice that several threads write to, each its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub(crate) *mut f32);

// SAFETY: it is handed only to parts of parallel calls, which write to elements that no other part of the same stage reads or writes.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }

    /// Elements `range`: within the slice, and written by nobody meanwhile.
    pub(crate) unsafe fn read<'a>(self, range: Range<usize>) -> &'a [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.0.add(range.start), range.len()) }
    }

    /// Elements `range`: within the slice, and of one part alone.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part<'a>(self, range: Range<usize>) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(range.start), range.len()) }
    }
}

/// The table of `isa`. To be called through only where `isa` is available.
pub(crate) fn table(isa: Isa) -> &'static Table {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &avx2::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &avx512::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => &amx::TABLE,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => &neon::TABLE,
        _ => &scalar::TABLE,
    }
}
