//! Wide products by NVIDIA's cublasLt, where it is found.
//!
//! One algorithm a shape (N, K), chosen once for many rows and kept: it splits no sum over K, and every row of the output goes
//! through the same operations in the same order whatever the number of rows (`tests/cuda.rs` holds it).

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys as driver;

use super::CudaError;
use super::driver::Wide;
use super::nvidia::preload;

/// Rows that an algorithm is chosen for, and the fewest it must take as well.
const MANY: usize = 4096;
const FEW: usize = 64;
const WORKSPACE_BYTES: usize = 32 << 20;

/// N, K, whether it is added, and the distances of rows.
type Shape = (usize, usize, bool, usize, usize);

pub(super) struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    algorithms: Mutex<HashMap<Shape, sys::cublasLtMatmulAlgo_t>>,
}

fn failed(call: &str) -> impl Fn(result::CublasError) -> CudaError + '_ {
    move |e| CudaError::Failed { call: call.into(), reason: format!("{:?}", e.0) }
}

/// Descriptions of one product: column-major, so that out^T [N, M] = W [N, K] x^T.
struct Job {
    product: sys::cublasLtMatmulDesc_t,
    w: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
}

impl Job {
    fn new(job: &Wide, m: usize) -> Result<Self, CudaError> {
        let (bf16, f32) = (sys::cudaDataType_t::CUDA_R_16BF, sys::cudaDataType_t::CUDA_R_32F);
        let layout = |kind, rows: usize, cols: usize, ld: usize| {
            result::create_matrix_layout(kind, rows as u64, cols as u64, ld as i64).map_err(failed("cublasLtMatrixLayoutCreate"))
        };
        let product = result::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, f32)
            .map_err(failed("cublasLtMatmulDescCreate"))?;
        let transposed: i32 = 1; // CUBLAS_OP_T
        // SAFETY: the attribute is of this type.
        unsafe {
            result::set_matmul_desc_attribute(
                product,
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                (&raw const transposed).cast(),
                size_of_val(&transposed),
            )
        }
        .map_err(failed("cublasLtMatmulDescSetAttribute"))?;
        Ok(Self {
            product,
            w: layout(bf16, job.k, job.n, job.k)?,
            x: layout(bf16, job.k, m, job.x_row)?,
            out: layout(if job.add { f32 } else { bf16 }, job.n, m, job.out_row)?,
        })
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // SAFETY: each was created once and is destroyed once.
        unsafe {
            for layout in [self.w, self.x, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.product);
        }
    }
}

impl Lt {
    /// `None` where there is no cublasLt. A context must be current.
    pub(super) fn open() -> Result<Option<Self>, CudaError> {
        preload(&["libcublasLt.so.13", "libcublasLt.so.12"]);
        // SAFETY: opens a library by name and asks nothing of it.
        if !unsafe { sys::is_culib_present() } {
            return Ok(None);
        }
        let handle = result::create_handle().map_err(failed("cublasLtCreate"))?;
        // SAFETY: a context is current.
        let workspace = unsafe { cudarc::driver::result::malloc_sync(WORKSPACE_BYTES) }
            .map_err(|e| CudaError::Failed { call: "cuMemAlloc".into(), reason: format!("{:?}", e.0) })?;
        Ok(Some(Self { handle, workspace, algorithms: Mutex::new(HashMap::new()) }))
    }

    fn choose(&self, job: &Wide) -> Result<sys::cublasLtMatmulAlgo_t, CudaError> {
        let (many, few) = (Job::new(job, MANY)?, Job::new(job, FEW)?);
        let preference = result::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
        let (bytes, no_split): (usize, u32) = (WORKSPACE_BYTES, 0);
        let mut found: [std::mem::MaybeUninit<sys::cublasLtMatmulHeuristicResult_t>; 16] =
            [const { std::mem::MaybeUninit::uninit() }; 16];
        let mut count = 0;
        // SAFETY: attributes are of their types; the array has room for what is asked for; only what was returned is read.
        unsafe {
            use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
            let set = |what, value: *const c_void, size| {
                result::set_matmul_pref_attribute(preference, what, value, size)
                    .map_err(failed("cublasLtMatmulPreferenceSetAttribute"))
            };
            let asked = set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const bytes).cast(), size_of_val(&bytes))
                .and_then(|()| {
                    set(
                        Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                        (&raw const no_split).cast(),
                        size_of_val(&no_split),
                    )
                })
                .and_then(|()| {
                    sys::cublasLtMatmulAlgoGetHeuristic(
                        self.handle,
                        many.product,
                        many.w,
                        many.x,
                        many.out,
                        many.out,
                        preference,
                        found.len() as i32,
                        found.as_mut_ptr().cast(),
                        &raw mut count,
                    )
                    .result()
                    .map_err(failed("cublasLtMatmulAlgoGetHeuristic"))
                });
            let _ = result::destroy_matmul_pref(preference);
            asked?;
            for found in &found[..count as usize] {
                let found = found.assume_init_ref();
                let mut check = std::mem::MaybeUninit::uninit();
                let fits = sys::cublasLtMatmulAlgoCheck(
                    self.handle,
                    few.product,
                    few.w,
                    few.x,
                    few.out,
                    few.out,
                    &raw const found.algo,
                    check.as_mut_ptr(),
                );
                let mut split: i32 = 0;
                let mut written = 0;
                let read = sys::cublasLtMatmulAlgoConfigGetAttribute(
                    &raw const found.algo,
                    sys::cublasLtMatmulAlgoConfigAttributes_t::CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                    (&raw mut split).cast(),
                    size_of::<i32>(),
                    &raw mut written,
                );
                let whole = read.result().is_ok() && split <= 1;
                if found.state.result().is_ok() && fits.result().is_ok() && whole {
                    return Ok(found.algo);
                }
            }
        }
        Err(CudaError::Failed {
            call: "cublasLt".into(),
            reason: format!("none of {count} algorithms for N {} and K {} leaves the sums over K whole", job.n, job.k),
        })
    }

    /// SAFETY: x, w and out must lie within memory of the current context.
    pub(super) unsafe fn product(&self, job: &Wide, stream: driver::CUstream) -> Result<(), CudaError> {
        let key = (job.n, job.k, job.add, job.x_row, job.out_row);
        let known = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied();
        let algorithm = match known {
            Some(algorithm) => algorithm,
            None => {
                let algorithm = self.choose(job)?;
                self.algorithms.lock().unwrap_or_else(PoisonError::into_inner).insert(key, algorithm);
                algorithm
            }
        };
        let desc = Job::new(job, job.m)?;
        let (alpha, beta) = (1.0f32, if job.add { 1.0f32 } else { 0.0 });
        // SAFETY: the layouts describe the caller's memory; scalars are f32, as the product says.
        unsafe {
            result::matmul(
                self.handle,
                desc.product,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                job.w as *const c_void,
                desc.w,
                job.x as *const c_void,
                desc.x,
                job.out as *const c_void,
                desc.out,
                job.out as *mut c_void,
                desc.out,
                &raw const algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        }
        .map_err(failed("cublasLtMatmul"))
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once, in the context that is current.
        unsafe {
            let _ = cudarc::driver::result::free_sync(self.workspace);
            let _ = result::destroy_handle(self.handle);
        }
    }
}
