//! Segmentation metrics on host label maps: Dice, surface Dice, the 95th percentile Hausdorff distance, the average
//! symmetric surface distance and differences in volume; their uncertainty, and comparisons of two models.
//!
//! Everything is computed on the host. A label map is a slice of class indices in `[X, Y, Z]` order, z fastest,
//! 0 = background.

pub mod bootstrap;
pub mod comparison;
pub mod dice;
pub mod evaluation;
pub mod overlap;
pub mod surface;
pub mod wilcoxon;

use thiserror::Error;

use crate::label_space::LabelOutOfRange;

/// Errors from computing a metric.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum MetricError {
    /// Label and prediction of different sizes.
    #[error("the label has {label:?} voxels, the prediction {pred:?}")]
    SizeMismatch {
        /// Size of the label in voxels along x, y, z.
        label: [usize; 3],
        /// Size of the prediction in voxels along x, y, z.
        pred: [usize; 3],
    },
    /// A slice whose length does not match its size.
    #[error("a volume of {dims:?} voxels does not have {num_voxels} values")]
    VoxelCount {
        /// Size in voxels along x, y, z.
        dims: [usize; 3],
        /// Length of the slice.
        num_voxels: usize,
    },
    /// A label that is neither a class nor, in the true map, the ignore label.
    #[error("in the {map}: {found}")]
    LabelOutOfRange {
        /// Name of the map: `label` or `prediction`.
        map: &'static str,
        /// Label that was found.
        found: LabelOutOfRange,
    },
    /// A spacing that is not a positive finite number.
    #[error("spacing {spacing_mm:?} mm is not positive and finite")]
    Spacing {
        /// Voxel side lengths, in mm.
        spacing_mm: [f64; 3],
    },
    /// A tolerance that is negative or not finite.
    #[error("tolerance {tolerance_mm} mm is not a finite number of zero or more")]
    Tolerance {
        /// Tolerance as given, in mm.
        tolerance_mm: f64,
    },
}

/// A borrowed label map with its grid.
#[derive(Debug, Clone, Copy)]
pub struct LabelMap<'a> {
    voxels: &'a [u8],
    dims: [usize; 3],
    spacing_mm: [f64; 3],
}

impl<'a> LabelMap<'a> {
    /// Wraps class indices in `[X, Y, Z]` order (z fastest) with voxel side lengths in mm.
    ///
    /// # Errors
    /// If `dims` and the slice disagree or the spacing is not positive and finite.
    pub fn new(voxels: &'a [u8], dims: [usize; 3], spacing_mm: [f64; 3]) -> Result<Self, MetricError> {
        let num_voxels = dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        if num_voxels != Some(voxels.len()) {
            return Err(MetricError::VoxelCount { dims, num_voxels: voxels.len() });
        }
        if !spacing_mm.iter().all(|&side| side.is_finite() && side > 0.0) {
            return Err(MetricError::Spacing { spacing_mm });
        }
        Ok(Self { voxels, dims, spacing_mm })
    }

    /// Class indices, `[X, Y, Z]`, z fastest.
    #[must_use]
    pub fn voxels(&self) -> &'a [u8] {
        self.voxels
    }

    /// Size in voxels along x, y, z.
    #[must_use]
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Voxel side lengths, in mm.
    #[must_use]
    pub fn spacing_mm(&self) -> [f64; 3] {
        self.spacing_mm
    }
}

/// Mean of the values that are not NaN; NaN if all are.
#[must_use]
pub fn nan_mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values
        .into_iter()
        .filter(|value| !value.is_nan())
        .fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count > 0.0 { sum / count } else { f64::NAN }
}
