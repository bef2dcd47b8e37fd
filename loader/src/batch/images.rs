//! Voxels of a batch in one of four forms, which differ in how much of the augmentation has been applied.
//!
//! | form | voxels | flips, turns | intensities | resampling |
//! |---|---|---|---|---|
//! | [`Images::Floats`] | `f32`, in [`Units`](crate::preprocess::normalize::Units) | done | done | done |
//! | [`Images::Quantized`] | `u16`, as stored | done | left, per crop in [`Dequantize`] | none: linear chains only |
//! | [`Images::Boxes`] | `u16`, as stored | left, per crop in [`CropBox`] | left | left |
//! | [`Images::Chunks`] | coded, as stored | left, per crop in [`CropChunks`] | left | left |
//!
//! Labels are never coded: a batch holds those of the finished crops; those of the boxes where resampling is left.
//!
//! All give the same bits once finished, see [`Batch::to_floats`](super::Batch::to_floats). All but the first are for
//! devices: the quantized ones are half the bytes to transfer, and chunks leave cutting and decoding to the device.

use std::ops::Range;

use super::{CropChunks, PooledBuffer};
use crate::preprocess::window::Scale;
use crate::transform::SampledParams;

/// Form in which a stream delivers voxels, see [`Images`]. Changes no finished voxel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VoxelForm {
    /// [`Images::Floats`].
    #[default]
    Floats,
    /// [`Images::Quantized`], for augmentations that leave intensities linear: none and the recipe's.
    Quantized,
    /// [`Images::Boxes`].
    Boxes,
    /// [`Images::Chunks`], for caches of the codec "fast".
    Chunks,
}

impl VoxelForm {
    /// Bytes of one voxel, without its label; for [`Self::Chunks`], bytes of a word.
    #[must_use]
    pub fn voxel_bytes(self) -> usize {
        match self {
            Self::Floats => size_of::<f32>(),
            Self::Quantized | Self::Boxes => size_of::<u16>(),
            Self::Chunks => size_of::<u32>(),
        }
    }

    /// Shape of the box that a batch holds for a crop; for [`Self::Chunks`], shape of the box decoded for it, of which
    /// the batch holds the labels.
    #[must_use]
    pub fn held_shape(self, params: &SampledParams, crop_size: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Floats | Self::Quantized => crop_size,
            Self::Chunks if params.is_linear() => crop_size,
            Self::Boxes | Self::Chunks => params.source_box(crop_size),
        }
    }
}

/// Voxels of a batch, crop after crop.
#[derive(Debug)]
pub enum Images {
    /// Augmented crops in units of the window (0 is its lower end and 1 its upper end, before intensity augmentation) or
    /// z-scores.
    Floats(PooledBuffer<f32>),
    /// Crops of stored values, flipped and turned, and one entry per crop that converts them to floats.
    Quantized(PooledBuffer<u16>, Vec<Dequantize>),
    /// Boxes of stored values, one per crop, and the augmentation still to be applied to each. A box that is to be
    /// rotated or scaled differs from its crop in size.
    Boxes(PooledBuffer<u16>, Vec<CropBox>),
    /// Records of encoded chunks as 32-bit words, visit after visit with unused words between, and one entry per crop
    /// with the way to make it from them.
    Chunks(PooledBuffer<u32>, Vec<CropChunks>),
}

impl Images {
    /// Number of voxels; for [`Self::Chunks`], number of words.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Quantized(values, _) | Self::Boxes(values, _) => values.len(),
            Self::Chunks(words, _) => words.len(),
        }
    }

    /// Returns true if there are no voxels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Box of stored values from which a crop is made, and the augmentation still to be applied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropBox {
    /// Index of the box's first voxel within the batch.
    pub start: usize,
    /// Voxels of the box along x, y, z.
    pub shape: [usize; 3],
    /// Conversion from stored values to the units of the stream.
    pub scale: Scale,
    /// Augmentation parameters of the crop.
    pub params: SampledParams,
}

impl CropBox {
    /// Indices of the box's voxels within the batch.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.shape.iter().product::<usize>()
    }

    /// Conversion from stored values to floats, including the linear part of the augmentation.
    #[must_use]
    pub fn dequantize(&self) -> Dequantize {
        let (factor, shift) = self.params.intensity();
        Dequantize { scale: self.scale, factor, shift }
    }
}

/// Conversion from a crop's stored values to floats: the case's scale, followed by the linear intensity augmentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dequantize {
    /// Conversion to the units of the stream.
    pub scale: Scale,
    /// Multiplier of the scaled value.
    pub factor: f32,
    /// Value added last, in the units of the stream.
    pub shift: f32,
}

impl Dequantize {
    /// Gain, bias, lowest and highest value, factor and shift, as devices read them.
    #[must_use]
    pub fn row(&self) -> [f32; 6] {
        let Self { scale: Scale { gain, bias, low, high }, factor, shift } = *self;
        [gain, bias, low, high, factor, shift]
    }

    /// Converts one stored value, with the same bits as in a batch of floats.
    #[inline]
    #[must_use]
    pub fn apply(&self, value: u16) -> f32 {
        self.scale.apply(value) * self.factor + self.shift
    }

    /// Float value of a voxel outside the volume: the window's lower end or the mean, augmented.
    #[must_use]
    pub fn outside(&self) -> f32 {
        0.0 * self.factor + self.shift
    }
}
