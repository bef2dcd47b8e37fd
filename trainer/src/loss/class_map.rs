//! Label maps on a device, checked before a loss can use them.
//!
//! One-hot encoding has no place for a label above the last class: the voxel would match no class and silently drop
//! out of the loss. A [`ClassMap`] cannot hold such a label, so a loss that takes one need not check, which on a GPU
//! would wait for the device at every step.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use thiserror::Error;

use crate::label_space::{LabelOutOfRange, LabelSpace};

/// Labels `[N, 1, X, Y, Z]` on a device, each a class or the ignore label of a [`LabelSpace`].
#[derive(Clone, Debug)]
pub struct ClassMap {
    labels: Tensor<5, Int>,
    space: LabelSpace,
}

/// Errors from checking labels that lie on a device.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ClassMapError {
    /// A label that is neither a class nor the ignore label.
    #[error(transparent)]
    OutOfRange(#[from] LabelOutOfRange),
    /// The labels could not be read back.
    #[error("labels cannot be read back from the device: {0}")]
    Device(String),
}

impl ClassMap {
    /// Checks `labels` of `num_crops` crops of `crop_size` voxels (z fastest) and copies them to a device.
    ///
    /// # Errors
    /// The first label outside `space`.
    ///
    /// # Panics
    /// If there are not as many labels as voxels.
    pub fn upload(
        labels: &[u8],
        num_crops: usize,
        [x, y, z]: [usize; 3],
        space: LabelSpace,
        device: &Device,
    ) -> Result<Self, LabelOutOfRange> {
        space.check(labels)?;
        let data = TensorData::new(labels.to_vec(), [num_crops, 1, x, y, z]);
        Ok(Self::of_checked(Tensor::from_data(data, (device, DType::U8)), space))
    }

    /// Checks labels `[N, 1, X, Y, Z]` that lie on a device already. Reads them back, which waits for the device.
    ///
    /// # Errors
    /// The first label outside `space`, or a failure of the device.
    ///
    /// # Panics
    /// If the labels have more than one channel.
    pub fn from_tensor(labels: Tensor<5, Int>, space: LabelSpace) -> Result<Self, ClassMapError> {
        let data = labels.clone().try_into_data().map_err(|error| ClassMapError::Device(format!("{error:?}")))?;
        for (voxel, label) in data.iter::<i64>().enumerate() {
            if !u8::try_from(label).is_ok_and(|label| space.contains(label)) {
                return Err(LabelOutOfRange { label, voxel, space }.into());
            }
        }
        Ok(Self::of_checked(labels, space))
    }

    /// Labels that are known to lie in `space`, because what they were copied from was checked.
    pub(crate) fn of_checked(labels: Tensor<5, Int>, space: LabelSpace) -> Self {
        let [_, channels, ..] = labels.dims();
        assert_eq!(channels, 1, "labels must be [N, 1, X, Y, Z]");
        Self { labels, space }
    }

    /// The labels, `[N, 1, X, Y, Z]`.
    #[must_use]
    pub fn labels(&self) -> Tensor<5, Int> {
        self.labels.clone()
    }

    /// The labels that may occur.
    #[must_use]
    pub fn space(&self) -> LabelSpace {
        self.space
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_out_of_range_are_refused_on_host_and_device() {
        let (device, space) = (Device::flex(), LabelSpace::new(3));
        let map = |labels: &[u8]| ClassMap::upload(labels, 1, [labels.len(), 1, 1], space, &device);
        assert_eq!(map(&[0, 2, 1]).unwrap().labels().dims(), [1, 1, 3, 1, 1]);
        assert_eq!(map(&[0, 4, 3]).unwrap_err().label, 4);

        let on_device = |labels: Vec<i64>| {
            let data = TensorData::new(labels.clone(), [1, 1, labels.len(), 1, 1]);
            ClassMap::from_tensor(Tensor::from_data(data, &device), space)
        };
        assert!(on_device(vec![0, 1, 2]).is_ok());
        for (labels, label, voxel) in [(vec![0, 3], 3, 1), (vec![-1, 0], -1, 0)] {
            let expected = ClassMapError::OutOfRange(LabelOutOfRange { label, voxel, space });
            assert_eq!(on_device(labels).unwrap_err(), expected);
        }
    }
}
