//! Segmentation metrics on host label maps: Dice, surface Dice and the 95th percentile Hausdorff distance.
//!
//! Nothing here needs a device. A label map is a slice of class indices in [X, Y, Z] order, z fastest, 0 = background.

pub mod dice;
pub mod evaluation;
pub mod surface;

use thiserror::Error;

/// Why a metric could not be computed.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum MetricError {
    /// Label and prediction cover different grids.
    #[error("label has size {label:?}, prediction {pred:?}")]
    SizeMismatch {
        /// Voxels of the label along x, y, z.
        label: [usize; 3],
        /// Voxels of the prediction along x, y, z.
        pred: [usize; 3],
    },
    /// The slice does not hold the voxels that its size announces.
    #[error("a volume of size {dims:?} cannot have {num_voxels} voxels")]
    VoxelCount {
        /// Announced voxels along x, y, z.
        dims: [usize; 3],
        /// Voxels in the slice.
        num_voxels: usize,
    },
    /// A voxel's class index is not below the number of classes.
    #[error("class {class} in the {map}, but there are {num_classes} classes")]
    ClassOutOfRange {
        /// `label` or `prediction`.
        map: &'static str,
        /// The class found.
        class: u8,
        /// Number of classes with background.
        num_classes: usize,
    },
    /// A spacing that is not a positive finite number.
    #[error("spacing {spacing_mm:?} mm is not positive and finite")]
    Spacing {
        /// Voxel side lengths, mm.
        spacing_mm: [f64; 3],
    },
    /// A tolerance that is negative or not a number.
    #[error("tolerance {tolerance_mm} mm is not a finite number of zero or more")]
    Tolerance {
        /// Tolerance asked for, mm.
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
    /// Wraps class indices in [X, Y, Z] order (z fastest) with voxel side lengths in mm.
    ///
    /// # Errors
    /// If `dims` and the slice disagree or the spacing is not positive and finite.
    pub fn new(voxels: &'a [u8], dims: [usize; 3], spacing_mm: [f64; 3]) -> Result<Self, MetricError> {
        let announced = dims.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim));
        if announced != Some(voxels.len()) {
            return Err(MetricError::VoxelCount { dims, num_voxels: voxels.len() });
        }
        if !spacing_mm.iter().all(|&side| side.is_finite() && side > 0.0) {
            return Err(MetricError::Spacing { spacing_mm });
        }
        Ok(Self { voxels, dims, spacing_mm })
    }

    /// Class indices, z fastest.
    #[must_use]
    pub fn voxels(&self) -> &'a [u8] {
        self.voxels
    }

    /// Voxels along x, y, z.
    #[must_use]
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Voxel side lengths, mm.
    #[must_use]
    pub fn spacing_mm(&self) -> [f64; 3] {
        self.spacing_mm
    }
}

/// Mean of the values that are not NaN; NaN if there is none.
#[must_use]
pub fn nan_mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values
        .into_iter()
        .filter(|value| !value.is_nan())
        .fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count > 0.0 { sum / count } else { f64::NAN }
}
