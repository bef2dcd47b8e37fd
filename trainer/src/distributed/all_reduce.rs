//! The seam between training and the ways of adding gradients over ranks.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::group::ProcessGroup;
use super::peer::PeerFailure;
use super::tcp_sum::TcpSum;
use crate::device::Compute;

/// Sums tensors over the ranks of a group.
///
/// All ranks call it equally often, with tensors of the same sizes in the same order, and receive the same bits.
pub trait AllReduce: Send + Sync {
    /// Sums each of `tensors` over the ranks; the sums are on the devices that the tensors came from.
    ///
    /// # Errors
    /// If the group has failed, or this rank's device. The sums of this call are then lost on all ranks.
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, ReduceError>;

    /// True if [`Self::sum`] returns only after the sums were checked on the host: a failure then leaves nothing
    /// half-done on the device.
    fn is_on_host(&self) -> bool;
}

/// The reason that sums are missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReduceError {
    /// A rank failed, and with it the group.
    #[error(transparent)]
    Peer(#[from] PeerFailure),
    /// Failure of this rank's device, with its message.
    #[error("{0}")]
    Device(String),
}

/// Chooses how the ranks of `group` add gradients that are on `compute`: NCCL between CUDA devices, otherwise sums on
/// the host over the group's connections.
#[must_use]
pub fn all_reduce_for(group: &Arc<ProcessGroup>, compute: &Compute) -> Box<dyn AllReduce> {
    #[cfg(feature = "cuda")]
    if compute.is_cuda() {
        return Box::new(super::nccl::NcclSum::new(Arc::clone(group)));
    }
    let _ = compute;
    Box::new(TcpSum::new(Arc::clone(group)))
}
