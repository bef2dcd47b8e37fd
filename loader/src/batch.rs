//! A batch of crops in a buffer that goes back to its pool when the batch is dropped.
//!
//! Memory is bounded because buffers are never made after start-up: whoever holds batches holds the pool. Only buffers of
//! boxes ([`Images::Boxes`]), whose size is drawn, may grow by what a batch in thousands needs more than planned.

use std::borrow::Cow;
use std::ops::{Deref, DerefMut, Range};

use serde::{Deserialize, Serialize};

use crate::preprocess::window::Scale;
use crate::transform::{CropMut, CropRef, SampledParams, Scratch};

/// Crops of one global step (or one rank's share of it), ready for the network.
#[derive(Debug)]
pub struct Batch {
    /// Step of the stream, from 0. Resuming at this step makes this batch again.
    pub step: u64,
    /// `[n, 1, x, y, z]`, z fastest: the shape of the crops, and of [`Self::images`] but for [`Images::Boxes`]. `n` is smaller than usual, even 0, where corrupt
    /// cases were left out.
    pub shape: [usize; 5],
    /// Voxels.
    pub images: Images,
    /// Label of every one of those voxels, if the stream carries labels.
    pub labels: Option<PooledBuffer<u8>>,
    /// Where each crop came from and what was done to it, one entry a crop.
    pub crops: Vec<CropRecord>,
    /// What making this batch cost.
    pub times: BatchTimes,
}

impl Batch {
    /// Voxels of all crops as they are to be trained on, computed if the batch holds less than that.
    #[must_use]
    pub fn to_floats(&self) -> Cow<'_, [f32]> {
        match &self.images {
            Images::Floats(values) => Cow::Borrowed(values),
            Images::Quantized(steps, laws) => {
                let crops = steps.chunks_exact((steps.len() / laws.len().max(1)).max(1)).zip(laws);
                Cow::Owned(crops.flat_map(|(steps, law)| steps.iter().map(|&step| law.apply(step))).collect())
            }
            Images::Boxes(steps, crops) => Cow::Owned(self.crops_of(steps, crops).0),
        }
    }

    /// Labels of all crops as they are to be trained on, if the stream carries labels.
    #[must_use]
    pub fn to_labels(&self) -> Option<Cow<'_, [u8]>> {
        let labels = self.labels.as_ref()?;
        Some(match &self.images {
            Images::Boxes(steps, crops) => Cow::Owned(self.crops_of(steps, crops).1),
            _ => Cow::Borrowed(labels),
        })
    }

    /// Images and labels of all crops, from their sources.
    fn crops_of(&self, steps: &[u16], crops: &[CropBox]) -> (Vec<f32>, Vec<u8>) {
        let shape = [self.shape[2], self.shape[3], self.shape[4]];
        let len = shape.iter().product::<usize>().max(1);
        let (mut images, mut labels) = (vec![0.0; crops.len() * len], vec![]);
        labels.resize(if self.labels.is_some() { crops.len() * len } else { 0 }, 0);
        let mut scratch = Scratch::new();
        for (number, (crop, image)) in crops.iter().zip(images.chunks_exact_mut(len)).enumerate() {
            let source: Vec<f32> = steps[crop.range()].iter().map(|&step| crop.scale.apply(step)).collect();
            let from = self.labels.as_ref().map(|labels| &labels[crop.range()]);
            let source = CropRef { image: &source, labels: from, shape: crop.shape };
            let labels = from.is_some().then(|| &mut labels[number * len..][..len]);
            crop.drawn.apply(source, &mut CropMut { image, labels, shape }, &mut scratch);
        }
        (images, labels)
    }

    /// BLAKE3 of the voxels as little-endian floats (whatever they came as), then of the labels; 16 hex digits.
    ///
    /// Equal digests mean equal batches, whatever the number of threads.
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

/// Voxels of a batch, crop after crop.
#[derive(Debug)]
pub enum Images {
    /// In units of the window: 0 is its lower end, 1 its upper end, before intensity augmentation.
    Floats(PooledBuffer<f32>),
    /// As the cache has them, flipped and turned already, and beside each crop how its steps become floats. Half the
    /// bytes of floats, and no less: a device that does the rest gets the very same bits.
    Quantized(PooledBuffer<u16>, Vec<Dequantize>),
    /// Of each crop the box that it is to be made of, as the cache has it, and what is to be done: for a device that
    /// augments. Boxes that are rotated or scaled are larger than their crops, and no two need have one size.
    Boxes(PooledBuffer<u16>, Vec<CropBox>),
}

impl Images {
    /// Voxels that there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Quantized(steps, _) | Self::Boxes(steps, _) => steps.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a crop is to be made of, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropBox {
    /// Its box's first voxel, among those of the batch.
    pub start: usize,
    /// Voxels of the box along x, y, z.
    pub shape: [usize; 3],
    /// From stored steps to units of the window.
    pub scale: Scale,
    /// What is to be done to it.
    pub drawn: SampledParams,
}

impl CropBox {
    /// Its voxels, among those of the batch.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.shape.iter().product::<usize>()
    }
}

/// How the stored steps of a crop become floats: its case's scale, then the intensity augmentation that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dequantize {
    /// To units of the window.
    pub scale: Scale,
    /// Multiplies those.
    pub factor: f32,
    /// Is added last.
    pub shift: f32,
}

impl Dequantize {
    /// The float of a step: the same bits as in a batch of floats.
    #[must_use]
    pub fn apply(&self, step: u16) -> f32 {
        self.scale.apply(step) * self.factor + self.shift
    }
}

/// What a batch's voxels are asked for as; changes no voxel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VoxelForm {
    /// [`Images::Floats`].
    #[default]
    Floats,
    /// [`Images::Quantized`]. Only for augmentations that leave intensities linear: none, and the recipe's.
    Quantized,
    /// [`Images::Boxes`].
    Boxes,
}

/// Origin and augmentation of one crop: enough to make it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CropRecord {
    /// `DATASET/CASE`.
    pub case: String,
    /// Epoch of the visit, from 0.
    pub epoch: u64,
    /// Which crop of the visit, from 0.
    pub crop: u32,
    /// First voxel of the box in the stored volume; negative where a small volume is padded.
    pub origin: [i64; 3],
    /// The draw's identity as `(seed, epoch, case key, crop)` is completed by the run's seed and this key.
    pub case_key: u64,
    /// What the augmentation did, operation by operation, in the order applied. Empty when nothing was drawn.
    pub augmentation: Vec<String>,
}

/// Seconds that the parts of making one batch took, summed over its crops (so over threads).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchTimes {
    /// Waiting for the disk (see [`crate::stats`]); 0 where the system does not tell.
    pub read_secs: f64,
    /// Checking and decoding chunks.
    pub decode_secs: f64,
    /// Cutting, normalising and augmenting crops.
    pub augment_secs: f64,
    /// From the first visit begun to the last one done, on the clock.
    pub elapsed_secs: f64,
    /// How long the loader waited for a free buffer before it could begin: the consumer was slower.
    pub buffer_wait_secs: f64,
    /// How long the consumer waited for this batch: the loader was slower.
    pub wait_secs: f64,
}

/// A vector on loan from a pool; dropping it gives the memory back.
#[derive(Debug)]
pub struct PooledBuffer<T> {
    data: Vec<T>,
    len: usize,
    home: Option<flume::Sender<Vec<T>>>,
}

impl<T> PooledBuffer<T> {
    /// A buffer that returns to `home` when dropped.
    #[must_use]
    pub fn on_loan(data: Vec<T>, home: flume::Sender<Vec<T>>) -> Self {
        Self { len: data.len(), data, home: Some(home) }
    }

    /// A buffer that belongs to no pool, as tests and tools need.
    #[must_use]
    pub fn unpooled(data: Vec<T>) -> Self {
        Self { len: data.len(), data, home: None }
    }

    /// At least `len` values, whatever was hidden or not there before.
    pub fn make_room(&mut self, len: usize)
    where
        T: Clone + Default,
    {
        if self.data.len() < len {
            // Not twice as much, as a vector would take: the memory was planned.
            self.data.reserve_exact(len - self.data.len());
            self.data.resize(len, T::default());
        }
        self.len = len;
    }

    /// Hides what lies behind the first `len` values; the memory stays as it is for the next loan.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl<T> Deref for PooledBuffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[..self.len]
    }
}

impl<T> DerefMut for PooledBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[..self.len]
    }
}

impl<T> Drop for PooledBuffer<T> {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            // The pool may be gone already, at the end of a run; then the memory is simply freed.
            let _ = home.try_send(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_returns_to_its_pool() {
        let (give, take) = flume::bounded(1);
        let mut buffer = PooledBuffer::on_loan(vec![1.0f32; 4], give);
        buffer.truncate(3);
        assert_eq!(buffer.len(), 3);
        assert!(take.try_recv().is_err());
        drop(buffer);
        assert_eq!(take.try_recv().unwrap().len(), 4);
    }
}
