//! Products by cuBLASLt, queued in the order of `CubeCL`'s own launches and on its buffers and streams.
//!
//! A call is a task on the device's thread, as a launch is, so that it runs after all earlier launches and before all
//! later ones. There it resolves pointers, makes its stream wait for the streams that its factors come from, and queues
//! the product inside a scope that claims the result: if any of this fails, the result carries the failure, and a read
//! of it, or of anything computed from it, ends with the reason.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device::DeviceId;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::{ServerError, ServerStorage as _};
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::stream::StreamId;
use cubecl_server::stream::{ExecuteScope, WriteScoped as _};

use super::answers::{Answers, Prepared};
use super::cublaslt::{self, CublasLtError, Pointers, Session, Unavailable};
use super::device_thread::{self, DeviceThreadError, Server};
use super::layout::Matrix;
use super::problem::{Epilogue, Number, Placed, Problem};
use super::timing;

thread_local! {
    /// Sessions of the devices driven by this thread, which is a single device. Library handles are not shared between
    /// threads.
    static SESSIONS: RefCell<HashMap<DeviceId, Session>> = RefCell::new(HashMap::new());
}

/// Answers of the library, by device and problem.
static PREPARED: Answers<(DeviceId, Problem), PrepareError> = Answers::new(PrepareError::is_fault);

/// Reason why the library does not compute a product, in one line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PrepareError {
    /// The library is not used.
    #[error(transparent)]
    Unavailable(#[from] &'static Unavailable),
    /// The device's thread did not run the request.
    #[error(transparent)]
    Thread(#[from] DeviceThreadError),
    /// The library rejects the product, or fails.
    #[error(transparent)]
    Refused(#[from] CublasLtError),
}

impl PrepareError {
    /// Returns true if no other kernel may take the library's place.
    fn is_fault(&self) -> bool {
        match self {
            Self::Unavailable(_) => false,
            Self::Thread(_) => true,
            Self::Refused(reason) => reason.is_fault(),
        }
    }
}

/// Returns true if a tensor is on a CUDA device.
#[must_use]
pub fn on_cuda(x: &CubeTensor) -> bool {
    x.client.service_id().service == TypeId::of::<Server>()
}

/// Number type of a tensor's values; `None` if products do not support it.
#[must_use]
pub fn number(dtype: DType) -> Option<Number> {
    match dtype {
        DType::F32 => Some(Number::F32),
        DType::F16 => Some(Number::F16),
        DType::BF16 => Some(Number::Bf16),
        _ => None,
    }
}

/// Matrix of `x` with its place in the buffer; `None` if `x` is stored in tiles.
#[must_use]
pub fn placed(x: &CubeTensor, matrix: Matrix) -> Option<Placed> {
    let untiled = x.meta.logical_rank().ok() == Some(x.meta.shape().num_dims()) && x.qparams.is_none();
    // Allocations begin at multiples of 512 bytes (cubecl-cuda, `mem_alignment`); what the problem assumes is checked
    // again when the pointer is known.
    untiled.then(|| Placed { matrix, offset: x.handle.offset_start.unwrap_or(0) })
}

/// Checks that the library is available and computes `problem` on the device of `x`; the first time, asks on the
/// device's thread and waits for the answer. A fault is part of the answer: [`launch`] hands it to the result.
///
/// # Errors
/// The reason why the library does not compute it.
pub fn prepare(problem: &Problem, x: &CubeTensor) -> Result<Prepared, PrepareError> {
    let (problem, device) = (*problem, x.client.service_id().device);
    PREPARED.get((device, problem), || {
        cublaslt::library()?;
        device_thread::run(device, move || Ok(with_session(device, |session| session.prepare(&problem))?))
    })
}

/// Forgets answers, and the session of the device of `x` with its plans, as if the process began; recorded choices stay.
///
/// # Errors
/// If the device's thread does not run the request.
#[cfg(any(test, feature = "device-tests"))]
pub(crate) fn forget(x: &CubeTensor) -> Result<(), DeviceThreadError> {
    PREPARED.clear();
    let device = x.client.service_id().device;
    device_thread::run(device, move || {
        SESSIONS.with_borrow_mut(|sessions| sessions.remove(&device));
        Ok(())
    })
}

fn with_session<T>(
    device: DeviceId,
    work: impl FnOnce(&mut Session) -> Result<T, CublasLtError>,
) -> Result<T, CublasLtError> {
    SESSIONS.with_borrow_mut(|sessions| {
        work(match sessions.entry(device) {
            Entry::Occupied(session) => session.into_mut(),
            Entry::Vacant(place) => {
                let name = cublaslt::device_name(device.index_id.into())?;
                place.insert(Session::open(name)?)
            }
        })
    })
}

/// Queues `left · right` into `out`. `problem` must describe these tensors and have been [prepared](prepare) on their
/// device, which returned `prepared`; `vector` belongs to the epilogue.
///
/// # Panics
/// If the tensors are on different devices.
pub fn launch(problem: Problem, prepared: Prepared, [left, right, out]: [&CubeTensor; 3], vector: Option<&CubeTensor>) {
    let service = out.client.service_id();
    assert!([left, right].into_iter().chain(vector).all(|x| x.client.service_id() == service), "one device");
    let device = service.device;
    let stream = StreamId::current();
    let planned = prepared.into_result();
    let workspace_bytes = *planned.as_ref().unwrap_or(&0);
    let workspace = (workspace_bytes > 0).then(|| out.client.empty(workspace_bytes as usize).binding());
    let [a, b, d] = [left, right, out].map(|x| x.handle.clone().binding());
    let vector = vector.map(|x| x.handle.clone().binding());
    let writes_vector = problem.epilogue == Epilogue::BiasGradient;
    DeviceHandle::<Server>::new(device).submit(move |server: &mut Server| {
        let bindings: Vec<_> = [&a, &b, &d].into_iter().chain(&vector).chain(&workspace).cloned().collect();
        // Pointers before the scope is entered: inside it the result carries the provisional failure that a read of it
        // would report. A factor that carries a failure ends here, and hands it to the result.
        let held =
            bindings.iter().map(|binding| server.get_resource(binding.clone(), stream)).collect::<Result<Vec<_>, _>>();
        let mut written = vec![d.clone()];
        written.extend(vector.clone().filter(|_| writes_vector));
        ExecuteScope::over(server, stream, written).execute(|server| {
            let held = held?;
            planned.map_err(failure)?;
            let mut pointer = held.iter().map(|resource| resource.resource().ptr);
            let mut next = || pointer.next().expect("one a binding");
            let pointers = Pointers {
                left: next(),
                right: next(),
                out: next(),
                vector: vector.as_ref().map(|_| next()),
                workspace: workspace.as_ref().map(|_| next()),
            };
            // Waits for the streams that the buffers come from. Dropped after the product is queued: dropping it marks
            // the point after which those streams may use the memory again.
            let mut streams = server.write_streams().resolve(stream, bindings.iter())?;
            let sys = streams.current().sys;
            let name = || problem.to_string();
            // SAFETY: `bindings` and `held` keep the buffers until the product is queued, and the stream's order keeps
            // them until it is done: whatever reuses the memory is queued after it, as after any launch. Pointers were
            // resolved within this task. The workspace is this call's own. Sizes fit, since `problem` was made of the
            // tensors' own shapes and strides.
            let run = |session: &mut Session| unsafe { session.run(&problem, pointers, sys) };
            timing::around(name, sys, || with_session(device, run)).map_err(|error| failure(error.to_string()))
        });
    });
}

/// Failure of a call, for what it would have written.
pub(super) fn failure(reason: String) -> ServerError {
    ServerError::Generic { reason, backtrace: BackTrace::capture() }
}
