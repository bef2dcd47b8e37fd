//! Chain of the pre-training recipe: two transforms of the axes and two of the intensities.
//!
//! The pipeline fuses all four with the copy of the crop, through [`RecipeParams::axis_map`] and
//! [`RecipeParams::intensity`]; [`RecipeParams::apply`] is the plain form, for tests and tools.

use serde::{Deserialize, Serialize};

use super::super::axis_map::AxisMap;
use super::super::mirror::{Mirror, MirrorParams, MirrorUse};
use super::super::rotate90::{Rotate90, Rotate90Params};
use super::super::scale_intensity::{ScaleIntensity, ScaleIntensityParams};
use super::super::shift_intensity::{ShiftIntensity, ShiftIntensityParams};
use super::{CropMut, CropRef, phrase, phrases};
use crate::rng::DrawId;

/// Settings of Hi-End-MAE's pre-training chain, in the order of application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Flips, probability 0.5 per axis by default.
    pub flip: Mirror,
    /// Quarter turns, probability 0.3 by default.
    pub rotate90: Rotate90,
    /// Multiplication by up to 1 ± 0.1, probability 0.1 by default.
    pub scale_intensity: ScaleIntensity,
    /// Shift by up to ± 0.1 of the window, probability 0.1 by default.
    pub shift_intensity: ShiftIntensity,
}

/// Parameters of the recipe's chain for one crop; `None` for transforms that are not applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipeParams {
    /// Flips along chosen axes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip: Option<MirrorParams>,
    /// Quarter turns in the plane of x and y.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate90: Option<Rotate90Params>,
    /// Multiplication of the intensities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_intensity: Option<ScaleIntensityParams>,
    /// Shift of the intensities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_intensity: Option<ShiftIntensityParams>,
}

impl Recipe {
    /// Samples all parameters of the crop `id`.
    #[must_use]
    pub fn sample_params(&self, id: &DrawId) -> RecipeParams {
        RecipeParams {
            flip: self.flip.sample_params(id, MirrorUse::Flip),
            rotate90: self.rotate90.sample_params(id),
            scale_intensity: self.scale_intensity.sample_params(id),
            shift_intensity: self.shift_intensity.sample_params(id),
        }
    }
}

impl RecipeParams {
    /// Combines flips and quarter turns into one map.
    #[must_use]
    pub fn axis_map(&self) -> AxisMap {
        AxisMap::new(self.flip, self.rotate90)
    }

    /// Combines the two intensity transforms into `(m, a)`: a voxel v becomes m v + a.
    ///
    /// A transform that is not applied has m = 1 or a = 0, which leaves every voxel as it is, except that a negative
    /// zero becomes positive.
    #[must_use]
    pub fn intensity(&self) -> (f32, f32) {
        (
            self.scale_intensity.map_or(1.0, |params| params.factor),
            self.shift_intensity.map_or(0.0, |params| params.shift),
        )
    }

    /// Describes each applied transform by a phrase, in order.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let Self { flip, rotate90, scale_intensity, shift_intensity } = self;
        phrases([
            phrase(flip.as_ref()),
            phrase(rotate90.as_ref()),
            phrase(scale_intensity.as_ref()),
            phrase(shift_intensity.as_ref()),
        ])
    }

    /// Makes the augmented crop from its box, one transform after another instead of fused.
    ///
    /// # Panics
    /// Like [`super::SampledParams::apply`].
    pub fn apply(&self, source: CropRef<'_>, crop: &mut CropMut<'_>) {
        let map = self.axis_map();
        assert_eq!(source.shape, map.source_shape(crop.shape), "the source has the shape of its box");
        let (factor, shift) = self.intensity();
        permute(source.image, source.shape, crop.image, crop.shape, map, |v| v * factor + shift);
        match (source.labels, crop.labels.as_deref_mut()) {
            (Some(from), Some(to)) => permute(from, source.shape, to, crop.shape, map, |v| v),
            (None, None) => {}
            _ => panic!("source and crop both have labels or neither has"),
        }
    }
}

/// Copies `from` to `to` through an axis map.
fn permute<T: Copy>(
    from: &[T],
    from_shape: [usize; 3],
    to: &mut [T],
    shape: [usize; 3],
    map: AxisMap,
    value: impl Fn(T) -> T,
) {
    assert_eq!(to.len(), shape.iter().product::<usize>(), "a crop has its shape");
    assert_eq!(from.len(), to.len(), "the source has as many voxels as the crop");
    let (start, strides) = map.walk(shape, [from_shape[1] * from_shape[2], from_shape[2], 1]);
    let offset = |i: usize, axis: usize| i as isize * strides[axis];
    for (row, to) in to.chunks_exact_mut(shape[2].max(1)).enumerate() {
        let row_at = offset(row / shape[1], 0) + offset(row % shape[1], 1);
        for (z, t) in to.iter_mut().enumerate() {
            *t = value(from[start.wrapping_add_signed(row_at + offset(z, 2))]);
        }
    }
}
