//! The kernels' own sources, compiled for the host (`kernels/cuda/emulate.cpp`): slow, for tests where there is no GPU.
//!
//! Memory is the host's. There is no library for wide products, so they run on the kernel for narrow ones.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::sync::Mutex;

use super::driver::{Driver, Stream, Wide};
use super::{CudaError, embedded};

type Launch = unsafe extern "C" fn(*const c_char, *const c_void, c_int, c_int, c_int, c_int) -> c_int;

pub(super) struct Emulated {
    _library: libloading::Library,
    launch: Launch,
    /// The emulator has one block at a time.
    busy: Mutex<()>,
}

impl Emulated {
    pub(super) fn open(path: &Path) -> Result<Self, CudaError> {
        let missing = |e: libloading::Error| CudaError::Missing { what: format!("{}: {e}", path.display()) };
        // SAFETY: a library without constructors that do anything; its one function has this signature (emulate.cpp).
        unsafe {
            let library = libloading::Library::new(path).map_err(missing)?;
            let launch = *library.get::<Launch>(b"palimpsest_emulate\0").map_err(missing)?;
            Ok(Self { _library: library, launch, busy: Mutex::new(()) })
        }
    }
}

const ALIGN: usize = 256;

impl Driver for Emulated {
    fn name(&self) -> String {
        "emulated on the host".into()
    }
    fn can_record(&self) -> bool {
        false
    }
    fn has_library(&self) -> bool {
        false
    }
    fn memory(&self) -> Result<(usize, usize), CudaError> {
        Ok((1 << 30, 1 << 30))
    }
    fn processors(&self) -> usize {
        3
    }
    fn shared_bytes(&self) -> usize {
        227 << 10
    }
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        // In front of the block: its size. What is in it is NaN.
        let layout = std::alloc::Layout::from_size_align(bytes + ALIGN, ALIGN).map_err(|_| CudaError::Memory {
            bytes,
            free: 0,
            total: 0,
        })?;
        // SAFETY: the layout is not empty; the size is written into the part in front.
        unsafe {
            let block = std::alloc::alloc(layout);
            if block.is_null() {
                return Err(CudaError::Memory { bytes, free: 0, total: 0 });
            }
            block.cast::<usize>().write(bytes);
            block.add(ALIGN).write_bytes(0xff, bytes);
            Ok(block.add(ALIGN) as u64)
        }
    }
    fn free(&self, at: u64) {
        // SAFETY: `at` comes from `allocate`, which wrote the size in front of it.
        unsafe {
            let block = (at as *mut u8).sub(ALIGN);
            let bytes = block.cast::<usize>().read();
            std::alloc::dealloc(block, std::alloc::Layout::from_size_align_unchecked(bytes + ALIGN, ALIGN));
        }
    }
    fn upload(&self, to: u64, from: &[u8]) -> Result<(), CudaError> {
        // SAFETY: the caller checked that these bytes lie within a buffer; nothing runs meanwhile.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }
    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: as for `upload`.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as for `upload`.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }
    fn zero(&self, at: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as for `upload`.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
        Ok(())
    }
    fn host_allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.allocate(bytes)
    }
    fn host_free(&self, at: u64, _bytes: usize) {
        self.free(at);
    }
    fn fetch(&self, from: u64, to: u64, bytes: usize) -> Result<u64, CudaError> {
        self.copy(from, to, bytes).map(|()| 0)
    }
    fn arrived(&self, _copy: u64) -> Result<(), CudaError> {
        Ok(())
    }
    fn send(&self, from: u64, bytes: usize) -> Result<u64, CudaError> {
        let at = self.allocate(bytes)?;
        self.copy(from, at, bytes).map(|()| at)
    }
    fn launch(&self, kernel: &'static str, grid: [usize; 2], params: &[u8], _stream: Stream) -> Result<(), CudaError> {
        let failed = |reason: String| CudaError::Failed { call: kernel.into(), reason };
        let found = embedded::find(kernel).ok_or_else(|| failed("there is no such kernel".into()))?;
        let name = CString::new(kernel).map_err(|e| failed(e.to_string()))?;
        let _busy = self.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: the parameter is the struct that this kernel takes, and the addresses in it were checked.
        let code = unsafe {
            (self.launch)(
                name.as_ptr(),
                params.as_ptr().cast(),
                grid[0] as c_int,
                grid[1] as c_int,
                found.threads as c_int,
                found.shared_bytes as c_int,
            )
        };
        if code == 0 { Ok(()) } else { Err(failed(format!("code {code}"))) }
    }
    fn order(&self, _first: Stream, _then: Stream) -> Result<(), CudaError> {
        Ok(())
    }
    fn wide(&self, _job: &Wide) -> Result<bool, CudaError> {
        Ok(false)
    }
    fn synchronise(&self) -> Result<(), CudaError> {
        Ok(())
    }
    fn mark(&self, _which: usize) -> Result<(), CudaError> {
        Ok(())
    }
    fn between_marks_ms(&self) -> Result<f32, CudaError> {
        Ok(f32::NAN)
    }
    fn record_begin(&self) -> Result<(), CudaError> {
        Err(CudaError::Failed { call: "a recording".into(), reason: "the emulator has none".into() })
    }
    fn record_end(&self) -> Result<u64, CudaError> {
        self.record_begin().map(|()| 0)
    }
    fn run(&self, _graph: u64) -> Result<(), CudaError> {
        self.record_begin()
    }
    fn drop_graph(&self, _graph: u64) {}
}
