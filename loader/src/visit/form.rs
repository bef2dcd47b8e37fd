//! Voxel forms as types: the way in which a visit writes each form, and in which a batch holds it.

use std::time::Instant;

use hiend_cache::Case;
use hiend_cache::shard::reader::CaseIndex;

use super::copy::{ColumnCopy, Layout, RowBuffers};
use super::plan::CropPlan;
use super::{VisitSlot, VisitTimes, Visitor};
use crate::batch::{CropBox, CropChunks, Dequantize, Images, PooledBuffer, VoxelForm};
use crate::preprocess::window::Scale;
use crate::transform::{AxisMap, SampledParams};

/// Planned crops of a visit, not yet cut.
pub struct Planned<'a> {
    pub(super) case: &'a Case,
    pub(super) index: &'a CaseIndex,
    pub(super) crops: Vec<CropPlan>,
    /// Conversion from stored values to the units of the stream.
    pub(super) scale: Scale,
    pub(super) crop_size: [usize; 3],
    /// Time at which the visit started.
    pub(super) started: Instant,
}

/// Type-level counterpart of a [`VoxelForm`].
pub trait Form: sealed::Sealed + Send + Sync + Sized + 'static {
    /// Type of a voxel.
    type Voxel: bytemuck::Pod + Default + Send + Sync;

    /// Description of one crop in a batch.
    type Crop: Send;

    /// The voxel form that this type stands for.
    const FORM: VoxelForm;

    /// True if the voxels of a batch are contiguous, even where a case was skipped.
    const IS_DENSE: bool = true;

    /// Makes the planned crops in `slot`. Positions in the returned crops are relative to the beginning of the slot.
    ///
    /// # Errors
    /// If a chunk cannot be read or is corrupt.
    fn make(
        visitor: &mut Visitor,
        planned: Planned<'_>,
        slot: &mut VisitSlot<'_, Self>,
    ) -> Result<(Vec<Self::Crop>, VisitTimes), hiend_cache::Error>;

    /// Adjusts the description of a crop to a slot that begins at `start` in the batch.
    fn moved(crop: Self::Crop, start: usize) -> Self::Crop;

    /// Wraps the images of a batch; `crops` has one entry per crop.
    fn images(voxels: PooledBuffer<Self::Voxel>, crops: Vec<Self::Crop>) -> Images;
}

/// A form whose voxels a visit decodes and cuts.
pub(super) trait CutForm: Form<Crop = CropBox, Voxel: CutVoxel> {
    /// Flips and turns that the copy into the batch applies.
    fn axis_map(params: &SampledParams) -> AxisMap {
        params.axis_map()
    }
}

/// Voxel type that a visit writes.
pub(super) trait CutVoxel: Sized {
    /// Value of a voxel outside the volume.
    fn outside(dequantize: &Dequantize) -> Self;

    /// Copies a crop's part of a column into the crop; `finished` is true if nothing else changes the crop.
    fn copy(
        column: &ColumnCopy<'_>,
        chunks: &[Vec<u16>],
        layout: Layout,
        dequantize: &Dequantize,
        finished: bool,
        rows: &mut RowBuffers,
        crop: &mut [Self],
    );

    /// Returns the voxels as floats if the rest of the augmentation is to be applied to them, `None` otherwise.
    fn floats(voxels: &mut [Self]) -> Option<&mut [f32]>;
}

impl CutVoxel for f32 {
    fn outside(dequantize: &Dequantize) -> f32 {
        dequantize.outside()
    }

    fn copy(
        column: &ColumnCopy<'_>,
        chunks: &[Vec<u16>],
        layout: Layout,
        dequantize: &Dequantize,
        finished: bool,
        rows: &mut RowBuffers,
        crop: &mut [f32],
    ) {
        column.floats(chunks, layout, dequantize, finished, rows, crop);
    }

    fn floats(voxels: &mut [f32]) -> Option<&mut [f32]> {
        Some(voxels)
    }
}

/// Stored value, which the batch's consumer converts.
impl CutVoxel for u16 {
    fn outside(dequantize: &Dequantize) -> u16 {
        dequantize.scale.outside()
    }

    fn copy(
        column: &ColumnCopy<'_>,
        chunks: &[Vec<u16>],
        layout: Layout,
        _: &Dequantize,
        _: bool,
        rows: &mut RowBuffers,
        crop: &mut [u16],
    ) {
        column.values(chunks, layout, rows, crop);
    }

    fn floats(_: &mut [u16]) -> Option<&mut [f32]> {
        None
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Floats {}
    impl Sealed for super::Quantized {}
    impl Sealed for super::Boxes {}
    impl Sealed for super::Chunks {}
}

/// [`Images::Floats`]: the visit does everything.
#[derive(Clone, Copy, Debug)]
pub struct Floats;

/// [`Images::Quantized`]: the visit flips and turns. For a chain that is not linear, it leaves the other transforms
/// undone.
#[derive(Clone, Copy, Debug)]
pub struct Quantized;

/// [`Images::Boxes`]: the visit only decodes and cuts.
#[derive(Clone, Copy, Debug)]
pub struct Boxes;

/// [`Images::Chunks`]: the visit only verifies and copies chunks as they are stored, and cuts labels.
#[derive(Clone, Copy, Debug)]
pub struct Chunks;

impl Form for Floats {
    type Voxel = f32;
    type Crop = CropBox;
    const FORM: VoxelForm = VoxelForm::Floats;

    fn make(
        visitor: &mut Visitor,
        planned: Planned<'_>,
        slot: &mut VisitSlot<'_, Self>,
    ) -> Result<(Vec<CropBox>, VisitTimes), hiend_cache::Error> {
        visitor.cut(planned, slot)
    }

    fn moved(crop: CropBox, start: usize) -> CropBox {
        CropBox { start: start + crop.start, ..crop }
    }

    fn images(voxels: PooledBuffer<f32>, _: Vec<CropBox>) -> Images {
        Images::Floats(voxels)
    }
}

impl CutForm for Floats {}

impl Form for Quantized {
    type Voxel = u16;
    type Crop = CropBox;
    const FORM: VoxelForm = VoxelForm::Quantized;

    fn make(
        visitor: &mut Visitor,
        planned: Planned<'_>,
        slot: &mut VisitSlot<'_, Self>,
    ) -> Result<(Vec<CropBox>, VisitTimes), hiend_cache::Error> {
        visitor.cut(planned, slot)
    }

    fn moved(crop: CropBox, start: usize) -> CropBox {
        CropBox { start: start + crop.start, ..crop }
    }

    fn images(voxels: PooledBuffer<u16>, boxes: Vec<CropBox>) -> Images {
        Images::Quantized(voxels, boxes.iter().map(CropBox::dequantize).collect())
    }
}

impl CutForm for Quantized {}

impl Form for Boxes {
    type Voxel = u16;
    type Crop = CropBox;
    const FORM: VoxelForm = VoxelForm::Boxes;

    fn make(
        visitor: &mut Visitor,
        planned: Planned<'_>,
        slot: &mut VisitSlot<'_, Self>,
    ) -> Result<(Vec<CropBox>, VisitTimes), hiend_cache::Error> {
        visitor.cut(planned, slot)
    }

    fn moved(crop: CropBox, start: usize) -> CropBox {
        CropBox { start: start + crop.start, ..crop }
    }

    fn images(voxels: PooledBuffer<u16>, boxes: Vec<CropBox>) -> Images {
        Images::Boxes(voxels, boxes)
    }
}

impl CutForm for Boxes {
    fn axis_map(_: &SampledParams) -> AxisMap {
        AxisMap::IDENTITY
    }
}

impl Form for Chunks {
    type Voxel = u32;
    type Crop = CropChunks;
    const FORM: VoxelForm = VoxelForm::Chunks;
    // A visit takes a quarter of the words that it could take, and moving them would cost as much as copying them did.
    const IS_DENSE: bool = false;

    fn make(
        visitor: &mut Visitor,
        planned: Planned<'_>,
        slot: &mut VisitSlot<'_, Self>,
    ) -> Result<(Vec<CropChunks>, VisitTimes), hiend_cache::Error> {
        let crops = visitor.chunks.copy(&mut visitor.reader, &mut visitor.decoder, &planned, slot.images)?;
        if let Some(labels) = slot.labels.as_deref_mut() {
            visitor.chunks.copy_labels(&mut visitor.reader, &mut visitor.decoder, &planned, labels)?;
        }
        let work = visitor.decoder.work(planned.index, slot.labels.is_some());
        Ok((crops, VisitTimes { decode_secs: planned.started.elapsed().as_secs_f64(), ..work }))
    }

    fn moved(crop: CropChunks, start: usize) -> CropChunks {
        CropChunks { words: start + crop.words.start..start + crop.words.end, ..crop }
    }

    fn images(words: PooledBuffer<u32>, crops: Vec<CropChunks>) -> Images {
        Images::Chunks(words, crops)
    }
}
