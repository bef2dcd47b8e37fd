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

/// Mean and standard deviation of a scan's values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ZScore {
    /// Mean of all voxels of the box of nonzero voxels, in the file's unit.
    pub mean: f64,
    /// Their standard deviation, with the number of voxels as the divisor. Above 0.
    pub std: f64,
    /// Lowest value of the scan.
    pub min: f32,
}

impl ZScore {
    /// Measures a scan on its file's grid; `None` if its box of nonzero voxels holds one value only, or no voxel.
    #[must_use]
    pub fn of(volume: &Volume) -> Option<Self> {
        let [_, ny, _] = volume.info.shape;
        let mut found = NonzeroBox::new();
        let mut row_idx = 0;
        volume.for_each_row(|row| {
            found.look(row, [row_idx % ny, row_idx / ny]);
            row_idx += 1;
        });
        let NonzeroBox { start, end, min, max } = found;
        if start[0] >= end[0] {
            return None;
        }
        // Distances from the middle of the range keep the sum of squares from losing digits.
        let middle = f64::midpoint(f64::from(min), f64::from(max));
        let (mut sum, mut squares, mut row_idx) = (0.0, 0.0, 0);
        let (mut lowest, mut highest) = (f32::INFINITY, f32::NEG_INFINITY);
        volume.for_each_row(|row| {
            let (y, z) = (row_idx % ny, row_idx / ny);
            row_idx += 1;
            if !(start[1]..end[1]).contains(&y) || !(start[2]..end[2]).contains(&z) {
                return;
            }
            for &value in &row[start[0]..end[0]] {
                lowest = lowest.min(value);
                highest = highest.max(value);
                let distance = f64::from(value) - middle;
                sum += distance;
                squares += distance * distance;
            }
        });
        let count = (0..3).map(|axis| (end[axis] - start[axis]) as f64).product::<f64>();
        let mean = sum / count;
        let std = (squares / count - mean * mean).sqrt();
        // Not a number if rounding leaves less than nothing of the variance.
        (lowest < highest && std > 0.0 && std.is_finite()).then_some(Self { mean: middle + mean, std, min })
    }

    /// Value of the file at a z-score.
    #[must_use]
    pub fn value_at(&self, z: f64) -> f64 {
        self.mean + z * self.std
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

    /// Extends the box by a row.
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

/// True for a voxel that nnU-Net and nnssl do not count as empty background.
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

    /// Values of a box of the volume, 0 elsewhere.
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
    fn a_scan_of_one_value_has_no_z_scores() {
        assert_eq!(measured(&vec![0.0; 210]), None);
        assert_eq!(measured(&vec![-3.7; 210]), None);
        assert_eq!(measured(&boxed(|_| 5.0)), None);
    }
}
