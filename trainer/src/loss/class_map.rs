//! Label maps on a device, checked before a loss can use them.
//!
//! One-hot encoding cannot represent a label above the last class: the voxel would match no class and silently drop out
//! of the loss. A [`ClassMap`] cannot hold such a label, so a loss that takes one need not check, which on a GPU would
//! wait for the device at every step.
//!
//! With an ignore label, a map also knows the number of its annotated voxels: the cross entropy of a step is a mean
//! over the annotated voxels of all micro-batches and ranks, which must agree on the total before computing.

use burn::tensor::{DType, Device, Int, IntDType, Tensor, TensorData};
use thiserror::Error;

use crate::device::failure::reason_of;
use crate::label_space::{LabelOutOfRange, LabelSpace};

/// Labels `[N, 1, X, Y, Z]` on a device, each a class or the ignore label of a [`LabelSpace`].
#[derive(Clone, Debug)]
pub struct ClassMap {
    labels: Tensor<5, Int>,
    space: LabelSpace,
    /// Number of annotated voxels, if the space has an ignore label.
    num_annotated: Option<u64>,
}

/// Errors from checking labels on a device.
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
        crop_size: [usize; 3],
        space: LabelSpace,
        device: &Device,
    ) -> Result<Self, LabelOutOfRange> {
        space.check(labels)?;
        Ok(Self::upload_checked(labels, num_crops, crop_size, space, device))
    }

    /// Uploads as [`Self::upload`] does, for labels that are known to lie in `space`.
    pub(crate) fn upload_checked(
        labels: &[u8],
        num_crops: usize,
        [x, y, z]: [usize; 3],
        space: LabelSpace,
        device: &Device,
    ) -> Self {
        let data = TensorData::new(labels.to_vec(), [num_crops, 1, x, y, z]);
        // As bytes: in the device's own integers they would be converted here, and cross at four times the size.
        let on_device = Tensor::from_data(data, (device, DType::U8));
        Self { labels: on_device, space, num_annotated: space.num_annotated(labels) }
    }

    /// Checks labels `[N, 1, X, Y, Z]` that are already on a device. Reads them back, which waits for the device.
    ///
    /// # Errors
    /// The first label outside `space`, or a failure of the device.
    ///
    /// # Panics
    /// If the labels have more than one channel.
    pub fn from_tensor(labels: Tensor<5, Int>, space: LabelSpace) -> Result<Self, ClassMapError> {
        let data = read(labels.clone())?;
        for (voxel, label) in data.iter::<i64>().enumerate() {
            if !u8::try_from(label).is_ok_and(|label| space.contains(label)) {
                return Err(LabelOutOfRange { label, voxel, space }.into());
            }
        }
        Self::of_checked(labels, space)
    }

    /// Wraps labels `[N, 1, X, Y, Z]` on a device that are known to lie in `space`, because their source was checked.
    /// With an ignore label, counts annotated voxels on the device, which waits for it.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Panics
    /// If the labels have more than one channel.
    pub(crate) fn of_checked(labels: Tensor<5, Int>, space: LabelSpace) -> Result<Self, ClassMapError> {
        let [num_crops, channels, x, y, z] = labels.dims();
        assert_eq!(channels, 1, "labels must be [N, 1, X, Y, Z]");
        let Some(ignore) = space.ignore() else { return Ok(Self { labels, space, num_annotated: None }) };
        // Counted crop by crop: a byte cannot hold a count, and an i32 may not hold that of a batch.
        let rows = labels.clone().cast(IntDType::I32).reshape([num_crops, x * y * z]);
        let counts = read(rows.not_equal_elem(i64::from(ignore)).int().sum_dim(1))?;
        let num_annotated = counts.iter::<i64>().map(i64::unsigned_abs).sum();
        Ok(Self { labels, space, num_annotated: Some(num_annotated) })
    }

    /// Labels, `[N, 1, X, Y, Z]`.
    #[must_use]
    pub fn labels(&self) -> Tensor<5, Int> {
        self.labels.clone()
    }

    /// Labels that may occur.
    #[must_use]
    pub fn space(&self) -> LabelSpace {
        self.space
    }

    /// Number of annotated voxels; `None` without an ignore label, when all voxels are annotated.
    #[must_use]
    pub fn num_annotated(&self) -> Option<u64> {
        self.num_annotated
    }
}

/// Reads a tensor back from its device.
fn read<const D: usize>(tensor: Tensor<D, Int>) -> Result<TensorData, ClassMapError> {
    tensor.try_into_data().map_err(|error| ClassMapError::Device(reason_of(error)))
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::on_devices;

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

    fn annotated_voxels_are_counted_alike_on_host_and_device(device: &Device) {
        // More voxels than a byte counts: the ignore label is every fifth one.
        let labels: Vec<u8> = (0..2 * 512).map(|at| if at % 5 == 0 { 255 } else { at as u8 % 3 }).collect();
        let map = |space| ClassMap::upload(&labels, 2, [8; 3], space, device).unwrap();
        let with_ignore = LabelSpace::new(3).with_ignore(Some(255));
        let expected = Some(1024 - 205);
        let uploaded = map(with_ignore);
        assert_eq!(uploaded.num_annotated(), expected);
        assert_eq!(ClassMap::of_checked(uploaded.labels(), with_ignore).unwrap().num_annotated(), expected);
        assert_eq!(ClassMap::from_tensor(uploaded.labels(), with_ignore).unwrap().num_annotated(), expected);
        // Without an ignore label there is nothing to agree on.
        assert_eq!(map(LabelSpace::new(256)).num_annotated(), None);
        let all = ClassMap::of_checked(uploaded.labels(), LabelSpace::new(256)).unwrap();
        assert_eq!(all.num_annotated(), None);
    }

    on_devices!(annotated_voxels_are_counted_alike_on_host_and_device);
}
