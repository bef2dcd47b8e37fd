//! Products by cuBLASLt: plans for [`Problem`]s, and their execution on a stream.
//!
//! This module does not use tensors; [`super::queue`] provides the pointers.

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::PathBuf;
use std::sync::OnceLock;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::sys::{CUdevice_attribute_enum, CUstream};

use super::algorithms::{Algorithm, Algorithms, MAX_WORKSPACE};
use super::choices::Owner;
use super::cublaslt_functions::FUNCTIONS;
use super::library::{self, Found, Library, LibraryError, Places};
use super::problem::{ColumnMajor, Epilogue, FULL_ALIGNMENT, Number, Problem, Stored, VECTOR_ALIGNMENT};
use super::recorded;

/// Reason why the library is not used.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The library cannot be opened.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A required function is missing.
    #[error("{} has no {symbol}: it is too old", path.display())]
    Symbol {
        /// The library's file.
        path: PathBuf,
        /// Name of the missing function.
        symbol: &'static str,
    },
    /// The library has a file name that the bindings do not look for.
    #[error("{}: the cuBLASLt bindings do not load a library of this name", path.display())]
    Name {
        /// The library's file.
        path: PathBuf,
    },
}

/// Opens the library, once per process, and checks that it has all required functions.
///
/// # Errors
/// [`Unavailable`] says what is missing and how to get it.
pub fn library() -> Result<&'static Found, &'static Unavailable> {
    static LIBRARY: OnceLock<Result<Found, Unavailable>> = OnceLock::new();
    LIBRARY.get_or_init(open).as_ref()
}

fn open() -> Result<Found, Unavailable> {
    let found = library::open(Library::CublasLt, &Places::of_process())?;
    library::has_symbols(&found, &FUNCTIONS)
        .map_err(|symbol| Unavailable::Symbol { path: found.path.clone(), symbol })?;
    // SAFETY: loads the library by the names that cudarc uses; it is loaded already.
    if unsafe { sys::is_culib_present() } { Ok(found) } else { Err(Unavailable::Name { path: found.path }) }
}

/// Reason why cuBLASLt does not compute a product, in one line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CublasLtError {
    /// A failed call of the library or the driver.
    #[error("{call} failed with {status}")]
    Failed {
        /// Name of the call.
        call: &'static str,
        /// Status that it returned.
        status: String,
        /// True if the status says nothing about the product: memory ran out, or something broke.
        is_fault: bool,
    },
    /// The library rejects the algorithm that a run recorded.
    #[error(
        "{0} for the algorithm that the run recorded in {file}: {remedy}",
        file = Algorithms::FILE,
        remedy = recorded::REMEDY
    )]
    Recorded(Box<CublasLtError>),
    /// A product that this program does not pass to cuBLASLt.
    #[error("{0}")]
    Refused(&'static str),
}

impl CublasLtError {
    /// Returns true if Burn's kernels must not take over, because the library may compute the product another time, or
    /// because a run depends on it.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Failed { is_fault, .. } => *is_fault,
            Self::Recorded(_) => true,
            Self::Refused(_) => false,
        }
    }
}

/// Returns true unless a status means that the library does not compute the product, or not on this device or driver.
fn is_fault(result::CublasError(status): result::CublasError) -> bool {
    use sys::cublasStatus_t as status_of;
    match status {
        status_of::CUBLAS_STATUS_NOT_SUPPORTED
        | status_of::CUBLAS_STATUS_INVALID_VALUE
        | status_of::CUBLAS_STATUS_ARCH_MISMATCH
        | status_of::CUBLAS_STATUS_LICENSE_ERROR => false,
        // All that the library says of a driver that is too old for it. Of another driver it says so for want of memory.
        status_of::CUBLAS_STATUS_NOT_INITIALIZED => {
            let mut driver = 0;
            // SAFETY: writes one integer, which stays 0 on failure, and needs no context.
            let _ = unsafe { cudarc::driver::sys::cuDriverGetVersion(&raw mut driver) };
            // SAFETY: takes nothing and has no effect.
            is_new_enough(driver, unsafe { sys::cublasLtGetVersion() })
        }
        _ => true,
    }
}

/// Returns true if a driver with this version of CUDA (13010 is 13.1) runs this version of the library (130200 is 13.2.0): the
/// major versions decide.
fn is_new_enough(driver: i32, library: usize) -> bool {
    usize::try_from(driver / 1000).is_ok_and(|major| major >= library / 10_000)
}

trait Named<T> {
    fn named(self, call: &'static str) -> Result<T, CublasLtError>;
}

impl<T> Named<T> for Result<T, result::CublasError> {
    fn named(self, call: &'static str) -> Result<T, CublasLtError> {
        self.map_err(|error| CublasLtError::Failed { call, status: error.to_string(), is_fault: is_fault(error) })
    }
}

/// A matrix description.
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(number: Number, stored: Stored, batch: u32) -> Result<Self, CublasLtError> {
        use sys::cublasLtMatrixLayoutAttribute_t::{
            CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
        };
        let raw = result::create_matrix_layout(data_type(number), stored.rows, stored.columns, stored.pitch as i64)
            .named("cublasLtMatrixLayoutCreate")?;
        let layout = Self(raw);
        if batch > 1 {
            let (count, stride) = (batch as i32, stored.batch_stride as i64);
            layout.set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count)?;
            layout.set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride)?;
        }
        Ok(layout)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatrixLayoutAttribute_t, value: &T) -> Result<(), CublasLtError> {
        // SAFETY: the layout is alive, and the library copies as many bytes as the value has.
        unsafe { result::set_matrix_layout_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>()) }
            .named("cublasLtMatrixLayoutSetAttribute")
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// A product's description.
struct Description(sys::cublasLtMatmulDesc_t);

impl Description {
    fn new(problem: &Problem) -> Result<Self, CublasLtError> {
        use sys::cublasLtMatmulDescAttributes_t as attribute;
        let compute = match (problem.factors, problem.tf32) {
            (Number::F32, true) => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let raw =
            result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F).named("cublasLtMatmulDescCreate")?;
        let description = Self(raw);
        let ColumnMajor { a, b, .. } = problem.column_major();
        // CUBLAS_OP_N = 0, CUBLAS_OP_T = 1.
        description.set(attribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(a.transpose))?;
        description.set(attribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(b.transpose))?;
        let epilogue = match problem.epilogue {
            Epilogue::Plain => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            // Column sums of our right factor, which is the library's A.
            Epilogue::BiasGradient => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADA,
        };
        description.set(attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
        if problem.epilogue != Epilogue::Plain {
            // The library reads the alignment of the vector off its address when it looks for an algorithm, and does not
            // follow it (header of cuBLASLt, at this attribute): one that is no better aligned than `run` asks for. `run`
            // sets the real one.
            description.set_vector(VECTOR_ALIGNMENT)?;
        }
        Ok(description)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &T) -> Result<(), CublasLtError> {
        // SAFETY: the description is alive, and the library copies as many bytes as the value has.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>()) }
            .named("cublasLtMatmulDescSetAttribute")
    }

    fn set_vector(&self, pointer: u64) -> Result<(), CublasLtError> {
        self.set(sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &pointer)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// Limits of the search for an algorithm.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(problem: &Problem) -> Result<Self, CublasLtError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as attribute;
        let raw = result::create_matmul_pref().named("cublasLtMatmulPreferenceCreate")?;
        let preference = Self(raw);
        preference.set(attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &MAX_WORKSPACE)?;
        // Partial sums are never rounded to 16 bits on the way.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes)?;
        for (attribute, operand) in [
            (attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, problem.right),
            (attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, problem.left),
            (attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, problem.out),
            (attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, problem.out),
        ] {
            preference.set(attribute, &operand.alignment)?;
        }
        Ok(preference)
    }

    fn set<T>(&self, attribute: sys::cublasLtMatmulPreferenceAttributes_t, value: &T) -> Result<(), CublasLtError> {
        // SAFETY: the preference is alive, and the library copies as many bytes as the value has.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<T>()) }
            .named("cublasLtMatmulPreferenceSetAttribute")
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: created by `new`, destroyed once. Nothing can be done about a failure.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// Everything that the library needs for one problem, except pointers.
struct Plan {
    description: Description,
    left: Layout,
    right: Layout,
    out: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace_bytes: u64,
}

/// Device addresses of a product's buffers.
#[derive(Clone, Copy, Debug)]
pub struct Pointers {
    /// Address of the left factor.
    pub left: u64,
    /// Address of the right factor.
    pub right: u64,
    /// Address of the result.
    pub out: u64,
    /// Address of the vector of the epilogue, if the problem has one.
    pub vector: Option<u64>,
    /// Address of scratch memory with the number of bytes returned by [`Session::prepare`], unless that was 0.
    pub workspace: Option<u64>,
}

/// The library on one device. Used on the device's own thread, with the device's context current.
pub struct Session {
    handle: sys::cublasLtHandle_t,
    owner: Owner,
    plans: HashMap<Problem, Result<Plan, CublasLtError>>,
}

impl Session {
    /// Opens a session on the current device, named `device`.
    ///
    /// # Errors
    /// The library's reason.
    pub fn open(device: String) -> Result<Self, CublasLtError> {
        // SAFETY: takes nothing and has no effect.
        let version = unsafe { sys::cublasLtGetVersion() };
        // All that the library says of a driver that is too old for it is that it is not initialized.
        let handle = result::create_handle().map_err(|error| CublasLtError::Failed {
            call: "cublasLtCreate",
            status: format!(
                "{error}; version {version} may need a newer driver. For this one: {}",
                Library::CublasLt.how_to_get()
            ),
            is_fault: is_fault(error),
        })?;
        let owner = Owner { library: format!("cublasLt {version}"), device };
        if let Some(other) = Algorithms::of_process().others(&owner).next() {
            tracing::warn!(
                "this run recorded its products with {} on {}; with {} on {} they may round differently",
                other.library,
                other.device,
                owner.library,
                owner.device
            );
        }
        Ok(Self { handle, owner, plans: HashMap::new() })
    }

    /// Plans `problem` unless it is already planned: with the recorded algorithm, or by the library's heuristic, whose
    /// choice is then recorded. Returns the bytes of scratch memory that the product needs.
    ///
    /// # Errors
    /// If the library has no algorithm for it, rejects the recorded one, or fails.
    pub fn prepare(&mut self, problem: &Problem) -> Result<u64, CublasLtError> {
        if !self.plans.contains_key(problem) {
            match self.plan(problem) {
                Err(fault) if fault.is_fault() => return Err(fault),
                plan => self.plans.insert(*problem, plan),
            };
        }
        match &self.plans[problem] {
            Ok(plan) => Ok(plan.workspace_bytes),
            Err(error) => Err(error.clone()),
        }
    }

    fn plan(&self, problem: &Problem) -> Result<Plan, CublasLtError> {
        let ColumnMajor { a, b, d } = problem.column_major();
        let description = Description::new(problem)?;
        let right = Layout::new(problem.factors, a, problem.batch)?;
        let left = Layout::new(problem.factors, b, problem.batch)?;
        let out = Layout::new(problem.result, d, problem.batch)?;
        // Looked up on its own: as the condition it would keep the table locked.
        let recorded = Algorithms::of_process().get(&self.owner, problem);
        let usable = recorded::usable(
            problem,
            recorded.map(|algorithm| self.checked(algorithm, &description, [&right, &left, &out])),
            CublasLtError::is_fault,
            |reason| CublasLtError::Recorded(Box::new(reason)),
            recorded::is_other_rounding_allowed(),
        )?;
        let (algorithm, workspace_bytes) = if let Some(usable) = usable {
            usable
        } else {
            let preference = Preference::new(problem)?;
            // SAFETY: handle, description, layouts and preference are alive.
            let best = unsafe {
                result::get_matmul_algo_heuristic(
                    self.handle,
                    description.0,
                    right.0,
                    left.0,
                    out.0,
                    out.0,
                    preference.0,
                )
            }
            .named("cublasLtMatmulAlgoGetHeuristic")?;
            let workspace_bytes = best.workspaceSize as u64;
            let chosen = Algorithm { words: best.algo.data, workspace_bytes };
            Algorithms::of_process().insert(self.owner.clone(), *problem, chosen);
            (best.algo, workspace_bytes)
        };
        Ok(Plan { description, left, right, out, algorithm, workspace_bytes })
    }

    /// Checks a recorded algorithm; returns it with the bytes of scratch memory that it needs.
    fn checked(
        &self,
        recorded: Algorithm,
        description: &Description,
        [right, left, out]: [&Layout; 3],
    ) -> Result<(sys::cublasLtMatmulAlgo_t, u64), CublasLtError> {
        let algorithm = sys::cublasLtMatmulAlgo_t { data: recorded.words };
        // SAFETY: a result of plain numbers, for which zeros are a value (status 0 is success).
        let mut checked: sys::cublasLtMatmulHeuristicResult_t = unsafe { std::mem::zeroed() };
        // SAFETY: handle, description and layouts are alive; the algorithm is only read, and `checked` written.
        let status = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.handle,
                description.0,
                right.0,
                left.0,
                out.0,
                out.0,
                &raw const algorithm,
                &raw mut checked,
            )
        };
        status.result().named("cublasLtMatmulAlgoCheck")?;
        Ok((algorithm, recorded.workspace_bytes.max(checked.workspaceSize as u64)))
    }

    /// Queues the product on `stream`.
    ///
    /// # Errors
    /// If the problem is not prepared, a pointer is not aligned as the problem says, or the library refuses.
    ///
    /// # Safety
    /// The pointers are device memory of the session's device that holds what `problem` describes, the stream is that
    /// device's, and neither goes away before the product is done on the device. No two products that run at the same
    /// time share a workspace.
    pub unsafe fn run(&mut self, problem: &Problem, pointers: Pointers, stream: CUstream) -> Result<(), CublasLtError> {
        let refused = |reason| Err(CublasLtError::Refused(reason));
        let Some(Ok(plan)) = self.plans.get(problem) else { return refused("cuBLASLt was not asked for a plan") };
        let Pointers { left, right, out, vector, workspace } = pointers;
        for (pointer, operand) in [(left, problem.left), (right, problem.right), (out, problem.out)] {
            if !pointer.is_multiple_of(operand.alignment.into()) {
                return refused("a matrix is less aligned than cuBLASLt's plan expects");
            }
        }
        match (problem.epilogue, vector) {
            (Epilogue::Plain, None) => {}
            (Epilogue::Bias | Epilogue::BiasGradient, Some(vector)) if vector.is_multiple_of(VECTOR_ALIGNMENT) => {
                plan.description.set_vector(vector)?;
            }
            (Epilogue::Bias | Epilogue::BiasGradient, Some(_)) => {
                return refused("a bias is less aligned than cuBLASLt's plan expects");
            }
            _ => return refused("a product with an epilogue has no vector for it"),
        }
        let workspace_ok = workspace.is_some_and(|pointer| pointer.is_multiple_of(FULL_ALIGNMENT.into()));
        if plan.workspace_bytes > 0 && !workspace_ok {
            return refused("cuBLASLt's plan needs scratch memory, and has none");
        }
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the caller's contract covers pointers and stream; handle, description and layouts are alive.
        unsafe {
            result::matmul(
                self.handle,
                plan.description.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                right as *const c_void,
                plan.right.0,
                left as *const c_void,
                plan.left.0,
                out as *const c_void,
                plan.out.0,
                out as *mut c_void,
                plan.out.0,
                &raw const plan.algorithm,
                workspace.unwrap_or(0) as *mut c_void,
                plan.workspace_bytes as usize,
                stream.cast(),
            )
        }
        .named("cublasLtMatmul")
    }
}

/// Name of the current device, with its number of multiprocessors: algorithms depend on both.
///
/// # Errors
/// The driver's reason.
pub fn device_name(ordinal: i32) -> Result<String, CublasLtError> {
    use cudarc::driver::result::device;
    let failed = |error: cudarc::driver::DriverError| CublasLtError::Failed {
        call: "reading the device's name",
        status: error.to_string(),
        is_fault: true,
    };
    let device = device::get(ordinal).map_err(failed)?;
    let name = device::get_name(device).map_err(failed)?;
    let attribute = CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    // SAFETY: the device is one that the driver gave.
    let processors = unsafe { device::get_attribute(device, attribute) }.map_err(failed)?;
    Ok(format!("{name}, {processors} SMs"))
}

fn data_type(number: Number) -> sys::cudaDataType {
    match number {
        Number::F32 => sys::cudaDataType::CUDA_R_32F,
        Number::F16 => sys::cudaDataType::CUDA_R_16F,
        Number::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_runs_libraries_of_its_major_version() {
        for (driver, library, expected) in [(13_000, 130_501, true), (12_080, 130_000, false), (13_000, 120_805, true)]
        {
            assert_eq!(is_new_enough(driver, library), expected, "{driver} {library}");
        }
        assert!(!is_new_enough(0, 120_805), "a driver that does not answer");
    }
}
