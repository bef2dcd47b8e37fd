//! Cutting of decoded columns into finished crops.

use std::ops::Range;

use hiend_cache::Box3;
use hiend_cache::grid::Grid;

use super::VisitSlot;
use super::copy::{ColumnCopy, Layout, RowBuffers};
use super::decode::ColumnDecoder;
use super::form::{CutForm, CutVoxel};
use super::plan::{CropPlan, is_staged};
use crate::batch::{CropBox, Dequantize};
use crate::preprocess::window::Scale;
use crate::transform::{AxisMap, CropMut, CropRef, Rest, Scratch};

/// One crop and its locations in memory.
pub(super) struct Cut {
    pub(super) crop: CropPlan,
    /// Part of the crop's box inside the volume.
    pub(super) region: Option<Box3>,
    crop_size: [usize; 3],
    dequantize: Dequantize,
    /// Layout of the voxels in the slot.
    layout: Layout,
    /// Indices of the voxels in the slot.
    held: Range<usize>,
    /// Indices of the box in the staging buffer, if the crop is resampled from there.
    staged: Option<Range<usize>>,
}

impl Cut {
    /// Places all crops one after the other.
    pub(super) fn all<F: CutForm>(
        crops: Vec<CropPlan>,
        scale: Scale,
        volume_shape: [usize; 3],
        crop_size: [usize; 3],
    ) -> Vec<Self> {
        let (mut held_end, mut staged_end) = (0, 0);
        let place = |crop: CropPlan| {
            let held_shape = F::FORM.held_shape(&crop.params, crop_size);
            let (factor, shift) = crop.params.intensity();
            Self {
                region: crop.region(volume_shape),
                crop_size,
                dequantize: Dequantize { scale, factor, shift },
                layout: Layout { map: F::axis_map(&crop.params), size: held_shape },
                held: next(&mut held_end, held_shape),
                staged: is_staged(F::FORM, &crop.params).then(|| next(&mut staged_end, crop.box_shape)),
                crop,
            }
        };
        crops.into_iter().map(place).collect()
    }

    /// Box that a batch reports for this crop.
    pub(super) fn crop_box(&self) -> CropBox {
        let Self { crop, held, dequantize, .. } = self;
        CropBox { start: held.start, shape: crop.box_shape, scale: dequantize.scale, params: crop.params }
    }

    /// Returns true if voxels of the box lie outside the volume.
    fn is_padded(&self) -> bool {
        self.region.is_none_or(|region| region.shape() != self.crop.box_shape)
    }
}

/// Reserves the next `shape` voxels of a buffer that is in use up to `end`.
fn next(end: &mut usize, shape: [usize; 3]) -> Range<usize> {
    let start = *end;
    *end += shape.iter().product::<usize>();
    start..*end
}

/// Buffers for cutting crops.
#[derive(Default)]
pub(super) struct Cutter {
    rows: RowBuffers,
    /// Boxes of crops that are to be resampled, in the units of the stream.
    staged_image: Vec<f32>,
    staged_label: Vec<u8>,
    scratch: Scratch,
}

impl Cutter {
    /// Size in bytes of the buffers that depend on the crops.
    pub(super) fn buffer_bytes(&self) -> u64 {
        let floats = self.staged_image.capacity() + self.rows.capacity();
        (floats * size_of::<f32>() + self.staged_label.capacity()) as u64
    }

    /// Fills the voxels that no chunk will write: those of padded crops, and the staging buffer.
    pub(super) fn prepare<F: CutForm>(&mut self, cuts: &[Cut], slot: &mut VisitSlot<'_, F>) {
        let mut staged_len = 0;
        for cut in cuts {
            if let Some(staged) = &cut.staged {
                staged_len = staged.end;
            } else if cut.is_padded() {
                slot.images[cut.held.clone()].fill(F::Voxel::outside(&cut.dequantize));
                if let Some(labels) = slot.labels.as_deref_mut() {
                    labels[cut.held.clone()].fill(0);
                }
            }
        }
        zeros(&mut self.staged_image, staged_len);
        zeros(&mut self.staged_label, if slot.labels.is_some() { staged_len } else { 0 });
    }

    /// Copies the decoded column that begins with chunk `column` into all crops that intersect it.
    pub(super) fn copy<F: CutForm>(
        &mut self,
        decoded: &ColumnDecoder,
        grid: &Grid,
        column: usize,
        cuts: &[Cut],
        slot: &mut VisitSlot<'_, F>,
    ) {
        let column = grid.column_box(column);
        for cut in cuts {
            let Some(part) = cut.region.and_then(|region| region.intersection(&column)) else { continue };
            let copy = ColumnCopy { grid, column, part, box_start: cut.crop.box_start };
            let (layout, labels) = if let Some(staged) = cut.staged.clone() {
                let layout = Layout { map: AxisMap::IDENTITY, size: cut.crop.box_shape };
                let dequantize = Dequantize { factor: 1.0, shift: 0.0, ..cut.dequantize };
                let image = &mut self.staged_image[staged.clone()];
                copy.floats(&decoded.image, layout, &dequantize, false, &mut self.rows, image);
                (layout, slot.labels.is_some().then(|| &mut self.staged_label[staged]))
            } else {
                let finished = cut.crop.params.is_fused();
                let image = &mut slot.images[cut.held.clone()];
                F::Voxel::copy(&copy, &decoded.image, cut.layout, &cut.dequantize, finished, &mut self.rows, image);
                (cut.layout, slot.labels.as_deref_mut().map(|labels| &mut labels[cut.held.clone()]))
            };
            if let Some(labels) = labels {
                copy.values(&decoded.label, layout, &mut self.rows, labels);
            }
        }
    }

    /// Applies the transforms that copying could not: resampling, and transforms that need a crop's other voxels.
    pub(super) fn finish<F: CutForm>(&mut self, cuts: &[Cut], slot: &mut VisitSlot<'_, F>) {
        let Some(images) = F::Voxel::floats(slot.images) else { return };
        for cut in cuts {
            let labels = slot.labels.as_deref_mut().map(|labels| &mut labels[cut.held.clone()]);
            let mut crop = CropMut { image: &mut images[cut.held.clone()], labels, shape: cut.crop_size };
            match (cut.crop.params.rest(), &cut.staged) {
                (Rest::Resampled(params), Some(staged)) => {
                    let labels = crop.labels.is_some().then(|| &self.staged_label[staged.clone()]);
                    let image = &self.staged_image[staged.clone()];
                    let source = CropRef { image, labels, shape: cut.crop.box_shape };
                    params.apply(source, &mut crop, &mut self.scratch);
                }
                (Rest::InPlace(params), _) => params.apply_in_place(&mut crop, &mut self.scratch),
                (Rest::Nothing, _) | (Rest::Resampled(_), None) => {}
            }
        }
    }
}

/// Makes `buffer` hold `len` zeros. Reserves exactly that many, because amortised growth could double the largest
/// buffer.
fn zeros<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    buffer.clear();
    buffer.reserve_exact(len);
    buffer.resize(len, T::default());
}
