//! Host batches become device batches on a thread of their own, one or two ahead of the step that uses them.
//!
//! One batch waits in the channel while the next is prepared, so the device never holds more than three: that one,
//! the one in preparation, and the one being computed on. What the model is to find for each crop is made here too, by
//! a [`Targets`]: masks, which are drawn from the identity of each crop and depend neither on the batch it lands in nor
//! on what was drawn before; or label maps.
//!
//! A GPU gets voxels as the cache has them, 16-bit steps, and makes floats of them when their turn comes
//! ([`crate::ops::window`]): half the bytes on the way, and half the memory while they wait. On the CPU the loader makes
//! floats in the pass that cuts the crops, and they come as such. Where the device augments, it gets the boxes that
//! crops are made of ([`crate::augment`]).

use std::ops::Range;
use std::thread::JoinHandle;
use std::time::Instant;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use flume::Receiver;
use hiend_loader::batch::{Batch, BatchTimes, CropBox, CropRecord, Images};
use hiend_loader::rng::{DrawId, Operation};
use rand::RngExt as _;

use crate::augment::CropBoxes;
use crate::model::masking::{Mask, MaskIndices};
use crate::ops::window::floats_of;

/// What went wrong in a source of batches.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Batches in the order of their steps.
pub type BatchSource = Box<dyn Iterator<Item = Result<Batch, SourceError>> + Send>;

/// Any iterator of batches as a [`BatchSource`].
pub fn source_of<E: Into<SourceError>>(
    batches: impl Iterator<Item = Result<Batch, E>> + Send + 'static,
) -> BatchSource {
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
    /// There is nothing to learn from it.
    #[error("the batch of step {step}: {message}")]
    Target {
        /// Step of the batch.
        step: u64,
        /// Why not.
        message: String,
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

/// Some crops of a batch on the host.
#[derive(Clone, Copy, Debug)]
pub struct HostCrops<'a> {
    /// Sides of a crop.
    pub crop_size: [usize; 3],
    /// Origin of each crop.
    pub crops: &'a [CropRecord],
    /// Label of every voxel, crop after crop, if the stream carries labels; of every voxel of their boxes, if those
    /// came.
    pub labels: Option<&'a [u8]>,
    /// The boxes on the device, if the loader left making crops of them to it.
    pub sources: Option<&'a CropBoxes>,
}

impl HostCrops<'_> {
    /// Crops with the labels of each, if there are labels.
    fn with_labels(&self) -> impl Iterator<Item = (&CropRecord, &[u8])> {
        let labels = self.labels.unwrap_or_default();
        let voxels = self.crop_size.iter().product::<usize>();
        let of = move |number: usize| match self.sources {
            Some(sources) => &labels[sources.range(number)],
            None => &labels[number * voxels..(number + 1) * voxels],
        };
        self.crops.iter().enumerate().filter(|_| self.labels.is_some()).map(move |(number, crop)| (crop, of(number)))
    }
}

/// Makes what a model is to find.
pub trait Targets: Send + 'static {
    /// It, on the device.
    type Target: Send + 'static;

    /// For these crops.
    ///
    /// # Errors
    /// What is wrong with the crops, in a line.
    fn make(&self, crops: &HostCrops<'_>, device: &Device) -> Result<Self::Target, String>;
}

/// Targets of pre-training: which patches are hidden, a pure function of the seed and of each crop's identity.
#[derive(Clone, Copy, Debug)]
pub struct Masks {
    /// Seed of the run.
    pub seed: u64,
    /// Patches of a crop.
    pub num_patches: usize,
    /// Part of the patches hidden.
    pub mask_ratio: f64,
}

/// A mask on host and device.
#[derive(Clone, Debug)]
pub struct Masked {
    /// On the host.
    pub mask: Mask,
    /// On the device.
    pub indices: MaskIndices,
}

impl Masks {
    /// The mask of these crops.
    #[must_use]
    pub fn draw(&self, crops: &[CropRecord]) -> Mask {
        let mut noise = Vec::with_capacity(crops.len() * self.num_patches);
        for crop in crops {
            let id = DrawId { seed: self.seed, epoch: crop.epoch, case: crop.case_key, crop: crop.crop };
            let mut rng = id.rng(Operation::Mask);
            noise.extend((0..self.num_patches).map(|_| rng.random::<f32>()));
        }
        Mask::from_noise(&noise, self.num_patches, self.mask_ratio)
    }
}

impl Targets for Masks {
    type Target = Masked;

    fn make(&self, crops: &HostCrops<'_>, device: &Device) -> Result<Masked, String> {
        let mask = self.draw(crops.crops);
        Ok(Masked { indices: mask.upload(device), mask })
    }
}

/// Targets of fine-tuning: label maps `[n, 1, x, y, z]`, checked against the number of classes.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// Classes with background.
    pub num_classes: usize,
}

impl Targets for Labels {
    type Target = Tensor<5, Int>;

    fn make(&self, crops: &HostCrops<'_>, device: &Device) -> Result<Self::Target, String> {
        let labels = crops.labels.ok_or("the stream carries no labels; stream.labels must be true")?;
        for (crop, labels) in crops.with_labels() {
            let highest = labels.iter().copied().max().unwrap_or(0);
            if usize::from(highest) >= self.num_classes {
                let last = self.num_classes - 1;
                return Err(format!("case {} has a voxel of class {highest}; the classes are 0 to {last}", crop.case));
            }
        }
        if let Some(labels) = crops.sources.and_then(CropBoxes::labels) {
            return Ok(labels);
        }
        let [x, y, z] = crops.crop_size;
        let data = TensorData::new(labels.to_vec(), [crops.crops.len(), 1, x, y, z]);
        Ok(Tensor::from_data(data, device))
    }
}

/// Crops that are computed on at a time.
#[derive(Clone, Debug)]
pub struct Part<T> {
    voxels: Voxels,
    /// What the model is to find.
    pub target: T,
}

/// Voxels `[n, 1, x, y, z]` on the device.
#[derive(Clone, Debug)]
enum Voxels {
    Floats(Tensor<5>),
    /// Stored steps, and how those of each crop become floats, `[n, 4]`.
    Quantized(Tensor<5, Int>, Tensor<2>),
    /// Boxes that crops are to be made of.
    Boxes(CropBoxes),
}

impl<T> Part<T> {
    /// `[n, 1, x, y, z]`, on the device without autodiff: constants.
    #[must_use]
    pub fn images(&self) -> Tensor<5> {
        match &self.voxels {
            Voxels::Floats(floats) => floats.clone(),
            Voxels::Quantized(steps, laws) => floats_of(steps.clone(), laws.clone()),
            Voxels::Boxes(sources) => sources.images(),
        }
    }

    /// Number of its crops.
    #[must_use]
    pub fn num_crops(&self) -> usize {
        match &self.voxels {
            Voxels::Floats(floats) => floats.dims()[0],
            Voxels::Quantized(steps, _) => steps.dims()[0],
            Voxels::Boxes(sources) => sources.num_crops(),
        }
    }
}

/// A batch on the device.
#[derive(Debug)]
pub struct DeviceBatch<T> {
    /// Its step.
    pub step: u64,
    /// The crops in order; one part, unless micro-batches were asked for. Never empty.
    pub parts: Vec<Part<T>>,
    /// Origin of each crop.
    pub crops: Vec<CropRecord>,
    /// What making the batch cost the loader.
    pub loader: BatchTimes,
    /// Seconds from the loader's buffer to the device, targets included.
    pub upload_secs: f64,
}

/// What the thread needs to know.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    /// Step of the first batch.
    pub start_step: u64,
    /// Sides of a crop.
    pub crop_size: [usize; 3],
    /// Crops of a part; `None` for the whole batch.
    pub micro_batch: Option<usize>,
}

/// The thread and the channel to it. Dropping it ends both, once the source gives its next batch.
#[derive(Debug)]
pub struct Feed<T> {
    batches: Option<Receiver<Result<Option<DeviceBatch<T>>, FeedError>>>,
    thread: Option<JoinHandle<()>>,
    next_step: u64,
}

impl<T: Send + 'static> Feed<T> {
    /// Starts preparing batches of `source` for `device`, which has no autodiff: batches are constants.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        mut source: BatchSource,
        targets: impl Targets<Target = T>,
        device: Device,
        config: FeedConfig,
    ) -> std::io::Result<Self> {
        let (sender, batches) = flume::bounded(1);
        let next_step = config.start_step;
        let thread = std::thread::Builder::new().name("feed".into()).spawn(move || {
            for step in next_step.. {
                let batch = match source.next() {
                    Some(Ok(batch)) => prepare(batch, step, &targets, &device, &config),
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

    /// Whether the next batch is there, or the reason why there is none.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.batches.as_ref().is_none_or(|batches| !batches.is_empty() || batches.is_disconnected())
    }

    /// The next batch; waits for it. `None` if it lost every crop to corrupt cases: the step has no batch, and the
    /// next one is that of the step after.
    ///
    /// # Errors
    /// [`FeedError`] says why there is none. There is none after that either.
    pub fn next_batch(&mut self) -> Result<Option<DeviceBatch<T>>, FeedError> {
        let step = self.next_step;
        let batch = self.batches.as_ref().and_then(|batches| batches.recv().ok());
        self.next_step += 1;
        batch.unwrap_or(Err(FeedError::Ended { step }))
    }
}

impl<T> Drop for Feed<T> {
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
fn prepare<T>(
    batch: Batch,
    step: u64,
    targets: &impl Targets<Target = T>,
    device: &Device,
    config: &FeedConfig,
) -> Result<Option<DeviceBatch<T>>, FeedError> {
    if batch.step != step {
        return Err(FeedError::Order { expected: step, found: batch.step });
    }
    let [n, channels, x, y, z] = batch.shape;
    let voxels = x * y * z;
    let whole = batch.crops.len() == n
        && match &batch.images {
            Images::Boxes(steps, crops) => {
                crops.len() == n && crops.last().map_or(0, |crop| crop.range().end) == steps.len()
            }
            images => images.len() == n * voxels,
        };
    let labelled = batch.labels.as_ref().is_none_or(|labels| labels.len() == batch.images.len());
    if channels != 1 || [x, y, z] != config.crop_size || !whole || !labelled {
        return Err(FeedError::Shape { step, shape: batch.shape, crop_size: config.crop_size });
    }
    if n == 0 {
        return Ok(None);
    }
    let start = Instant::now();
    let mut parts = Vec::new();
    let size = config.micro_batch.unwrap_or(n).max(1);
    for (part, crops) in batch.crops.chunks(size).enumerate() {
        let own = part * size..part * size + crops.len();
        let (voxels, range) = upload(&batch, own, device);
        let labels = batch.labels.as_ref().map(|labels| &labels[range]);
        let sources = if let Voxels::Boxes(sources) = &voxels { Some(sources) } else { None };
        let host = HostCrops { crop_size: config.crop_size, crops, labels, sources };
        let target = targets.make(&host, device).map_err(|message| FeedError::Target { step, message })?;
        parts.push(Part { voxels, target });
    }
    device.sync().map_err(|e| FeedError::Upload { step, message: format!("{e:?}") })?;
    let upload_secs = start.elapsed().as_secs_f64();
    Ok(Some(DeviceBatch { step, parts, crops: batch.crops, loader: batch.times, upload_secs }))
}

/// Moved to memory that a device reads by itself, where it has such memory. Otherwise the thread that launches kernels
/// would do that for less than 100 MB, and for more copy them itself while it launches nothing.
fn staged(mut data: TensorData, device: &Device) -> TensorData {
    device.staging(std::iter::once(&mut data));
    data
}

/// Some crops of a batch and which voxels of it they are, copied on this thread: from the loader's buffer to one that
/// Burn owns, and that is [`staged`]. They cross as one row, since a device may put gaps behind each of many.
fn upload(batch: &Batch, crops: Range<usize>, device: &Device) -> (Voxels, Range<usize>) {
    let [_, _, x, y, z] = batch.shape;
    let (shape, voxels) = ([crops.len(), 1, x, y, z], x * y * z);
    let range = crops.start * voxels..crops.end * voxels;
    let steps_of = |steps: &[u16]| {
        let count = steps.len();
        Tensor::<1, Int>::from_data(staged(TensorData::new(steps.to_vec(), [count]), device), (device, DType::U16))
    };
    match &batch.images {
        Images::Floats(values) => {
            let values = staged(TensorData::new(values[range.clone()].to_vec(), [range.len()]), device);
            (Voxels::Floats(Tensor::<1>::from_data(values, device).reshape(shape)), range)
        }
        Images::Quantized(steps, laws) => {
            let numbers = laws[crops].iter().flat_map(|law| [law.scale.gain, law.scale.bias, law.factor, law.shift]);
            let laws = TensorData::new(numbers.collect::<Vec<f32>>(), [shape[0], 4]);
            let steps = steps_of(&steps[range.clone()]).reshape(shape);
            (Voxels::Quantized(steps, Tensor::from_data(laws, device)), range)
        }
        Images::Boxes(steps, sources) => {
            let sources = &sources[crops];
            let end = |source: Option<&CropBox>| source.map_or(0, |source| source.range().end);
            let range = sources.first().map_or(0, |source| source.start)..end(sources.last());
            let labels = batch.labels.as_ref().map(|labels| {
                let labels = TensorData::new(labels[range.clone()].to_vec(), [range.len()]);
                Tensor::<1, Int>::from_data(labels, device)
            });
            (Voxels::Boxes(CropBoxes::new(steps_of(&steps[range.clone()]), labels, sources, [x, y, z])), range)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SyntheticStream;

    const STREAM: SyntheticStream = SyntheticStream { seed: 1, crop_size: [8; 3], crops: 2, steps_per_epoch: 3 };

    const MASKS: Masks = Masks { seed: 1, num_patches: 8, mask_ratio: 0.5 };

    fn start(source: BatchSource, start_step: u64) -> Feed<Masked> {
        let config = FeedConfig { start_step, crop_size: [8; 3], micro_batch: None };
        Feed::start(source, MASKS, Device::flex(), config).unwrap()
    }

    #[test]
    fn batches_come_in_order_whatever_the_start() {
        let mut all = start(STREAM.open(0), 0);
        let batches: Vec<DeviceBatch<Masked>> = (0..4).map(|_| all.next_batch().unwrap().unwrap()).collect();
        let mut late = start(STREAM.open(3), 3);
        let third = late.next_batch().unwrap().unwrap();
        assert_eq!(third.step, 3);
        let mask = |batch: &DeviceBatch<Masked>| batch.parts[0].target.mask.clone();
        assert_eq!(mask(&third), mask(&batches[3]));
        let images = |batch: &DeviceBatch<Masked>| batch.parts[0].images().into_data();
        assert_eq!(images(&third), images(&batches[3]));
        assert_ne!(mask(&batches[0]), mask(&batches[1]));
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
        let mut next = || feed.next_batch().unwrap().map(|batch| (batch.step, batch.parts[0].num_crops()));
        assert_eq!([next(), next(), next()], [Some((0, 2)), None, Some((2, 1))]);
    }

    #[test]
    fn batches_of_another_shape_or_step_are_refused() {
        let stream = SyntheticStream { crop_size: [8, 8, 4], ..STREAM };
        assert!(matches!(start(stream.open(0), 0).next_batch(), Err(FeedError::Shape { step: 0, .. })));
        assert!(matches!(start(STREAM.open(2), 0).next_batch(), Err(FeedError::Order { expected: 0, found: 2 })));
    }

    #[test]
    fn parts_are_the_batch_in_order() {
        let stream = SyntheticStream { crops: 5, ..STREAM };
        let config = |micro_batch| FeedConfig { start_step: 0, crop_size: [8; 3], micro_batch };
        let batch = |size| {
            Feed::start(stream.open(0), MASKS, Device::flex(), config(size)).unwrap().next_batch().unwrap().unwrap()
        };
        let (whole, parted) = (batch(None), batch(Some(2)));
        assert_eq!(parted.parts.iter().map(Part::num_crops).collect::<Vec<_>>(), [2, 2, 1]);
        let images = |batch: DeviceBatch<Masked>| {
            Tensor::cat(batch.parts.into_iter().map(|part| part.images()).collect(), 0).into_data()
        };
        for (part, crops) in parted.parts.iter().zip([[0, 1].as_slice(), &[2, 3], &[4]]) {
            assert_eq!(part.target.mask, whole.parts[0].target.mask.select(crops));
        }
        assert_eq!(images(parted), images(whole));
    }

    #[test]
    fn labels_must_be_there_and_be_classes() {
        let batch = STREAM.batch(0);
        let make = |labels: Option<&[u8]>| {
            let crops = HostCrops { crop_size: [8; 3], crops: &batch.crops, labels, sources: None };
            Labels { num_classes: 3 }.make(&crops, &Device::flex())
        };
        let mut labels = vec![2; 1024];
        assert_eq!(make(Some(&labels)).unwrap().dims(), [2, 1, 8, 8, 8]);
        labels[1000] = 3;
        assert_eq!(
            make(Some(&labels)).unwrap_err(),
            "case synthetic/case1 has a voxel of class 3; the classes are 0 to 2"
        );
        assert!(make(None).unwrap_err().contains("stream.labels"));
    }
}
