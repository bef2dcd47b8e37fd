//! Signs that an image is not a CT in Hounsfield units, each with its remedy.

mod text;

use super::extent::extent_findings;
use super::values::{BlankSlices, RARE, RepeatedSlices, ValueStats};
use crate::case::ImageRole;
use crate::preprocess::normalize::Normalize;
use crate::preprocess::zscore::ZScore;
use crate::volume::{Format, Volume};

/// Range of the values of a normalised image: [0, 1], [-1, 1] or z-scores.
const NORMALISED: [f32; 2] = [-20.0, 20.0];
/// Range of the values of an 8-bit picture, widened by the overshoot of resampling at edges.
const EIGHT_BIT: [f32; 2] = [-10.0, 265.0];
/// Range of values that is too narrow for a CT: contains [-50, 50] and signed 8-bit numbers.
const NARROW: [f32; 2] = [-128.0, 128.0];
/// Range of signed 8-bit numbers. HU of which only the lowest 8 bits are left may look like soft tissue, but fill this range.
const SIGNED_BYTE: [f32; 2] = [-128.0, 127.0];
/// Share of voxels near 1024 from which an image is a CT with an offset. Two CTs of the torso have 0.01% and 0.03%.
const OFFSET_SHARE: f64 = 0.1;
/// Share of voxels far below the air of HU, and not of one value as padding is, above which an image has another scale.
/// CTs in HU have no such voxels, except at the edge of interpolated padding.
const FAR_BELOW_SHARE: f64 = 0.05;
/// Share of voxels with values that not even padding has, from which an image is not in HU. Metal has far fewer voxels.
const BEYOND_SHARE: f64 = 0.01;
/// Share of voxels near 2048 from which those near 1024 may be air with an offset of 2048, and not tissue with one of 1024. The
/// middle of two CTs of the torso has 0.03% and 0.09%.
const RAISED_SHARE: f64 = 0.02;
/// Share of voxels from 30 to 150 from which multiples of 10 are HU that were rounded. Times 10, the middle of two CTs of the
/// torso has 6% and 8%; that of one of them, rounded to tens, has 40%.
const ROUNDED_TISSUE_SHARE: f64 = 0.15;
/// Offsets that programs add to HU, in addition to 1024 and 1000. With 2048, air would lie where tissue lies with 1024.
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
/// scale of stored z-scores, 1/128 for `--window -128,128`, is below 1/64 of the deviation, and its rounding error
/// (scale / sqrt(12)) below 0.5% of it; below it the scale approaches the noise of the scan.
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
    /// clipped, padded or masked CT has as well, and under [`OnSuspect::Warn`] the values of a label map or mask in a file
    /// that nothing declares to be an image, as in a plain folder.
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
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
    },
    /// Class probabilities, nearly all of them close to 0 or 1.
    Probabilities {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
    },
    /// A range such as [0, 1], [-1, 1] or that of z-scores.
    Normalised {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
    },
    /// A range such as [0, 255].
    EightBit {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
    },
    /// A range too narrow for a CT, such as [-50, 50].
    Narrow {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
    },
    /// Tissue near 1024, or all values far above air.
    Offset {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
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
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
        /// Share of air.
        share: f64,
    },
    /// Multiples of 10, and more bone than HU have.
    Tens {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
    },
    /// Air at -100, and nothing below.
    Tenth {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
        /// Share of air.
        share: f64,
    },
    /// Many values far below the air of HU.
    FarBelow {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
        /// Share of voxels far below air.
        share: f64,
    },
    /// Values of either sign that not even padding and metal have.
    Beyond {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
        /// Share of voxels below -65536 or from 65536 on.
        share: f64,
    },
    /// Air at 1000, and hardly anything above.
    Inverted {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
        /// Share of air.
        share: f64,
    },
    /// Hardly any value below -50, and tissue not near 1024 either, as in an MR.
    NoNegatives {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
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
    /// Neighbouring voxels differ as much as any two.
    Noise {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
    },
    /// Many voxels of few values where HU have neither air nor fat, and no air where HU have it.
    Moved {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
        /// Share of these voxels.
        share: f64,
        /// Lowest and highest value of the range in which they lie.
        ends: [i32; 2],
    },
    /// Many voxels of the lowest value, which lies within the window.
    Clipped {
        /// Lowest value of the image, in its own unit.
        min: f32,
        /// Highest value of the image, in its own unit.
        max: f32,
        /// Share of voxels from `value` to the next whole number.
        share: f64,
        /// Value at which air was clipped, as a whole number.
        value: i32,
    },
    /// Slices that hold nothing but one value.
    Blank(BlankSlices),
    /// Slices that equal the one before.
    Repeated(RepeatedSlices),
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
        Self::of_mask(stats)
            .or_else(|| Self::of_range(stats))
            .or_else(|| Self::of_scale(stats))
            .or_else(|| Self::of_window(stats))
            .or_else(|| Self::of_content(stats))
            .or_else(|| Self::of_slices(stats))
    }

    /// Signs that hardly anything lies within the window.
    fn of_window(&ValueStats { below, above, .. }: &ValueStats) -> Option<Self> {
        if above >= MOSTLY_ABOVE {
            return Some(Self::AboveWindow { share: above });
        }
        (below >= MOSTLY_BELOW).then_some(Self::BelowWindow { share: below })
    }

    /// Signs in values whose range and scale may be those of HU.
    fn of_content(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { min, max, below, odd_air, is_noise, .. } = stats;
        if is_noise {
            return Some(Self::Noise { min, max });
        }
        if let Some((ends, share)) = odd_air.moved {
            return Some(Self::Moved { min, max, share, ends });
        }
        // Air that is clipped at or below the window's lower end does not count as foreground.
        let (value, share) = odd_air.clipped.filter(|_| below < RARE)?;
        Some(Self::Clipped { min, max, share, value })
    }

    /// Signs of slices that were lost, filled or padded.
    fn of_slices(stats: &ValueStats) -> Option<Self> {
        let blank = stats.slices.blank.map(Self::Blank);
        blank.or_else(|| stats.slices.repeated.map(Self::Repeated))
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
        let is_signed_byte = [min, max].map(f32::to_bits) == SIGNED_BYTE.map(f32::to_bits);
        (nearly_all(shares.narrow) && (!is_soft || is_signed_byte)).then_some(Self::Narrow { min, max })
    }

    /// Signs of HU in another scale, sign or origin.
    fn of_scale(stats: &ValueStats) -> Option<Self> {
        let &ValueStats { min, max, air, peaks, shares, format, .. } = stats;
        let has_negatives = shares.negative >= RARE;
        if let Some(share) = peaks.tenfold(air) {
            return Some(Self::Tenfold { min, max, share });
        }
        if has_negatives && shares.beyond >= BEYOND_SHARE {
            return Some(Self::Beyond { min, max, share: shares.beyond });
        }
        let far_below = Self::FarBelow { min, max, share: shares.far_below };
        if has_negatives && peaks.are_tens() && shares.hu_tissue < ROUNDED_TISSUE_SHARE {
            // Other factors make multiples of 10 as well.
            let is_tenfold = shares.below_tenfold < FAR_BELOW_SHARE;
            return Some(if is_tenfold { Self::Tens { min, max } } else { far_below });
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
        (shares.far_below >= FAR_BELOW_SHARE && !shares.is_edge_of_padding).then_some(far_below)
    }

    /// Returns true for the values of a mask or label map, an empty one included.
    fn is_mask(self) -> bool {
        matches!(self, Self::Constant { .. } | Self::LabelMap { .. } | Self::Probabilities { .. })
    }

    /// Returns true for values that also fit a CT in HU clipped below 0, padded or masked.
    fn may_be_clipped(self) -> bool {
        match self {
            Self::Narrow { min, .. } | Self::NoNegatives { min, .. } => min < 0.0,
            Self::Clipped { .. } => true,
            Self::Blank(blank) => blank.is_padded,
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
        let clamped = (share >= NOTABLY_CLAMPED).then_some(Self::Clamped { share });
        Self::of_slices(stats).or(clamped)
    }
}

#[cfg(test)]
mod tests;
