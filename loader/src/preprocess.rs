//! A scan to a volume of the cache, in the recipe's order: orient to RAS+, resample, window, crop to the foreground.
//!
//! Agrees with MONAI's `Orientationd`, `Spacingd`, `ScaleIntensityRanged` and `CropForegroundd`: shapes, offsets and
//! label maps are equal; image values differ by the half step that storing 1-HU steps costs.
//!
//! All four steps are one pass over the source ([`resample`]): planes are resampled one after the other, windowed into
//! 16-bit steps as they leave ([`window`]), and the bounding box of the foreground is found on the way
//! ([`foreground`]). Peak memory is the source file, inflated, in its own data type, and the result.

pub mod foreground;
mod grid;
mod matrix;
mod oblique;
pub mod resample;
pub mod rows;
mod separable;
pub mod window;

use hiend_cache::Geometry;
use serde::{Deserialize, Serialize};

use crate::geometry::{cropped, largest_shift_mm, spacing};
use crate::nifti::{NiftiInfo, NiftiVolume};
use foreground::ForegroundBox;
use resample::{Resampling, nearest, trilinear};
use window::{Quantiser, Store};

/// What is done to every scan. Saved with the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Voxel side lengths of the result along x, y, z in mm; `None` keeps each scan's own.
    pub spacing: Option<[f64; 3]>,
    /// The HU range that becomes [0, 1]; foreground is what lies above its lower end.
    pub window: [f64; 2],
    /// Which values are stored.
    pub store: Store,
}

impl Default for PreprocessConfig {
    /// The recipe's: 1.5 mm, [-175, 250] HU, stored inside the window.
    fn default() -> Self {
        Self { spacing: Some([1.5; 3]), window: [-175.0, 250.0], store: Store::Window }
    }
}

impl PreprocessConfig {
    /// Checks ranges.
    ///
    /// # Errors
    /// Says which value is out of range, and the range.
    pub fn validate(&self) -> Result<(), String> {
        let [low, high] = self.window;
        let whole = |value: f64| value.fract() == 0.0 && (-32_768.0..=32_767.0).contains(&value);
        if !(whole(low) && whole(high) && low < high) {
            return Err(format!("window {low},{high}: expected two whole HU values, the lower one first"));
        }
        match self.spacing {
            Some(spacing) if !spacing.iter().all(|side| (0.05..=50.0).contains(side)) => {
                Err(format!("spacing {spacing:?}: expected 0.05 to 50 mm"))
            }
            _ => Ok(()),
        }
    }

    /// Identifies the parameters: 16 hex digits, equal for equal results.
    #[must_use]
    pub fn digest(&self) -> String {
        // The version changes when the same parameters begin to give other voxels.
        let text = format!("preprocess v1 {self:?}");
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// A volume ready for the cache, z fastest.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Voxels along x, y, z.
    pub shape: [usize; 3],
    /// Stored image samples, see [`Quantiser`].
    pub image: Vec<u16>,
    /// Label map.
    pub label: Option<Vec<u8>>,
    /// How samples and HU relate.
    pub quantiser: Quantiser,
    /// Where the voxels are.
    pub geometry: Geometry,
}

/// Shape that a scan will have after resampling, before the crop to the foreground.
#[must_use]
pub fn resampled_shape(info: &NiftiInfo, config: &PreprocessConfig) -> [usize; 3] {
    Resampling::new(info, config.spacing).shape()
}

/// Prepares one scan.
///
/// # Errors
/// If image and label do not belong together, labels are no labels, or nothing lies above the window's lower end.
pub fn preprocess(
    image: &NiftiVolume,
    label: Option<&NiftiVolume>,
    config: &PreprocessConfig,
) -> Result<Prepared, String> {
    let resampling = Resampling::new(&image.info, config.spacing);
    let quantiser = Quantiser::new(config.window, config.store);
    let shape = resampling.shape();
    let mut samples = vec![0u16; shape.iter().product()];
    let mut found = ForegroundBox::new();
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers of at most 16 bits")]
    let threshold = config.window[0] as f32;
    trilinear(image, &resampling, &mut samples, |values, at, samples| {
        found.look(values, threshold, at);
        quantiser.quantise(values, samples);
    });
    let Some(region) = found.region(&resampling) else {
        let low = config.window[0];
        return Err(format!("no voxel above {low} HU; is this a CT in Hounsfield units?"));
    };
    let label = match label {
        Some(label) => {
            check_pair(&image.info, &label.info)?;
            let labels = label.to_labels()?;
            let own = Resampling::new(&label.info, config.spacing);
            let on_image = own.shape() == shape && own.target_axis() == resampling.target_axis();
            // As MONAI, by the label's own header: where it differs by rounding, so do the halves between two voxels.
            let mut resampled = nearest(&labels, if on_image { &own } else { &resampling });
            drop(labels);
            foreground::crop(&mut resampled, shape, &region);
            Some(resampled)
        }
        None => None,
    };
    foreground::crop(&mut samples, shape, &region);
    let affine = cropped(&resampling.affine(), region.start);
    let geometry = Geometry {
        spacing: spacing(&affine),
        affine,
        source_shape: image.info.shape,
        source_affine: image.info.affine,
        foreground_box: region,
    };
    Ok(Prepared { shape: region.shape(), image: samples, label, quantiser, geometry })
}

/// A label map must lie on its image's grid. Headers that differ by rounding are common and harmless.
fn check_pair(image: &NiftiInfo, label: &NiftiInfo) -> Result<(), String> {
    if image.shape != label.shape {
        return Err(format!("label of shape {:?} for an image of shape {:?}", label.shape, image.shape));
    }
    let shift = largest_shift_mm(&image.affine, &label.affine, image.shape);
    let side = spacing(&image.affine).into_iter().fold(f64::INFINITY, f64::min);
    if shift > side {
        return Err(format!("label lies {shift:.1} mm off its image; their headers must agree within a voxel"));
    }
    Ok(())
}
