//! The pre-training recipe's chain: two moves of the axes and two of the intensities.
//!
//! The pipeline fuses all four with the copy of the crop, through [`RecipeParams::axis_map`] and
//! [`RecipeParams::intensity`]; `apply` is the plain form, for tests and tools.

use serde::{Deserialize, Serialize};

use super::super::axis_map::AxisMap;
use super::super::mirror::{Mirror, MirrorParams, MirrorUse};
use super::super::rotate90::{Rotate90, Rotate90Params};
use super::super::scale_intensity::{ScaleIntensity, ScaleIntensityParams};
use super::super::shift_intensity::{ShiftIntensity, ShiftIntensityParams};
use super::{CropMut, CropRef, phrase, phrases};
use crate::rng::DrawId;

/// Hi-End-MAE's pre-training chain, in the order applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Each axis with probability 0.5.
    pub flip: Mirror,
    /// With probability 0.3.
    pub rotate90: Rotate90,
    /// With probability 0.1, by up to a tenth.
    pub scale_intensity: ScaleIntensity,
    /// With probability 0.1, by up to a tenth of the window.
    pub shift_intensity: ShiftIntensity,
}

/// What the recipe's chain drew; `None` where a transform did not come up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipeParams {
    /// First.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip: Option<MirrorParams>,
    /// Second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rotate90: Option<Rotate90Params>,
    /// Third.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_intensity: Option<ScaleIntensityParams>,
    /// Fourth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift_intensity: Option<ShiftIntensityParams>,
}

impl Recipe {
    /// All parameters of the crop that `id` names.
    #[must_use]
    pub fn draw(&self, id: &DrawId) -> RecipeParams {
        RecipeParams {
            flip: self.flip.draw(id, MirrorUse::Flip),
            rotate90: self.rotate90.draw(id),
            scale_intensity: self.scale_intensity.draw(id),
            shift_intensity: self.shift_intensity.draw(id),
        }
    }
}

impl RecipeParams {
    /// Flips and quarter turns as one map.
    #[must_use]
    pub fn axis_map(&self) -> AxisMap {
        AxisMap::new(self.flip, self.rotate90)
    }

    /// `(m, a)` such that a voxel v becomes m v + a: the two intensity steps.
    ///
    /// Where one did not come up its number is 1 or 0, which leaves every voxel as the plain step leaves it (but for
    /// the sign of a zero).
    #[must_use]
    pub fn intensity(&self) -> (f32, f32) {
        (
            self.scale_intensity.map_or(1.0, |params| params.factor),
            self.shift_intensity.map_or(0.0, |params| params.shift),
        )
    }

    /// One phrase for each thing done, in the order done.
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

    /// The plain form of what the pipeline fuses with its crop copy.
    ///
    /// # Panics
    /// As [`super::SampledParams::apply`].
    pub fn apply(&self, source: CropRef<'_>, crop: &mut CropMut<'_>) {
        let map = self.axis_map();
        assert_eq!(source.shape, map.source_shape(crop.shape), "the source is the box asked for");
        let (factor, shift) = self.intensity();
        permute(source.image, source.shape, crop.image, crop.shape, map, |v| v * factor + shift);
        match (source.labels, crop.labels.as_deref_mut()) {
            (Some(from), Some(to)) => permute(from, source.shape, to, crop.shape, map, |v| v),
            (None, None) => {}
            _ => panic!("labels go in and out, or neither"),
        }
    }
}

fn permute<T: Copy>(
    from: &[T],
    from_shape: [usize; 3],
    to: &mut [T],
    shape: [usize; 3],
    map: AxisMap,
    value: impl Fn(T) -> T,
) {
    assert_eq!(to.len(), shape.iter().product::<usize>(), "a crop has its shape");
    assert_eq!(from.len(), to.len(), "the source is the box asked for");
    let (start, steps) = map.walk(shape, [from_shape[1] * from_shape[2], from_shape[2], 1]);
    let offset = |i: usize, axis: usize| i as isize * steps[axis];
    for (row, to) in to.chunks_exact_mut(shape[2].max(1)).enumerate() {
        let row_at = offset(row / shape[1], 0) + offset(row % shape[1], 1);
        for (z, t) in to.iter_mut().enumerate() {
            *t = value(from[start.wrapping_add_signed(row_at + offset(z, 2))]);
        }
    }
}
