use hiend_cpu::instance_norm::{Branch, Normed, norm_leaky, norm_leaky_gradients, row_stats};
use proptest::prelude::*;

use crate::{wave, with_threads};

const EPSILON: f64 = 1e-5;
const SLOPE: f32 = 0.01;

/// Normalises a row; also returns its reciprocal standard deviation.
fn normed(row: &[f32]) -> (Vec<f64>, f64) {
    let count = row.len() as f64;
    let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    let rstd = 1.0 / (variance + EPSILON).sqrt();
    (row.iter().map(|&v| (f64::from(v) - mean) * rstd).collect(), rstd)
}

/// Gradient with respect to a row, given the gradient `g` with respect to its normalised values.
fn through_norm(g: &[f64], normed: &[f64], rstd: f64) -> Vec<f64> {
    let count = g.len() as f64;
    let mean = g.iter().sum::<f64>() / count;
    let along = g.iter().zip(normed).map(|(g, n)| g * n).sum::<f64>() / count;
    g.iter().zip(normed).map(|(g, n)| rstd * (g - mean - n * along)).collect()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Alone,
    Plain,
    Normed,
}

fn check(kind: Kind, num_rows: usize, len: usize, offset: f32, seed: u64) {
    let x: Vec<f32> = wave(num_rows * len, seed).into_iter().map(|v| v + offset).collect();
    let other = wave(num_rows * len, seed ^ 1);
    let dy = wave(num_rows * len, seed ^ 2);
    let (stats, other_stats) = (row_stats(&x, num_rows, EPSILON), row_stats(&other, num_rows, EPSILON));
    let main = Normed { x: &x, stats: &stats };
    let branch = match kind {
        Kind::Alone => Branch::None,
        Kind::Plain => Branch::Plain(&other),
        Kind::Normed => Branch::Normed(Normed { x: &other, stats: &other_stats }),
    };
    let y = norm_leaky(main, branch, SLOPE);
    let (dx, d_branch) = norm_leaky_gradients(main, branch, &y, &dy, SLOPE);
    assert_eq!(d_branch.is_some(), !matches!(kind, Kind::Alone));
    for row in 0..num_rows {
        let range = row * len..(row + 1) * len;
        let (of_x, rstd) = normed(&x[range.clone()]);
        let (of_other, other_rstd) = match kind {
            Kind::Alone => (vec![0.0; len], 0.0),
            Kind::Plain => (other[range.clone()].iter().map(|&v| f64::from(v)).collect(), 0.0),
            Kind::Normed => normed(&other[range.clone()]),
        };
        let before: Vec<f64> = of_x.iter().zip(&of_other).map(|(a, b)| a + b).collect();
        // Rounding of the mean, relative to the spread, and a few roundings of values of at most 10 spreads.
        let tolerance = 4e-6 * f64::from(offset.abs() + 1.0) * rstd.max(1.0);
        let leaky = |v: f64| if v > 0.0 { v } else { f64::from(SLOPE) * v };
        for (got, &want) in y[range.clone()].iter().zip(&before) {
            assert!((f64::from(*got) - leaky(want)).abs() <= tolerance, "{kind:?}: {got}, expected {}", leaky(want));
        }
        // The kink counts as the operation saw it.
        let g: Vec<f64> = (y[range.clone()].iter().zip(&dy[range.clone()]))
            .map(|(&y, &dy)| if y > 0.0 { f64::from(dy) } else { f64::from(SLOPE * dy) })
            .collect();
        let close = |what: &str, got: &[f32], want: &[f64], scale: f64| {
            for (got, want) in got.iter().zip(want) {
                let error = (f64::from(*got) - want).abs();
                assert!(error <= 4.0 * tolerance * scale.max(1.0), "{kind:?} {what}: {got}, expected {want}");
            }
        };
        close("dx", &dx[range.clone()], &through_norm(&g, &of_x, rstd), rstd);
        if let Some(d_branch) = &d_branch {
            let want = match kind {
                Kind::Normed => through_norm(&g, &of_other, other_rstd),
                _ => g,
            };
            close("branch", &d_branch[range], &want, other_rstd);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn values_and_gradients_are_the_definition(
        kind in prop_oneof![Just(Kind::Alone), Just(Kind::Plain), Just(Kind::Normed)],
        num_rows in 1_usize..5,
        len in 8_usize..9000,
        offset in -5.0_f32..5.0,
        seed in any::<u64>(),
    ) {
        check(kind, num_rows, len, offset, seed);
    }
}

#[test]
fn rows_of_more_than_one_task_are_joined() {
    check(Kind::Normed, 2, 150_001, 3.0, 7);
}

#[test]
fn a_constant_row_becomes_zero() {
    let x = vec![2.5; 5000];
    let stats = row_stats(&x, 1, EPSILON);
    let y = norm_leaky(Normed { x: &x, stats: &stats }, Branch::None, SLOPE);
    assert_eq!(y, vec![0.0; 5000]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let (x, dy) = (wave(3 * 100_000, 1), wave(3 * 100_000, 2));
    let [one, five] = with_threads(|| {
        let stats = row_stats(&x, 3, EPSILON);
        let x = Normed { x: &x, stats: &stats };
        let y = norm_leaky(x, Branch::Normed(x), SLOPE);
        let gradients = norm_leaky_gradients(x, Branch::Normed(x), &y, &dy, SLOPE);
        (stats.clone(), y, gradients)
    });
    assert!(one == five);
}
