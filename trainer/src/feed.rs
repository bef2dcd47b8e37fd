//! Host batches become device batches on a thread of their own, one or two ahead of the step that uses them.
//!
//! One batch waits in the channel while the next is prepared, so the device never holds more than three: that one,
//! the one in preparation, and the one being computed on. Masks are drawn here, from the identity of each crop, so
//! they depend neither on the batch a crop lands in nor on what was drawn before.
//!
//! A door for the GPU: the voxels are copied once from the loader's buffer to one that Burn owns, as 32-bit floats.
//! Uploading them as 16-bit steps, from memory both sides share, changes this file only.

use std::thread::JoinHandle;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use flume::Receiver;
use hiend_loader::batch::{Batch, BatchTimes, CropRecord};
use hiend_loader::rng::{DrawId, Operation};
use rand::RngExt as _;

use crate::model::masking::{Mask, MaskIndices};

/// What went wrong in a source of batches.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Batches in the order of their steps.
pub type Source = Box<dyn Iterator<Item = Result<Batch, SourceError>> + Send>;

/// Any iterator of batches as a [`Source`].
pub fn source_of<E: Into<SourceError>>(batches: impl Iterator<Item = Result<Batch, E>> + Send + 'static) -> Source {
    Box::new(batches.map(|batch| batch.map_err(Into::into)))
}

/// Why no batch came.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The loader failed.
    #[error("no batch for step {step}")]
    Source {
        /// The first step without one.
        step: u64,
        /// What the loader says.
        #[source]
        source: SourceError,
    },
    /// The loader's batch is none that the model takes.
    #[error("the batch of step {step} has the shape {shape:?}; the model takes [n, 1, {}, {}, {}]", .crop_size[0], .crop_size[1], .crop_size[2])]
    Shape {
        /// Step of the batch.
        step: u64,
        /// What came.
        shape: [usize; 5],
        /// What was expected.
        crop_size: [usize; 3],
    },
    /// The batches are not in order.
    #[error("the batch of step {expected} was expected, and that of step {found} came")]
    Order {
        /// The step that was due.
        expected: u64,
        /// The step that came.
        found: u64,
    },
    /// The device refused.
    #[error("the batch of step {step} did not reach the device: {message}")]
    Upload {
        /// Step of the batch.
        step: u64,
        /// What the device says.
        message: String,
    },
    /// The source is at its end, or its thread died; a stream has no end.
    #[error("the stream of batches broke off before step {step}")]
    Ended {
        /// The first step without a batch.
        step: u64,
    },
}

/// A batch on the device.
#[derive(Debug)]
pub struct DeviceBatch {
    /// Its step.
    pub step: u64,
    /// `[n, 1, x, y, z]`, on the device without autodiff: constants.
    pub images: Tensor<5>,
    /// The mask on the host.
    pub mask: Mask,
    /// The mask on the device.
    pub indices: MaskIndices,
    /// Origin of each crop.
    pub crops: Vec<CropRecord>,
    /// What making the batch cost the loader.
    pub loader: BatchTimes,
    /// Seconds from the loader's buffer to the device, masks included.
    pub upload_secs: f64,
}

/// What the thread needs to know.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    /// Seed of the run, for the masks.
    pub seed: u64,
    /// Step of the first batch.
    pub start_step: u64,
    /// Sides of a crop.
    pub crop_size: [usize; 3],
    /// Patches of a crop.
    pub num_patches: usize,
    /// Part of the patches hidden.
    pub mask_ratio: f64,
}

/// The thread and the channel to it. Dropping it ends both, once the source gives its next batch.
#[derive(Debug)]
pub struct Feed {
    batches: Option<Receiver<Result<Option<DeviceBatch>, FeedError>>>,
    thread: Option<JoinHandle<()>>,
    next_step: u64,
}

impl Feed {
    /// Starts preparing batches of `source` for `device`, which has no autodiff: batches are constants.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(mut source: Source, device: Device, config: FeedConfig) -> std::io::Result<Self> {
        let (sender, batches) = flume::bounded(1);
        let next_step = config.start_step;
        let thread = std::thread::Builder::new().name("feed".into()).spawn(move || {
            for step in next_step.. {
                let batch = match source.next() {
                    Some(Ok(batch)) => prepare(batch, step, &device, &config),
                    Some(Err(source)) => Err(FeedError::Source { step, source }),
                    None => return,
                };
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { batches: Some(batches), thread: Some(thread), next_step })
    }

    /// The next batch; waits for it. `None` if it lost every crop to corrupt cases: the step has no batch, and the
    /// next one is that of the step after.
    ///
    /// # Errors
    /// [`FeedError`] says why there is none. There is none after that either.
    pub fn next_batch(&mut self) -> Result<Option<DeviceBatch>, FeedError> {
        let step = self.next_step;
        let batch = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        self.next_step += 1;
        batch.unwrap_or(Err(FeedError::Ended { step }))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, and it ends.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // Its panic was reported when it happened, and seen here as a stream that broke off.
            let _ = thread.join();
        }
    }
}

/// A batch may have any number of crops, fewer than usual where corrupt cases were left out; see
/// [`OnCorrupt::Skip`](hiend_loader::pipeline::OnCorrupt::Skip).
fn prepare(batch: Batch, step: u64, device: &Device, config: &FeedConfig) -> Result<Option<DeviceBatch>, FeedError> {
    if batch.step != step {
        return Err(FeedError::Order { expected: step, found: batch.step });
    }
    let [n, channels, x, y, z] = batch.shape;
    let whole = batch.images.len() == batch.shape.iter().product::<usize>() && batch.crops.len() == n;
    if channels != 1 || [x, y, z] != config.crop_size || !whole {
        return Err(FeedError::Shape { step, shape: batch.shape, crop_size: config.crop_size });
    }
    if n == 0 {
        return Ok(None);
    }
    let start = Instant::now();
    let images = Tensor::from_data(TensorData::new(batch.images.to_vec(), batch.shape), device);
    let mask = mask_of(&batch.crops, config);
    let indices = mask.upload(device);
    device.sync().map_err(|e| FeedError::Upload { step, message: format!("{e:?}") })?;
    let upload_secs = start.elapsed().as_secs_f64();
    Ok(Some(DeviceBatch { step, images, mask, indices, crops: batch.crops, loader: batch.times, upload_secs }))
}

/// The mask of these crops: a pure function of the seed and of each crop's identity.
#[must_use]
pub fn mask_of(crops: &[CropRecord], config: &FeedConfig) -> Mask {
    let mut noise = Vec::with_capacity(crops.len() * config.num_patches);
    for crop in crops {
        let id = DrawId { seed: config.seed, epoch: crop.epoch, case: crop.case_key, crop: crop.crop };
        let mut rng = id.rng(Operation::Mask);
        noise.extend((0..config.num_patches).map(|_| rng.random::<f32>()));
    }
    Mask::from_noise(&noise, config.num_patches, config.mask_ratio)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SyntheticStream;

    const STREAM: SyntheticStream = SyntheticStream { seed: 1, crop_size: [8; 3], crops: 2, steps_per_epoch: 3 };

    fn config(start_step: u64) -> FeedConfig {
        FeedConfig { seed: 1, start_step, crop_size: [8; 3], num_patches: 8, mask_ratio: 0.5 }
    }

    fn start(source: Source, start_step: u64) -> Feed {
        Feed::start(source, Device::flex(), config(start_step)).unwrap()
    }

    #[test]
    fn batches_come_in_order_whatever_the_start() {
        let mut all = start(STREAM.open(0), 0);
        let batches: Vec<DeviceBatch> = (0..4).map(|_| all.next_batch().unwrap().unwrap()).collect();
        let mut late = start(STREAM.open(3), 3);
        let third = late.next_batch().unwrap().unwrap();
        assert_eq!(third.step, 3);
        assert_eq!(third.mask, batches[3].mask);
        assert_eq!(third.images.into_data(), batches[3].images.clone().into_data());
        assert_ne!(batches[0].mask, batches[1].mask);
    }

    #[test]
    fn failures_are_passed_on_and_end_the_feed() {
        let failing = STREAM.open(0).take(1).chain(std::iter::once(Err("no such shard".into())));
        let mut feed = start(Box::new(failing), 0);
        feed.next_batch().unwrap();
        assert!(matches!(feed.next_batch(), Err(FeedError::Source { step: 1, .. })));
        assert!(matches!(feed.next_batch(), Err(FeedError::Ended { step: 2 })));
    }

    #[test]
    fn a_source_at_its_end_is_an_error() {
        let mut feed = start(Box::new(STREAM.open(0).take(1)), 0);
        feed.next_batch().unwrap();
        assert!(matches!(feed.next_batch(), Err(FeedError::Ended { step: 1 })));
    }

    #[test]
    fn a_batch_without_crops_passes_and_a_shorter_one_comes() {
        let batches = (0..3).map(|step| {
            let crops = [2, 0, 1][step as usize];
            Ok(SyntheticStream { crops, ..STREAM }.batch(step))
        });
        let mut feed = start(Box::new(batches), 0);
        let mut next = || feed.next_batch().unwrap().map(|batch| (batch.step, batch.images.dims()[0]));
        assert_eq!([next(), next(), next()], [Some((0, 2)), None, Some((2, 1))]);
    }

    #[test]
    fn batches_of_another_shape_or_step_are_refused() {
        let stream = SyntheticStream { crop_size: [8, 8, 4], ..STREAM };
        assert!(matches!(start(stream.open(0), 0).next_batch(), Err(FeedError::Shape { step: 0, .. })));
        assert!(matches!(start(STREAM.open(2), 0).next_batch(), Err(FeedError::Order { expected: 0, found: 2 })));
    }
}
