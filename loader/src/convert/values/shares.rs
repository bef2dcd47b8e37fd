//! Shares of an image's voxels in ranges where CTs in HU have many or few.
//!
//! A few stray voxels change no share much, which they do with the lowest and the highest value. Padding is the most frequent
//! value of a range where HU have no tissue; it is left out where it would hide a sign.

use std::ops::RangeInclusive;

use super::histogram::{Histogram, RARE};
use super::tissue::Tissue;

/// Lowest value that is far above the air of HU, which is at -1000.
const FAR_ABOVE_AIR: i32 = 500;
/// Highest value below it.
const NOT_FAR_ABOVE: i32 = 499;
/// Largest share of padding below an image that is far above air. Bone alone, cut out of a scan, has more around it.
const MOST_PADDING: f64 = 0.7;
/// Soft tissue and water when 1024 (or 1000) was added to HU.
const OFFSET_TISSUE: RangeInclusive<i32> = 874..=1274;
/// Soft tissue and water when 2048 was added, and air lies where tissue lies with 1024.
const RAISED_TISSUE: RangeInclusive<i32> = 1898..=2298;
/// Values that HU have as padding alone, whatever the noise of air is.
const FAR_BELOW_AIR: RangeInclusive<i32> = i32::MIN..=-1251;
/// Fat of HU.
const FAT: RangeInclusive<i32> = -130..=-56;
/// Values below fat, up to those of fat in HU times 2.
const BELOW_FAT: RangeInclusive<i32> = -260..=-131;
/// Largest number of voxels at the edge of interpolated padding, to one of the padding. It is 0.28 to 0.5 in a CT of 3 mm
/// that a cubic spline brought to 5 mm.
const EDGE_OF_PADDING: f64 = 0.75;
/// Air of HU with inverted sign, where bone may be clipped.
const INVERTED_AIR: RangeInclusive<i32> = 900..=1100;
/// Air and padding of HU.
const AIR: RangeInclusive<i32> = i32::MIN..=-900;
/// Air of HU divided by 10.
const TENTH_AIR: RangeInclusive<i32> = -110..=-91;
/// Values below such air, up to those that HU have and HU divided by 10 do not: padding.
const TENTH_PADDING: RangeInclusive<i32> = -350..=-111;
/// Least share of such air. It is 31% and 32% in two CTs of the torso.
const TENTH_AIR_SHARE: f64 = 0.1;
/// Least share of soft tissue and fat, divided by 10, among all voxels above -60, which is lung.
const TENTH_TISSUE_SHARE: f64 = 0.7;

/// Shares of voxels by value, from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// From -20 to 20, as normalised images have them.
    pub near_zero: f64,
    /// From -10 to 265: 8 bits, and what resampling adds at edges.
    pub byte: f64,
    /// From 200 on.
    pub bright: f64,
    /// From -128 to 128.
    pub narrow: f64,
    /// Below -50.
    pub negative: f64,
    /// From -600 to -51: tissue and bone of HU with inverted sign.
    pub inverted_tissue: f64,
    /// The most frequent value at or below -900.
    pub padding: f64,
    /// At or below -900, among the voxels without that value.
    pub air_but_padding: f64,
    /// From 874 to 1274: tissue with an offset of 1024.
    pub offset_tissue: f64,
    /// From 1898 to 2298: tissue with an offset of 2048.
    pub raised_tissue: f64,
    /// From 30 to 150: tissue in HU.
    pub hu_tissue: f64,
    /// Below -1250, without the two most frequent values there.
    pub far_below: f64,
    /// True if these may be the edge of padding that was interpolated, in a CT whose fat is that of HU.
    pub is_edge_of_padding: bool,
    /// The highest value, if it lies from 900 to 1100, where bone may be clipped.
    pub clipped_bone: f64,
    /// Conclusions from tissue that lies where HU have it.
    pub tissue: Tissue,
    /// Air of HU divided by 10, if the values are such.
    pub tenth: Option<f64>,
    /// True if all voxels but padding and rare ones are far above the air of HU.
    pub is_far_above: bool,
    /// The lowest value around which many voxels lie, looked for where they are far above air.
    pub lowest_peak: Option<f32>,
}

impl Shares {
    /// Reads the shares off a histogram.
    pub(super) fn of(histogram: &Histogram) -> Self {
        let all = histogram.num().max(1) as f64;
        let [padding, _] = histogram.most_frequent(AIR);
        let air = histogram.count(AIR);
        let [far_padding, second] = histogram.most_frequent(FAR_BELOW_AIR);
        let far_below = histogram.count(FAR_BELOW_AIR) - far_padding - second;
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

/// Share of air, if the values are HU divided by 10.
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
