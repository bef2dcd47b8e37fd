//! Histogram of a volume's values, with a bin for each whole number.

use std::ops::{Range, RangeInclusive};

use super::peaks::count;

/// Share of voxels that is disregarded: extreme values caused by resampling or metal.
pub(in crate::convert) const RARE: f64 = 1e-3;

/// Lowest value with a bin of its own; its bin has all values below it as well. Padding of -32768 in a file with an
/// intercept lies above it.
pub(super) const LOWEST: i32 = -65_536;
/// Highest value with a bin of its own; its bin has all values above it as well.
pub(super) const HIGHEST: i32 = 65_535;
/// Number of bins.
const NUM_BINS: usize = 131_072;
/// Range of the values that share no bin with others.
const BINNED: Range<f32> = LOWEST as f32..(HIGHEST + 1) as f32;
/// Largest number of voxels that are counted. In a larger volume, evenly spread rows are counted: every share that is
/// evaluated is at least one in a thousand.
const MOST_COUNTED: u64 = 2_097_152;
/// 2^64 divided by the golden ratio: multiples of it, modulo 2^64, are spread evenly.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Width of the bins in which a peak is looked for.
const WIDE_BIN: usize = 16;
/// Number of these bins.
const NUM_WIDE_BINS: usize = 512;
/// Least share of voxels in two of these bins that is a peak.
const PEAK_SHARE: f64 = 0.05;

/// Number of voxels by value, with fractions rounded down.
pub(super) struct Histogram {
    bins: Vec<u32>,
    num: u64,
    /// Number of values beyond the first and the last bin, which count there.
    beyond: u64,
    /// Number of rows so far.
    num_rows: u64,
    /// Largest multiple of [`GOLDEN`] whose row is counted.
    last_counted: u64,
}

impl Histogram {
    /// Creates an empty histogram for a volume of `num_voxels` voxels.
    pub(super) fn new(num_voxels: usize) -> Self {
        let one_in = (num_voxels as u64).div_ceil(MOST_COUNTED).max(1);
        Self { bins: vec![0; NUM_BINS], num: 0, beyond: 0, num_rows: 0, last_counted: u64::MAX / one_in }
    }

    /// Counts the next row; returns false if a large volume's histogram leaves it out.
    pub(super) fn add(&mut self, row: &[f32]) -> bool {
        let place = self.num_rows.wrapping_mul(GOLDEN);
        self.num_rows += 1;
        if place > self.last_counted {
            return false;
        }
        self.num += row.len() as u64;
        self.beyond += count(row, |value| !BINNED.contains(&value));
        for &value in row {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates below the first bin"
            )]
            let bin = (value.floor() - LOWEST as f32) as usize;
            self.bins[bin.min(NUM_BINS - 1)] += 1;
        }
        true
    }

    /// Number of voxels that were counted.
    pub(super) fn num(&self) -> u64 {
        self.num
    }

    /// Number of voxels with values of a range.
    pub(super) fn count(&self, values: RangeInclusive<i32>) -> u64 {
        self.bins_of(values).iter().map(|&count| u64::from(count)).sum()
    }

    /// Share of voxels with values of a range.
    pub(super) fn share(&self, values: RangeInclusive<i32>) -> f64 {
        self.count(values) as f64 / self.num.max(1) as f64
    }

    /// Share of voxels below -65536 or from 65536 on.
    pub(super) fn share_beyond(&self) -> f64 {
        self.beyond as f64 / self.num.max(1) as f64
    }

    /// Share of voxels up to a value.
    pub(super) fn share_up_to(&self, value: i32) -> f64 {
        self.share(LOWEST..=value)
    }

    /// Share of voxels from a value on.
    pub(super) fn share_from(&self, value: i32) -> f64 {
        self.share(value..=HIGHEST)
    }

    /// Numbers of voxels of the two most frequent values in a range, the larger number first.
    pub(super) fn most_frequent(&self, values: RangeInclusive<i32>) -> [u64; 2] {
        self.bins_of(values).iter().fold([0; 2], |[first, second], &count| match u64::from(count) {
            count if count > first => [count, first],
            count => [first, second.max(count)],
        })
    }

    /// Lowest value of a voxel that is not below `from`; `None` without such a voxel.
    pub(super) fn lowest(&self, from: i32) -> Option<i32> {
        (from..=HIGHEST).zip(self.bins_of(from..=HIGHEST)).find(|(_, count)| **count > 0).map(|(value, _)| value)
    }

    /// Lowest and highest value of any voxel; `None` without voxels.
    pub(super) fn ends(&self) -> Option<[i32; 2]> {
        let is_held = |count: &u32| *count > 0;
        let lowest = (LOWEST..=HIGHEST).zip(&self.bins).find(|(_, count)| is_held(count))?.0;
        let highest = (LOWEST..=HIGHEST).rev().zip(self.bins.iter().rev()).find(|(_, count)| is_held(count))?.0;
        Some([lowest, highest])
    }

    /// Lowest value up to which more than a share of the voxels lies; `None` without voxels.
    pub(super) fn reached_by(&self, share: f64) -> Option<i32> {
        let mut num = 0;
        let mut reaches = |count: u32| {
            num += u64::from(count);
            num as f64 > share * self.num as f64
        };
        (LOWEST..=HIGHEST).zip(&self.bins).find(|(_, count)| reaches(**count)).map(|(value, _)| value)
    }

    /// Mean distance of the values from their mean.
    pub(super) fn mean_deviation(&self) -> f64 {
        let sum = |of: &dyn Fn(f64) -> f64| -> f64 {
            (LOWEST..=HIGHEST).zip(&self.bins).map(|(value, &count)| of(f64::from(value)) * f64::from(count)).sum()
        };
        let num = self.num.max(1) as f64;
        let mean = sum(&|value| value) / num;
        sum(&|value| (value - mean).abs()) / num
    }

    /// Lowest value, at least `from`, around which many voxels lie; `None` without such a peak. In a CT with any
    /// offset, it is the value of air.
    pub(super) fn lowest_peak(&self, from: i32) -> Option<f32> {
        let first_values = (from..=HIGHEST).step_by(WIDE_BIN);
        let bins: Vec<(u64, f64)> = first_values
            .zip(self.bins_of(from..=HIGHEST).chunks(WIDE_BIN))
            .take(NUM_WIDE_BINS)
            .map(|(first, bin)| {
                (first..).zip(bin).fold((0u64, 0f64), |(num, sum), (value, &count)| {
                    (num + u64::from(count), sum + f64::from(value) * f64::from(count))
                })
            })
            .collect();
        // A peak may lie on both sides of a border.
        let pairs: Vec<(u64, f64)> =
            bins.windows(2).map(|pair| (pair[0].0 + pair[1].0, pair[0].1 + pair[1].1)).collect();
        let mut at = pairs.iter().position(|(count, _)| *count as f64 >= PEAK_SHARE * self.num as f64)?;
        while at + 1 < pairs.len() && pairs[at + 1].0 > pairs[at].0 {
            at += 1;
        }
        let (count, sum) = pairs[at];
        #[expect(clippy::cast_possible_truncation, reason = "a whole number in the range of the values")]
        Some((sum / count as f64).round() as f32)
    }

    fn bins_of(&self, values: RangeInclusive<i32>) -> &[u32] {
        let index = |value: i32| (value.clamp(LOWEST, HIGHEST) - LOWEST).unsigned_abs() as usize;
        &self.bins[index(*values.start())..=index(*values.end())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::new(values.len());
        histogram.add(values);
        histogram
    }

    #[test]
    fn values_are_counted_by_the_whole_number_below_them() {
        let found = histogram(&[-1e9, -65_536.0, -50.5, -50.0, -0.5, 0.0, 0.9, 65_535.0, 1e9]);
        assert_eq!(found.num(), 9);
        assert!((found.share_beyond() - 2.0 / 9.0).abs() < 1e-9);
        assert_eq!([found.count(i32::MIN..=-51), found.count(-50..=-50), found.count(-1..=-1)], [3, 1, 1]);
        assert_eq!([found.count(0..=0), found.count(1..=i32::MAX)], [2, 2]);
        assert_eq!(found.most_frequent(-60..=10), [2, 1]);
        assert_eq!([found.lowest(-40), found.lowest(1)], [Some(-1), Some(65_535)]);
        assert_eq!(histogram(&[3.0]).lowest(4), None);
        assert_eq!(found.ends(), Some([-65_536, 65_535]));
        assert_eq!(
            [found.reached_by(0.0), found.reached_by(0.3), found.reached_by(0.8)],
            [Some(-65_536), Some(-51), Some(65_535)]
        );
        assert_eq!(histogram(&[]).reached_by(0.0), None);
        assert!((histogram(&[-3.0, 5.0, 5.0, 5.0]).mean_deviation() - 3.0).abs() < 1e-9);
        assert_eq!([histogram(&[7.5, -3.0]).ends(), histogram(&[]).ends()], [Some([-3, 7]), None]);
    }

    #[test]
    fn rows_of_a_large_volume_are_counted_evenly() {
        // A sixteenth of the rows, whose value changes sixteen times.
        let mut found = Histogram::new(usize::try_from(16 * MOST_COUNTED).unwrap());
        for row in 0..16_384u16 {
            found.add(&[f32::from(row / 1024)]);
        }
        assert!((1000..=1048).contains(&found.num()), "{}", found.num());
        for value in 0..16 {
            let count = found.count(value..=value);
            assert!((60..=68).contains(&count), "{value}: {count}");
        }
    }
}
