//! A batch of crops, in buffers that return to their pool when the batch is dropped.
//!
//! Memory is bounded because buffers are allocated only when a stream starts: a batch that is held keeps its buffers
//! out of the pool. Buffers of boxes ([`Images::Boxes`]), and of their labels, are the exception. Box sizes are random,
//! and a batch in thousands that needs more than planned grows its buffer.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::transform::{CropMut, CropRef, Scratch};

mod chunks;
mod images;
mod pool;

pub(crate) use chunks::region;
pub use chunks::{ChunkSource, CropChunks};
pub use images::{CropBox, Dequantize, Images, VoxelForm};
pub use pool::{BATCH_ALIGNMENT, BatchMemory, PooledBuffer};

/// Crops of one global step (or one rank's share of it), ready for the network.
#[derive(Debug)]
pub struct Batch {
    /// Step of the stream, from 0. A stream resumed at this step makes this batch again.
    pub step: u64,
    /// Shape of the crops, `[n, 1, x, y, z]`, z fastest; [`Self::images`] has the same shape, unless it is
    /// [`Images::Boxes`] or [`Images::Chunks`]. `n` is smaller than usual, possibly 0, if corrupt cases were skipped.
    pub shape: [usize; 5],
    /// Voxels of all crops.
    pub images: Images,
    /// Labels of the voxels in [`Self::images`], if the stream carries labels. For [`Images::Chunks`], labels of the
    /// voxels decoded from them ([`CropChunks::decoded_shape`]), crop after crop.
    pub labels: Option<PooledBuffer<u8>>,
    /// Origin and augmentation of each crop, one entry per crop.
    pub crops: Vec<CropRecord>,
    /// Time spent on making this batch.
    pub times: BatchTimes,
}

impl Batch {
    /// Finished crops as floats; computed here if the batch holds another form.
    #[must_use]
    pub fn to_floats(&self) -> Cow<'_, [f32]> {
        match &self.images {
            Images::Floats(values) => Cow::Borrowed(values),
            Images::Quantized(values, dequantize) => {
                let crop_len = (values.len() / dequantize.len().max(1)).max(1);
                let crops = values.chunks_exact(crop_len).zip(dequantize);
                Cow::Owned(crops.flat_map(|(crop, by)| crop.iter().map(|&value| by.apply(value))).collect())
            }
            Images::Boxes(values, crops) => Cow::Owned(self.finish(values, crops).0),
            Images::Chunks(words, crops) => {
                let size = [self.shape[2], self.shape[3], self.shape[4]];
                Cow::Owned(crops.iter().flat_map(|crop| crop.to_floats(words, size)).collect())
            }
        }
    }

    /// Labels of the finished crops, if the stream carries labels.
    #[must_use]
    pub fn to_labels(&self) -> Option<Cow<'_, [u8]>> {
        let labels = self.labels.as_ref()?;
        Some(match &self.images {
            Images::Boxes(values, crops) => Cow::Owned(self.finish(values, crops).1),
            Images::Chunks(words, crops) if crops.iter().any(|crop| !crop.params.is_linear()) => {
                let (values, boxes) = CropChunks::boxes(crops, words);
                Cow::Owned(self.finish(&values, &boxes).1)
            }
            Images::Floats(_) | Images::Quantized(..) | Images::Chunks(..) => Cow::Borrowed(labels),
        })
    }

    /// Applies the augmentation to boxes; returns images and labels of all crops.
    fn finish(&self, values: &[u16], crops: &[CropBox]) -> (Vec<f32>, Vec<u8>) {
        let shape = [self.shape[2], self.shape[3], self.shape[4]];
        let len = shape.iter().product::<usize>().max(1);
        let (mut images, mut labels) = (vec![0.0; crops.len() * len], vec![]);
        labels.resize(if self.labels.is_some() { crops.len() * len } else { 0 }, 0);
        let mut scratch = Scratch::new();
        for (number, (crop, image)) in crops.iter().zip(images.chunks_exact_mut(len)).enumerate() {
            let source: Vec<f32> = values[crop.range()].iter().map(|&value| crop.scale.apply(value)).collect();
            let from = self.labels.as_ref().map(|labels| &labels[crop.range()]);
            let source = CropRef { image: &source, labels: from, shape: crop.shape };
            let labels = from.is_some().then(|| &mut labels[number * len..][..len]);
            crop.params.apply(source, &mut CropMut { image, labels, shape }, &mut scratch);
        }
        (images, labels)
    }

    /// BLAKE3 hash of the finished voxels as little-endian floats, then of the labels; 16 hex digits.
    ///
    /// Equal batches have equal digests, whatever their form and the number of threads.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(bytemuck::cast_slice(&self.to_floats()));
        if let Some(labels) = self.to_labels() {
            hasher.update(&labels);
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

/// Origin and augmentation of one crop: enough to make it again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CropRecord {
    /// `DATASET/CASE`.
    pub case: String,
    /// Epoch of the visit, from 0.
    pub epoch: u64,
    /// Number of the crop within its visit, from 0.
    pub crop: u32,
    /// First voxel of the crop's box in the stored volume; negative where a small volume is padded.
    pub origin: [i64; 3],
    /// Stable key of the case. With the run's seed, `epoch` and `crop` it is the crop's [`crate::rng::DrawId`].
    pub case_key: u64,
    /// Transforms applied, in order, with their parameters. Empty if there were none.
    pub augmentation: Vec<String>,
}

/// Seconds spent on the stages of one batch, summed over its visits; visits on several threads overlap in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchTimes {
    /// Waiting for the disk (see [`crate::stats`]); 0 where the system does not report it.
    pub read_secs: f64,
    /// Verifying and decoding chunks.
    pub decode_secs: f64,
    /// Cutting, normalising and augmenting crops.
    pub augment_secs: f64,
    /// Wall-clock time from the start of the first visit to the end of the last.
    pub elapsed_secs: f64,
    /// Time the loader waited for a free buffer: the consumer was slower.
    pub buffer_wait_secs: f64,
    /// Time the consumer waited for this batch: the loader was slower.
    pub wait_secs: f64,
}
