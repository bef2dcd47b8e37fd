//! Confidence intervals of means by bootstrap over cases.
//!
//! Uses the percentile method: as many cases as there are values are sampled with replacement, and the interval contains the
//! middle 95% of the means. It assumes that cases are independent; with fewer than about ten cases it is too narrow.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::nan_mean;

/// Share of the means below the interval, and above it.
const TAIL: f64 = 0.025;

/// Number and seed of resamples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Number of resamples; 0 for no intervals.
    pub resamples: usize,
    /// Seed of the resampling.
    pub seed: u64,
}

/// 95% confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end, in the unit of the values.
    pub low: f64,
    /// Upper end, in the unit of the values.
    pub high: f64,
}

impl Bootstrap {
    /// Interval of the mean of the finite values, one per case; `None` for fewer than two of them.
    #[must_use]
    pub fn interval_of_mean(self, values: impl IntoIterator<Item = f64>) -> Option<Interval> {
        let values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        if values.len() < 2 || self.resamples == 0 {
            return None;
        }
        // A generator of its own per mean, so that an interval does not depend on which others are computed.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut mean = || nan_mean((0..values.len()).map(|_| values[rng.random_range(0..values.len())]));
        let mut means: Vec<f64> = (0..self.resamples).map(|_| mean()).collect();
        means.sort_unstable_by(f64::total_cmp);
        let quantile = |q: f64| {
            let rank = q * (means.len() - 1) as f64;
            let (below, share) = (rank.floor() as usize, rank.fract());
            means[below] + (means[(below + 1).min(means.len() - 1)] - means[below]) * share
        };
        Some(Interval { low: quantile(TAIL), high: quantile(1.0 - TAIL) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTSTRAP: Bootstrap = Bootstrap { resamples: 4000, seed: 1 };

    #[test]
    fn the_interval_of_two_values_has_their_ends() {
        // Half of the resamples mix both values; a quarter each holds one of them twice.
        let interval = BOOTSTRAP.interval_of_mean([1.0, 3.0]).unwrap();
        assert_eq!(interval, Interval { low: 1.0, high: 3.0 });
    }

    #[test]
    fn the_interval_of_many_values_is_that_of_the_normal_approximation() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let Interval { low, high } = BOOTSTRAP.interval_of_mean(values).unwrap();
        // Mean 9.5; 1.96 standard errors of sqrt(33.25 / 400). The ends of 4000 resamples scatter by a few percent of it.
        let half = 1.96 * (33.25_f64 / 400.0).sqrt();
        assert!((low - (9.5 - half)).abs() < 0.1 && (high - (9.5 + half)).abs() < 0.1, "{low} {high}");
    }

    #[test]
    fn equal_seeds_give_equal_intervals_and_values_that_are_not_finite_are_left_out() {
        let of = |values: &[f64], seed| Bootstrap { seed, ..BOOTSTRAP }.interval_of_mean(values.iter().copied());
        let values = [0.5, 0.7, 0.9, 0.95];
        assert_eq!(of(&values, 3), of(&values, 3));
        let many: Vec<f64> = (0..40).map(|i| f64::from(i * i)).collect();
        assert_ne!(of(&many, 3), of(&many, 4));
        assert_eq!(of(&[0.5, f64::NAN, 0.7, f64::INFINITY, 0.9, 0.95], 3), of(&values, 3));
        assert_eq!(of(&[0.5, f64::NAN], 3), None);
        assert_eq!(Bootstrap { resamples: 0, seed: 0 }.interval_of_mean(values), None);
    }
}
