//! Signs that values are HU: air, fat and soft tissue in place, each of many different values.
//!
//! Parts of CTs, such as a skull, a knee or a liver, lack tissue that other rules expect. Their tissue lies where HU
//! have it, spread by noise; neither padding nor the end of a clipped range has such a spread.

use std::ops::RangeInclusive;

use super::histogram::{Histogram, RARE};

/// Range of air in HU.
const AIR: RangeInclusive<i32> = -1100..=-901;
/// Least share of air voxels other than those of the most frequent air value.
const AIR_SHARE: f64 = 0.05;
/// Least ratio of the other air voxels to those of the most frequent air value. That value takes half of the air where
/// a CT was clipped at -1000. At the edge of padding interpolated by a cubic spline the ratio is 0.28 to 0.5.
const AIR_TO_PADDING: f64 = 0.75;
/// Range of fat with its noise.
const NOISY_FAT: RangeInclusive<i32> = -125..=-51;
/// Range above fat, of equal width. The noise of air at 0 or 24, where offsets of 1000 and 1024 put it, has more voxels
/// in this range than in that of fat, however strong it is.
const ABOVE_FAT: RangeInclusive<i32> = -50..=24;
/// Least share of fat with its noise.
const FAT_SHARE: f64 = 0.05;
/// Range of fat next to soft tissue, in a part of the body without air and bone.
const FAT: RangeInclusive<i32> = -125..=-60;
/// Least share of fat at which soft tissue may have any value from 0 on.
const SOME_FAT_SHARE: f64 = 0.02;
/// Range of soft tissue next to fat.
const TISSUE_BESIDE_FAT: RangeInclusive<i32> = 0..=199;
/// Range of soft tissue without fat. MR and other scales have many voxels close to 0.
const TISSUE: RangeInclusive<i32> = 20..=199;
/// Least share of soft tissue and fat in a part of the body without air and bone.
const SOFT_SHARE: f64 = 0.8;
/// Least share of soft tissue in a part of the body that also has contrast agent or bone.
const ENHANCED_SHARE: f64 = 0.4;
/// Range of air and background in an MR, or in a CT scaled to values without sign.
const BACKGROUND: RangeInclusive<i32> = i32::MIN..=9;
/// Largest share of a single value; a value with more voxels is a background, or tissue in a scale with few values. The
/// bound is the share of the mean of one tissue with a noise of 5 HU.
const SINGLE_SHARE: f64 = 0.08;
/// Largest share of the lowest and of the highest value; clipping leaves more voxels there.
const END_SHARE: f64 = 0.01;
/// Least share of voxels other than a background of 0.
const BODY_SHARE: f64 = 0.05;

/// Conclusions from tissue found where HU have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tissue {
    /// True for values with the air or fat of HU, which rule out an offset.
    pub rules_out_offset: bool,
    /// True for a part of the body without air and bone, on a background of 0 or none.
    pub is_soft: bool,
    /// True for a soft part of the body, also with contrast agent or bone.
    pub is_inside_body: bool,
}

impl Tissue {
    /// Draws the conclusions from a histogram.
    pub(super) fn of(histogram: &Histogram) -> Self {
        let is_soft = is_soft(histogram);
        Self {
            rules_out_offset: has_air(histogram) || has_fat(histogram),
            is_soft,
            is_inside_body: is_soft || is_enhanced(histogram),
        }
    }
}

fn has_air(histogram: &Histogram) -> bool {
    let [most_frequent, _] = histogram.most_frequent(AIR);
    let varied = (histogram.count(AIR) - most_frequent) as f64;
    varied >= AIR_SHARE * histogram.num().max(1) as f64 && varied >= AIR_TO_PADDING * most_frequent as f64
}

fn has_fat(histogram: &Histogram) -> bool {
    histogram.share(NOISY_FAT) >= FAT_SHARE && histogram.count(NOISY_FAT) > histogram.count(ABOVE_FAT)
}

fn is_soft(histogram: &Histogram) -> bool {
    // Images without negative values may have their air at 0.
    let has_negatives = histogram.share(i32::MIN..=-1) >= RARE;
    let background = if has_negatives { histogram.count(0..=0) } else { 0 };
    let num = (histogram.num() - background) as f64;
    if num < BODY_SHARE * histogram.num() as f64 || !is_spread(histogram, background) {
        return false;
    }
    let share = |values: RangeInclusive<i32>| {
        let zeros = if values.contains(&0) { background } else { 0 };
        (histogram.count(values) - zeros) as f64 / num.max(1.0)
    };
    let fat = share(FAT);
    share(TISSUE) >= SOFT_SHARE || (fat >= SOME_FAT_SHARE && fat + share(TISSUE_BESIDE_FAT) >= SOFT_SHARE)
}

fn is_enhanced(histogram: &Histogram) -> bool {
    histogram.share(BACKGROUND) < RARE && histogram.share(TISSUE) >= ENHANCED_SHARE && is_spread(histogram, 0)
}

/// Returns whether no single value and neither end of the range has many of the voxels; `background` voxels at 0 are
/// not counted.
fn is_spread(histogram: &Histogram, background: u64) -> bool {
    let Some(ends) = histogram.ends() else {
        return false;
    };
    let num = (histogram.num() - background) as f64;
    let count = |value: i32| histogram.count(value..=value) - if value == 0 { background } else { 0 };
    let [first, second] = histogram.most_frequent(i32::MIN..=i32::MAX);
    // If the background is the most frequent value, the second most frequent one is the body's.
    let most = if background > 0 && first == background { second } else { first };
    most as f64 <= SINGLE_SHARE * num && ends.into_iter().all(|end| count(end) as f64 <= END_SHARE * num)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Conclusions from a histogram with 20 voxels of each value in `ranges`, one at each of their ends, and the given
    /// numbers of voxels for `singles`.
    fn of(ranges: &[[i16; 2]], singles: &[(i16, usize)]) -> Tissue {
        let mut values = Vec::new();
        for &[first, last] in ranges {
            for value in first..=last {
                let num = if value == first || value == last { 1 } else { 20 };
                values.extend(std::iter::repeat_n(f32::from(value), num));
            }
        }
        for &(value, num) in singles {
            values.extend(std::iter::repeat_n(f32::from(value), num));
        }
        let mut histogram = Histogram::new(values.len());
        histogram.add(&values);
        Tissue::of(&histogram)
    }

    #[test]
    fn air_and_fat_of_hu_rule_an_offset_out() {
        let bone = [900, 1300];
        assert!(of(&[bone, [-1030, -970]], &[]).rules_out_offset);
        // Clipped at -1000.
        assert!(of(&[bone, [-1000, -970]], &[(-1000, 600)]).rules_out_offset);
        assert!(of(&[bone, [-120, -70]], &[]).rules_out_offset);
        // Padding, with the edge that interpolation makes, and air with an offset of 1024.
        assert!(!of(&[bone], &[(-1000, 1200)]).rules_out_offset);
        assert!(!of(&[bone, [-1030, -970]], &[(-1000, 2400)]).rules_out_offset);
        assert!(!of(&[bone, [-100, 148]], &[]).rules_out_offset);
        assert!(!of(&[], &[]).rules_out_offset);
    }

    #[test]
    fn soft_tissue_is_known_without_air_and_bone() {
        assert!(of(&[[20, 99]], &[]).is_soft);
        assert!(of(&[[60, 180]], &[]).is_soft);
        assert!(of(&[[-120, -61], [0, 90]], &[]).is_soft);
        // A background of 0 inside of the range, and at its end.
        assert!(of(&[[-5, 190]], &[(0, 500)]).is_soft);
        assert!(!of(&[[0, 190]], &[(0, 500)]).is_soft);
        // Clipped, few values, a background of another value, and much close to 0.
        assert!(!of(&[[20, 110]], &[(110, 50)]).is_soft);
        assert!(!of(&[[20, 25]], &[]).is_soft);
        assert!(!of(&[[10, 90]], &[(25, 400)]).is_soft);
        assert!(!of(&[[-19, 60]], &[]).is_soft);
        assert!(!of(&[], &[]).is_inside_body);
    }

    #[test]
    fn contrast_agent_lies_inside_of_the_body_where_nothing_is_dark() {
        let heart = of(&[[30, 180], [300, 400]], &[]);
        assert!(heart.is_inside_body && !heart.is_soft);
        assert!(!of(&[[0, 180], [300, 400]], &[]).is_inside_body);
        assert!(!of(&[[150, 900]], &[]).is_inside_body);
    }
}
