//! The three forms of voxels as types: how a visit writes each, and how a batch holds it.

use super::copy::{ColumnCopy, Layout, RowBuffers};
use crate::batch::{CropBox, Dequantize, Images, PooledBuffer, VoxelForm};
use crate::transform::{AxisMap, SampledParams};

/// A [`VoxelForm`] as a type.
pub trait Form: sealed::Sealed + Send + Sync + 'static {
    /// Type of a voxel.
    type Voxel: bytemuck::Pod + Default + Send + Sync;

    /// The form.
    const FORM: VoxelForm;

    /// Flips and turns that the copy into the batch applies.
    fn axis_map(params: &SampledParams) -> AxisMap;

    /// Voxel outside the volume.
    fn outside(dequantize: &Dequantize) -> Self::Voxel;

    /// Copies a crop's part of a column into the crop; `finished` says that nothing more will be done to it.
    fn copy(
        column: &ColumnCopy<'_>,
        chunks: &[Vec<u16>],
        layout: Layout,
        dequantize: &Dequantize,
        finished: bool,
        rows: &mut RowBuffers,
        crop: &mut [Self::Voxel],
    );

    /// The voxels as floats, if the rest of the augmentation is to be applied to them.
    fn floats(voxels: &mut [Self::Voxel]) -> Option<&mut [f32]>;

    /// Images of a batch; `boxes` has an entry per crop.
    fn images(voxels: PooledBuffer<Self::Voxel>, boxes: Vec<CropBox>) -> Images;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Floats {}
    impl Sealed for super::Quantized {}
    impl Sealed for super::Boxes {}
}

/// [`Images::Floats`]: the visit does everything.
#[derive(Clone, Copy, Debug)]
pub struct Floats;

/// [`Images::Quantized`]: the visit flips and turns. Of a chain that is not linear it leaves the rest undone.
#[derive(Clone, Copy, Debug)]
pub struct Quantized;

/// [`Images::Boxes`]: the visit only decodes and cuts.
#[derive(Clone, Copy, Debug)]
pub struct Boxes;

impl Form for Floats {
    type Voxel = f32;
    const FORM: VoxelForm = VoxelForm::Floats;

    fn axis_map(params: &SampledParams) -> AxisMap {
        params.axis_map()
    }

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

    fn images(voxels: PooledBuffer<f32>, _: Vec<CropBox>) -> Images {
        Images::Floats(voxels)
    }
}

impl Form for Quantized {
    type Voxel = u16;
    const FORM: VoxelForm = VoxelForm::Quantized;

    fn axis_map(params: &SampledParams) -> AxisMap {
        params.axis_map()
    }

    fn outside(_: &Dequantize) -> u16 {
        OUTSIDE
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

    fn images(voxels: PooledBuffer<u16>, boxes: Vec<CropBox>) -> Images {
        Images::Quantized(voxels, boxes.iter().map(CropBox::dequantize).collect())
    }
}

impl Form for Boxes {
    type Voxel = u16;
    const FORM: VoxelForm = VoxelForm::Boxes;

    fn axis_map(_: &SampledParams) -> AxisMap {
        AxisMap::IDENTITY
    }

    fn outside(_: &Dequantize) -> u16 {
        OUTSIDE
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

    fn images(voxels: PooledBuffer<u16>, boxes: Vec<CropBox>) -> Images {
        Images::Boxes(voxels, boxes)
    }
}

/// Stored value of a voxel outside the volume: the lowest that a cache holds lies at or below the window's lower end.
const OUTSIDE: u16 = 0;
