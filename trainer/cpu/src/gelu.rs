//! Exact GELU, `h · Φ(h)` for `h = x + bias` with the standard normal distribution Φ (Hendrycks and Gimpel,
//! arXiv 1606.08415, section 2), and its derivative.

use crate::buffer::write_with;
use crate::math::normal;
use crate::rows;

/// Computes `h · Φ(h)` for the rows `[.., W]` of `h = x + bias`.
///
/// # Panics
/// If `x` does not consist of rows as long as `bias`.
#[must_use]
pub fn forward(x: &[f32], bias: &[f32]) -> Vec<f32> {
    let width = bias.len();
    let rows = rows::count(x, width);
    rows::mapped(rows, width, |row, out| {
        let x = &x[row * width..][..width];
        assert!(out.len() == width);
        write_with(out, |i| {
            let h = x[i] + bias[i];
            h * normal(h).0
        })
    })
}

/// Gradients of `x` and `bias`, given the gradient `dy` of the result: `dy · (Φ(h) + h · φ(h))`, and its sum over all
/// rows.
///
/// # Panics
/// If `x` and `dy` do not consist of equally many rows as long as `bias`.
#[must_use]
pub fn backward(x: &[f32], bias: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let width = bias.len();
    let rows = rows::count(x, width);
    assert_eq!(x.len(), dy.len(), "values of the input and of the gradient");
    rows::summed(rows, width, width, |row, out, sums| {
        let (x, dy) = (&x[row * width..][..width], &dy[row * width..][..width]);
        assert!(out.len() == width);
        let dx = write_with(out, |i| {
            let h = x[i] + bias[i];
            let (cdf, density) = normal(h);
            dy[i] * h.mul_add(density, cdf)
        });
        rows::add_to(sums, dx);
        dx
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits, wave};

    /// Computes Φ and φ in f64, with the error function's series and continued fraction as in the tests of `math`.
    fn wide(h: f64) -> (f64, f64) {
        (crate::math::tests::distribution(h), (-0.5 * h * h).exp() / std::f64::consts::TAU.sqrt())
    }

    #[test]
    fn values_and_gradients_are_the_definition() {
        for (rows, width) in [(1, 1), (7, 66), (300, 96), (3, 37), (2, 20_000)] {
            let (x, bias, dy) = (wave(rows * width, 0.7, 6.0), wave(width, 0.9, 1.0), wave(rows * width, 0.3, 1.0));
            let h = |i: usize| f64::from(x[i] + bias[i % width]);
            let expected: Vec<f64> = (0..x.len()).map(|i| h(i) * wide(h(i)).0).collect();
            assert_close(&forward(&x, &bias), &expected, 3e-7);
            let slope = |i: usize| wide(h(i)).0 + h(i) * wide(h(i)).1;
            let expected: Vec<f64> = (0..x.len()).map(|i| f64::from(dy[i]) * slope(i)).collect();
            let (dx, dbias) = backward(&x, &bias, &dy);
            assert_close(&dx, &expected, 4e-7);
            let sums: Vec<f64> = (0..width).map(|j| expected.iter().skip(j).step_by(width).sum()).collect();
            assert_close(&dbias, &sums, 2e-6);
        }
    }

    #[test]
    fn large_values_have_their_limits_and_nan_stays() {
        let x = [-200.0, 200.0, f32::NAN];
        let y = forward(&x, &[0.0; 3]);
        assert_eq!(y[..2], [0.0, 200.0]);
        assert!(y[2].is_nan());
        let (dx, _) = backward(&x, &[0.0; 3], &[1.0; 3]);
        assert_eq!(dx[..2], [0.0, 1.0]);
        assert!(dx[2].is_nan());
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (x, bias, dy) = (wave(300 * 96, 0.7, 4.0), wave(96, 0.9, 1.0), wave(300 * 96, 0.3, 1.0));
        assert_same_bits(|| {
            let (dx, dbias) = backward(&x, &bias, &dy);
            vec![forward(&x, &bias), dx, dbias]
        });
    }
}
