//! Choice of the method by which the ranks of a group add gradients.

use std::sync::Arc;

use super::all_reduce::AllReduce;
use super::group::ProcessGroup;
use super::tcp_sum::TcpSum;
use crate::device::Compute;

/// Selects the method by which the ranks of `group` add gradients on `compute`: NCCL between CUDA devices, MPI between
/// ranks started by `mpirun`, otherwise sums on the host over the group's connections.
#[must_use]
pub fn all_reduce_for(group: &Arc<ProcessGroup>, compute: &Compute) -> Box<dyn AllReduce> {
    #[cfg(feature = "cuda")]
    if compute.is_cuda() {
        return Box::new(super::nccl::NcclSum::new(Arc::clone(group)));
    }
    #[cfg(feature = "mpi")]
    if group.is_of_mpi() {
        return Box::new(super::mpi::MpiSum);
    }
    let _ = compute;
    Box::new(TcpSum::new(Arc::clone(group)))
}
