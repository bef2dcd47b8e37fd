//! Extremes, mean and standard deviation of a crop, summed in a fixed order over eight lanes.

use super::approx::LANES;

/// Extremes, mean and standard deviation of a crop's voxels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moments {
    pub(super) min: f32,
    pub(super) max: f32,
    pub(super) mean: f64,
    /// Standard deviation with denominator n - 1; the denominator cancels, because only ratios of two deviations are
    /// used.
    pub(super) std: f64,
}

/// Running sums over eight lanes, in f64 because summing 96³ squares in f32 loses three digits.
#[derive(Debug)]
pub(super) struct Sums {
    min: [f32; LANES],
    max: [f32; LANES],
    sum: [f64; LANES],
    squares: [f64; LANES],
    count: usize,
}

impl Sums {
    /// Creates the sums over no voxels.
    pub(super) fn new() -> Self {
        Self {
            min: [f32::INFINITY; LANES],
            max: [f32::NEG_INFINITY; LANES],
            sum: [0.0; LANES],
            squares: [0.0; LANES],
            count: 0,
        }
    }

    /// Adds voxels. Except in the last call, their number must be a multiple of eight.
    pub(super) fn add_all(&mut self, voxels: &[f32]) {
        let (eights, rest) = voxels.as_chunks();
        for eight in eights {
            self.add(eight);
        }
        self.add_rest(rest);
    }

    #[inline]
    fn add(&mut self, voxels: &[f32; LANES]) {
        for (i, &v) in voxels.iter().enumerate() {
            self.min[i] = if v < self.min[i] { v } else { self.min[i] };
            self.max[i] = if v > self.max[i] { v } else { self.max[i] };
            let v = f64::from(v);
            self.sum[i] += v;
            self.squares[i] += v * v;
        }
        self.count += LANES;
    }

    fn add_rest(&mut self, voxels: &[f32]) {
        for (i, &v) in voxels.iter().enumerate() {
            self.min[i] = self.min[i].min(v);
            self.max[i] = self.max[i].max(v);
            self.sum[i] += f64::from(v);
            self.squares[i] += f64::from(v) * f64::from(v);
        }
        self.count += voxels.len();
    }

    /// Moments of the voxels added so far.
    pub(super) fn moments(&self) -> Moments {
        let n = self.count.max(1) as f64;
        let sum: f64 = self.sum.iter().sum();
        let squares: f64 = self.squares.iter().sum();
        let mean = sum / n;
        let variance = (squares - sum * mean).max(0.0) / (n - 1.0).max(1.0);
        Moments {
            min: self.min.iter().copied().fold(f32::INFINITY, f32::min),
            max: self.max.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            mean,
            std: variance.sqrt(),
        }
    }
}

/// Moments of `voxels`.
pub(super) fn moments(voxels: &[f32]) -> Moments {
    let mut sums = Sums::new();
    sums.add_all(voxels);
    sums.moments()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_agree_with_the_definition() {
        let check = |voxels: &[f32], expected: (f32, f32, f64, f64)| {
            let m = moments(voxels);
            assert_eq!((m.min, m.max), (expected.0, expected.1));
            assert!((m.mean - expected.2).abs() < 1e-9 && (m.std - expected.3).abs() < 1e-7, "{m:?}");
        };
        check(&[1.0], (1.0, 1.0, 1.0, 0.0));
        check(&[1.0, 3.0], (1.0, 3.0, 2.0, 2f64.sqrt()));
        check(&[0.25; 17], (0.25, 0.25, 0.25, 0.0));
        let ramp: Vec<f32> = (0..1001).map(|i| i as f32).collect();
        check(&ramp, (0.0, 1000.0, 500.0, (1001.0f64 * 1002.0 / 12.0).sqrt()));
    }
}
