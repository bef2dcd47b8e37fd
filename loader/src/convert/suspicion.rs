//! Signs that an image is not a CT in Hounsfield units, each with its remedy.

use std::fmt;

use super::values::ValueStats;
use crate::case::ImageRole;
use crate::plural::count;
use crate::preprocess::normalize::Normalize;
use crate::preprocess::zscore::ZScore;
use crate::volume::Volume;

/// Largest value of an image that was normalised, as [0, 1], [-1, 1] or z-scores.
const MAX_NORMALISED: f32 = 20.0;
/// Share of voxels near 1024 from which an image without negative values is a CT with an offset.
const OFFSET_SHARE: f64 = 0.1;
/// Share of voxels above the window from which hardly anything is left in it.
const MOSTLY_ABOVE: f64 = 0.9;
/// Share of voxels below the window; a scan of a thin limb in a large field of view has 99% of air.
const MOSTLY_BELOW: f64 = 0.998;
/// Share of voxels beyond the range of z-scores from which the loss is told.
const NOTABLY_CLAMPED: f64 = 1e-4;
/// Deviation of the z-scores of all but extreme voxels from which they are distorted: half of what it is in a scan without
/// such voxels, so that more than three quarters of the variance are those of extreme voxels. Above it even the coarsest
/// step of stored z-scores, 1/128 for `--window -128,128`, is below 1/64 of the deviation, and its rounding error
/// (step / sqrt(12)) below 0.5% of it; below it steps approach the noise of the scan.
const DISTORTED: f64 = 0.5;

/// Treatment of suspicious images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSuspect {
    /// Use them and tell.
    #[default]
    Warn,
    /// Skip them.
    Skip,
    /// End the run at the first one.
    Fail,
}

/// Values of an image that may be used, and the oddities to tell.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The values.
    pub values: ValueStats,
    /// Oddities of the header and the values, each in one line.
    pub findings: Vec<String>,
}

impl OnSuspect {
    /// Judges an image by its header and its values, for a normalisation and the range that it keeps: a window in HU, or
    /// a range of z-scores.
    ///
    /// # Errors
    /// The sign for which the image is refused: any under [`OnSuspect::Skip`] and [`OnSuspect::Fail`], and under
    /// [`OnSuspect::Warn`] the values of a label map in a file that nothing declares to be an image.
    pub fn judge(
        self,
        image: &Volume,
        role: ImageRole,
        normalize: Normalize,
        window: [f64; 2],
    ) -> Result<Judged, Suspicion> {
        let values = ValueStats::of(image, normalize, window);
        let suspicion = match normalize {
            Normalize::Hu => Suspicion::of(&values),
            Normalize::Zscore => Suspicion::of_zscores(&values),
        };
        if let Some(suspicion) = suspicion {
            let is_label_map = matches!(suspicion, Suspicion::LabelMap { .. });
            if self != Self::Warn || (is_label_map && role == ImageRole::Assumed) {
                return Err(suspicion);
            }
        }
        let mut findings: Vec<String> = image.info.notes.iter().map(ToString::to_string).collect();
        findings.extend(suspicion.map(|suspicion| suspicion.to_string()));
        Ok(Judged { values, findings })
    }
}

/// A sign that an image is not a CT in HU, or not an image that z-scores represent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Suspicion {
    /// All voxels have one value.
    Constant {
        /// The value.
        value: f32,
    },
    /// Whole numbers from 0 to 255 in uniform areas.
    LabelMap {
        /// Number of different values.
        num: usize,
        /// Highest value.
        max: f32,
    },
    /// A range such as [0, 1], [-1, 1] or that of z-scores.
    Normalised {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
    },
    /// A range within [0, 255].
    EightBit {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
    },
    /// No negative values, and tissue near 1024 or far above.
    Offset {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
        /// Share of voxels from 874 to 1274.
        share: f64,
    },
    /// No negative values, and tissue not near 1024 either, as in an MR.
    NoNegatives {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
    },
    /// Nearly all voxels lie above the window.
    AboveWindow {
        /// Share of voxels at or above the window's upper end.
        share: f64,
    },
    /// Nearly all voxels lie below the window.
    BelowWindow {
        /// Share of voxels at or below the window's lower end.
        share: f64,
    },
    /// A few voxels with most of the variance, next to which the z-scores of all others hardly differ.
    Extremes {
        /// Number of voxels more than 20 standard deviations from the mean.
        num: u64,
        /// Value that is farthest from the mean.
        value: f32,
        /// Standard deviation of the z-scores of all other voxels.
        spread: f64,
    },
    /// Z-scores beyond the range that is kept.
    Clamped {
        /// Share of voxels at or beyond the ends of the range.
        share: f64,
    },
}

impl Suspicion {
    /// The weightiest sign in an image's values; `None` for a plausible CT.
    #[must_use]
    pub fn of(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { min, max, below, above, offset_tissue, labels, .. } = stats;
        if min >= max {
            return Some(Self::Constant { value: min });
        }
        if let Some(num) = labels {
            return Some(Self::LabelMap { num, max });
        }
        if min >= -MAX_NORMALISED && max <= MAX_NORMALISED {
            return Some(Self::Normalised { min, max });
        }
        if min >= 0.0 && max <= 255.0 {
            return Some(Self::EightBit { min, max });
        }
        if min >= 500.0 || (min >= -50.0 && offset_tissue >= OFFSET_SHARE) {
            return Some(Self::Offset { min, max, share: offset_tissue });
        }
        if min >= 0.0 {
            return Some(Self::NoNegatives { min, max });
        }
        if above >= MOSTLY_ABOVE {
            return Some(Self::AboveWindow { share: above });
        }
        (below >= MOSTLY_BELOW).then_some(Self::BelowWindow { share: below })
    }

    /// The weightiest sign in the values of an image of any modality; `None` for a plausible one.
    #[must_use]
    pub fn of_zscores(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { min, max, below, above, labels, .. } = stats;
        if min >= max {
            return Some(Self::Constant { value: min });
        }
        if let Some(num) = labels {
            return Some(Self::LabelMap { num, max });
        }
        if let Some(ZScore { mean, extremes: Some(extremes), .. }) = stats.zscore
            && extremes.spread < DISTORTED
        {
            let distance = |value: f32| (f64::from(value) - mean).abs();
            let value = if distance(min) > distance(max) { min } else { max };
            return Some(Self::Extremes { num: extremes.num, value, spread: extremes.spread });
        }
        let share = below + above;
        (share >= NOTABLY_CLAMPED).then_some(Self::Clamped { share })
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| share * 100.0;
        match self {
            Self::Constant { value } => write!(f, "every voxel is {value}; replace the file, or exclude the case"),
            Self::LabelMap { num, max } => {
                write!(f, "a label map by its values ({num} whole numbers up to {max}); expected an image")
            }
            Self::Normalised { min, max } => {
                write!(f, "values {min} to {max}: normalised, not HU; convert the original scan")
            }
            Self::EightBit { min, max } => {
                write!(f, "values {min} to {max}: an 8-bit picture, not HU; convert the original scan")
            }
            Self::Offset { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them near 1024 and none negative: HU with an offset; subtract it (1024 \
                 as a rule), or set scl_slope to 1 and scl_inter to -1024 in the header",
                percent(share)
            ),
            Self::NoNegatives { min, max } => write!(
                f,
                "values {min} to {max}, none negative: an MR, or a CT that is not in HU; exclude it, or convert the \
                 original scan"
            ),
            Self::AboveWindow { share } => {
                write!(
                    f,
                    "{:.1}% of the voxels lie above the window; not HU, or another --window is needed",
                    percent(share)
                )
            }
            Self::BelowWindow { share } => {
                write!(f, "{:.2}% of the voxels lie below the window; not HU, or a nearly empty scan", percent(share))
            }
            Self::Extremes { num, value, spread } => write!(
                f,
                "{} more than 20 standard deviations from the mean, up to the value {value}, with most of the variance: the \
                 z-scores of all other voxels have a deviation of {spread:.1e} in place of about 1; clip these values in the \
                 file, or exclude the case",
                count(*num, "voxel")
            ),
            Self::Clamped { share } => {
                write!(
                    f,
                    "{:.3}% of the voxels lie beyond the range of z-scores and are clamped; --window -100,100 keeps more",
                    percent(share)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::nifti::testing::TestFile;
    use crate::volume::read_volume;

    const SHAPE: [usize; 3] = [40, 30, 20];

    /// A body of noisy tissue in air, in HU; deterministic.
    fn ct() -> Vec<f32> {
        let [nx, ny, nz] = SHAPE;
        let mut values = Vec::with_capacity(nx * ny * nz);
        for at in 0..nx * ny * nz {
            let (x, y) = (at % nx, at / nx % ny);
            let noise = ((at * 7919 + at / 13 * 104_729) % 61) as f32 - 30.0;
            let is_body = (5..35).contains(&x) && (5..25).contains(&y);
            let is_lung = (10..15).contains(&x) && (8..20).contains(&y);
            values.push(
                if is_lung {
                    -820.0
                } else if is_body {
                    45.0
                } else {
                    -1000.0
                } + noise,
            );
        }
        values
    }

    fn check(values: &[f32], expected: Option<&str>) -> ValueStats {
        let dir = tempfile::tempdir().unwrap();
        let file = TestFile::new(SHAPE, &[]).with_f32(values);
        let volume = read_volume(&file.write(&dir.path().join("a.nii"))).unwrap();
        let stats = ValueStats::of(&volume, Normalize::Hu, [-175.0, 250.0]);
        let found = Suspicion::of(&stats).map(|suspicion| suspicion.to_string());
        match expected {
            Some(part) => assert!(found.as_ref().is_some_and(|text| text.contains(part)), "{found:?} {stats:?}"),
            None => assert_eq!(found, None, "{stats:?}"),
        }
        stats
    }

    fn mapped(map: impl Fn(f32) -> f32) -> Vec<f32> {
        ct().into_iter().map(map).collect()
    }

    #[test]
    fn a_ct_is_plausible() {
        let stats = check(&ct(), None);
        assert_eq!((stats.min, stats.max), (-1030.0, 75.0));
        // 30 x 20 of 40 x 30 are body, 5 x 12 of them lung.
        assert!((stats.below - 0.55).abs() < 1e-9 && stats.above.abs() < 1e-9, "{stats:?}");
        // Lung stays above -900; noise lifts no air to it.
        assert!((stats.air - 0.5).abs() < 1e-9, "{stats:?}");
        // Cropped to the body, and clipped to the window.
        check(&mapped(|hu| hu.max(-150.0)), None);
        check(&mapped(|hu| hu.clamp(-175.0, 250.0)), None);
    }

    #[test]
    fn values_that_are_not_hu_are_named() {
        check(&mapped(|hu| hu + 1030.0), Some("HU with an offset"));
        check(&mapped(|hu| (hu + 1000.0).max(0.0)), Some("HU with an offset"));
        check(&mapped(|hu| hu + 32_768.0), Some("HU with an offset"));
        check(&mapped(|hu| (hu.clamp(-175.0, 250.0) + 175.0) / 425.0), Some("normalised"));
        check(&mapped(|hu| hu / 500.0), Some("normalised"));
        check(&mapped(|hu| ((hu + 1030.0) / 1105.0 * 255.0).round()), Some("an 8-bit picture"));
        check(&mapped(|hu| (hu + 1030.0) * 0.4), Some("an MR, or a CT that is not in HU"));
        check(
            &mapped(|hu| hu * 50.0 + 60_000.0 - 70_000.0 * f32::from(u8::from(hu < -1029.0))),
            Some("above the window"),
        );
        let mut empty = mapped(|hu| -1000.0 - hu.abs() / 8.0);
        empty[0] = 40.0;
        check(&empty, Some("below the window"));
        check(&mapped(|_| 0.0), Some("every voxel is 0"));
    }

    #[test]
    fn label_maps_are_known_by_their_values() {
        check(&mapped(|hu| f32::from(u8::from(hu > 0.0))), Some("a label map by its values (2 whole numbers up to 1)"));
        // A hundred labels in uniform slabs.
        let slabs: Vec<f32> = (0..SHAPE.iter().product::<usize>()).map(|at| (at / 240) as f32).collect();
        check(&slabs, Some("a label map by its values (100 whole numbers up to 99)"));
    }

    /// Suspicion and counts of an image that becomes z-scores.
    fn of_zscores(values: &[f32], window: [f64; 2]) -> (Option<String>, ValueStats) {
        let dir = tempfile::tempdir().unwrap();
        let file = TestFile::new(SHAPE, &[]).with_f32(values).write(&dir.path().join("a.nii"));
        let stats = ValueStats::of(&read_volume(&file).unwrap(), Normalize::Zscore, window);
        (Suspicion::of_zscores(&stats).map(|suspicion| suspicion.to_string()), stats)
    }

    #[test]
    fn one_extreme_voxel_is_told_once_it_distorts_all_others() {
        let range = Normalize::Zscore.default_window();
        let with = |extreme: f32| {
            let mut values = ct();
            values[12_345] = extreme;
            of_zscores(&values, range)
        };
        // One voxel of 24,000 at 30,000 HU raises the deviation from 513 to 550 HU, which changes little.
        let (suspicion, stats) = with(30_000.0);
        assert_eq!(suspicion, None);
        assert_eq!(stats.zscore.unwrap().extremes.unwrap().num, 1);
        for extreme in [1e6, -1e6] {
            let (suspicion, stats) = with(extreme);
            // Less than one voxel in 10,000: the number of clamped voxels alone tells nothing.
            assert!(stats.below + stats.above < NOTABLY_CLAMPED, "{stats:?}");
            let text = suspicion.unwrap();
            assert!(text.starts_with("1 voxel more than 20 standard deviations from the mean"), "{text}");
            assert!(text.contains(&format!("up to the value {extreme}, ")) && text.contains("e-2 in place"), "{text}");
        }
    }

    #[test]
    fn any_modality_is_plausible_as_z_scores() {
        let of = of_zscores;
        let range = Normalize::Zscore.default_window();
        // An offset, an MR, a normalised image, and a CT.
        let maps: [fn(f32) -> f32; 4] = [|hu| hu + 1030.0, |hu| (hu + 1030.0) * 0.4, |hu| hu / 500.0, |hu| hu];
        for map in maps {
            let (suspicion, stats) = of(&mapped(map), range);
            assert_eq!(suspicion, None);
            assert!(stats.zscore.is_some() && stats.below + stats.above <= 0.0, "{stats:?}");
        }
        let (suspicion, stats) = of(&mapped(|hu| hu.max(0.0)), range);
        let num_zero = ct().iter().filter(|&&hu| hu <= 0.0).count();
        assert_eq!((suspicion, stats.air), (None, num_zero as f64 / ct().len() as f64));
        let (suspicion, _) = of(&mapped(|hu| hu.max(0.0)), [-1.0, 1.0]);
        assert!(suspicion.is_some_and(|text| text.contains("beyond the range of z-scores")));
        let (suspicion, stats) = of(&mapped(|_| 7.0), range);
        assert_eq!(
            (suspicion.as_deref(), stats.zscore),
            (Some("every voxel is 7; replace the file, or exclude the case"), None)
        );
        let (suspicion, _) = of(&mapped(|hu| f32::from(u8::from(hu > 0.0))), range);
        assert!(suspicion.is_some_and(|text| text.starts_with("a label map")));
    }
}
