//! Interface between training and the methods of adding gradients over ranks.

use burn::tensor::{Device, Tensor, TensorData};

use super::peer::PeerFailure;
use crate::device::failure::reason_of;

/// Sums tensors over the ranks of a group.
///
/// All ranks call it equally often, with tensors of the same sizes in the same order, and receive the same bits.
pub trait AllReduce: Send + Sync {
    /// Sums each of `tensors` over the ranks; the sums are on the same devices as the tensors.
    ///
    /// # Errors
    /// If the group has failed, or this rank's device. The sums of this call are then lost on all ranks.
    fn sum(&self, tensors: Vec<Tensor<1>>) -> Result<Vec<Tensor<1>>, ReduceError>;

    /// Returns true if [`Self::sum`] returns only after the sums have been checked on the host: a failure then leaves
    /// no unfinished work on the device.
    fn is_on_host(&self) -> bool;
}

/// Reason why sums are missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReduceError {
    /// A rank failed, and with it the group.
    #[error(transparent)]
    Peer(#[from] PeerFailure),
    /// Failure of this rank's device, with its reason.
    #[error("{0}")]
    Device(String),
}

/// A sum of floats over the ranks, on the host.
pub(super) trait HostSum {
    /// Appends values.
    ///
    /// # Errors
    /// If the group has failed.
    fn add(&mut self, values: &[f32]) -> Result<(), PeerFailure>;

    /// Returns the sums of all values, in the order in which they were appended.
    ///
    /// # Errors
    /// If the group has failed.
    fn finish(self) -> Result<Vec<f32>, PeerFailure>;
}

/// Sums tensors via the host.
pub(super) fn sum_on_host(tensors: Vec<Tensor<1>>, mut sum: impl HostSum) -> Result<Vec<Tensor<1>>, ReduceError> {
    let places: Vec<(Device, usize)> = tensors.iter().map(|tensor| (tensor.device(), tensor.dims()[0])).collect();
    for tensor in tensors {
        // The device copies while earlier buckets are sent and added.
        let data = tensor.try_into_data().map_err(|error| ReduceError::Device(reason_of(error)))?;
        let values = data.try_to_vec::<f32>().map_err(|error| ReduceError::Device(reason_of(error)))?;
        sum.add(&values)?;
    }
    let sums = sum.finish()?;
    let mut rest = sums.as_slice();
    let back = places.into_iter().map(|(device, len)| {
        let (own, after) = rest.split_at(len);
        rest = after;
        Tensor::from_data(TensorData::new(own.to_vec(), [len]), &device)
    });
    Ok(back.collect())
}
