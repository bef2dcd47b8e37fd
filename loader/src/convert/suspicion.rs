//! Signs that an image is not a CT in Hounsfield units, each with its remedy.

use std::fmt;

use super::extent::extent_findings;
use super::values::{RARE, ValueStats};
use crate::case::ImageRole;
use crate::plural::count;
use crate::preprocess::normalize::Normalize;
use crate::preprocess::zscore::ZScore;
use crate::volume::{Format, Volume};

/// Range of the values of a normalised image: [0, 1], [-1, 1] or z-scores.
const NORMALISED: [f32; 2] = [-20.0, 20.0];
/// Range of the values of an 8-bit picture, widened by the overshoot of resampling at edges.
const EIGHT_BIT: [f32; 2] = [-10.0, 265.0];
/// Range of values that is too narrow for a CT: contains [-50, 50] and signed 8-bit numbers.
const NARROW: [f32; 2] = [-128.0, 128.0];
/// Share of voxels near 1024 from which an image is a CT with an offset. Two CTs of the torso have 0.01% and 0.03%.
const OFFSET_SHARE: f64 = 0.1;
/// Share of voxels far below the air of HU, and not of one value as padding is, above which an image has another scale.
/// CTs in HU have no such voxels, except at the edge of interpolated padding.
const FAR_BELOW_SHARE: f64 = 0.05;
/// Share of voxels near 2048 from which those near 1024 may be air with an offset of 2048, and not tissue with one of 1024. The
/// middle of two CTs of the torso has 0.03% and 0.09%.
const RAISED_SHARE: f64 = 0.02;
/// Share of voxels from 30 to 150 from which multiples of 10 are HU that were rounded. Times 10, the middle of two CTs of the
/// torso has 6% and 8%; that of one of them, rounded to tens, has 40%.
const ROUNDED_TISSUE_SHARE: f64 = 0.15;
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

/// End of the report of a mask that is used, because the layout of its dataset declares it to be an image.
const DECLARED: &str = "; converted as the image that its dataset's layout says it is, --on-suspect skip leaves it out";

/// Treatment of suspicious images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnSuspect {
    /// Use the image and report it.
    #[default]
    Warn,
    /// Skip the case.
    Skip,
    /// End the run at the first suspicious image.
    Fail,
}

/// Values of an image that may be used, and the findings to report.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Statistics of the image's values.
    pub values: ValueStats,
    /// Unusual features of the header and the values, each in one line.
    pub findings: Vec<String>,
}

impl OnSuspect {
    /// Judges an image by its header and its values, for a normalisation and the range that it keeps: a window in HU, or
    /// a range of z-scores.
    ///
    /// # Errors
    /// The sign for which the image is refused: under [`OnSuspect::Skip`] and [`OnSuspect::Fail`] any but values that a
    /// clipped CT has as well, and under [`OnSuspect::Warn`] the values of a label map or mask in a file that nothing
    /// declares to be an image, as in a plain folder.
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
        if let Some(suspicion) = suspicion
            && ((self != Self::Warn && !suspicion.may_be_clipped())
                || (suspicion.is_mask() && role == ImageRole::Assumed))
        {
            return Err(suspicion);
        }
        let mut findings: Vec<String> = image.info.notes.iter().map(ToString::to_string).collect();
        findings.extend(extent_findings(&image.info));
        findings.extend(suspicion.map(|suspicion| {
            let remedy = if suspicion.is_mask() { DECLARED } else { "" };
            format!("{suspicion}{remedy}")
        }));
        Ok(Judged { values, findings })
    }
}

/// A sign that an image is not a CT in HU, or cannot be represented by z-scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Suspicion {
    /// All voxels have one value.
    Constant {
        /// Value of every voxel.
        value: f32,
    },
    /// Few different whole numbers, or more of them in uniform areas.
    LabelMap {
        /// Number of different values.
        num: usize,
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
    },
    /// Class probabilities, nearly all of them close to 0 or 1.
    Probabilities {
        /// Lowest value.
        min: f32,
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
    /// A range such as [0, 255].
    EightBit {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
    },
    /// A range too narrow for a CT, such as [-50, 50].
    Narrow {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
    },
    /// Tissue near 1024, or all values far above air.
    Offset {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
        /// Share of voxels from 874 to 1274.
        share: f64,
        /// Value of air, if it can be recognised.
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
    /// Air at -100, and nothing below.
    Tenth {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
        /// Share of air.
        share: f64,
    },
    /// Many values far below the air of HU.
    FarBelow {
        /// Lowest value.
        min: f32,
        /// Highest value.
        max: f32,
        /// Share of voxels far below air.
        share: f64,
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
    /// Hardly any value below -50, and tissue not near 1024 either, as in an MR.
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
    /// A few extreme voxels cause most of the variance, so that the z-scores of all others hardly differ.
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
    /// Most important sign in an image's values; `None` for a plausible CT.
    #[must_use]
    pub fn of(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { below, above, .. } = stats;
        Self::of_mask(stats).or_else(|| Self::of_range(stats)).or_else(|| Self::of_scale(stats)).or_else(|| {
            if above >= MOSTLY_ABOVE {
                return Some(Self::AboveWindow { share: above });
            }
            (below >= MOSTLY_BELOW).then_some(Self::BelowWindow { share: below })
        })
    }

    /// Signs of a mask or label map.
    fn of_mask(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { min, max, labels, are_probabilities, .. } = stats;
        if min >= max {
            return Some(Self::Constant { value: min });
        }
        if let Some(num) = labels {
            return Some(Self::LabelMap { num, min, max });
        }
        are_probabilities.then_some(Self::Probabilities { min, max })
    }

    /// Signs in the range of the values, rare values excluded.
    fn of_range(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { min, max, shares, .. } = stats;
        let nearly_all = |share: f64| share > 1.0 - RARE;
        if nearly_all(shares.near_zero) {
            return Some(Self::Normalised { min, max });
        }
        // A part of the body without air and bone has few values as well.
        let is_soft = shares.tissue.is_soft;
        let is_byte = min >= 0.0 && max <= 255.0 && !(is_soft && shares.bright < RARE);
        if is_byte || (nearly_all(shares.byte) && shares.bright >= RARE) {
            return Some(Self::EightBit { min, max });
        }
        if let Some(share) = shares.tenth {
            return Some(Self::Tenth { min, max, share });
        }
        (nearly_all(shares.narrow) && !is_soft).then_some(Self::Narrow { min, max })
    }

    /// Signs of HU in another scale, sign or origin.
    fn of_scale(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { min, max, air, peaks, shares, format, .. } = stats;
        let has_negatives = shares.negative >= RARE;
        if let Some(share) = peaks.tenfold(air) {
            return Some(Self::Tenfold { min, max, share });
        }
        if has_negatives && peaks.are_tens() && shares.hu_tissue < ROUNDED_TISSUE_SHARE {
            return Some(Self::Tens { min, max });
        }
        if let Some(share) = peaks.inverted(&shares) {
            return Some(Self::Inverted { min, max, share });
        }
        // Dense bone of a small part of the body has values near 1024 as well, but not more than there is soft tissue,
        // or next to air or fat of HU.
        let has_hu_tissue = shares.hu_tissue >= shares.offset_tissue || shares.tissue.rules_out_offset;
        let has_raised_tissue = shares.offset_tissue >= OFFSET_SHARE && !(has_negatives && has_hu_tissue);
        if shares.is_far_above || has_raised_tissue {
            // Cropped to the body, a scan has no air: its lowest frequent value is that of fat or muscle.
            let is_cropped = shares.offset_tissue >= OFFSET_SHARE && shares.raised_tissue < RAISED_SHARE;
            let air = shares.lowest_peak.filter(|_| !is_cropped);
            return Some(Self::Offset { min, max, share: shares.offset_tissue, air, format });
        }
        if !has_negatives && !shares.tissue.is_inside_body {
            return Some(Self::NoNegatives { min, max });
        }
        let share = shares.far_below;
        (share >= FAR_BELOW_SHARE && !shares.is_edge_of_padding).then_some(Self::FarBelow { min, max, share })
    }

    /// Returns true for the values of a mask or label map, an empty one included.
    fn is_mask(self) -> bool {
        matches!(self, Self::Constant { .. } | Self::LabelMap { .. } | Self::Probabilities { .. })
    }

    /// Returns true for values that also fit a CT in HU clipped below 0, or masked.
    fn may_be_clipped(self) -> bool {
        match self {
            Self::Narrow { min, .. } | Self::NoNegatives { min, .. } => min < 0.0,
            _ => false,
        }
    }

    /// Most important sign in the values of an image of any modality; `None` for a plausible image.
    #[must_use]
    pub fn of_zscores(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { min, max, below, above, .. } = stats;
        if let Some(mask) = Self::of_mask(stats) {
            return Some(mask);
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

/// Offset of a CT with air at this value, if programs are known to use that offset.
fn offset_of(air: f32) -> Option<f32> {
    // -1000 HU, and the lowest value of 12 bits.
    let is_air = |hu: f32| (hu + 1000.0).abs() <= PEAK_TOLERANCE || (hu + 1024.0).abs() <= PEAK_TOLERANCE;
    OFFSETS.into_iter().find(|offset| is_air(air - offset))
}

/// Remedy in the header, for formats in whose headers programs agree on an offset.
fn or_in_header(format: Format, offset: f32) -> String {
    match format {
        Format::Nifti => format!(", or lower scl_inter by {offset} (with a scl_slope of 1 where that is 0)"),
        Format::Dicom => {
            format!(", or lower RescaleIntercept by {offset} in all files (set it to -{offset} where they lack it)")
        }
        Format::Nrrd | Format::MetaImage => String::new(),
    }
}

/// Clause that nearly all values lie between two ends; empty if all do.
fn nearly_all_within(min: f32, max: f32, [low, high]: [f32; 2]) -> String {
    if min >= low && max <= high { String::new() } else { format!(", nearly all of them from {low} to {high}") }
}

/// Writes the report of an offset; `share` is that of voxels near 1024.
fn write_offset(
    f: &mut fmt::Formatter<'_>,
    [min, max]: [f32; 2],
    share: f64,
    air: Option<f32>,
    format: Format,
) -> fmt::Result {
    write!(f, "values {min} to {max}")?;
    match (air, air.and_then(offset_of)) {
        (Some(air), Some(offset)) => {
            let remedy = or_in_header(format, offset);
            write!(f, ", with air at {air}: HU with an offset of {offset}; subtract it{remedy}")
        }
        (Some(air), None) => write!(
            f,
            ": HU with an offset; the lowest frequent value is {air}, which is about the offset - 1000 if it is air; subtract \
             the offset, or convert the original scan"
        ),
        (None, _) if share >= OFFSET_SHARE => write!(
            f,
            ", {:.0}% of them near 1024: HU with an offset; subtract it (1024 as a rule){}",
            share * 100.0,
            or_in_header(format, 1024.0)
        ),
        (None, _) => {
            write!(f, ": HU with an offset whose size the values do not show; convert the original scan")
        }
    }
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| share * 100.0;
        match self {
            Self::Constant { value } => {
                write!(f, "every voxel is {value}: an empty scan or mask; replace the file, or exclude the case")
            }
            Self::LabelMap { num, min, max } if *min >= 0.0 => {
                write!(f, "a label map by its values ({num} whole numbers up to {max}); expected an image")
            }
            Self::LabelMap { num, min, max } => {
                write!(f, "a label map by its values ({num} whole numbers from {min} to {max}); expected an image")
            }
            Self::Probabilities { min, max } => {
                write!(
                    f,
                    "values {min} to {max}, nearly all close to 0 or 1: probabilities of a class; expected an image"
                )
            }
            &Self::Normalised { min, max } => {
                let most = nearly_all_within(min, max, NORMALISED);
                write!(f, "values {min} to {max}{most}: normalised, not HU; convert the original scan")
            }
            &Self::EightBit { min, max } => {
                let most = nearly_all_within(min, max, EIGHT_BIT);
                write!(f, "values {min} to {max}{most}: an 8-bit picture, not HU; convert the original scan")
            }
            &Self::Narrow { min, max } => {
                let most = nearly_all_within(min, max, NARROW);
                write!(
                    f,
                    "values {min} to {max}{most}: in another scale, or clipped to a part of the range of HU, or masked; convert \
                     the original scan"
                )
            }
            &Self::Offset { min, max, share, air, format } => write_offset(f, [min, max], share, air, format),
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
            Self::Tenth { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them near -100: HU divided by 10; multiply them by 10, or convert the \
                 original scan",
                percent(share)
            ),
            Self::FarBelow { min, max, share } => write!(
                f,
                "values {min} to {max}, {:.0}% of them below -1250 and different: HU in another scale; convert the original \
                 scan",
                percent(share)
            ),
            Self::NoNegatives { min, max } => write!(
                f,
                "values {min} to {max}, {}; exclude it, or convert the original scan{}",
                if *min >= 0.0 {
                    "none negative: an MR, or a CT that is not in HU"
                } else {
                    "hardly any below -50: an MR, a CT that is not in HU, or one that was clipped or masked"
                },
                if *min >= 0.0 { "" } else { "; leave it if the values are HU" }
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
