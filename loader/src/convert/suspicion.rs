//! Signs that an image is not a CT in Hounsfield units, each with its remedy.

use std::fmt;

use super::values::{FAR_ABOVE_AIR, ValueStats};
use crate::case::ImageRole;
use crate::plural::count;
use crate::preprocess::normalize::Normalize;
use crate::preprocess::zscore::ZScore;
use crate::volume::{Format, Volume};

/// Largest value of an image that was normalised, as [0, 1], [-1, 1] or z-scores.
const MAX_NORMALISED: f32 = 20.0;
/// Share of voxels near 1024 from which an image without negative values is a CT with an offset.
const OFFSET_SHARE: f64 = 0.1;
/// Share of voxels near 2048 from which those near 1024 may be air with an offset of 2048, and not tissue with one of 1024. The
/// middle of two CTs of the torso has 0.03% and 0.09%.
const RAISED_SHARE: f64 = 0.02;
/// Offsets that programs add to HU, besides 1024 and 1000. With 2048, air would lie where tissue lies with 1024.
const OFFSETS: [f32; 4] = [4096.0, 8192.0, 16_384.0, 32_768.0];
/// Largest distance of the value of air from -1000 or -1024 HU, which are 24 HU apart.
const PEAK_TOLERANCE: f32 = 8.0;
/// Share of voxels above the window from which hardly anything is left in it.
const MOSTLY_ABOVE: f64 = 0.9;
/// Share of voxels below the window; a scan of a thin limb in a large field of view has 99% of air.
const MOSTLY_BELOW: f64 = 0.998;
/// Share of voxels beyond the range of z-scores from which the loss is reported.
const NOTABLY_CLAMPED: f64 = 1e-4;
/// Deviation of the z-scores of all but extreme voxels from which they are distorted: half of what it is in a scan without
/// such voxels, so that more than three quarters of the variance are those of extreme voxels. Above it even the coarsest
/// step of stored z-scores, 1/128 for `--window -128,128`, is below 1/64 of the deviation, and its rounding error
/// (step / sqrt(12)) below 0.5% of it; below it steps approach the noise of the scan.
const DISTORTED: f64 = 0.5;

/// Treatment of suspicious images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSuspect {
    /// Use them and report it.
    #[default]
    Warn,
    /// Skip them.
    Skip,
    /// End the run at the first one.
    Fail,
}

/// Values of an image that may be used, and the oddities to report.
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
        /// Value of every voxel.
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
        /// Value of air, if it shows.
        air: Option<f32>,
        /// Format of the files.
        format: Format,
    },
    /// Air at -10000, and values between there and tissue.
    Tenfold {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
        /// Share of air.
        share: f64,
    },
    /// Multiples of 10, and more bone than HU have.
    Tens {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
    },
    /// Air at 1000, and hardly anything above.
    Inverted {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
        /// Share of air.
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
        let &ValueStats { min, max, below, above, air, offset_tissue, labels, peaks, format, .. } = stats;
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
        if min >= FAR_ABOVE_AIR || (min >= -50.0 && offset_tissue >= OFFSET_SHARE) {
            // Cropped to the body, a scan has no air: its lowest frequent value is that of fat or muscle.
            let is_cropped = offset_tissue >= OFFSET_SHARE && stats.raised_tissue < RAISED_SHARE;
            let air = stats.lowest_peak.filter(|_| !is_cropped);
            return Some(Self::Offset { min, max, share: offset_tissue, air, format });
        }
        if min >= 0.0 {
            return Some(Self::NoNegatives { min, max });
        }
        if let Some(share) = peaks.tenfold(air) {
            return Some(Self::Tenfold { min, max, share });
        }
        if peaks.are_tens() {
            return Some(Self::Tens { min, max });
        }
        if let Some(share) = peaks.inverted(air) {
            return Some(Self::Inverted { min, max, share });
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

/// Offset of a CT with air at this value, if it is one that programs use.
fn offset_of(air: f32) -> Option<f32> {
    // -1000 HU, and the lowest value of 12 bits.
    let is_air = |hu: f32| (hu + 1000.0).abs() <= PEAK_TOLERANCE || (hu + 1024.0).abs() <= PEAK_TOLERANCE;
    OFFSETS.into_iter().find(|offset| is_air(air - offset))
}

/// Remedy in the header, for formats whose headers have one that programs agree on.
fn or_in_header(format: Format, offset: f32) -> String {
    match format {
        Format::Nifti => format!(", or lower scl_inter by {offset} (with a scl_slope of 1 where that is 0)"),
        Format::Dicom => {
            format!(", or lower RescaleIntercept by {offset} in all files (set it to -{offset} where they lack it)")
        }
        Format::Nrrd | Format::MetaImage => String::new(),
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
            Self::Offset { min, max, share, format, air: None } if *share >= OFFSET_SHARE => write!(
                f,
                "values {min} to {max}, {:.0}% of them near 1024 and none negative: HU with an offset; subtract it (1024 \
                 as a rule){}",
                percent(share),
                or_in_header(*format, 1024.0)
            ),
            Self::Offset { min, max, air, format, .. } => match (air, air.and_then(offset_of)) {
                (Some(air), Some(offset)) => write!(
                    f,
                    "values {min} to {max}, with air at {air}: HU with an offset of {offset}; subtract it{}",
                    or_in_header(*format, offset)
                ),
                (Some(air), None) => write!(
                    f,
                    "values {min} to {max}: HU with an offset; the lowest frequent value is {air}, which is about the offset \
                     - 1000 if it is air; subtract the offset, or convert the original scan"
                ),
                (None, _) => write!(
                    f,
                    "values {min} to {max}: HU with an offset whose size the values do not show; convert the original scan"
                ),
            },
            Self::Tenfold { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them near -10000: HU times 10; divide them by 10, or convert the original \
                 scan",
                percent(share)
            ),
            Self::Tens { min, max } => write!(
                f,
                "values {min} to {max}, multiples of 10: HU times 10; divide them by 10, or convert the original scan"
            ),
            Self::Inverted { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them near 1000 and hardly any above: HU with inverted sign; multiply them \
                 by -1, or convert the original scan",
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
mod tests;
