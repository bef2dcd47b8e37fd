//! Free memory of a CUDA device, as reported by the driver.

use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::Server as _;
use cubecl_environment::stream::StreamId;
use cubecl_server::runtime::Runtime;

type Server = <CudaRuntime as Runtime>::Server;

/// Free bytes of the device of `x`, queried on the device's thread; `None` if the driver does not report them.
#[must_use]
pub fn free_bytes(x: &CubeTensor) -> Option<u64> {
    let stream = StreamId::current();
    let answer =
        DeviceHandle::<Server>::new(x.client.service_id().device).submit_blocking(move |server: &mut Server| {
            // Makes the device's context current, as every task of CubeCL does.
            server.flush(stream).ok()?;
            let (free, _) = cudarc::driver::result::mem_get_info().ok()?;
            u64::try_from(free).ok()
        });
    answer.ok().flatten()
}
