//! The arithmetic on an NVIDIA GPU, where there is one.
//!
//! One binary serves machines with a GPU and without: the driver (and cublasLt, where it is found) is opened at run time, and the
//! kernels of `kernels/cuda/` are embedded as machine code for sm_90 and as PTX for what comes after it. [`Gpu::open`] says in
//! one sentence what is missing.
//!
//! [`Gpu`] holds the device; memory on it is a [`Buffer`], freed when dropped; every operation checks lengths before anything is
//! launched, as on the CPU. Work is queued in order on one stream: only downloads and [`Gpu::synchronise`] wait.
//!
//! **The contract**: a row is a function of itself, and, in a recurrence, of the segments of 64 tokens before it: bit for bit the
//! same however many rows, sequences or segments are beside it. A recurrence that is cut must be cut at multiples of 64 tokens to leave
//! the same state. [`Gpu::step`] takes another order of sums than [`Gpu::chunk`], and [`Gpu::narrow`] than [`Gpu::wide`].

mod driver;
mod embedded;
mod emulated;
mod host;
mod launch;
#[cfg(any(target_os = "linux", windows))]
mod lt;
#[cfg(any(target_os = "linux", windows))]
mod nvidia;
mod operands;
mod params;
mod products;
mod recurrence;

use std::sync::Arc;

pub use driver::{Buffer, Graph, View};
pub use host::{Arrival, Host};
pub use operands::{Chunk, GatesUp, Mixer, Normed, Out, Projection, Table, Tiles};

use crate::shape::ShapeError;
use driver::Driver;

/// Tokens of a tile: a sequence is cut into tiles from the first token of a call.
pub const TILE: usize = 16;
/// Tokens of a segment of the recurrence, four tiles.
pub const SEGMENT: usize = 64;

/// Why a GPU cannot be used, or no longer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// Something that a GPU needs is not on this machine.
    #[error("no NVIDIA GPU can be used here: {what}")]
    Missing {
        /// What is missing.
        what: String,
    },
    /// There is not enough memory on the GPU.
    #[error("the GPU has no room for {bytes} bytes more: {free} of its {total} are free")]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What was free then.
        free: usize,
        /// What the GPU has.
        total: usize,
    },
    /// The kernels are not made for this shape.
    #[error("{op} on the GPU needs {needs}, not {got}: use the CPU for this reader")]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// What it can do.
        needs: &'static str,
        /// What it was given.
        got: usize,
    },
    /// The driver or a library of it refused.
    #[error("the GPU's driver refused {call}: {reason}")]
    Failed {
        /// What was asked of it.
        call: String,
        /// What it said.
        reason: String,
    },
    /// Lengths do not fit; nothing was launched.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// A GPU, opened. Cheap to clone; shared between threads.
#[derive(Clone)]
pub struct Gpu {
    driver: Arc<dyn Driver>,
}

impl Gpu {
    /// Opens the first GPU (`CUDA_VISIBLE_DEVICES` chooses another).
    ///
    /// # Errors
    /// [`CudaError::Missing`] naming what there is none of: a driver, a GPU of compute capability 9.0 or more.
    pub fn open() -> Result<Self, CudaError> {
        #[cfg(any(target_os = "linux", windows))]
        return Ok(Self { driver: Arc::new(nvidia::Nvidia::open()?) });
        #[cfg(not(any(target_os = "linux", windows)))]
        Err(CudaError::Missing { what: "NVIDIA has no driver for this operating system".into() })
    }

    /// The kernels run on the host, slowly, from `library`, which is `kernels/cuda/emulate.cpp` compiled: for tests without a GPU.
    ///
    /// # Errors
    /// [`CudaError::Missing`] when the library cannot be opened.
    #[doc(hidden)]
    pub fn emulated(library: &std::path::Path) -> Result<Self, CudaError> {
        Ok(Self { driver: Arc::new(emulated::Emulated::open(library)?) })
    }

    /// Its name, as the driver spells it.
    #[must_use]
    pub fn name(&self) -> String {
        self.driver.name()
    }

    /// What its results depend on besides their inputs: the GPU, the kernels, and whether cublasLt was found.
    #[must_use]
    pub fn arithmetic(&self) -> String {
        let library = if self.has_library() { "cublasLt" } else { "no library" };
        format!("cuda {} bf16 {library} {}", self.name(), embedded::SOURCES.trim())
    }

    /// Whether cublasLt was found; without it, wide products run on a kernel of our own, several times slower.
    #[must_use]
    pub fn has_library(&self) -> bool {
        self.driver.has_library()
    }

    /// Bytes of memory that are free, and that there are.
    ///
    /// # Errors
    /// [`CudaError::Failed`].
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.driver.memory()
    }

    /// Memory for `bytes` bytes; what is in it is undefined.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn allocate(&self, bytes: usize) -> Result<Buffer, CudaError> {
        Buffer::new(&self.driver, bytes)
    }

    /// Memory with the bytes of `data` in it.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn upload<T: Plain>(&self, data: &[T]) -> Result<Buffer, CudaError> {
        let buffer = self.allocate(size_of_val(data))?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// Waits until everything that was queued is done.
    ///
    /// # Errors
    /// [`CudaError::Failed`], also for what an operation queued before did wrong.
    pub fn synchronise(&self) -> Result<(), CudaError> {
        self.driver.synchronise()
    }

    /// Milliseconds that the GPU spends on what `work` queues, by its own clock.
    ///
    /// # Errors
    /// Those of `work`, and [`CudaError::Failed`].
    pub fn time_ms(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f32, CudaError> {
        self.driver.mark(0)?;
        work()?;
        self.driver.mark(1)?;
        self.driver.between_marks_ms()
    }

    /// Whether [`Gpu::record`] works here.
    #[must_use]
    pub fn can_record(&self) -> bool {
        self.driver.can_record()
    }

    /// Records what `work` queues, to be run again at once with [`Gpu::run`]. Nothing runs now. `work` must not allocate, copy to
    /// the host or wait.
    ///
    /// # Errors
    /// Those of `work`, and [`CudaError::Failed`].
    pub fn record(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<Graph, CudaError> {
        self.driver.record_begin()?;
        let done = work();
        let graph = self.driver.record_end();
        done?;
        Ok(Graph::new(&self.driver, graph?))
    }

    /// Queues what `graph` recorded. The buffers it used must still be there: [`Graph`] does not keep them.
    ///
    /// # Errors
    /// [`CudaError::Failed`].
    pub fn run(&self, graph: &Graph) -> Result<(), CudaError> {
        self.driver.run(graph.handle())
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// Numbers whose bytes mean the same on the host and on the GPU.
pub trait Plain: sealed::Sealed + Copy + Default + 'static {}

mod sealed {
    /// # Safety
    /// Every pattern of bytes is a value, and there is no padding.
    pub unsafe trait Sealed {}
}

macro_rules! plain {
    ($($t:ty),*) => {$(
        // SAFETY: a number without padding, of any bits.
        unsafe impl sealed::Sealed for $t {}
        impl Plain for $t {}
    )*};
}
plain!(u8, u16, u32, u64, i32, f32, half::bf16, params::Tile);

pub(crate) fn bytes_of<T: Plain>(data: &[T]) -> &[u8] {
    // SAFETY: `Plain` has no padding, so all its bytes are initialised.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), size_of_val(data)) }
}

pub(crate) fn bytes_of_mut<T: Plain>(data: &mut [T]) -> &mut [u8] {
    // SAFETY: any bytes are a value of a `Plain` type.
    unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr().cast(), size_of_val(data)) }
}
