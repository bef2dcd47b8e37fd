//! Tasks on the thread that drives a CUDA device, in the order of `CubeCL`'s own launches.

use cubecl::cuda::CudaRuntime;
use cubecl::device::DeviceId;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::{Server as _, ServerError};
use cubecl_environment::stream::StreamId;
use cubecl_server::runtime::Runtime;

/// `CubeCL`'s server of a CUDA device, which holds the state of the device's thread.
pub(crate) type Server = <CudaRuntime as Runtime>::Server;

/// Failure of a device's thread to run a task.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DeviceThreadError {
    /// The device's context cannot be made current.
    #[error(transparent)]
    Context(Box<ServerError>),
    /// The thread panicked with this message.
    #[error("{0}")]
    Panicked(String),
}

/// Runs `task` on the thread of a device, with the device's context current, and waits for its result.
///
/// # Errors
/// If the thread does not run the task, or with the task's own error.
pub(crate) fn run<T: Send, E: From<DeviceThreadError> + Send>(
    device: DeviceId,
    task: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    let stream = StreamId::current();
    let answer = DeviceHandle::<Server>::new(device).submit_blocking(move |server: &mut Server| {
        // Makes the device's context current, as every task of CubeCL does.
        server.flush(stream).map_err(|error| DeviceThreadError::Context(Box::new(error)))?;
        task()
    });
    answer.map_err(|error| {
        DeviceThreadError::Panicked(error.message().unwrap_or("the device's thread panicked").to_owned())
    })?
}
