//! Peaks of values that reveal HU in another scale, sign or origin.
//!
//! Thresholds lie between measured shares. Two CTs of the torso, times 10, have 31% and 32% of their voxels near -10000, 6%
//! and 8% between there and -1500, and 0.3% and 1.0% above 3100; with inverted sign, 31% and 32% near 1000, none above 1300
//! and at most 0.07% at or below -900. As HU, they have none below -1500, at most 0.003% above 3100 and 0.02% near 1000.
//! Padding of -10000 in a CT in HU has the first of these shares, the second only if a coarse scan was interpolated, and the
//! third only with much metal.
//!
//! A scan that is cropped to the body has no air. Times 10, the middle of these CTs has 0.8% and 2.4% of its voxels above 3100,
//! which metal may have as well, but all its values are multiples of 10: 10% of those of HU are.

use super::shares::Shares;

/// Range of air in HU times 10.
const TENFOLD_AIR: std::ops::RangeInclusive<f32> = -11_000.0..=-9_000.0;
/// Lowest value that occurs in HU, padding excepted.
const LOWEST_HU: f32 = -1_500.0;
/// Highest value of scanners that store 12 bits, and of nearly all voxels of others.
const HIGHEST_HU: f32 = 3_100.0;
/// Range of air in HU with inverted sign.
const INVERTED_AIR: std::ops::RangeInclusive<f32> = 900.0..=1_100.0;
/// Highest value that occurs in HU with inverted sign, padding excepted.
const HIGHEST_INVERTED: f32 = 1_300.0;
/// Least share of air at which another scale or sign is reported.
const AIR_SHARE: f64 = 0.1;
/// Least share, below the lowest HU, of voxels of lungs, fat and body edges times 10.
const BETWEEN_SHARE: f64 = 0.02;
/// Least share, above the highest HU, of voxels of bone times 10.
const BRIGHT_SHARE: f64 = 1e-3;
/// Largest share of voxels above inverted air.
const ABOVE_INVERTED_SHARE: f64 = 1e-3;
/// Largest share of voxels at the values of plain air that HU with inverted sign may have, padding excepted; bone with
/// inverted sign lies there.
const BELOW_INVERTED_SHARE: f64 = 0.01;
/// Least share of tissue and bone in HU with inverted sign. HU with an offset of 1000 have at most the noise of air in
/// this range, and bone above inverted air. Two CTs of the torso have 8% and 9%.
const INVERTED_TISSUE_SHARE: f64 = 0.02;

/// Range of tissue in HU, or in HU times 10. In HU, only some of its values are multiples of 10.
const TISSUE: std::ops::Range<f32> = -900.0..3_100.0;
/// Least share of multiples of 10 among the tissue of HU times 10; clipped and interpolated voxels are not multiples.
const TENS_SHARE: f64 = 0.99;
/// Least number of tissue voxels for judging the share of multiples of 10.
const LEAST_TISSUE: u64 = 100;

/// Numbers of voxels in ranges where HU have few voxels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Peaks {
    num: u64,
    below_hu: u64,
    below_tenfold_lung: u64,
    tenfold_air: u64,
    above_hu: u64,
    inverted_air: u64,
    above_inverted: u64,
    /// Number of tissue values in rows with a value above those of HU; 0, which may be a background, is not counted.
    tissue: u64,
    /// Number of multiples of 10 among the tissue values.
    tens: u64,
}

impl Peaks {
    /// Counts a row with the given lowest and highest value.
    pub(super) fn add(&mut self, row: &[f32], min: f32, max: f32) {
        self.num += row.len() as u64;
        // Most rows of a CT in HU take neither branch.
        if min < LOWEST_HU {
            self.below_hu += count(row, |value| value < LOWEST_HU);
            self.below_tenfold_lung += count(row, |value| value <= *TENFOLD_AIR.end());
            self.tenfold_air += count(row, |value| TENFOLD_AIR.contains(&value));
        }
        if max >= *INVERTED_AIR.start() {
            self.above_hu += count(row, |value| value > HIGHEST_HU);
            self.inverted_air += count(row, |value| INVERTED_AIR.contains(&value));
            self.above_inverted += count(row, |value| value > HIGHEST_INVERTED);
        }
        if max > HIGHEST_HU {
            let is_tissue = |value: f32| TISSUE.contains(&value) && value.abs() > 0.0;
            self.tissue += count(row, is_tissue);
            self.tens += count(row, |value| is_tissue(value) && is_multiple_of_10(value));
        }
    }

    fn share(&self, count: u64) -> f64 {
        count as f64 / self.num.max(1) as f64
    }

    /// Share of air if the values look like HU times 10, `None` otherwise; `air` is the share of voxels at or below
    /// -900.
    pub(in crate::convert) fn tenfold(&self, air: f64) -> Option<f64> {
        let tenfold_air = self.share(self.tenfold_air);
        let plain_air = air - self.share(self.below_hu);
        let between = self.share(self.below_hu - self.below_tenfold_lung);
        let is_tenfold = tenfold_air >= AIR_SHARE
            && plain_air < tenfold_air
            && between >= BETWEEN_SHARE
            && self.share(self.above_hu) >= BRIGHT_SHARE;
        is_tenfold.then_some(tenfold_air)
    }

    /// Returns whether multiples of 10 and bone show that the values are HU times 10, with or without air.
    pub(in crate::convert) fn are_tens(&self) -> bool {
        self.tissue >= LEAST_TISSUE
            && self.tens as f64 >= TENS_SHARE * self.tissue as f64
            && self.share(self.above_hu) >= BRIGHT_SHARE
    }

    /// Share of air among all voxels except padding if the values look like HU with inverted sign, `None` otherwise.
    pub(in crate::convert) fn inverted(&self, shares: &Shares) -> Option<f64> {
        // The air of a CT with inverted sign has noise; bone that was clipped at 1000 has the highest value alone.
        let inverted_air = self.share(self.inverted_air) - shares.clipped_bone;
        let inverted_air = inverted_air / (1.0 - shares.padding).max(f64::MIN_POSITIVE);
        let is_inverted = inverted_air >= AIR_SHARE
            && self.share(self.above_inverted) < ABOVE_INVERTED_SHARE
            && shares.air_but_padding < BELOW_INVERTED_SHARE
            && shares.inverted_tissue >= INVERTED_TISSUE_SHARE;
        is_inverted.then_some(inverted_air)
    }
}

fn is_multiple_of_10(value: f32) -> bool {
    ((value / 10.0).round() * 10.0 - value).abs() <= 0.0
}

/// Number of values that fulfil a condition; compiles to vector code.
pub(super) fn count(row: &[f32], is: impl Fn(f32) -> bool) -> u64 {
    row.iter().map(|&value| u32::from(is(value))).sum::<u32>().into()
}
