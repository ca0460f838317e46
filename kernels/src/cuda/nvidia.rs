//! The driver of an NVIDIA GPU, opened at run time.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{DriverError, result, sys};

use super::driver::{Driver, Stream, Wide};
use super::lt::Lt;
use super::{CudaError, embedded};

/// A folder to look for NVIDIA's libraries in, before the usual ones.
const FOLDER: &str = "PALIMPSEST_CUDA_LIBRARIES";
/// Oldest compute capability with the instructions that the kernels use (bulk copies that complete on a barrier).
const OLDEST: i32 = 90;

/// Most pinned memory that is kept for later.
const PINNED_BYTES: usize = 256 << 20;

pub(super) struct Nvidia {
    name: String,
    processors: usize,
    shared: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    main: sys::CUstream,
    side: sys::CUstream,
    /// Copies to the host and back, beside the others.
    copies: sys::CUstream,
    /// Two that order streams, two that take the time.
    events: [sys::CUevent; 4],
    module: sys::CUmodule,
    kernels: HashMap<&'static str, Loaded>,
    library: Option<Lt>,
    /// Pinned memory that is free, with its sizes.
    pinned: Mutex<Vec<(usize, u64)>>,
    /// Launches of one thread at a time: an operation may be several, on two streams.
    busy: Mutex<()>,
}

// SAFETY: the driver's handles may be used from any thread; the context is made current in each before it is used.
unsafe impl Send for Nvidia {}
// SAFETY: as above; the driver's functions are thread-safe, and cublasLt's handle is used under `busy`.
unsafe impl Sync for Nvidia {}

fn failed(call: &str) -> impl Fn(DriverError) -> CudaError + '_ {
    move |e| {
        let text = |x: Result<&std::ffi::CStr, DriverError>| x.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        CudaError::Failed { call: call.into(), reason: format!("{} ({})", text(e.error_string()), text(e.error_name())) }
    }
}

fn allocation_failed(e: DriverError, bytes: usize) -> CudaError {
    match e.0 {
        sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => {
            let (free, total) = result::mem_get_info().unwrap_or_default();
            CudaError::Memory { bytes, free, total }
        }
        _ => failed("cuMemAllocAsync")(e),
    }
}

fn missing(what: impl Into<String>) -> CudaError {
    CudaError::Missing { what: what.into() }
}

impl Nvidia {
    pub(super) fn open() -> Result<Self, CudaError> {
        preload(&["libcuda.so.1"]);
        // SAFETY: opens a library by name and asks nothing of it.
        if !unsafe { sys::is_culib_present() } {
            return Err(missing("there is no NVIDIA driver (libcuda) on this machine"));
        }
        result::init().map_err(|e| missing(format!("the NVIDIA driver does not start: {}", failed("cuInit")(e))))?;
        let count = result::device::get_count().map_err(failed("cuDeviceGetCount"))?;
        if count == 0 {
            return Err(missing("the NVIDIA driver is there, but no GPU"));
        }
        let device = result::device::get(0).map_err(failed("cuDeviceGet"))?;
        let name = result::device::get_name(device).map_err(failed("cuDeviceGetName"))?;
        let attribute = |a| {
            // SAFETY: the device is one the driver handed out.
            unsafe { result::device::get_attribute(device, a) }.map_err(failed("cuDeviceGetAttribute"))
        };
        use sys::CUdevice_attribute_enum as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if 10 * major + minor < OLDEST {
            return Err(missing(format!("{name} has compute capability {major}.{minor}, and 9.0 or more is needed")));
        }
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        // SAFETY: in the order the driver asks for: context, then what lives in it.
        unsafe {
            let context = result::primary_ctx::retain(device).map_err(failed("cuDevicePrimaryCtxRetain"))?;
            result::ctx::set_current(context).map_err(failed("cuCtxSetCurrent"))?;
            // What goes through records before what makes the next ones.
            let (mut least, mut most) = (0, 0);
            sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut most)
                .result()
                .map_err(failed("cuCtxGetStreamPriorityRange"))?;
            let stream = |priority| {
                let mut stream = std::ptr::null_mut();
                let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
                let made = sys::cuStreamCreateWithPriority(&raw mut stream, flags, priority).result();
                made.map(|()| stream).map_err(failed("cuStreamCreateWithPriority"))
            };
            let (main, side, copies) = (stream(most)?, stream(least)?, stream(most)?);
            let event = |flags| result::event::create(flags).map_err(failed("cuEventCreate"));
            use sys::CUevent_flags as Flags;
            let events = [
                event(Flags::CU_EVENT_DISABLE_TIMING)?,
                event(Flags::CU_EVENT_DISABLE_TIMING)?,
                event(Flags::CU_EVENT_DEFAULT)?,
                event(Flags::CU_EVENT_DEFAULT)?,
            ];
            keep_freed_memory(device);
            let (module, kernels) = load(major, shared)?;
            let library = Lt::open()?;
            let (pinned, busy) = (Mutex::default(), Mutex::default());
            Ok(Self {
                name,
                processors,
                shared,
                device,
                context,
                main,
                side,
                copies,
                events,
                module,
                kernels,
                library,
                pinned,
                busy,
            })
        }
    }

    fn stream(&self, stream: Stream) -> sys::CUstream {
        match stream {
            Stream::Main => self.main,
            Stream::Side => self.side,
        }
    }

    fn current(&self) -> Result<std::sync::MutexGuard<'_, ()>, CudaError> {
        let guard = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("cuCtxSetCurrent"))?;
        Ok(guard)
    }
}

/// Freed memory stays with the process: taking it again then costs no call to the operating system.
unsafe fn keep_freed_memory(device: sys::CUdevice) {
    // SAFETY: the device is the driver's; a refusal costs time only.
    unsafe {
        if let Ok(pool) = result::device::get_default_mem_pool(device) {
            let all = u64::MAX;
            let _ = result::mem_pool::set_attribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw const all).cast_mut().cast(),
            );
        }
    }
}

/// A kernel's function, and what is known of it.
type Loaded = (sys::CUfunction, &'static embedded::Kernel);

/// SAFETY: a context must be current.
unsafe fn load(major: i32, shared: usize) -> Result<(sys::CUmodule, HashMap<&'static str, Loaded>), CudaError> {
    let ptx = || embedded::ptx().and_then(|text| CString::new(text).ok()).ok_or_else(|| missing("the embedded PTX is damaged"));
    // SAFETY: a cubin knows its own length, PTX ends with a zero; names come from `KERNELS`.
    unsafe {
        let mut module = None;
        if major == 9 {
            module = embedded::cubin().and_then(|code| result::module::load_data(code.as_ptr().cast()).ok());
        }
        let module = match module {
            Some(module) => module,
            None => result::module::load_data(ptx()?.as_ptr().cast::<c_void>()).map_err(failed("cuModuleLoadData"))?,
        };
        let mut kernels = HashMap::new();
        for kernel in embedded::KERNELS {
            let name = CString::new(kernel.name).map_err(|e| missing(e.to_string()))?;
            let function = result::module::get_function(module, name).map_err(failed(kernel.name))?;
            // What does not fit is not launched: see `Gpu::supports`.
            if kernel.shared_bytes > 48 << 10 && kernel.shared_bytes as usize <= shared {
                result::function::set_function_attribute(
                    function,
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    kernel.shared_bytes as i32,
                )
                .map_err(failed(kernel.name))?;
            }
            kernels.insert(kernel.name, (function, kernel));
        }
        Ok((module, kernels))
    }
}

/// Opens libraries by full path, where the loader does not look by itself; a later search by name then finds them.
pub(super) fn preload(names: &[&str]) {
    let mut folders: Vec<PathBuf> = std::env::var_os(FOLDER).map(PathBuf::from).into_iter().collect();
    for fixed in
        ["/usr/local/cuda/lib64", "/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/wsl/lib", "/opt/cuda/lib64"]
    {
        folders.push(fixed.into());
    }
    if let Ok(entries) = std::fs::read_dir("/usr/local") {
        let mut versions: Vec<PathBuf> = entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with("cuda-"))
            .flat_map(|e| [e.path().join("lib64"), e.path().join("targets/x86_64-linux/lib")])
            .collect();
        versions.sort();
        folders.extend(versions.into_iter().rev());
    }
    for name in names {
        // Where the loader finds it by itself, nothing is to be done.
        // SAFETY: NVIDIA's libraries have no constructors that ask anything of their callers.
        unsafe {
            if let Some(library) = std::iter::once(PathBuf::from(name))
                .chain(folders.iter().map(|f| f.join(name)))
                .find_map(|path| libloading::Library::new(path).ok())
            {
                std::mem::forget(library);
                return;
            }
        }
    }
}

impl Driver for Nvidia {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn can_record(&self) -> bool {
        true
    }
    fn has_library(&self) -> bool {
        self.library.is_some()
    }
    fn memory(&self) -> Result<(usize, usize), CudaError> {
        let _busy = self.current()?;
        result::mem_get_info().map_err(failed("cuMemGetInfo"))
    }
    fn processors(&self) -> usize {
        self.processors
    }
    fn shared_bytes(&self) -> usize {
        self.shared
    }
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        let _busy = self.current()?;
        // SAFETY: the stream is ours; everything that uses the memory is queued on it, or ordered after it.
        let at = unsafe { result::malloc_async(self.main, bytes) };
        at.map_err(|e| allocation_failed(e, bytes))
    }
    fn free(&self, at: u64) {
        if let Ok(_busy) = self.current() {
            // SAFETY: `at` comes from `allocate`, and its buffer is being dropped.
            let _ = unsafe { result::free_async(at, self.main) };
        }
    }
    fn upload(&self, to: u64, from: &[u8]) -> Result<(), CudaError> {
        let _busy = self.current()?;
        // SAFETY: the bytes lie within a buffer. From memory that is not pinned the driver copies `from` before it returns.
        unsafe { result::memcpy_htod_async(to, from, self.main) }.map_err(failed("cuMemcpyHtoDAsync"))
    }
    fn download(&self, from: u64, to: &mut [u8]) -> Result<(), CudaError> {
        let _busy = self.current()?;
        // SAFETY: the bytes lie within a buffer, and are there when this returns.
        unsafe {
            result::memcpy_dtoh_async(to, from, self.main).map_err(failed("cuMemcpyDtoHAsync"))?;
            result::stream::synchronize(self.main).map_err(failed("cuStreamSynchronize"))
        }
    }
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        let _busy = self.current()?;
        // SAFETY: both lie within buffers.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.main) }.map_err(failed("cuMemcpyDtoDAsync"))
    }
    fn zero(&self, at: u64, bytes: usize) -> Result<(), CudaError> {
        let _busy = self.current()?;
        // SAFETY: lies within a buffer.
        unsafe { result::memset_d8_async(at, 0, bytes, self.main) }.map_err(failed("cuMemsetD8Async"))
    }
    fn host_allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = pinned.iter().position(|&(size, _)| size == bytes) {
            return Ok(pinned.swap_remove(i).1);
        }
        drop(pinned);
        let _busy = self.current()?;
        // SAFETY: freed by `host_free` or when this is dropped.
        unsafe { result::malloc_host(bytes, 0) }.map(|at| at as u64).map_err(failed("cuMemHostAlloc"))
    }
    fn host_free(&self, at: u64, bytes: usize) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.push((bytes, at));
        if pinned.iter().map(|&(size, _)| size).sum::<usize>() > PINNED_BYTES {
            let (_, at) = pinned.remove(0);
            drop(pinned);
            if let Ok(_busy) = self.current() {
                // SAFETY: nobody has it; copies to it were waited for.
                let _ = unsafe { result::free_host(at as *mut c_void) };
            }
        }
    }
    fn fetch(&self, from: u64, to: u64, bytes: usize) -> Result<u64, CudaError> {
        let _busy = self.current()?;
        // SAFETY: both lie within memory of ours, which the caller keeps until the copy was waited for.
        unsafe {
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed("cuEventCreate"))?;
            let to = std::slice::from_raw_parts_mut(to as *mut u8, bytes);
            let begun = result::event::record(event, self.main)
                .and_then(|()| result::stream::wait_event(self.copies, event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT))
                .and_then(|()| result::memcpy_dtoh_async(to, from, self.copies))
                .and_then(|()| result::event::record(event, self.copies));
            begun.map(|()| event as u64).map_err(failed("cuMemcpyDtoHAsync"))
        }
    }
    fn arrived(&self, copy: u64) -> Result<(), CudaError> {
        drop(self.current()?);
        let event = copy as sys::CUevent;
        // SAFETY: the handle comes from `fetch` and is given back once. Others may launch while this waits.
        unsafe {
            let done = result::event::synchronize(event).map_err(failed("cuEventSynchronize"));
            let _ = result::event::destroy(event);
            done
        }
    }
    fn send(&self, from: u64, bytes: usize) -> Result<u64, CudaError> {
        let busy = self.current()?;
        // SAFETY: the host's memory is the caller's until this returns, by when it was read.
        unsafe {
            let to = result::malloc_async(self.copies, bytes).map_err(|e| allocation_failed(e, bytes))?;
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(failed("cuEventCreate"))?;
            let from = std::slice::from_raw_parts(from as *const u8, bytes);
            let begun = result::memcpy_htod_async(to, from, self.copies)
                .and_then(|()| result::event::record(event, self.copies))
                .and_then(|()| result::stream::wait_event(self.main, event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT));
            drop(busy);
            let done = begun.and_then(|()| result::event::synchronize(event)).map_err(failed("cuMemcpyHtoDAsync"));
            let _ = result::event::destroy(event);
            done.map(|()| to)
        }
    }
    fn launch(&self, kernel: &'static str, grid: [usize; 2], params: &[u8], stream: Stream) -> Result<(), CudaError> {
        let _busy = self.current()?;
        let &(function, kernel) = self.kernels.get(kernel).ok_or_else(|| missing(format!("kernel {kernel}")))?;
        if grid.contains(&0) {
            return Ok(());
        }
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid[0] as u32,
            gridDimY: grid[1] as u32,
            gridDimZ: 1,
            blockDimX: kernel.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: kernel.shared_bytes,
            hStream: self.stream(stream),
            attrs: &raw mut early,
            numAttrs: u32::from(kernel.early && stream == Stream::Main),
        };
        let mut params = [params.as_ptr().cast_mut().cast()];
        // SAFETY: `params` is the struct that this kernel takes, copied by the driver; addresses in it were checked; the
        // attribute lives until the call returns.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function, params.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(failed(kernel.name))
    }
    fn order(&self, first: Stream, then: Stream) -> Result<(), CudaError> {
        let _busy = self.current()?;
        let event = self.events[usize::from(first == Stream::Side)];
        // SAFETY: event and streams are ours.
        unsafe {
            result::event::record(event, self.stream(first)).map_err(failed("cuEventRecord"))?;
            result::stream::wait_event(self.stream(then), event, sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)
                .map_err(failed("cuStreamWaitEvent"))
        }
    }
    fn wide(&self, job: &Wide) -> Result<bool, CudaError> {
        let Some(library) = &self.library else { return Ok(false) };
        let _busy = self.current()?;
        // SAFETY: the caller checked that x, w and out lie within buffers.
        unsafe { library.product(job, self.main) }.map(|()| true)
    }
    fn synchronise(&self) -> Result<(), CudaError> {
        let _busy = self.current()?;
        // SAFETY: the streams are ours.
        unsafe {
            result::stream::synchronize(self.side).map_err(failed("cuStreamSynchronize"))?;
            result::stream::synchronize(self.main).map_err(failed("cuStreamSynchronize"))
        }
    }
    fn mark(&self, which: usize) -> Result<(), CudaError> {
        let _busy = self.current()?;
        // SAFETY: event and stream are ours.
        unsafe { result::event::record(self.events[2 + which], self.main) }.map_err(failed("cuEventRecord"))
    }
    fn between_marks_ms(&self) -> Result<f32, CudaError> {
        let _busy = self.current()?;
        // SAFETY: both events were recorded.
        unsafe {
            result::event::synchronize(self.events[3]).map_err(failed("cuEventSynchronize"))?;
            result::event::elapsed(self.events[2], self.events[3]).map_err(failed("cuEventElapsedTime"))
        }
    }
    fn record_begin(&self) -> Result<(), CudaError> {
        let _busy = self.current()?;
        // SAFETY: the stream is ours.
        unsafe { result::stream::begin_capture(self.main, sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED) }
            .map_err(failed("cuStreamBeginCapture"))
    }
    fn record_end(&self) -> Result<u64, CudaError> {
        let _busy = self.current()?;
        // SAFETY: a capture was begun on this stream; the graph is no longer needed once it is instantiated.
        unsafe {
            let graph = result::stream::end_capture(self.main).map_err(failed("cuStreamEndCapture"))?;
            let mut run = std::mem::MaybeUninit::uninit();
            let made = sys::cuGraphInstantiateWithFlags(run.as_mut_ptr(), graph, 0).result();
            let _ = result::graph::destroy(graph);
            made.map_err(failed("cuGraphInstantiate"))?;
            Ok(run.assume_init() as u64)
        }
    }
    fn run(&self, graph: u64) -> Result<(), CudaError> {
        let _busy = self.current()?;
        // SAFETY: the handle comes from `record_end` and was not dropped.
        unsafe { result::graph::launch(graph as sys::CUgraphExec, self.main) }.map_err(failed("cuGraphLaunch"))
    }
    fn drop_graph(&self, graph: u64) {
        if let Ok(_busy) = self.current() {
            // SAFETY: the handle comes from `record_end` and is dropped once.
            let _ = unsafe { result::graph::exec_destroy(graph as sys::CUgraphExec) };
        }
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // SAFETY: everything that used them holds an Arc of this, so nothing is left.
        unsafe {
            if result::ctx::set_current(self.context).is_ok() {
                let _ = result::stream::synchronize(self.main);
                self.library = None;
                for &(_, at) in self.pinned.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    let _ = result::free_host(at as *mut c_void);
                }
                for event in self.events {
                    let _ = result::event::destroy(event);
                }
                let _ = result::module::unload(self.module);
                let _ = result::stream::destroy(self.main);
                let _ = result::stream::destroy(self.side);
                let _ = result::stream::destroy(self.copies);
                let _ = result::primary_ctx::release(self.device);
            }
        }
    }
}
