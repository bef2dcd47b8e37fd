//! Wilcoxon's signed-rank test of paired differences, two-sided.
//!
//! Differences of zero are dropped (Wilcoxon 1945), and equal ones share their mean rank. For up to [`MAX_EXACT`]
//! differences the p value is exact: every assignment of signs to these ranks is counted, ties included. For more, it
//! follows from the normal approximation, with the variance corrected for ties and without a continuity correction.
//!
//! DIFFERENCE: `scipy.stats.wilcoxon` approximates if values tie; its `PermutationMethod` gives the exact values of
//! this module.

/// Largest number of differences for which the p value is exact.
pub const MAX_EXACT: usize = 50;

/// p value of the hypothesis that the differences are symmetric about zero; `None` if none differs from zero.
///
/// # Panics
/// If a difference is NaN.
#[must_use]
pub fn signed_rank(differences: &[f64]) -> Option<f64> {
    assert!(differences.iter().all(|difference| !difference.is_nan()), "differences are numbers");
    let mut nonzero: Vec<f64> = differences.iter().copied().filter(|&difference| difference != 0.0).collect();
    if nonzero.is_empty() {
        return None;
    }
    nonzero.sort_unstable_by(|a, b| a.abs().total_cmp(&b.abs()));
    // Ranks are doubled, so that the mean rank of ties is a whole number.
    let mut doubled = Vec::with_capacity(nonzero.len());
    let mut ties = 0.0;
    for group in nonzero.chunk_by(|a, b| a.abs().total_cmp(&b.abs()).is_eq()) {
        let (first, size) = (doubled.len() + 1, group.len());
        doubled.extend(std::iter::repeat_n(2 * first + size - 1, size));
        ties += (size as f64).powi(3) - size as f64;
    }
    let positive: usize = nonzero.iter().zip(&doubled).filter(|(value, _)| **value > 0.0).map(|(_, rank)| rank).sum();
    let total: usize = doubled.iter().sum();
    let smaller = positive.min(total - positive);
    Some(if nonzero.len() <= MAX_EXACT { exact(&doubled, smaller) } else { approximate(nonzero.len(), smaller, ties) })
}

/// Probability that one of the two sums of doubled ranks is at most `smaller` if both signs are equally likely.
fn exact(doubled: &[usize], smaller: usize) -> f64 {
    // Number of sign assignments by sum; 2^50 is exact in f64.
    let mut ways = vec![0.0; doubled.iter().sum::<usize>() + 1];
    ways[0] = 1.0;
    let mut reached = 0;
    for &rank in doubled {
        for sum in (0..=reached).rev() {
            ways[sum + rank] += ways[sum];
        }
        reached += rank;
    }
    let all: f64 = ways.iter().sum();
    (2.0 * ways[..=smaller].iter().sum::<f64>() / all).min(1.0)
}

fn approximate(count: usize, smaller: usize, ties: f64) -> f64 {
    let n = count as f64;
    let mean = n * (n + 1.0) / 4.0;
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    let z = (mean - smaller as f64 / 2.0) / variance.sqrt();
    two_sided_normal(z)
}

/// Probability that a standard normal variable lies further from zero than `z`, which is not negative; absolute error
/// below 1e-12.
fn two_sided_normal(z: f64) -> f64 {
    let x = z / std::f64::consts::SQRT_2;
    if x < 2.5 {
        // Series of the error function.
        let mut term = x;
        let mut sum = x;
        for n in 1..200 {
            let n = f64::from(n);
            term *= -x * x / n;
            let next = term / (2.0 * n + 1.0);
            sum += next;
            if next.abs() < 1e-17 {
                break;
            }
        }
        return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    // Continued fraction of the complementary error function, from its end.
    let fraction = (1..=120).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / std::f64::consts::PI.sqrt() / fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(differences: &[f64], expected: f64) {
        let p = signed_rank(differences).unwrap();
        assert!((p - expected).abs() <= 1e-9 * expected, "{p}, expected {expected}");
        let mirrored: Vec<f64> = differences.iter().map(|difference| -difference).collect();
        assert_eq!(signed_rank(&mirrored), Some(p), "the test is two-sided");
    }

    #[test]
    fn small_samples_are_exact() {
        // All of n signs alike: 2 of 2^n assignments.
        check(&[0.1, 0.2, 0.3, 0.4, 0.5], 2.0 / 32.0);
        // The smallest rank against the others: sums of at most 1, in 2 of 8 assignments on either side.
        check(&[-0.1, 0.2, 0.3], 0.5);
        check(&[1.0], 1.0);
        // Ties: ranks 1.5, 1.5, 3; a sum of at most 1.5 in 3 of 8 assignments on either side.
        check(&[-0.1, 0.1, 0.3], 0.75);
    }

    #[test]
    fn zeros_are_dropped() {
        assert_eq!(signed_rank(&[0.0, 0.1, 0.0, 0.2, 0.3]), signed_rank(&[0.1, 0.2, 0.3]));
        assert_eq!(signed_rank(&[0.0, 0.0]), None);
        assert_eq!(signed_rank(&[]), None);
    }

    #[test]
    fn normal_tails_are_those_of_tables() {
        for (z, expected) in
            [(0.0, 1.0), (1.0, 0.317_310_507_862_914), (1.959_963_984_540_054, 0.05), (5.0, 5.733_031_437_583_87e-7)]
        {
            let p = two_sided_normal(z);
            assert!((p - expected).abs() <= 1e-9 * expected, "{z}: {p}, expected {expected}");
        }
        // Both formulas agree where one takes over from the other.
        let (below, above) = (two_sided_normal(3.535_533_9), two_sided_normal(3.535_534));
        assert!((below - above).abs() < 1e-9, "{below} {above}");
    }
}
