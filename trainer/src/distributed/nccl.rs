//! Sums between GPUs by NCCL, on `CubeCL`'s own buffers and streams.
//!
//! Rank 0 creates the communicator's identifier, and the group's connections distribute it. All calls are made on the
//! device's thread, in program order with Burn's launches (see [`crate::vendor`] for the contract). The communicator
//! does not block: each call returns at once and its progress is polled, so that a lost rank never blocks the thread.
//! When the group fails, the communicator is aborted, which ends the sums that wait for the lost rank.
//!
//! NCCL adds in an order of its own, which depends on the number of ranks and on how they are connected, but not on the
//! run: equal runs give equal bits, while other numbers of ranks agree within rounding.
//!
//! Written without a GPU: no device has executed it so far. `tests/gpu/nccl` makes the calls that need none.

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests;

use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::backend::Cube;
use burn::tensor::Tensor;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::{ServerError, ServerStorage as _};
use cubecl_environment::backtrace::BackTrace;
use cubecl_environment::stream::StreamId;
use cubecl_server::stream::{ExecuteScope, WriteScoped as _};

use super::all_reduce::{AllReduce, ReduceError};
use super::group::ProcessGroup;
use crate::device::failure::reason_of;
use crate::vendor::device_thread::{self, DeviceThreadError, Server};
use crate::vendor::nccl::{self, Communicator, ID_BYTES, NcclError};

/// Bytes of tensors in one group call, for which NCCL launches once.
const BUCKET_BYTES: usize = 64 << 20;
/// Interval at which the progress of a call is polled.
const POLL: Duration = Duration::from_micros(50);
/// Timeout for forming a communicator, and for queuing a call.
const PATIENCE: Duration = Duration::from_mins(5);

/// Sums over the GPUs of a group.
pub(super) struct NcclSum {
    group: Arc<ProcessGroup>,
    /// Communicator created by the first sum; absent after an abort.
    communicator: Arc<Mutex<Option<Communicator>>>,
}

/// Error from forming a communicator.
#[derive(Debug, thiserror::Error)]
enum FormError {
    /// The device's thread did not run the request.
    #[error(transparent)]
    Thread(#[from] DeviceThreadError),
    /// NCCL failed.
    #[error(transparent)]
    Nccl(#[from] NcclError),
}

impl NcclSum {
    /// Creates a sum over the ranks of `group`; the first sum forms the communicator.
    pub(super) fn new(group: Arc<ProcessGroup>) -> Self {
        let communicator: Arc<Mutex<Option<Communicator>>> = Arc::default();
        let aborted = Arc::clone(&communicator);
        group.on_failure(move || abort(&aborted));
        Self { group, communicator }
    }

    /// Sends the identifier to all ranks and forms the communicator on the thread of the device of `x`.
    fn form(&self, x: &CubeTensor) -> Result<(), ReduceError> {
        let library = nccl::library().map_err(|reason| ReduceError::Device(reason.to_string()))?;
        let own = if self.group.rank() == 0 {
            library.unique_id().map_err(|error| ReduceError::Device(error.to_string()))?.to_vec()
        } else {
            Vec::new()
        };
        let ids: Vec<Vec<u8>> = self.group.gather(&own)?.values;
        let id: [u8; ID_BYTES] = ids[0]
            .as_slice()
            .try_into()
            .ok()
            .ok_or_else(|| ReduceError::Device("rank 0 sent no identifier of a communicator".into()))?;
        let (rank, num_ranks) = (self.group.rank() as c_int, self.group.num_ranks() as c_int);
        let (communicator, group) = (Arc::clone(&self.communicator), Arc::clone(&self.group));
        let form = move || -> Result<(), FormError> {
            let formed = Communicator::form(library, num_ranks, id, rank)?;
            // Held from here on, so that a failure of the group aborts it.
            *communicator.lock().unwrap_or_else(PoisonError::into_inner) = Some(formed);
            Ok(settle(&communicator, &group, "ncclCommInitRankConfig")?)
        };
        device_thread::run(x.client.service_id().device, form).map_err(|error| ReduceError::Device(error.to_string()))
    }

    /// Queues the sums of contiguous tensors into new tensors.
    fn queue(&self, tensors: &[CubeTensor]) -> Vec<CubeTensor> {
        let empty = |x: &CubeTensor| {
            empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), x.meta.shape().clone(), x.dtype)
        };
        let sums: Vec<CubeTensor> = tensors.iter().map(empty).collect();
        let Some(first) = tensors.first() else { return sums };
        let device = first.client.service_id().device;
        let stream = StreamId::current();
        let counts: Vec<usize> = tensors.iter().map(|x| x.meta.num_elements()).collect();
        let from: Vec<_> = tensors.iter().map(|x| x.handle.clone().binding()).collect();
        let to: Vec<_> = sums.iter().map(|x| x.handle.clone().binding()).collect();
        let (communicator, group) = (Arc::clone(&self.communicator), Arc::clone(&self.group));
        DeviceHandle::<Server>::new(device).submit(move |server: &mut Server| {
            let bindings: Vec<_> = from.iter().chain(&to).cloned().collect();
            // Pointers before the scope is entered; see `vendor::queue`.
            let held: Result<Vec<_>, _> =
                bindings.iter().map(|binding| server.get_resource(binding.clone(), stream)).collect();
            ExecuteScope::over(server, stream, to.clone()).execute(|server| {
                let held = held?;
                let (from, to) = held.split_at(counts.len());
                let pointers: Vec<(u64, u64, usize)> = from
                    .iter()
                    .zip(to)
                    .zip(&counts)
                    .map(|((from, to), count)| (from.resource().ptr, to.resource().ptr, *count))
                    .collect();
                let mut streams = server.write_streams().resolve(stream, bindings.iter())?;
                let sys = streams.current().sys.cast();
                // SAFETY: `bindings` and `held` keep the buffers until the sums are queued, and the stream's order keeps
                // them until they are done. Pointers were resolved within this task, and each buffer holds as many
                // floats as its count says.
                unsafe { all_reduce(&communicator, &group, &pointers, sys) }.map_err(|error| ServerError::Generic {
                    reason: error.to_string(),
                    backtrace: BackTrace::capture(),
                })
            });
        });
        sums
    }
}

impl AllReduce for NcclSum {
    /// A failed kernel marks its tensors as failed, and NCCL would then wait for this rank forever; therefore all ranks
    /// first exchange whether they found such a mark. Later failures reach the others through the group.
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, ReduceError> {
        // Nothing is copied: the data of the tensors are not read.
        if let Some(error) = tensors.iter().find_map(|tensor| tensor.clone().try_into_data().err()) {
            return Err(ReduceError::Device(reason_of(error)));
        }
        self.group.barrier()?;
        let primitive = |tensor: Tensor<1>| {
            let primitive = tensor.try_into_primitive::<Cube>();
            primitive.map(into_contiguous).map_err(|error| ReduceError::Device(reason_of(error)))
        };
        let tensors: Vec<CubeTensor> = tensors.into_iter().map(primitive).collect::<Result<_, _>>()?;
        let Some(first) = tensors.first() else { return Ok(vec![]) };
        if self.communicator.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            if let Some(failure) = self.group.failure() {
                return Err(failure.into());
            }
            self.form(first)?;
        }
        let mut sums = Vec::with_capacity(tensors.len());
        let mut rest = tensors.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |x: &&CubeTensor| {
                bytes += 4 * x.meta.num_elements();
                bytes <= BUCKET_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (bucket, later) = rest.split_at(count);
            sums.extend(self.queue(bucket));
            rest = later;
        }
        Ok(sums.into_iter().map(Tensor::from_primitive::<Cube>).collect())
    }

    fn is_on_host(&self) -> bool {
        false
    }
}

impl Drop for NcclSum {
    fn drop(&mut self) {
        // This ends sums that are in flight on other ranks as well. None of those is read at the end of a run: a rank saves
        // before the ranks wait for each other and drop this. A reader after that would have to finalize the communicator first.
        abort(&self.communicator);
    }
}

/// Aborts and removes the communicator, if there is one. Does not wait for other ranks.
fn abort(communicator: &Mutex<Option<Communicator>>) {
    if let Some(communicator) = communicator.lock().unwrap_or_else(PoisonError::into_inner).take() {
        communicator.abort();
    }
}

/// Queues one group of float sums on a stream.
///
/// # Safety
/// Each source and target must be a device pointer to that many floats, alive until the stream has passed the sums, and the
/// stream one of the communicator's device.
unsafe fn all_reduce(
    communicator: &Mutex<Option<Communicator>>,
    group: &ProcessGroup,
    pointers: &[(u64, u64, usize)],
    stream: *mut c_void,
) -> Result<(), NcclError> {
    {
        let held = communicator.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(communicator) = &*held else { return Err(aborted(group)) };
        // SAFETY: the caller's promise.
        unsafe { communicator.sum(pointers, stream) }?;
    }
    settle(communicator, group, "ncclAllReduce")
}

/// Waits until the last call on the communicator is no longer in progress, that is, until it is queued, not until it is
/// done.
fn settle(
    communicator: &Mutex<Option<Communicator>>,
    group: &ProcessGroup,
    call: &'static str,
) -> Result<(), NcclError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The group may have failed before this communicator was there to be aborted.
        if group.failure().is_some() {
            abort(communicator);
            return Err(aborted(group));
        }
        {
            let held = communicator.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(communicator) = &*held else { return Err(aborted(group)) };
            if communicator.is_settled(call)? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NcclError { call, status: format!("no progress in {} s", PATIENCE.as_secs()) });
            }
        }
        // Unlocked, so that a failure of the group can abort the call.
        std::thread::sleep(POLL);
    }
}

fn aborted(group: &ProcessGroup) -> NcclError {
    let reason = group.failure().map_or_else(|| "no communicator".to_owned(), |failure| failure.to_string());
    NcclError { call: "a sum", status: reason }
}
