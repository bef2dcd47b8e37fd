//! Preprocesses a scan to a volume of the cache, in the recipe's order: orient to RAS+, resample, window, crop to the
//! foreground. With [`Normalize::Zscore`], z-scores take the place of the window.
//!
//! Agrees with MONAI's `Orientationd`, `Spacingd`, `ScaleIntensityRanged` and `CropForegroundd`: shapes, offsets and
//! label maps are equal; image values differ by up to 0.5 HU, because they are stored as whole HU.
//!
//! All four stages are one pass over the source ([`resample`]): planes are resampled one after the other and immediately
//! windowed into 16-bit values ([`window`]), while the bounding box of the foreground is updated ([`foreground`]). Peak
//! memory is the source file, inflated, in its own data type, and the result.

pub mod foreground;
mod grid;
pub mod label_place;
pub mod lost_labels;
mod matrix;
pub mod normalize;
mod oblique;
pub mod resample;
pub mod rows;
mod separable;
pub mod window;
pub mod zscore;

use hiend_cache::Geometry;
use serde::{Deserialize, Serialize};

use crate::geometry::{cropped, spacing};
use crate::volume::{LabelVolume, Volume, VolumeInfo};
use foreground::ForegroundBox;
use label_place::{LabelPlace, Shift};
use lost_labels::{LostLabel, count_labels, lost_labels};
use normalize::{Normalize, Units};
use resample::{Resampling, nearest, trilinear};
use window::{Quantiser, Store};
use zscore::{ZScore, is_nonzero};

/// Preprocessing of every scan. Saved with the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Voxel side lengths of the result along x, y, z in mm; `None` keeps each scan's own.
    pub spacing: Option<[f64; 3]>,
    /// HU range mapped to [0, 1]; voxels above its lower end are foreground. With z-scores, the range that is kept, in
    /// standard deviations from the mean.
    pub window: [f64; 2],
    /// Stored range of values.
    pub store: Store,
    /// Normalisation of the values; HU if not stated.
    #[serde(default, skip_serializing_if = "Normalize::is_hu")]
    pub normalize: Normalize,
}

impl Default for PreprocessConfig {
    /// Returns the recipe's preprocessing: 1.5 mm, [-175, 250] HU, stored inside the window.
    fn default() -> Self {
        let normalize = Normalize::Hu;
        Self { spacing: Some([1.5; 3]), window: normalize.default_window(), store: Store::Window, normalize }
    }
}

impl PreprocessConfig {
    /// Checks that all parameters are in range.
    ///
    /// # Errors
    /// The first value that is out of range.
    pub fn validate(&self) -> Result<(), PreprocessConfigError> {
        let [low, high] = self.window;
        let whole = |value: f64| value.fract() == 0.0 && (-32_768.0..=32_767.0).contains(&value);
        if !(whole(low) && whole(high) && low < high) {
            return Err(PreprocessConfigError::Window { low, high });
        }
        if self.normalize == Normalize::Zscore {
            if self.store == Store::Full {
                return Err(PreprocessConfigError::ZscoreStore);
            }
            if !((-MAX_ZSCORE..0.0).contains(&low) && high > 0.0 && high <= MAX_ZSCORE) {
                return Err(PreprocessConfigError::ZscoreRange { low, high });
            }
        }
        match self.spacing {
            Some(spacing) if !spacing.iter().all(|side| (0.05..=50.0).contains(side)) => {
                Err(PreprocessConfigError::Spacing { spacing })
            }
            _ => Ok(()),
        }
    }

    /// Units of the crops that a stream cuts from a cache with these parameters; `window`, in HU, replaces the cache's
    /// own.
    #[must_use]
    pub fn units(&self, window: Option<[f64; 2]>) -> Units {
        Units::new(self.normalize, window.unwrap_or(self.window))
    }
}

/// Largest distance of a stored z-score from the mean, in standard deviations.
const MAX_ZSCORE: f64 = 128.0;

/// Error of a preprocessing parameter that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PreprocessConfigError {
    /// Ends of the window that are not whole 16-bit numbers, or not in ascending order.
    #[error("window {low},{high}: expected two whole HU values, the lower one first")]
    Window {
        /// Lower end, in HU.
        low: f64,
        /// Upper end, in HU.
        high: f64,
    },
    /// A range of z-scores that does not contain 0, or that extends beyond any image.
    #[error("window {low},{high}: expected a range of z-scores from -128..-1 to 1..128, such as -20,40")]
    ZscoreRange {
        /// Lower end, in standard deviations.
        low: f64,
        /// Upper end, in standard deviations.
        high: f64,
    },
    /// The option to store the full range of HU, combined with z-scores.
    #[error(
        "store full: keeps the range of HU, but z-scores have none; expected window, which keeps the range of --window"
    )]
    ZscoreStore,
    /// Voxel sides too short or too long for a scan.
    #[error("spacing {spacing:?}: expected 0.05 to 50 mm")]
    Spacing {
        /// Side lengths, in mm.
        spacing: [f64; 3],
    },
}

/// A volume ready for the cache, z fastest.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Number of voxels along x, y, z.
    pub shape: [usize; 3],
    /// Stored image samples, see [`Quantiser`].
    pub image: Vec<u16>,
    /// Label map.
    pub label: Option<Vec<u8>>,
    /// Label values of the source without a voxel in `label`.
    pub lost_labels: Vec<LostLabel>,
    /// Relation between stored values and HU or z-scores.
    pub quantiser: Quantiser,
    /// Position of the voxels in the world.
    pub geometry: Geometry,
}

/// Shape that a scan will have after resampling, before the crop to the foreground.
#[must_use]
pub fn resampled_shape(info: &VolumeInfo, config: &PreprocessConfig) -> [usize; 3] {
    Resampling::new(info, config.spacing).shape()
}

/// A scan that cannot be prepared, and the reason.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PreprocessError {
    /// A scan without a voxel above the window's lower end.
    #[error("no voxel above {low} HU; is this a CT in Hounsfield units?")]
    NoForeground {
        /// Lower end of the window, in HU.
        low: f64,
    },
    /// Image without z-scores, because all voxels in the bounding box of its nonzero voxels have one value, or all
    /// voxels are 0.
    #[error(
        "every voxel within the bounding box of nonzero voxels has the same value; z-scores need values that differ"
    )]
    Constant,
    /// Image and label have different numbers of voxels.
    #[error(
        "label of shape {label:?} for an image of shape {image:?}; use the label map of this image, or move it away to convert \
         the scan without labels"
    )]
    LabelShape {
        /// Shape of the label map, in RAS+ order.
        label: [usize; 3],
        /// Shape of the image, in RAS+ order.
        image: [usize; 3],
    },
    /// The headers put image and label in different places.
    #[error(
        "label lies {shift} off its image by their headers, which must agree within half a voxel along each axis or the \
         shortest voxel side; resample it onto the image, or correct its header"
    )]
    LabelPlace {
        /// Largest distance between the places of a corner voxel.
        shift: Shift,
    },
}

impl PreprocessError {
    /// Returns true if the label map is at fault rather than the image.
    #[must_use]
    pub fn concerns_label(&self) -> bool {
        matches!(self, Self::LabelShape { .. } | Self::LabelPlace { .. })
    }
}

/// Prepares one scan. The label map may be stored in another orientation than its image, as long as it covers the same
/// region of space.
///
/// # Errors
/// If image and label do not belong together, nothing lies above the window's lower end, or the image has no z-scores.
pub fn preprocess(
    image: &Volume,
    label: Option<&LabelVolume>,
    config: &PreprocessConfig,
) -> Result<Prepared, PreprocessError> {
    let label = label.map(|label| Ok((label, on_image(&image.info, &label.info)?))).transpose()?;
    let resampling = Resampling::new(&image.info, config.spacing);
    let quantiser = match config.normalize {
        Normalize::Hu => Quantiser::new(config.window, config.store),
        Normalize::Zscore => Quantiser::zscore(config.window, ZScore::of(image).ok_or(PreprocessError::Constant)?),
    };
    let shape = resampling.shape();
    let mut samples = vec![0u16; shape.iter().product()];
    let mut found = ForegroundBox::new();
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers of at most 16 bits")]
    let threshold = config.window[0] as f32;
    trilinear(image, &resampling, &mut samples, |values, at, samples| {
        match config.normalize {
            // Strictly above, like MONAI's `value > 0` after scaling.
            Normalize::Hu => found.look(values, at, |value| value > threshold),
            // Like nnU-Net's `crop_to_nonzero`, on the resampled grid.
            Normalize::Zscore => found.look(values, at, is_nonzero),
        }
        quantiser.quantise(values, samples);
    });
    let Some(region) = found.region(&resampling) else {
        return Err(match config.normalize {
            Normalize::Hu => PreprocessError::NoForeground { low: config.window[0] },
            Normalize::Zscore => PreprocessError::Constant,
        });
    };
    let (label, lost) = label
        .map(|(label, on_image)| {
            // Like MONAI, by the label's own header: if it differs by rounding, ties between two voxels fall differently
            // too.
            let own = Resampling::new(&label.info, config.spacing);
            let is_usable = own.shape() == shape && on_image.orientation == label.info.orientation;
            let as_image = if is_usable { own } else { Resampling::new(&on_image, config.spacing) };
            let mut resampled = nearest(&label.voxels, &as_image);
            let [source, before] = [&label.voxels, &resampled].map(|voxels| count_labels(voxels));
            foreground::crop(&mut resampled, shape, &region);
            let lost = lost_labels(&source, &before, &count_labels(&resampled));
            (resampled, lost)
        })
        .unzip();
    foreground::crop(&mut samples, shape, &region);
    let affine = cropped(&resampling.affine(), region.start);
    let geometry = Geometry {
        spacing: spacing(&affine),
        affine,
        source_shape: image.info.shape,
        source_affine: image.info.affine,
        foreground_box: region,
    };
    let lost_labels = lost.unwrap_or_default();
    Ok(Prepared { shape: region.shape(), image: samples, label, lost_labels, quantiser, geometry })
}

/// Checks that a label map lies on its image's grid; returns the label's header with the image's geometry, expressed in
/// the label's own order of axes. Headers that differ by rounding are common and harmless.
fn on_image(image: &VolumeInfo, label: &VolumeInfo) -> Result<VolumeInfo, PreprocessError> {
    if LabelPlace::of(image, label)?.is_same_order {
        return Ok(label.with_geometry(image.affine, image.orientation));
    }
    let oriented = image.orientation.affine(&image.affine, image.shape);
    let shape = image.orientation.shape(image.shape);
    Ok(label.with_geometry(label.orientation.source_affine(&oriented, shape), label.orientation))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::geometry::Affine;
    use crate::volume::nifti::testing::TestFile;
    use crate::volume::{read_labels, read_volume};

    const SHAPE: [usize; 3] = [5, 6, 7];
    const AFFINE: Affine = [[-2.0, 0.0, 0.0, 9.0], [0.0, -3.0, 0.0, 7.0], [0.0, 0.0, 4.0, -5.0], [0.0, 0.0, 0.0, 1.0]];

    fn voxel(at: usize) -> [usize; 3] {
        [at % SHAPE[0], at / SHAPE[0] % SHAPE[1], at / SHAPE[0] / SHAPE[1]]
    }

    /// Stores values in another order of axes: axis `k` of the file is axis `order[k]`, reversed if `flipped`.
    fn stored(values: &[u8], order: [usize; 3], flipped: [bool; 3]) -> TestFile {
        let shape = order.map(|axis| SHAPE[axis]);
        let mut file_values = vec![0; values.len()];
        for (at, &value) in values.iter().enumerate() {
            let from = voxel(at);
            let to: [usize; 3] = std::array::from_fn(|k| {
                let position = from[order[k]];
                if flipped[k] { shape[k] - 1 - position } else { position }
            });
            file_values[(to[2] * shape[1] + to[1]) * shape[0] + to[0]] = value;
        }
        let mut affine = AFFINE;
        for row in 0..3 {
            for k in 0..3 {
                let column = AFFINE[row][order[k]];
                affine[row][k] = if flipped[k] { -column } else { column };
                affine[row][3] += if flipped[k] { column * (shape[k] as f64 - 1.0) } else { 0.0 };
            }
        }
        TestFile::new(shape, &[]).with_u8(&file_values).affine(&affine)
    }

    fn prepare(dir: &Path, label: &TestFile, spacing: Option<[f64; 3]>) -> Result<Vec<u8>, PreprocessError> {
        let image = vec![40; SHAPE.iter().product()];
        let image = read_volume(&TestFile::new(SHAPE, &image).affine(&AFFINE).write(&dir.join("image.nii"))).unwrap();
        let label = read_labels(&label.write(&dir.join("label.nii"))).unwrap();
        let config = PreprocessConfig { spacing, ..PreprocessConfig::default() };
        Ok(preprocess(&image, Some(&label), &config)?.label.unwrap())
    }

    #[test]
    fn a_label_in_another_orientation_is_the_same_label() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<u8> = (0..SHAPE.iter().product::<usize>()).map(|at| (at % 251).to_le_bytes()[0]).collect();
        for spacing in [None, Some([1.5; 3])] {
            let expected = prepare(dir.path(), &stored(&values, [0, 1, 2], [false; 3]), spacing).unwrap();
            if spacing.is_none() {
                // RAS+, z fastest: x and y run backwards in the file.
                let ras: Vec<u8> = (0..values.len())
                    .map(|at| {
                        let [x, y, z] = [at / (SHAPE[1] * SHAPE[2]), at / SHAPE[2] % SHAPE[1], at % SHAPE[2]];
                        values[(z * SHAPE[1] + SHAPE[1] - 1 - y) * SHAPE[0] + SHAPE[0] - 1 - x]
                    })
                    .collect();
                assert_eq!(expected, ras);
            }
            for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0], [1, 2, 0]] {
                for flips in 0..8 {
                    let flipped = [flips & 1 != 0, flips & 2 != 0, flips & 4 != 0];
                    let label = prepare(dir.path(), &stored(&values, order, flipped), spacing).unwrap();
                    assert!(label == expected, "{order:?} {flipped:?} {spacing:?}");
                }
            }
        }
    }

    #[test]
    fn label_values_between_the_voxels_of_a_coarser_grid_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let image = TestFile::new(SHAPE, &vec![40; SHAPE.iter().product()]).affine(&AFFINE);
        let image = read_volume(&image.write(&dir.path().join("image.nii"))).unwrap();
        // One voxel next to the corner from which the coarser grid starts.
        let mut values = vec![1; SHAPE.iter().product()];
        values[3] = 7;
        let label = TestFile::new(SHAPE, &[]).with_u8(&values).affine(&AFFINE);
        let label = read_labels(&label.write(&dir.path().join("label.nii"))).unwrap();
        let lost = |spacing| {
            let config = PreprocessConfig { spacing, ..PreprocessConfig::default() };
            preprocess(&image, Some(&label), &config).unwrap().lost_labels
        };
        assert!(lost(None).is_empty());
        let expected = LostLabel { value: 7, num_voxels: 1, stage: lost_labels::LosingStage::Resampling };
        assert_eq!(lost(Some([6.0; 3])), [expected]);
    }

    #[test]
    fn header_of_a_label_decides_where_it_differs_by_rounding() {
        let side: f64 = 2.0;
        let dir = tempfile::tempdir().unwrap();
        let diagonal = |side: f64| -> Affine {
            std::array::from_fn(|row| {
                std::array::from_fn(|col| [0.0, if row == 3 { 1.0 } else { side }][usize::from(row == col)])
            })
        };
        let image = TestFile::new(SHAPE, &vec![40; SHAPE.iter().product()]).affine(&diagonal(side));
        let image = read_volume(&image.write(&dir.path().join("image.nii"))).unwrap();
        // Along x, every second voxel of the finer grid lies half-way between two of the image, and closer to the first of
        // them by the label's own header.
        let values: Vec<u8> = (0..SHAPE.iter().product()).map(|at| voxel(at)[0].to_le_bytes()[0]).collect();
        let label = TestFile::new(SHAPE, &[]).with_u8(&values).affine(&diagonal(side * 1.000_01));
        let label = read_labels(&label.write(&dir.path().join("label.nii"))).unwrap();
        let config = PreprocessConfig { spacing: Some([1.0, 2.0, 2.0]), ..PreprocessConfig::default() };
        let prepared = preprocess(&image, Some(&label), &config).unwrap();
        assert_eq!(prepared.shape[0], 9);
        let plane = prepared.shape[1] * prepared.shape[2];
        let along_x: Vec<u8> = prepared.label.unwrap().iter().step_by(plane).copied().collect();
        assert_eq!(along_x, [0, 0, 1, 1, 2, 2, 3, 3, 4]);
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let default = PreprocessConfig::default();
        let zscore = PreprocessConfig { normalize: Normalize::Zscore, window: [-20.0, 40.0], ..default };
        assert_eq!([default.validate(), zscore.validate()], [Ok(()), Ok(())]);
        let full = PreprocessConfig { store: Store::Full, ..default };
        assert_eq!(full.validate(), Ok(()));
        let full = PreprocessConfig { store: Store::Full, ..zscore };
        assert_eq!(full.validate(), Err(PreprocessConfigError::ZscoreStore));

        for [low, high] in [[0.5, 250.0], [-175.0, 250.5], [250.0, 250.0], [250.0, -175.0], [-40_000.0, 0.0]] {
            let config = PreprocessConfig { window: [low, high], ..default };
            assert_eq!(config.validate(), Err(PreprocessConfigError::Window { low, high }));
        }
        for [low, high] in [[0.0, 40.0], [-129.0, 40.0], [-20.0, 0.0], [-20.0, 129.0]] {
            let config = PreprocessConfig { window: [low, high], ..zscore };
            assert_eq!(config.validate(), Err(PreprocessConfigError::ZscoreRange { low, high }));
            // For HU, they are windows as good as others.
            assert_eq!(PreprocessConfig { window: [low, high], ..default }.validate(), Ok(()));
        }
        for side in [0.04, 50.5, -1.5, f64::NAN] {
            let config = PreprocessConfig { spacing: Some([1.5, side, 1.5]), ..default };
            assert!(matches!(config.validate(), Err(PreprocessConfigError::Spacing { .. })), "{side}");
        }
        for side in [0.05, 50.0] {
            assert_eq!(PreprocessConfig { spacing: Some([side; 3]), ..default }.validate(), Ok(()));
        }
    }

    #[test]
    fn a_label_elsewhere_or_of_another_shape_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let values = vec![1; SHAPE.iter().product()];
        let mut affine = AFFINE;
        affine[2][3] += 4.0;
        let shifted = stored(&values, [0, 1, 2], [false; 3]).affine(&affine);
        let error = prepare(dir.path(), &shifted, None).unwrap_err();
        assert!(error.to_string().starts_with("label lies 4.00 mm (1.00 voxels) off its image"), "{error}");
        let other = TestFile::new([5, 6, 6], &[]).with_u8(&values[30..]).affine(&AFFINE);
        let error = prepare(dir.path(), &other, None).unwrap_err();
        assert_eq!(error, PreprocessError::LabelShape { label: [5, 6, 6], image: SHAPE });
        assert!(error.concerns_label());
    }
}
