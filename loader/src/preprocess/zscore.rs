//! Mean and standard deviation of a scan, for z-scores as nnssl and nnU-Net compute them.
//!
//! Both crop a scan to the bounding box of its voxels that are not 0 (`crop_to_nonzero`), then subtract the mean of all
//! voxels of that box and divide by their standard deviation (`ZScoreNormalization` with `use_mask_for_norm = false`),
//! then resample. nnssl always does so (`default_experiment_planner.py`). nnU-Net does so unless the box is smaller than
//! three quarters of the scan in the median of the dataset; only then it takes mean and deviation of the voxels that are
//! not 0 and leaves the others at 0.
//!
//! DIFFERENCE: that exception does not exist here. A case would depend on all others of its dataset, and the background
//! would get the value of the mean.

use crate::volume::Volume;

/// Distance in standard deviations from the mean beyond which a voxel is extreme. At most one voxel in 400 can be that
/// far away (Chebyshev's inequality).
const EXTREME: f64 = 20.0;

/// Mean and standard deviation of a scan's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZScore {
    /// Mean of all voxels in the bounding box of nonzero voxels, in the file's unit.
    pub mean: f64,
    /// Standard deviation of the same voxels (divided by their number, not their number less one). Above 0.
    pub std: f64,
    /// Lowest value of the scan.
    pub min: f32,
    /// Extreme voxels of the box, more than 20 standard deviations from the mean; `None` if there are none.
    pub extremes: Option<Extremes>,
}

/// The few voxels of a scan that are far from all others, and the spread of the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extremes {
    /// Number of voxels more than 20 standard deviations from the mean.
    pub num: u64,
    /// Standard deviation of all other voxels relative to that of all voxels, that is, the standard deviation of their
    /// z-scores: about 1 in a scan without extreme voxels.
    pub spread: f64,
}

impl ZScore {
    /// Measures a scan on its file's grid; `None` if its bounding box of nonzero voxels holds a single value or no
    /// voxel.
    #[must_use]
    pub fn of(volume: &Volume) -> Option<Self> {
        let nonzero = NonzeroBox::of(volume)?;
        // Distances from the middle of the range keep the sum of squares from losing digits.
        let middle = f64::midpoint(f64::from(nonzero.min), f64::from(nonzero.max));
        let mut sums = Sums::default();
        let (mut lowest, mut highest) = (f32::INFINITY, f32::NEG_INFINITY);
        nonzero.for_each_row(volume, |row| {
            for &value in row {
                lowest = lowest.min(value);
                highest = highest.max(value);
                sums.add(f64::from(value) - middle);
            }
        });
        let (mean, std) = (middle + sums.mean(), sums.std());
        // NaN if rounding makes the variance negative.
        if !(lowest < highest && std > 0.0 && std.is_finite()) {
            return None;
        }
        let is_extreme = |value: f32| (f64::from(value) - mean).abs() > EXTREME * std;
        let extremes = (is_extreme(lowest) || is_extreme(highest)).then(|| {
            let mut others = Sums::default();
            let mut num = 0;
            nonzero.for_each_row(volume, |row| {
                for &value in row {
                    if is_extreme(value) {
                        num += 1;
                    } else {
                        others.add(f64::from(value) - mean);
                    }
                }
            });
            // Rounding may make the variance of equal values slightly negative.
            Extremes { num, spread: others.variance().max(0.0).sqrt() / std }
        });
        Some(Self { mean, std, min: nonzero.min, extremes })
    }

    /// Value in the file's unit at a z-score.
    #[must_use]
    pub fn value_at(&self, z: f64) -> f64 {
        self.mean + z * self.std
    }
}

/// Number, sum and sum of squares of values.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    fn variance(&self) -> f64 {
        self.squares / self.count - self.mean() * self.mean()
    }

    fn std(&self) -> f64 {
        self.variance().sqrt()
    }
}

/// Bounding box of the voxels that are not 0, along the file's axes, and the range of all values.
#[derive(Clone, Copy, Debug)]
struct NonzeroBox {
    start: [usize; 3],
    end: [usize; 3],
    min: f32,
    max: f32,
}

impl NonzeroBox {
    fn new() -> Self {
        Self { start: [usize::MAX; 3], end: [0; 3], min: f32::INFINITY, max: f32::NEG_INFINITY }
    }

    /// Finds the bounding box of a scan's nonzero voxels; `None` if all voxels are 0.
    fn of(volume: &Volume) -> Option<Self> {
        let ny = volume.info.shape[1];
        let mut found = Self::new();
        let mut row_idx = 0;
        volume.for_each_row(|row| {
            found.look(row, [row_idx % ny, row_idx / ny]);
            row_idx += 1;
        });
        (found.start[0] < found.end[0]).then_some(found)
    }

    /// Calls `see` with the part of each row that lies in the box.
    fn for_each_row(&self, volume: &Volume, mut see: impl FnMut(&[f32])) {
        let Self { start, end, .. } = self;
        let ny = volume.info.shape[1];
        let mut row_idx = 0;
        volume.for_each_row(|row| {
            let (y, z) = (row_idx % ny, row_idx / ny);
            row_idx += 1;
            if (start[1]..end[1]).contains(&y) && (start[2]..end[2]).contains(&z) {
                see(&row[start[0]..end[0]]);
            }
        });
    }

    /// Extends the box by the nonzero voxels of a row.
    fn look(&mut self, row: &[f32], [y, z]: [usize; 2]) {
        for &value in row {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
        }
        let Some(first) = row.iter().position(|value| is_nonzero(*value)) else { return };
        let last = row.iter().rposition(|value| is_nonzero(*value)).unwrap_or(first);
        for (axis, low, high) in [(0, first, last), (1, y, y), (2, z, z)] {
            self.start[axis] = self.start[axis].min(low);
            self.end[axis] = self.end[axis].max(high + 1);
        }
    }
}

/// Returns true for a voxel that nnU-Net and nnssl do not treat as empty background.
pub(crate) fn is_nonzero(value: f32) -> bool {
    value != 0.0
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "values that f32 holds exactly")]

    use super::*;
    use crate::volume::nifti::testing::TestFile;
    use crate::volume::read_volume;

    const SHAPE: [usize; 3] = [7, 6, 5];

    fn measured(values: &[f32]) -> Option<ZScore> {
        let dir = tempfile::tempdir().unwrap();
        let file = TestFile::new(SHAPE, &[]).with_f32(values).write(&dir.path().join("a.nii"));
        ZScore::of(&read_volume(&file).unwrap())
    }

    /// Volume with the given values inside a box and 0 elsewhere.
    fn boxed(value: impl Fn([usize; 3]) -> f32) -> Vec<f32> {
        let mut values = vec![0.0; SHAPE.iter().product()];
        for z in 1..4 {
            for y in 2..5 {
                for x in 1..6 {
                    values[(z * SHAPE[1] + y) * SHAPE[0] + x] = value([x, y, z]);
                }
            }
        }
        values
    }

    #[test]
    fn mean_and_deviation_are_those_of_the_box_of_nonzero_voxels() {
        // Zeros inside the box count, zeros around it do not.
        let values = boxed(|[x, y, z]| if x == 3 { 0.0 } else { 1000.0 + (x * 7 + y * 11 + z * 13) as f32 });
        let inside: Vec<f64> = (1..4)
            .flat_map(|z| (2..5).flat_map(move |y| (1..6).map(move |x| (z * SHAPE[1] + y) * SHAPE[0] + x)))
            .map(|at| f64::from(values[at]))
            .collect();
        assert_eq!(inside.len(), 45);
        let mean = inside.iter().sum::<f64>() / 45.0;
        let std = (inside.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 45.0).sqrt();
        let found = measured(&values).unwrap();
        // Double precision, 45 values.
        assert!((found.mean - mean).abs() < 1e-9 && (found.std - std).abs() < 1e-9, "{found:?} {mean} {std}");
        assert_eq!(found.min, 0.0);
        assert!((found.value_at(-2.0) - (mean - 2.0 * std)).abs() < 1e-8);
    }

    #[test]
    fn a_large_offset_costs_no_precision() {
        let values: Vec<f32> = (0..SHAPE.iter().product::<usize>()).map(|at| 60_000.0 + (at % 2) as f32).collect();
        let found = measured(&values).unwrap();
        assert!((found.mean - 60_000.5).abs() < 1e-9 && (found.std - 0.5).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn extreme_voxels_are_recognised_by_the_spread_of_the_others() {
        let ordinary = |at: usize| 100.0 + (at % 7) as f32;
        let values = |extreme: &[(usize, f32)]| -> Vec<f32> {
            let mut values: Vec<f32> = (0..SHAPE.iter().product::<usize>()).map(ordinary).collect();
            for &(at, value) in extreme {
                values[at] = value;
            }
            values
        };
        assert_eq!(measured(&values(&[])).unwrap().extremes, None);
        // Among 210 voxels, none can be more than 14.5 deviations from the mean, whatever its value.
        assert_eq!(measured(&values(&[(5, 1e6)])).unwrap().extremes, None);
        let large = |extreme: Option<f32>| {
            let dir = tempfile::tempdir().unwrap();
            let mut values: Vec<f32> = (0..8000).map(ordinary).collect();
            if let Some(extreme) = extreme {
                values[4321] = extreme;
            }
            let file = TestFile::new([20; 3], &[]).with_f32(&values).write(&dir.path().join("a.nii"));
            ZScore::of(&read_volume(&file).unwrap()).unwrap()
        };
        let plain = large(None);
        assert_eq!(plain.extremes, None);
        for extreme in [1e6, -1e6] {
            let found = large(Some(extreme));
            let extremes = found.extremes.unwrap();
            assert_eq!(extremes.num, 1);
            // The other 7999 voxels have the deviation of the scan without the extreme one, apart from one voxel in 8000.
            assert!((extremes.spread * found.std / plain.std - 1.0).abs() < 1e-3, "{found:?} {plain:?}");
        }
    }

    #[test]
    fn a_scan_of_one_value_has_no_z_scores() {
        assert_eq!(measured(&vec![0.0; 210]), None);
        assert_eq!(measured(&vec![-3.7; 210]), None);
        assert_eq!(measured(&boxed(|_| 5.0)), None);
    }
}
