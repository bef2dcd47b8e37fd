//! Chunks of a visit for a device that decodes them: verified and copied as they are stored, each once.
//!
//! Labels are decoded here, and only cut, flipped and turned. An entropy coder shrinks them to a few hundredths of a
//! byte per voxel, and its data can only be read from the beginning, so a device could not divide the work among its
//! threads. Training checks every label on the host anyway.

use std::ops::Range;

use hiend_cache::codec::packed::Packed;
use hiend_cache::index::Entry;
use hiend_cache::{Box3, CaseError, Codec, Error, Grid, VolumeReader};

use super::copy::{ColumnCopy, Layout, RowBuffers};
use super::decode::{Arrays, ColumnDecoder};
use super::form::Planned;
use super::plan::CropPlan;
use crate::batch::{ChunkSource, CropChunks, VoxelForm};

/// Copies coded chunks of a case to a batch, and decodes labels.
#[derive(Default)]
pub(super) struct ChunkCopier {
    /// Content of each wanted chunk of the volume.
    sources: Vec<ChunkSource>,
    rows: RowBuffers,
}

/// Labels of one crop in the slot.
struct LabelCut {
    box_start: [i64; 3],
    /// Part of the crop's box inside the volume.
    region: Option<Box3>,
    layout: Layout,
    /// Indices of the labels in the slot.
    held: Range<usize>,
}

impl ChunkCopier {
    /// Size in bytes of the buffers that depend on the case.
    pub(super) fn buffer_bytes(&self) -> u64 {
        (self.sources.capacity() * size_of::<ChunkSource>()) as u64
    }

    /// Writes the records of all chunks that the planned crops intersect to the beginning of `words`; returns the
    /// crops.
    ///
    /// # Errors
    /// If the image has another codec, a chunk cannot be read or is corrupt, or `words` has less room than [`most_words`]
    /// of the case.
    pub(super) fn copy(
        &mut self,
        reader: &mut VolumeReader,
        decoder: &mut ColumnDecoder,
        planned: &Planned<'_>,
        words: &mut [u32],
    ) -> Result<Vec<CropChunks>, Error> {
        let Planned { case, index, crops, scale, .. } = planned;
        let grid = &index.grid;
        let Codec::Packed(packed) = case.record().image.codec else {
            return Err(Error::BadCase { case: case.key().to_owned(), reason: CaseError::NotPacked });
        };
        decoder.want(grid, crops.iter().filter_map(|crop| crop.region(grid.shape())));
        self.sources.clear();
        self.sources.resize(grid.num_chunks(), ChunkSource::Constant(0));
        let mut end = 0;
        for chunk in decoder.wanted() {
            if let Entry::Constant(value) = index.image.entries[chunk] {
                self.sources[chunk] = ChunkSource::Constant(value);
                continue;
            }
            let shape = grid.chunk_box(chunk).shape();
            let record: &mut [u8] = bytemuck::cast_slice_mut(&mut words[end..]);
            let written = reader
                .image_packed(case, index, chunk, |packed, bytes| packed.write_indexed(shape, bytes, &mut *record))?;
            self.sources[chunk] = ChunkSource::Record(u32::try_from(end).expect("a batch has fewer than 2^31 words"));
            end += written.unwrap_or(0) / size_of::<u32>();
        }
        let crop = |crop: &CropPlan| {
            let region = crop.region(grid.shape());
            let chunks = region.iter().flat_map(|region| grid.chunks_meeting(region));
            CropChunks {
                words: 0..end,
                chunks: chunks.map(|chunk| self.sources[chunk]).collect(),
                packed,
                grid: *grid,
                box_start: crop.box_start,
                box_shape: crop.box_shape,
                scale: *scale,
                params: crop.params,
            }
        };
        Ok(crops.iter().map(crop).collect())
    }

    /// Writes the labels of the planned crops to `labels`, from the chunks that [`Self::copy`] copied.
    ///
    /// # Errors
    /// If the case has no labels, or a chunk cannot be read or is corrupt.
    pub(super) fn copy_labels(
        &mut self,
        reader: &mut VolumeReader,
        decoder: &mut ColumnDecoder,
        planned: &Planned<'_>,
        labels: &mut [u8],
    ) -> Result<(), Error> {
        let Planned { case, index, .. } = planned;
        let grid = &index.grid;
        let cuts = LabelCut::all(planned);
        for cut in &cuts {
            // Outside the volume there is nothing.
            if cut.region.is_none_or(|region| region.num_voxels() < cut.held.len()) {
                labels[cut.held.clone()].fill(0);
            }
        }
        for column in (0..grid.num_chunks()).step_by(grid.column_len()) {
            if !decoder.read(reader, case, index, column, Arrays { image: false, label: true })? {
                continue;
            }
            let column = grid.column_box(column);
            for LabelCut { box_start, region, layout, held } in &cuts {
                let Some(part) = region.and_then(|region| region.intersection(&column)) else { continue };
                let copy = ColumnCopy { grid, column, part, box_start: *box_start };
                copy.values(&decoder.label, *layout, &mut self.rows, &mut labels[held.clone()]);
            }
        }
        Ok(())
    }
}

impl LabelCut {
    /// Places the labels of all crops one after the other.
    fn all(planned: &Planned<'_>) -> Vec<Self> {
        let mut end = 0;
        let place = |crop: &CropPlan| {
            let size = VoxelForm::Chunks.held_shape(&crop.params, planned.crop_size);
            let start = end;
            end += size.iter().product::<usize>();
            Self {
                box_start: crop.box_start,
                region: crop.region(planned.index.grid.shape()),
                layout: Layout { map: crop.params.axis_map(), size },
                held: start..end,
            }
        };
        planned.crops.iter().map(place).collect()
    }
}

/// Maximum number of words that the records of a visit take: `num_crops` boxes of up to `box_shape` in a volume with
/// `grid`.
pub(crate) fn most_words(packed: Packed, grid: &Grid, num_crops: usize, box_shape: [usize; 3]) -> usize {
    let chunk = grid.chunk();
    // A box of n voxels that begins with the last voxel of a chunk meets the most chunks.
    let met: usize = (0..3)
        .map(|axis| {
            let most = (box_shape[axis] + chunk[axis] - 2) / chunk[axis] + 1;
            most.min(grid.shape()[axis].div_ceil(chunk[axis]))
        })
        .product();
    let chunks = met.saturating_mul(num_crops).min(grid.num_chunks());
    let side = |axis: usize| chunk[axis].min(grid.shape()[axis]);
    chunks.saturating_mul(packed.max_indexed_bytes(std::array::from_fn(side)) / size_of::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_bounded_by_the_chunks_that_boxes_can_meet() {
        let packed = Packed { bits: 9 };
        let words = |shape, num_crops, box_shape| {
            let grid = Grid::new(shape, [32; 3]).unwrap();
            most_words(packed, &grid, num_crops, box_shape) / (packed.max_indexed_bytes([32; 3]) / 4)
        };
        assert_eq!(words([200; 3], 1, [96; 3]), 4 * 4 * 4);
        assert_eq!(words([200; 3], 1, [33, 34, 1]), 2 * 3);
        assert_eq!(words([200; 3], 8, [96; 3]), 7 * 7 * 7);
        assert_eq!(words([64, 200, 200], 1, [96; 3]), 2 * 4 * 4);
    }
}
