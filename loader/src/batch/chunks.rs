//! Crops as the chunks that they are cut from, still encoded.
//!
//! The crops of a visit share its chunks: the batch holds each chunk once, as a record that a device decodes from any
//! voxel on ([`hiend_cache::codec::indexed`]). [`CropChunks::to_floats`] defines the resulting values.

use std::ops::Range;

use hiend_cache::codec::packed::Packed;
use hiend_cache::{Box3, Grid};

use super::{CropBox, Dequantize, VoxelForm};
use crate::preprocess::window::Scale;
use crate::transform::{CropMut, CropRef, SampledParams, Scratch};

/// Content of a chunk that a crop intersects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkSource {
    /// A chunk whose stored values all equal this one.
    Constant(u16),
    /// Index of the first word of the chunk's record, within the words of the visit.
    Record(u32),
}

/// Chunks that a crop is made of, and the cut and augmentation that make it.
#[derive(Clone, Debug, PartialEq)]
pub struct CropChunks {
    /// Range of the batch's words that holds the records of the crop's visit, shared by all crops of the visit.
    pub words: Range<usize>,
    /// Chunks that the crop's box intersects, in the order of [`Grid::chunks_meeting`].
    pub chunks: Vec<ChunkSource>,
    /// Codec of the chunks.
    pub packed: Packed,
    /// Partition of the volume into chunks.
    pub grid: Grid,
    /// First voxel of the box that the crop is made of; negative where a small volume is padded.
    pub box_start: [i64; 3],
    /// Voxels of that box along x, y, z.
    pub box_shape: [usize; 3],
    /// Conversion from stored values to the units of the stream.
    pub scale: Scale,
    /// Augmentation parameters of the crop.
    pub params: SampledParams,
}

impl CropChunks {
    /// Part of the box inside the volume, if any.
    #[must_use]
    pub fn region(&self) -> Option<Box3> {
        region(self.box_start, self.box_shape, self.grid.shape())
    }

    /// Conversion from stored values to floats, including the linear part of the augmentation.
    #[must_use]
    pub fn dequantize(&self) -> Dequantize {
        let (factor, shift) = self.params.intensity();
        Dequantize { scale: self.scale, factor, shift }
    }

    /// Number of voxels along x, y, z of the decoded data: the crop of `crop_size` if the chain is linear, otherwise
    /// the box. A batch holds as many labels, laid out in the same way.
    #[must_use]
    pub fn decoded_shape(&self, crop_size: [usize; 3]) -> [usize; 3] {
        VoxelForm::Chunks.held_shape(&self.params, crop_size)
    }

    /// Number of voxels of [`Self::decoded_shape`].
    #[must_use]
    pub fn num_decoded(&self, crop_size: [usize; 3]) -> usize {
        self.decoded_shape(crop_size).iter().product()
    }

    /// Decodes the finished crop of `crop_size` from the words of its batch, with bits equal to those of every other
    /// form.
    ///
    /// # Panics
    /// If the words are not those of the crop's batch.
    #[must_use]
    pub fn to_floats(&self, words: &[u32], crop_size: [usize; 3]) -> Vec<f32> {
        let decoded = self.decode(words, crop_size);
        if self.params.is_linear() {
            return decoded;
        }
        let source = CropRef { image: &decoded, labels: None, shape: self.box_shape };
        let mut image = vec![0.0; crop_size.iter().product()];
        let mut crop = CropMut { image: &mut image, labels: None, shape: crop_size };
        self.params.apply(source, &mut crop, &mut Scratch::new());
        image
    }

    /// Voxels that a device decodes, in the shape [`Self::decoded_shape`]: the finished crop if the chain is linear, otherwise the box in the
    /// units of the stream.
    ///
    /// # Panics
    /// If the words are not those of the crop's batch.
    #[must_use]
    pub fn decode(&self, words: &[u32], crop_size: [usize; 3]) -> Vec<f32> {
        let quantized = self.stored(words);
        let [nx, ny, nz] = self.decoded_shape(crop_size);
        let [_, box_y, box_z] = self.box_shape;
        let (start, increments) = self.params.axis_map().walk([nx, ny, nz], [box_y * box_z, box_z, 1]);
        let dequantize = self.dequantize();
        let mut floats = Vec::with_capacity(nx * ny * nz);
        for x in 0..nx {
            for y in 0..ny {
                for z in 0..nz {
                    let at = [x, y, z].iter().zip(increments).map(|(&n, by)| n.cast_signed() * by).sum();
                    let at = start.checked_add_signed(at).expect("a walk stays in its source");
                    floats.push(dequantize.apply(quantized[at]));
                }
            }
        }
        floats
    }

    /// Stored values of the box, decoded from the words of its batch.
    fn stored(&self, words: &[u32]) -> Vec<u16> {
        let records: &[u8] = bytemuck::cast_slice(&words[self.words.clone()]);
        let [_, ny, nz] = self.box_shape;
        let mut quantized = vec![self.scale.outside(); self.box_shape.iter().product()];
        let mut decoded = Vec::new();
        let region = self.region();
        let chunks = region.iter().flat_map(|region| self.grid.chunks_meeting(region));
        for (number, source) in chunks.zip(&self.chunks) {
            let chunk = self.grid.chunk_box(number);
            let Some(common) = region.and_then(|region| region.intersection(&chunk)) else { continue };
            decoded.resize(chunk.num_voxels(), 0);
            let within = |at: [usize; 3]| std::array::from_fn(|axis| at[axis] - chunk.start[axis]);
            match *source {
                ChunkSource::Constant(value) => decoded.fill(value),
                ChunkSource::Record(word) => {
                    let part = Box3 { start: within(common.start), end: within(common.end) };
                    let record = &records[word as usize * size_of::<u32>()..];
                    let done = self.packed.decode_indexed(chunk.shape(), &part, record, &mut decoded);
                    done.expect("a record is checked when it is written");
                }
            }
            let [_, chunk_y, chunk_z] = chunk.shape();
            let len = common.shape()[2];
            for x in common.start[0]..common.end[0] {
                for y in common.start[1]..common.end[1] {
                    let [from_x, from_y, from_z] = within([x, y, common.start[2]]);
                    let from = (from_x * chunk_y + from_y) * chunk_z + from_z;
                    let in_box = |axis: usize, at: usize| {
                        usize::try_from(at.cast_signed() as i64 - self.box_start[axis])
                            .expect("the region lies in the box")
                    };
                    let to = (in_box(0, x) * ny + in_box(1, y)) * nz + in_box(2, common.start[2]);
                    quantized[to..to + len].copy_from_slice(&decoded[from..from + len]);
                }
            }
        }
        quantized
    }

    /// Boxes of stored values from which `crops` of one batch are made, one after the other, as a batch of
    /// [`VoxelForm::Boxes`] holds them.
    pub(super) fn boxes(crops: &[Self], words: &[u32]) -> (Vec<u16>, Vec<CropBox>) {
        let mut values = Vec::new();
        let stored = |crop: &Self| {
            let start = values.len();
            values.extend(crop.stored(words));
            CropBox { start, shape: crop.box_shape, scale: crop.scale, params: crop.params }
        };
        let boxes = crops.iter().map(stored).collect();
        (values, boxes)
    }
}

/// Part of a box inside a volume of `shape`, if any.
pub(crate) fn region(box_start: [i64; 3], box_shape: [usize; 3], shape: [usize; 3]) -> Option<Box3> {
    let at = |v: i64| usize::try_from(v.max(0)).expect("not negative");
    let end = |axis: usize| box_start[axis] + i64::try_from(box_shape[axis]).expect("small");
    let whole = Box3 { start: box_start.map(at), end: std::array::from_fn(|axis| at(end(axis))) };
    whole.intersection(&Box3::whole(shape))
}
