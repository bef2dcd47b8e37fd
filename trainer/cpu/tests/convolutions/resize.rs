use hiend_cpu::resize::{ResizeShape, trilinear, trilinear_gradient};
use proptest::prelude::*;

use crate::{Exact, wave, with_threads};

/// Weight of input position `from_at` for output position `to_at` along one axis.
fn weight(from: usize, to: usize, from_at: usize, to_at: usize) -> f64 {
    let at = ((to_at as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
    (1.0 - (at - from_at as f64).abs()).max(0.0)
}

fn check(shape: ResizeShape, seed: u64) {
    let ResizeShape { num_rows, from, to } = shape;
    let (num_from, num_to) = (from.iter().product::<usize>(), to.iter().product::<usize>());
    let (x, dy) = (wave(num_rows * num_from, seed), wave(num_rows * num_to, seed ^ 1));
    let mut want_y = vec![Exact::default(); dy.len()];
    let mut want_dx = vec![Exact::default(); x.len()];
    let position =
        |flat: usize, size: [usize; 3]| [flat / (size[1] * size[2]), flat / size[2] % size[1], flat % size[2]];
    for i in 0..num_from {
        for o in 0..num_to {
            let (at_i, at_o) = (position(i, from), position(o, to));
            let weight: f64 = (0..3).map(|a| weight(from[a], to[a], at_i[a], at_o[a])).product();
            for row in 0..num_rows {
                want_y[row * num_to + o].add(x[row * num_from + i], weight as f32);
                want_dx[row * num_from + i].add(dy[row * num_to + o], weight as f32);
            }
        }
    }
    // The products of three weights are rounded to f32 here and as they are multiplied there: a few units more than sums.
    let close = |got: &[f32], want: &[Exact]| {
        for (got, want) in got.iter().zip(want) {
            let error = (f64::from(*got) - want.value).abs();
            assert!(error <= 64.0 * 2.0_f64.powi(-24) * (want.absolute + 1.0), "{got}, expected {}", want.value);
        }
    };
    close(&trilinear(&x, shape), &want_y);
    close(&trilinear_gradient(&dy, shape), &want_dx);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn values_and_gradients_are_the_definition(
        num_rows in 1_usize..3,
        from in [1_usize..7, 1_usize..7, 1_usize..7],
        to in [1_usize..9, 1_usize..9, 1_usize..9],
        seed in any::<u64>(),
    ) {
        check(ResizeShape { num_rows, from, to }, seed);
    }
}

#[test]
fn a_ramp_is_interpolated_and_its_ends_are_kept() {
    let shape = ResizeShape { num_rows: 1, from: [1, 1, 2], to: [1, 1, 4] };
    assert_eq!(trilinear(&[0.0, 1.0], shape), [0.0, 0.25, 0.75, 1.0]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let shape = ResizeShape { num_rows: 3, from: [16, 8, 12], to: [24, 12, 18] };
    let (x, dy) = (wave(3 * 16 * 8 * 12, 1), wave(3 * 24 * 12 * 18, 2));
    let [one, five] = with_threads(|| [trilinear(&x, shape), trilinear_gradient(&dy, shape)]);
    assert!(one == five);
}
