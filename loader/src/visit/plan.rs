//! Plan of a visit: parameters, position and box of each crop, before anything is read.

use hiend_cache::Box3;

use crate::batch::{VoxelForm, region};
use crate::preprocess::normalize::Units;
use crate::rng::DrawId;
use crate::sampler::{SampleBy, box_start};
use crate::transform::{Chain, Rest, SampledParams};

/// Settings that all visits of a stream share.
#[derive(Clone, Debug)]
pub struct VisitPlan {
    /// Voxels of a crop along x, y, z.
    pub crop_size: [usize; 3],
    /// Number of crops per visit.
    pub num_crops: usize,
    /// Share of crops whose centre is foreground, 0 to 1.
    pub foreground_rate: f64,
    /// Definition of foreground.
    pub sample_by: SampleBy,
    /// Augmentation of the crops.
    pub augment: Chain,
    /// Units of the crops.
    pub units: Units,
    /// Seed of the run.
    pub seed: u64,
}

impl VisitPlan {
    /// Number of voxels (for [`VoxelForm::Chunks`], labels) that a visit holds in a batch of the given form. `id` is
    /// the identity of its first crop.
    #[must_use]
    pub fn held_voxels(&self, id: &DrawId, form: VoxelForm) -> usize {
        // A turned box has as many voxels as its crop.
        if self.augment.is_linear() || !matches!(form, VoxelForm::Boxes | VoxelForm::Chunks) {
            return self.num_crops * self.crop_size.iter().product::<usize>();
        }
        self.params(id).map(|params| form.held_shape(&params, self.crop_size).iter().product::<usize>()).sum()
    }

    /// Bytes of the boxes that a visit stages before it resamples them; `id` is the identity of its first crop.
    #[must_use]
    pub fn staged_bytes(&self, id: &DrawId, form: VoxelForm, labels: bool) -> u64 {
        if !self.augment.resamples() || form != VoxelForm::Floats {
            return 0;
        }
        let staged = self.params(id).filter(|params| is_staged(form, params));
        let voxels: usize = staged.map(|params| params.source_box(self.crop_size).iter().product::<usize>()).sum();
        (voxels * (size_of::<f32>() + usize::from(labels))) as u64
    }

    /// Parameters of each crop of a visit; `id` is the identity of its first crop.
    fn params(&self, id: &DrawId) -> impl Iterator<Item = SampledParams> {
        (0..).take(self.num_crops).map(move |crop| self.augment.sample_params(&DrawId { crop, ..*id }))
    }
}

/// Returns true if a crop is first cut as a box into a staging buffer and resampled from there.
pub(super) fn is_staged(form: VoxelForm, params: &SampledParams) -> bool {
    form == VoxelForm::Floats && matches!(params.rest(), Rest::Resampled(_))
}

/// One planned crop of a visit, not yet cut.
pub(super) struct CropPlan {
    pub(super) params: SampledParams,
    /// First voxel of the crop.
    pub(super) origin: [i64; 3],
    /// First voxel of the box from which the crop is made.
    pub(super) box_start: [i64; 3],
    /// Number of voxels of the box along x, y, z: the size of the turned crop, or another size if the crop is
    /// resampled.
    pub(super) box_shape: [usize; 3],
}

impl CropPlan {
    /// Plans the crop `id` around a voxel of a volume of `shape`.
    pub(super) fn new(plan: &VisitPlan, id: &DrawId, centre: [usize; 3], shape: [usize; 3]) -> Self {
        let origin: [i64; 3] = std::array::from_fn(|axis| box_start(centre[axis], shape[axis], plan.crop_size[axis]));
        let params = plan.augment.sample_params(id);
        let box_shape = params.source_box(plan.crop_size);
        let signed = |n: usize| i64::try_from(n).expect("an axis is shorter than 2^63");
        // A larger box has the same centre. A turned box of another shape is placed around its own centre.
        let box_start = std::array::from_fn(|axis| {
            origin[axis] - (signed(box_shape[axis]) - signed(plan.crop_size[axis])).div_euclid(2)
        });
        Self { params, origin, box_start, box_shape }
    }

    /// Part of the box inside a volume of `shape`, if any.
    pub(super) fn region(&self, shape: [usize; 3]) -> Option<Box3> {
        region(self.box_start, self.box_shape, shape)
    }
}
