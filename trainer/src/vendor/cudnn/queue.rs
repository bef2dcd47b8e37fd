//! Plans of cuDNN, queued in the order of `CubeCL`'s own launches and on its buffers and streams, as
//! [`crate::vendor::queue`] does for products.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device::DeviceId;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::ServerStorage as _;
use cubecl_environment::stream::StreamId;
use cubecl_server::stream::{ExecuteScope, WriteScoped as _};

use super::session::{ALIGNMENT, Problem, Session};
use super::{CudnnError, Unavailable, library};
use crate::vendor::answers::{Answers, Prepared};
use crate::vendor::device_thread::{self, DeviceThreadError, Server};
use crate::vendor::queue::failure;
use crate::vendor::{cublaslt, timing};

thread_local! {
    /// Sessions of the devices driven by this thread, which is a single device. Handles are not shared between threads.
    static SESSIONS: RefCell<HashMap<DeviceId, Session>> = RefCell::new(HashMap::new());
}

/// Answers of the library, by device and the keys of problems.
static PREPARED: Answers<(DeviceId, String), PrepareError> = Answers::new(PrepareError::is_fault);

/// Reason why the library does not compute a problem, in one line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PrepareError {
    /// The library is not used.
    #[error(transparent)]
    Unavailable(#[from] &'static Unavailable),
    /// The device's thread did not run the request.
    #[error(transparent)]
    Thread(#[from] DeviceThreadError),
    /// The library rejects the problem, or fails.
    #[error(transparent)]
    Refused(#[from] CudnnError),
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

/// Checks that the library is available and computes `problem` on the device of `x`; the first time, asks on the
/// device's thread and waits for the answer. A fault is part of the answer: [`launch`] hands it to what it writes.
///
/// # Errors
/// The reason why the library does not compute it.
pub fn prepare<P: Problem + Clone + Send + 'static>(problem: &P, x: &CubeTensor) -> Result<Prepared, PrepareError> {
    let device = x.client.service_id().device;
    PREPARED.get((device, problem.key()), || {
        library()?;
        let problem = problem.clone();
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
    work: impl FnOnce(&mut Session) -> Result<T, CudnnError>,
) -> Result<T, CudnnError> {
    SESSIONS.with_borrow_mut(|sessions| {
        work(match sessions.entry(device) {
            Entry::Occupied(session) => session.into_mut(),
            Entry::Vacant(place) => {
                let name = cublaslt::device_name(device.index_id.into());
                let name = name.map_err(|error| CudnnError::Driver(error.to_string()))?;
                place.insert(Session::open(name)?)
            }
        })
    })
}

/// Returns `x` without gaps and at an address that plans accept; copied only if necessary.
#[must_use]
pub fn aligned(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    // Allocations begin at multiples of 512 bytes (cubecl-cuda, `mem_alignment`); a part of one may not.
    if x.handle.offset_start.unwrap_or(0).is_multiple_of(ALIGNMENT) { x } else { into_contiguous(x.copy()) }
}

/// A tensor, and the graph's tensors stored in it.
#[derive(Clone, Copy)]
pub struct Buffer<'a> {
    /// Tensor whose memory is used.
    pub tensor: &'a CubeTensor,
    /// Identifiers of the graph's tensors stored in it, with their offsets in bytes.
    pub places: &'a [(i64, u64)],
}

/// Queues a problem. `problem` must describe these tensors and have been [prepared](prepare) on their device, which
/// returned `prepared`.
///
/// # Panics
/// If there is no tensor to write, or the tensors are on different devices.
pub fn launch<P: Problem + Send + 'static>(
    problem: P,
    prepared: Prepared,
    read: &[Buffer<'_>],
    written: &[Buffer<'_>],
) {
    let client = &written.first().expect("a plan writes").tensor.client;
    let service = client.service_id();
    assert!(read.iter().chain(written).all(|buffer| buffer.tensor.client.service_id() == service), "one device");
    let device = service.device;
    let stream = StreamId::current();
    let planned = prepared.into_result();
    let workspace_bytes = *planned.as_ref().unwrap_or(&0);
    let workspace = (workspace_bytes > 0).then(|| client.empty(workspace_bytes as usize).binding());
    let bind = |buffers: &[Buffer<'_>]| -> Vec<_> {
        buffers.iter().map(|buffer| (buffer.tensor.handle.clone().binding(), buffer.places.to_vec())).collect()
    };
    let (read, written) = (bind(read), bind(written));
    DeviceHandle::<Server>::new(device).submit(move |server: &mut Server| {
        let buffers: Vec<_> = read.iter().chain(&written).collect();
        let bindings: Vec<_> = buffers.iter().map(|(binding, _)| binding).chain(&workspace).cloned().collect();
        // Pointers before the scope is entered: inside it the results carry the provisional failure that a read of them
        // would report. A tensor that carries a failure ends here, and hands it to the results.
        let held =
            bindings.iter().map(|binding| server.get_resource(binding.clone(), stream)).collect::<Result<Vec<_>, _>>();
        let written: Vec<_> = written.iter().map(|(binding, _)| binding.clone()).collect();
        ExecuteScope::over(server, stream, written).execute(|server| {
            let held = held?;
            planned.map_err(failure)?;
            let pointers: Vec<u64> = held.iter().map(|resource| resource.resource().ptr).collect();
            let at = |(pointer, (_, places)): (&u64, &&(_, Vec<(i64, u64)>))| {
                let pointer = *pointer;
                places.iter().map(move |&(uid, offset)| (uid, pointer + offset)).collect::<Vec<_>>()
            };
            let addresses: Vec<(i64, u64)> = pointers.iter().zip(&buffers).flat_map(at).collect();
            let workspace = workspace.as_ref().and_then(|_| pointers.last().copied());
            // Waits for the streams that the buffers come from. Dropped after the plan is queued: dropping it marks the
            // point after which those streams may use the memory again.
            let mut streams = server.write_streams().resolve(stream, bindings.iter())?;
            let sys = streams.current().sys;
            let name = || problem.to_string();
            // SAFETY: `bindings` and `held` keep the buffers until the plan is queued, and the stream's order keeps them
            // until it is done: whatever reuses the memory is queued after it, as after any launch. Pointers were
            // resolved within this task. The workspace is this call's own. Sizes fit, since `problem` was made of the
            // tensors' own shapes and strides.
            let run = |session: &mut Session| unsafe { session.run(&problem, &addresses, workspace, sys.cast()) };
            timing::around(name, sys, || with_session(device, run)).map_err(|error| failure(error.to_string()))
        });
    });
}
