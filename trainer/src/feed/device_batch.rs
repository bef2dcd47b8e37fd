//! Batches on the device, and their upload.

use std::ops::Range;
use std::time::Instant;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use hiend_loader::batch::{Batch, BatchTimes, CropBox, CropChunks, CropRecord, Dequantize, Images};
use hiend_loader::program::catch_panic;

use super::error::FeedError;
use super::targets::{HostCrops, Targets};
use crate::augment::{CropBoxes, OtherChain};
use crate::device::failure::reason_of;
use crate::ops::decode::CodedCrops;
use crate::ops::dequantize::dequantize;

/// Crops of one forward and backward pass.
#[derive(Clone, Debug)]
pub struct Part<T> {
    voxels: Voxels,
    /// Targets of the crops.
    pub target: T,
}

/// Voxels `[n, 1, x, y, z]` on the device.
#[derive(Clone, Debug)]
enum Voxels {
    Floats(Tensor<5>),
    /// Quantized values, and the dequantization parameters of each crop, `[n, 6]`.
    Quantized(Tensor<5, Int>, Box<Tensor<2>>),
    /// Boxes from which the crops are made on the device.
    Boxes(CropBoxes),
    /// Encoded chunks from which the crops are decoded.
    Chunks(Box<CodedCrops>),
}

impl<T> Part<T> {
    /// Voxels as floats `[n, 1, x, y, z]`, on the device without autodiff because they are constants.
    #[must_use]
    pub fn images(&self) -> Tensor<5> {
        match &self.voxels {
            Voxels::Floats(floats) => floats.clone(),
            Voxels::Quantized(quantized, params) => dequantize(quantized.clone(), (**params).clone()),
            Voxels::Boxes(boxes) => boxes.images(),
            Voxels::Chunks(coded) => coded.images(),
        }
    }

    /// Number of crops.
    #[must_use]
    pub fn num_crops(&self) -> usize {
        match &self.voxels {
            Voxels::Floats(floats) => floats.dims()[0],
            Voxels::Quantized(quantized, _) => quantized.dims()[0],
            Voxels::Boxes(boxes) => boxes.num_crops(),
            Voxels::Chunks(coded) => coded.num_crops(),
        }
    }
}

/// A batch on the device.
#[derive(Debug)]
pub struct DeviceBatch<T> {
    /// Step of the batch.
    pub step: u64,
    /// Crops in order: one part, or one per micro-batch. Never empty.
    pub parts: Vec<Part<T>>,
    /// Origin of each crop.
    pub crops: Vec<CropRecord>,
    /// Times measured by the loader.
    pub loader: BatchTimes,
    /// Seconds from the loader's buffer to the device, including targets.
    pub upload_secs: f64,
}

/// Uploads `batch` to the device in parts of `micro_batch` crops. `None` if the batch has no crop: cases that turn out
/// corrupt are skipped, so that a batch may be shorter than usual or empty; see
/// [`OnCorrupt::Skip`](hiend_loader::pipeline::OnCorrupt::Skip).
///
/// # Errors
/// [`FeedError`] if the batch is not of `step`, not of crops of `crop_size`, holds no target, cannot be augmented on the
/// device, or the device fails.
pub(super) fn prepare<T>(
    batch: Batch,
    step: u64,
    targets: &impl Targets<Target = T>,
    device: &Device,
    crop_size: [usize; 3],
    micro_batch: Option<usize>,
) -> Result<Option<DeviceBatch<T>>, FeedError> {
    check(&batch, step, crop_size)?;
    let n = batch.crops.len();
    if n == 0 {
        return Ok(None);
    }
    let start = Instant::now();
    let make = || -> Result<Vec<Part<T>>, FeedError> {
        let mut parts = Vec::new();
        let size = micro_batch.unwrap_or(n).max(1);
        for (part, crops) in batch.crops.chunks(size).enumerate() {
            let own = part * size..part * size + crops.len();
            let (voxels, range) = upload(&batch, own, device).map_err(|source| FeedError::Augment { step, source })?;
            let labels = batch.labels.as_ref().map(|labels| &labels[range]);
            let boxes = if let Voxels::Boxes(boxes) = &voxels { Some(boxes) } else { None };
            let host = HostCrops { crop_size, crops, labels, boxes };
            let target = targets.make(&host, device).map_err(|source| FeedError::Target { step, source })?;
            parts.push(Part { voxels, target });
        }
        device.sync().map_err(|error| FeedError::Upload { step, message: reason_of(error) })?;
        Ok(parts)
    };
    let parts = if *device == Device::flex() { make() } else { on_device(step, make) }?;
    let upload_secs = start.elapsed().as_secs_f64();
    Ok(Some(DeviceBatch { step, parts, crops: batch.crops, loader: batch.times, upload_secs }))
}

/// Calls `work`, which uses a GPU. `CubeCL` panics in calls that have no error to return, such as those after the thread
/// of its device has ended: as in the reading of losses, a panic is the device's failure. On the CPU it is a bug.
///
/// # Errors
/// The error of `work`, or [`FeedError::Upload`] with the message of a panic.
fn on_device<T>(step: u64, work: impl FnOnce() -> Result<T, FeedError>) -> Result<T, FeedError> {
    catch_panic(work).unwrap_or_else(|message| Err(FeedError::Upload { step, message }))
}

/// Checks that `batch` belongs to `step` and that its buffers match its shape.
fn check(batch: &Batch, step: u64, crop_size: [usize; 3]) -> Result<(), FeedError> {
    if batch.step != step {
        return Err(FeedError::Order { expected: step, found: batch.step });
    }
    let [n, channels, x, y, z] = batch.shape;
    let whole = batch.crops.len() == n
        && match &batch.images {
            Images::Boxes(quantized, boxes) => {
                boxes.len() == n && boxes.last().map_or(0, |last| last.range().end) == quantized.len()
            }
            Images::Chunks(words, coded) => coded.len() == n && coded.iter().all(|crop| crop.words.end <= words.len()),
            images => images.len() == n * x * y * z,
        };
    let num_labels = match &batch.images {
        Images::Chunks(_, coded) => decoded(coded, crop_size),
        images => images.len(),
    };
    let labelled = batch.labels.as_ref().is_none_or(|labels| labels.len() == num_labels);
    if channels != 1 || [x, y, z] != crop_size || !whole || !labelled {
        return Err(FeedError::Shape { step, shape: batch.shape, crop_size });
    }
    Ok(())
}

/// Number of voxels decoded for `crops`.
fn decoded(crops: &[CropChunks], crop_size: [usize; 3]) -> usize {
    crops.iter().map(|crop| crop.num_decoded(crop_size)).sum()
}

/// Moves `data` to pinned memory, if the device supports it, from where the device copies by itself. Otherwise the
/// thread that launches kernels would copy up to 100 MB to pinned memory, or more directly to the device, and launch
/// nothing meanwhile.
fn staged(mut data: TensorData, device: &Device) -> TensorData {
    device.staging(std::iter::once(&mut data));
    data
}

/// Uploads some crops of a batch; also returns the range of their labels in the batch, even if it has none. The voxels
/// are copied on this thread, from the buffer of the loader to one that Burn owns, which is [`staged`]. They are
/// transferred as one row, because a device may put gaps between several rows.
///
/// # Errors
/// If the device is to make crops of another chain than nnU-Net's from boxes.
fn upload(batch: &Batch, crops: Range<usize>, device: &Device) -> Result<(Voxels, Range<usize>), OtherChain> {
    let [_, _, x, y, z] = batch.shape;
    let (shape, voxels) = ([crops.len(), 1, x, y, z], x * y * z);
    let range = crops.start * voxels..crops.end * voxels;
    let upload_quantized = |values: &[u16]| {
        let count = values.len();
        Tensor::<1, Int>::from_data(staged(TensorData::new(values.to_vec(), [count]), device), (device, DType::U16))
    };
    let upload_labels = |range: &Range<usize>| {
        let labels = &batch.labels.as_ref()?[range.clone()];
        let labels = TensorData::new(labels.to_vec(), [labels.len()]);
        Some(Tensor::<1, Int>::from_data(staged(labels, device), (device, DType::U8)))
    };
    Ok(match &batch.images {
        Images::Floats(values) => {
            let values = staged(TensorData::new(values[range.clone()].to_vec(), [range.len()]), device);
            (Voxels::Floats(Tensor::<1>::from_data(values, device).reshape(shape)), range)
        }
        Images::Quantized(quantized, params) => {
            let params: Vec<f32> = params[crops].iter().flat_map(Dequantize::row).collect();
            let params = TensorData::new(params, [shape[0], 6]);
            let quantized = upload_quantized(&quantized[range.clone()]).reshape(shape);
            (Voxels::Quantized(quantized, Box::new(Tensor::from_data(params, device))), range)
        }
        Images::Boxes(quantized, boxes) => {
            let boxes = &boxes[crops];
            let end = |last: Option<&CropBox>| last.map_or(0, |last| last.range().end);
            let range = boxes.first().map_or(0, |first| first.start)..end(boxes.last());
            let labels = upload_labels(&range);
            let quantized = upload_quantized(&quantized[range.clone()]);
            (Voxels::Boxes(CropBoxes::new(quantized, labels, boxes, [x, y, z])?), range)
        }
        Images::Chunks(words, all) => {
            let (before, own) = (&all[..crops.start], &all[crops]);
            let start = decoded(before, [x, y, z]);
            let range = start..start + decoded(own, [x, y, z]);
            let coded = CodedCrops::upload(words, own, [x, y, z], device, |data| staged(data, device));
            let voxels = if own.iter().all(|crop| crop.params.is_linear()) {
                Voxels::Chunks(Box::new(coded))
            } else {
                Voxels::Boxes(CropBoxes::coded(coded, upload_labels(&range), own, [x, y, z])?)
            };
            (voxels, range)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_of_a_device_are_its_failures() {
        let lost = "device runner channel disconnected before producing a result";
        let error = on_device(3, || -> Result<(), FeedError> { panic!("{lost}") }).unwrap_err();
        assert_eq!(error.to_string(), format!("the batch of step 3 did not reach the device: {lost}"));
        let ended = || Err::<(), _>(FeedError::Ended { step: 3 });
        assert!(matches!(on_device(3, ended), Err(FeedError::Ended { step: 3 })));
        assert_eq!(on_device(3, || Ok(7)).unwrap(), 7);
    }
}
