//! Copies to the host and back beside the work: pinned memory, which the GPU reads and writes by itself, on a stream of its own.

use std::sync::Arc;

use super::driver::Driver;
use super::{Buffer, CudaError, Gpu, Plain, bytes_of};

/// Pinned memory of the host. Freed memory stays pinned for the next of its size.
pub struct Host {
    driver: Arc<dyn Driver>,
    at: u64,
    bytes: usize,
}

impl Host {
    fn new(driver: &Arc<dyn Driver>, bytes: usize) -> Result<Self, CudaError> {
        let at = if bytes == 0 { 0 } else { driver.host_allocate(bytes)? };
        Ok(Self { driver: driver.clone(), at, bytes })
    }

    /// What is in it.
    #[must_use]
    pub fn as_slice<T: Plain>(&self) -> &[T] {
        if self.bytes == 0 {
            return &[];
        }
        // SAFETY: it was written when it was made; `Plain` has no invalid bits, and the driver aligns to a page.
        unsafe { std::slice::from_raw_parts(self.at as *const T, self.bytes / size_of::<T>()) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.driver.host_free(self.at, self.bytes);
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A buffer's bytes on their way to the host. Keeps the buffer.
pub struct Arrival {
    from: Arc<Buffer>,
    /// `None` once it was waited for.
    host: Option<(Host, u64)>,
}

impl Arrival {
    /// Waits for them, and for nothing else.
    ///
    /// # Errors
    /// [`CudaError::Failed`].
    pub fn wait(mut self) -> Result<Host, CudaError> {
        match self.host.take() {
            Some((host, copy)) => self.from.driver().arrived(copy).map(|()| host),
            None => Host::new(self.from.driver(), 0),
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if let Some((_, copy)) = self.host.take() {
            let _ = self.from.driver().arrived(copy);
        }
    }
}

impl std::fmt::Debug for Arrival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arrival").field("from", &self.from).finish_non_exhaustive()
    }
}

impl Buffer {
    /// Begins to copy what it holds after the work queued so far; what is queued later runs beside the copy, and must not change it.
    ///
    /// # Errors
    /// [`CudaError::Failed`].
    pub fn fetch(self: &Arc<Self>) -> Result<Arrival, CudaError> {
        let host = Host::new(self.driver(), self.bytes())?;
        let copy = if self.bytes() == 0 { None } else { Some(self.driver().fetch(self.address(), host.at, host.bytes)?) };
        Ok(Arrival { from: self.clone(), host: copy.map(|copy| (host, copy)) })
    }
}

impl Gpu {
    /// Pinned memory with the bytes of `data` in it.
    ///
    /// # Errors
    /// [`CudaError::Failed`].
    pub fn host<T: Plain>(&self, data: &[T]) -> Result<Host, CudaError> {
        let host = Host::new(&self.driver, size_of_val(data))?;
        if host.bytes > 0 {
            // SAFETY: as many bytes as were allocated just now.
            unsafe { std::ptr::copy_nonoverlapping(bytes_of(data).as_ptr(), host.at as *mut u8, host.bytes) };
        }
        Ok(host)
    }

    /// A buffer with the bytes of `host`. Waits for the copy, which runs beside the work; what is queued from now on sees it.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn send(&self, host: &Host) -> Result<Buffer, CudaError> {
        let at = if host.bytes == 0 { 0 } else { self.driver.send(host.at, host.bytes)? };
        Ok(Buffer::at(&self.driver, at, host.bytes))
    }
}
