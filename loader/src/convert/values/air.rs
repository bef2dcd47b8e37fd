//! Air that lies where HU have none: clipped to a value above it, or moved by another origin or scale.
//!
//! Shares were measured in two CTs of the torso. In the 60 HU below fat with most voxels they have 1%; with 200 or 500 added,
//! or divided by 2, 25% to 32%, and 80% to 96% of the voxels in 200 HU around. Soft tissue without contrast agent is 82% and
//! 90% of the voxels from 10 on; with 200 or 500 added, 1% to 5%.

use super::histogram::{Histogram, RARE};

/// Highest value of air in HU.
const AIR: i32 = -901;
/// Least share of the lowest value at which a CT is clipped.
const CLIPPED_SHARE: f64 = 0.05;

/// Lowest values of the ranges between air and fat in which moved air is looked for.
const FIRST_BELOW_FAT: std::ops::RangeInclusive<i32> = -880..=-260;
/// Lowest value of such a range in which no lung has a narrow peak.
const FIRST_ABOVE_LUNG: i32 = -650;
/// Number of values in such a range.
const WIDTH: i32 = 60;
/// Distance of one range from the next.
const STEP: usize = 10;
/// Number of values on each side of a range in which a narrow peak has hardly more.
const MARGIN: i32 = 70;
/// Least share of moved air.
const MOVED_SHARE: f64 = 0.1;
/// Largest share of voxels with the value of air in HU, apart from padding, in an image whose air was moved. The lungs alone
/// have more.
const LEFT_SHARE: f64 = 0.01;
/// Least share of voxels of a range among those around it, for a narrow peak. Lung has half of them.
const NARROW_SHARE: f64 = 0.8;
/// Largest share of one value in air. A clipped CT has nearly all of it at one value.
const SINGLE_SHARE: f64 = 0.5;
/// Range of soft tissue without contrast agent.
const SOFT: std::ops::RangeInclusive<i32> = 10..=79;
/// Least share of soft tissue among all voxels from its lowest value on.
const SOFT_SHARE: f64 = 0.2;
/// Range below the air of HU, down to where padding is looked for.
const BELOW_AIR: std::ops::RangeInclusive<i32> = -1250..=-1101;
/// Range of the air of HU.
const AIR_HU: std::ops::RangeInclusive<i32> = -1100..=-901;

/// Air at other values than those of HU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Air {
    /// Lowest value above the air of HU and its share, if many voxels have it and hardly any lies below, as where a CT was
    /// clipped.
    pub clipped: Option<(i32, f64)>,
    /// Lowest and highest value and share of air that another origin or scale has moved.
    pub moved: Option<([i32; 2], f64)>,
}

impl Air {
    /// Finds such air in a histogram.
    pub(super) fn of(histogram: &Histogram) -> Self {
        Self { clipped: clipped(histogram), moved: moved_up(histogram).or_else(|| moved_down(histogram)) }
    }
}

fn clipped(histogram: &Histogram) -> Option<(i32, f64)> {
    let value = histogram.reached_by(RARE).filter(|value| *value > AIR)?;
    let share = histogram.share(value..=value);
    (share >= CLIPPED_SHARE).then_some((value, share))
}

/// Air above that of HU: with soft tissue where HU have it, only a narrow peak of several values that no lung has.
fn moved_up(histogram: &Histogram) -> Option<([i32; 2], f64)> {
    let [padding, _] = histogram.most_frequent(i32::MIN..=AIR);
    if (histogram.count(i32::MIN..=AIR) - padding) as f64 >= LEFT_SHARE * histogram.num() as f64 {
        return None;
    }
    let ends = |first: i32| first..=first + WIDTH - 1;
    let first = FIRST_BELOW_FAT.step_by(STEP).max_by_key(|first| histogram.count(ends(*first)))?;
    let [count, around] = [0, MARGIN].map(|margin| histogram.count(first - margin..=first + WIDTH - 1 + margin));
    let [single, _] = histogram.most_frequent(ends(first));
    let is_varied = single as f64 <= SINGLE_SHARE * count as f64;
    let is_narrow = count as f64 >= NARROW_SHARE * around as f64;
    let [soft, dense] = [SOFT, *SOFT.start()..=i32::MAX].map(|values| histogram.count(values) as f64);
    let has_soft_tissue = soft >= SOFT_SHARE * dense && soft > 0.0;
    let share = histogram.share(ends(first));
    let is_moved = !has_soft_tissue || (is_varied && is_narrow && first >= FIRST_ABOVE_LUNG);
    (share >= MOVED_SHARE && is_moved).then_some(([first, *ends(first).end()], share))
}

/// Air below that of HU. Padding has a single value.
fn moved_down(histogram: &Histogram) -> Option<([i32; 2], f64)> {
    let [single, _] = histogram.most_frequent(BELOW_AIR);
    let count = histogram.count(BELOW_AIR);
    let is_varied = single as f64 <= SINGLE_SHARE * count as f64;
    let share = histogram.share(BELOW_AIR);
    let is_moved = share >= MOVED_SHARE && is_varied && count > histogram.count(AIR_HU);
    is_moved.then_some(([*BELOW_AIR.start(), *BELOW_AIR.end()], share))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Air at other values in 1000 voxels of each range: evenly spread from its first to its last value.
    fn of(ranges: &[[i16; 2]]) -> Air {
        let spread = |&[first, last]: &[i16; 2]| {
            let width = usize::from(last.abs_diff(first)) + 1;
            (0..1000).map(move |at| f32::from(first) + (at % width) as f32).collect::<Vec<f32>>()
        };
        let values: Vec<f32> = ranges.iter().flat_map(spread).collect();
        let mut histogram = Histogram::new(values.len());
        histogram.add(&values);
        Air::of(&histogram)
    }

    #[test]
    fn a_clipped_ct_has_many_voxels_of_its_lowest_value() {
        assert_eq!(of(&[[-160, -160], [20, 90]]).clipped, Some((-160, 0.5)));
        // Air of HU, however it was clipped, and tissue with noise.
        assert_eq!(of(&[[-1000, -1000], [20, 90]]).clipped, None);
        assert_eq!(of(&[[-120, -61], [20, 90]]).clipped, None);
    }

    #[test]
    fn air_of_another_origin_or_scale_is_found() {
        let tissue = [20, 90];
        assert_eq!(of(&[[-1020, -980], tissue]).moved, None);
        // Plus 200, with the fat where soft tissue lies in HU, and plus 500, also with still air.
        assert!(of(&[[-820, -780], [220, 290]]).moved.is_some());
        assert!(of(&[[-520, -480], [520, 590]]).moved.is_some());
        assert!(of(&[[-500, -500], [520, 590]]).moved.is_some());
        // Divided by 2, and times 1.2.
        assert!(of(&[[-510, -490], [10, 45]]).moved.is_some());
        assert_eq!(of(&[[-1224, -1176], tissue]).moved, Some(([-1250, -1101], 0.5)));
        // Lung, clipped air, padding, and fat.
        assert_eq!(of(&[[-850, -810], tissue]).moved, None);
        assert_eq!(of(&[[-640, -420], tissue]).moved, None);
        assert_eq!(of(&[[-500, -500], tissue]).moved, None);
        assert_eq!(of(&[[-1200, -1200], tissue]).moved, None);
        assert_eq!(of(&[[-120, -61], tissue]).moved, None);
    }
}
