//! What is asked of a device: memory, copies, launches. `nvidia.rs` asks the driver, `emulated.rs` the host.

use std::sync::Arc;

use super::{CudaError, Plain, bytes_of, bytes_of_mut};
use crate::shape::length;

/// Where a launch is queued. `Side` runs beside `Main` until they are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Main,
    Side,
}

/// `out [M, N] = x [M, K] W [N, K]^T` in bf16; or, added to, in f32. Addresses and distances between rows, in elements.
pub(super) struct Wide {
    pub(super) x: u64,
    pub(super) w: u64,
    pub(super) out: u64,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) x_row: usize,
    pub(super) out_row: usize,
    pub(super) add: bool,
}

/// A device. Addresses come from `allocate` and were checked by [`Buffer`] and the operations of `launch.rs`.
pub(super) trait Driver: Send + Sync {
    fn name(&self) -> String;
    fn has_library(&self) -> bool;
    fn can_record(&self) -> bool;
    fn memory(&self) -> Result<(usize, usize), CudaError>;
    /// Multiprocessors.
    fn processors(&self) -> usize;
    /// Shared memory that a block can have, in bytes.
    fn shared_bytes(&self) -> usize;
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;
    fn free(&self, at: u64);
    fn upload(&self, to: u64, from: &[u8]) -> Result<(), CudaError>;
    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), CudaError>;
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError>;
    fn zero(&self, at: u64, bytes: usize) -> Result<(), CudaError>;
    /// Pinned memory of the host.
    fn host_allocate(&self, bytes: usize) -> Result<u64, CudaError>;
    fn host_free(&self, at: u64, bytes: usize);
    /// Copies to pinned memory, after what is queued and beside what will be. The handle is for `arrived`, once.
    fn fetch(&self, from: u64, to: u64, bytes: usize) -> Result<u64, CudaError>;
    fn arrived(&self, copy: u64) -> Result<(), CudaError>;
    /// Memory with what is in pinned memory, copied beside what is queued; returns when it is.
    fn send(&self, from: u64, bytes: usize) -> Result<u64, CudaError>;
    /// `params` are the bytes of the kernel's one parameter.
    fn launch(&self, kernel: &'static str, grid: [usize; 2], params: &[u8], stream: Stream) -> Result<(), CudaError>;
    /// What is queued on `then` from now on waits for what is queued on `first`.
    fn order(&self, first: Stream, then: Stream) -> Result<(), CudaError>;
    /// `false` where there is no library for it.
    fn wide(&self, job: &Wide) -> Result<bool, CudaError>;
    fn synchronise(&self) -> Result<(), CudaError>;
    fn mark(&self, which: usize) -> Result<(), CudaError>;
    fn between_marks_ms(&self) -> Result<f32, CudaError>;
    fn record_begin(&self) -> Result<(), CudaError>;
    fn record_end(&self) -> Result<u64, CudaError>;
    fn run(&self, graph: u64) -> Result<(), CudaError>;
    fn drop_graph(&self, graph: u64);
}

/// Memory on a GPU.
pub struct Buffer {
    driver: Arc<dyn Driver>,
    at: u64,
    bytes: usize,
}

impl Buffer {
    pub(super) fn new(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Self, CudaError> {
        let at = if bytes == 0 { 0 } else { driver.allocate(bytes)? };
        Ok(Self { driver: driver.clone(), at, bytes })
    }

    pub(super) fn at(driver: &Arc<dyn Driver>, at: u64, bytes: usize) -> Self {
        Self { driver: driver.clone(), at, bytes }
    }

    pub(super) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn address(&self) -> u64 {
        self.at
    }

    fn within<T>(&self, op: &'static str, at: usize, len: usize) -> Result<(u64, usize), CudaError> {
        let (from, bytes) = (at * size_of::<T>(), len * size_of::<T>());
        if from + bytes > self.bytes {
            length(op, "buffer", self.bytes, from + bytes)?;
        }
        Ok((self.at + from as u64, bytes))
    }

    /// Copies `data` to element `at`.
    ///
    /// # Errors
    /// [`CudaError::Shape`] when it does not fit.
    pub fn write<T: Plain>(&self, at: usize, data: &[T]) -> Result<(), CudaError> {
        let (to, bytes) = self.within::<T>("write", at, data.len())?;
        if bytes == 0 { Ok(()) } else { self.driver.upload(to, bytes_of(data)) }
    }

    /// Waits, and copies the elements from `at` into `data`.
    ///
    /// # Errors
    /// [`CudaError::Shape`] when there are not so many.
    pub fn read<T: Plain>(&self, at: usize, data: &mut [T]) -> Result<(), CudaError> {
        let (from, bytes) = self.within::<T>("read", at, data.len())?;
        if bytes == 0 { Ok(()) } else { self.driver.download(from, bytes_of_mut(data)) }
    }

    /// All of it, as `T`.
    ///
    /// # Errors
    /// [`CudaError::Failed`].
    pub fn to_vec<T: Plain>(&self) -> Result<Vec<T>, CudaError> {
        let mut data = vec![T::default(); self.bytes / size_of::<T>()];
        self.read(0, &mut data)?;
        Ok(data)
    }

    /// Sets every byte to 0.
    ///
    /// # Errors
    /// [`CudaError::Failed`].
    pub fn zero(&self) -> Result<(), CudaError> {
        if self.bytes == 0 { Ok(()) } else { self.driver.zero(self.at, self.bytes) }
    }

    /// Another buffer with the same bytes, copied on the GPU.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn duplicate(&self) -> Result<Self, CudaError> {
        let copy = Self::new(&self.driver, self.bytes)?;
        copy.copy_from(self)?;
        Ok(copy)
    }

    /// Takes over the bytes of `other`, on the GPU.
    ///
    /// # Errors
    /// [`CudaError::Shape`] when `other` is not of this size.
    pub fn copy_from(&self, other: &Buffer) -> Result<(), CudaError> {
        length("copy", "buffer", other.bytes, self.bytes)?;
        if self.bytes == 0 { Ok(()) } else { self.driver.copy(other.at, self.at, self.bytes) }
    }

    /// Copies rows: `width` elements of `T` at `from[i]` of `other` become those at `to + i * width`.
    ///
    /// # Errors
    /// [`CudaError::Shape`] when they do not lie within.
    pub fn gather<T: Plain>(&self, to: usize, other: &Buffer, from: usize, len: usize) -> Result<(), CudaError> {
        let (source, bytes) = other.within::<T>("gather", from, len)?;
        let (target, _) = self.within::<T>("gather", to, len)?;
        self.driver.copy(source, target, bytes)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.driver.free(self.at);
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Rows within a buffer: from element `at`, `row` elements from one to the next.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Where they lie.
    pub buffer: &'a Buffer,
    /// The first element of the first row.
    pub at: usize,
    /// Elements from one row to the next.
    pub row: usize,
}

impl<'a> View<'a> {
    /// Dense rows of `row` elements, from the start of `buffer`.
    #[must_use]
    pub fn dense(buffer: &'a Buffer, row: usize) -> Self {
        Self { buffer, at: 0, row }
    }

    /// The columns from `first` of the same rows.
    #[must_use]
    pub fn from(self, first: usize) -> Self {
        Self { at: self.at + first, ..self }
    }

    /// The address of its first row, if `rows` rows of `width` elements of `T` lie within.
    pub(super) fn rows<T>(&self, op: &'static str, rows: usize, width: usize) -> Result<u64, CudaError> {
        let end = if rows == 0 { 0 } else { self.at + (rows - 1) * self.row + width };
        if end * size_of::<T>() > self.buffer.bytes {
            length(op, "view", self.buffer.bytes / size_of::<T>(), end)?;
        }
        Ok(self.buffer.at + (self.at * size_of::<T>()) as u64)
    }
}

/// Recorded work: see [`super::Gpu::record`].
pub struct Graph {
    driver: Arc<dyn Driver>,
    handle: u64,
}

impl Graph {
    pub(super) fn new(driver: &Arc<dyn Driver>, handle: u64) -> Self {
        Self { driver: driver.clone(), handle }
    }

    pub(super) fn handle(&self) -> u64 {
        self.handle
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.driver.drop_graph(self.handle);
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}
