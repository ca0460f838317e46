//! What is the arithmetic?
//!
//! Gated DeltaNet-2 (arXiv 2605.22791) and the rows around it, on slices: no tensor library, no state of its own. Everything
//! goes through [`Kernels`], a table of functions that is chosen once, at run time, for the processor it runs on.
//!
//! **The contract: rows are independent.** What is computed for a row (a token) is a function of that row and, in a
//! recurrence, of the state before it: bit for bit the same however many rows, sequences, threads or calls there are. So a
//! text read at once and a text read token by token leave the same state, on one instruction set.
//!
//! Shapes are written `[M, H, K]`, row-major and dense: `M` tokens of all sequences, one sequence after the other; `H` heads
//! of `K` on the query and key side; `HV` heads of `V` on the value side. All numbers are f32 unless a name says otherwise.
//! Wrong lengths are refused with a [`ShapeError`] before anything is written. [`cuda`] has the same arithmetic on a GPU.

mod cpu;
pub mod cuda;
mod floats;
mod folded;
mod gdn2;
mod isa;
mod layer;
mod mapped;
mod matrix;
mod mixer;
mod parallel;
mod product;
mod rows;
mod sequences;
mod shape;
mod slab;

pub use floats::Floats;
pub use gdn2::Gdn2Shape;
pub use isa::{Isa, KernelError};
pub use layer::{Layer, LayerRows};
pub use mapped::Mapped;
pub use matrix::{Dtype, Matrix, quantise};
pub use mixer::{LayerOffsets, Mixer, MixerRows};
pub use parallel::{on, together};
pub use rows::OutputGate;
pub use shape::ShapeError;

/// The functions for one instruction set. Small and cheap to copy; hold one for the life of a model.
#[derive(Clone, Copy)]
pub struct Kernels {
    isa: Isa,
    table: &'static cpu::Table,
    side_by_side: usize,
}

impl Kernels {
    /// The best instruction set of this processor, or the one that the variable `PALIMPSEST_ISA` forces.
    ///
    /// # Errors
    /// [`KernelError`] when the variable names no instruction set, or one that this processor lacks.
    pub fn detect() -> Result<Self, KernelError> {
        match std::env::var(isa::VARIABLE) {
            Ok(name) if !name.is_empty() => Self::new(name.parse()?),
            _ => Self::new(Isa::best()),
        }
    }

    /// The functions for `isa`.
    ///
    /// # Errors
    /// [`KernelError::Missing`] when this processor lacks it.
    pub fn new(isa: Isa) -> Result<Self, KernelError> {
        if !isa.is_available() {
            return Err(KernelError::Missing { isa });
        }
        Ok(Self { isa, table: cpu::table(isa), side_by_side: isa::side_by_side() })
    }

    /// One row goes through so many panels of weights side by side, 1 to 8, in place of what suits this processor: of use to
    /// compare. Bits do not depend on it.
    #[must_use]
    pub fn with_panels_side_by_side(self, panels: usize) -> Self {
        Self { side_by_side: panels.clamp(1, cpu::MOST_SIDE_BY_SIDE), ..self }
    }

    /// What results depend on besides their inputs and the type of the weights: the instruction set, and which bits it gives.
    #[must_use]
    pub fn arithmetic(&self) -> String {
        let mut arithmetic = format!("cpu {}", self.isa);
        if self.isa.generation() > 1 {
            arithmetic += &format!(" {}", self.isa.generation());
        }
        if let Some(maker) = self.isa.maker() {
            arithmetic += &format!(" {maker}");
        }
        arithmetic
    }

    /// Which instruction set this is.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("isa", &self.isa).field("side_by_side", &self.side_by_side).finish_non_exhaustive()
    }
}
