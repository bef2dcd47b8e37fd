//! Shares of an image's voxels in ranges where CTs in HU have many or few.
//!
//! Unlike the lowest and the highest value, a share hardly changes with a few stray voxels. Padding is the most
//! frequent value in a range where HU have no tissue; it is left out where it would hide a sign.

use std::ops::RangeInclusive;

use super::histogram::{Histogram, RARE};
use super::tissue::Tissue;

/// Lowest value that is far above the air of HU (-1000).
const FAR_ABOVE_AIR: i32 = 500;
/// Highest value that is not far above air.
const NOT_FAR_ABOVE: i32 = 499;
/// Largest share of padding in an image whose other values are far above air. Bone alone, cut out of a scan, has more
/// padding around it.
const MOST_PADDING: f64 = 0.7;
/// Range of soft tissue and water in HU to which 1024 (or 1000) was added.
const OFFSET_TISSUE: RangeInclusive<i32> = 874..=1274;
/// Range of soft tissue and water in HU to which 2048 was added; air then lies where tissue lies with 1024.
const RAISED_TISSUE: RangeInclusive<i32> = 1898..=2298;
/// Range of values that occur in HU only as padding, however noisy air is.
const FAR_BELOW_AIR: RangeInclusive<i32> = i32::MIN..=-1251;
/// Range of values that HU times 10 have only as padding.
const BELOW_TENFOLD: RangeInclusive<i32> = i32::MIN..=-12_001;
/// Range of fat in HU.
const FAT: RangeInclusive<i32> = -130..=-56;
/// Range below fat, down to the fat of HU times 2.
const BELOW_FAT: RangeInclusive<i32> = -260..=-131;
/// Largest ratio of voxels at the edge of interpolated padding to voxels of the padding. It is 0.28 to 0.5 in a CT with
/// slices of 3 mm that a cubic spline brought to 5 mm.
const EDGE_OF_PADDING: f64 = 0.75;
/// Range of air in HU with inverted sign, where bone may be clipped.
const INVERTED_AIR: RangeInclusive<i32> = 900..=1100;
/// Range of air and padding in HU.
const AIR: RangeInclusive<i32> = i32::MIN..=-900;
/// Range of air in HU divided by 10.
const TENTH_AIR: RangeInclusive<i32> = -110..=-91;
/// Range of padding below the air of HU divided by 10: values that occur in HU, but not in HU divided by 10.
const TENTH_PADDING: RangeInclusive<i32> = -350..=-111;
/// Least share of air in HU divided by 10. It is 31% and 32% in two CTs of the torso.
const TENTH_AIR_SHARE: f64 = 0.1;
/// Least share of soft tissue and fat, divided by 10, among all voxels above -60, the values of lung.
const TENTH_TISSUE_SHARE: f64 = 0.7;

/// Shares of voxels by value, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// Share of voxels from -20 to 20, the range of normalised images.
    pub near_zero: f64,
    /// Share of voxels from -10 to 265, the range of 8-bit values with the overshoot of resampling at edges.
    pub byte: f64,
    /// Share of voxels from 200 on.
    pub bright: f64,
    /// Share of voxels from -128 to 128.
    pub narrow: f64,
    /// Share of voxels below -50.
    pub negative: f64,
    /// Share of voxels from -600 to -51: tissue and bone of HU with inverted sign.
    pub inverted_tissue: f64,
    /// Share of the most frequent value at or below -900.
    pub padding: f64,
    /// Share of voxels at or below -900 among all voxels, padding (`padding`) left out.
    pub air_but_padding: f64,
    /// Share of voxels from 874 to 1274: tissue with an offset of 1024.
    pub offset_tissue: f64,
    /// Share of voxels from 1898 to 2298: tissue with an offset of 2048.
    pub raised_tissue: f64,
    /// Share of voxels from 30 to 150: tissue in HU.
    pub hu_tissue: f64,
    /// Share of voxels below -1250, without the two most frequent values there.
    pub far_below: f64,
    /// Share of voxels below -12000, without the two most frequent values there.
    pub below_tenfold: f64,
    /// Share of voxels below -65536 or from 65536 on, which no CT has, not even as padding.
    pub beyond: f64,
    /// True if the voxels below -1250 may be the edge of interpolated padding, in a CT whose fat lies where HU have it.
    pub is_edge_of_padding: bool,
    /// Share of the highest value if it lies from 900 to 1100, where bone may be clipped.
    pub clipped_bone: f64,
    /// Conclusions from tissue found where HU have it.
    pub tissue: Tissue,
    /// Share of air if the values look like HU divided by 10; `None` otherwise.
    pub tenth: Option<f64>,
    /// True if all voxels except padding and rare ones are far above the air of HU.
    pub is_far_above: bool,
    /// Lowest value around which many voxels lie; searched only if values are far above air.
    pub lowest_peak: Option<f32>,
}

impl Shares {
    /// Computes the shares from a histogram.
    pub(super) fn of(histogram: &Histogram) -> Self {
        let all = histogram.num().max(1) as f64;
        let [padding, _] = histogram.most_frequent(AIR);
        let air = histogram.count(AIR);
        let [far_padding, second] = histogram.most_frequent(FAR_BELOW_AIR);
        let far_below = histogram.count(FAR_BELOW_AIR) - far_padding - second;
        let below_tenfold =
            histogram.count(BELOW_TENFOLD) - histogram.most_frequent(BELOW_TENFOLD).into_iter().sum::<u64>();
        let has_fat = histogram.count(FAT) > histogram.count(BELOW_FAT);
        let highest = histogram.ends().map(|[_, highest]| highest).filter(|highest| INVERTED_AIR.contains(highest));
        let is_far_above = is_far_above(histogram);
        let lowest = histogram.lowest(FAR_ABOVE_AIR).filter(|_| is_far_above);
        Self {
            near_zero: histogram.share(-20..=20),
            byte: histogram.share(-10..=265),
            bright: histogram.share_from(200),
            narrow: histogram.share(-128..=128),
            negative: histogram.share_up_to(-51),
            inverted_tissue: histogram.share(-600..=-51),
            padding: padding as f64 / all,
            air_but_padding: (air - padding) as f64 / (histogram.num() - padding).max(1) as f64,
            offset_tissue: histogram.share(OFFSET_TISSUE),
            raised_tissue: histogram.share(RAISED_TISSUE),
            hu_tissue: histogram.share(30..=150),
            far_below: far_below as f64 / all,
            below_tenfold: below_tenfold as f64 / all,
            beyond: histogram.share_beyond(),
            is_edge_of_padding: has_fat && (far_below as f64) < EDGE_OF_PADDING * far_padding as f64,
            clipped_bone: highest.map_or(0.0, |value| histogram.share(value..=value)),
            tissue: Tissue::of(histogram),
            tenth: tenth(histogram),
            is_far_above,
            lowest_peak: lowest.and_then(|lowest| histogram.lowest_peak(lowest)),
        }
    }
}

fn is_far_above(histogram: &Histogram) -> bool {
    let below = histogram.count(i32::MIN..=NOT_FAR_ABOVE);
    let [padding, _] = histogram.most_frequent(i32::MIN..=NOT_FAR_ABOVE);
    let others = (histogram.num() - padding) as f64;
    ((below - padding) as f64) < RARE * others.max(1.0) && padding as f64 <= MOST_PADDING * histogram.num() as f64
}

/// Share of air if the values look like HU divided by 10; `None` otherwise.
fn tenth(histogram: &Histogram) -> Option<f64> {
    let [padding, _] = histogram.most_frequent(TENTH_PADDING);
    let all = (histogram.num() - padding).max(1) as f64;
    let between = histogram.count(TENTH_PADDING) - padding;
    let air = histogram.count(TENTH_AIR) as f64 / all;
    let (tissue, above_lung) = (histogram.count(-16..=16), histogram.count(-59..=i32::MAX));
    let is_tenth = air >= TENTH_AIR_SHARE
        && histogram.share_up_to(TENTH_PADDING.start() - 1) < RARE
        && (between as f64) < RARE * all
        && histogram.share_from(311) < RARE
        && tissue > 0
        && tissue as f64 >= TENTH_TISSUE_SHARE * above_lung as f64;
    is_tenth.then_some(air)
}
