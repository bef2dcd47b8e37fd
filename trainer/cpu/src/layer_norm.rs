//! Layer norm (Ba, Kiros and Hinton, arXiv 1607.06450) of rows and its gradients.
//!
//! With `x̂ = (x - mean) · rstd`: `dx = rstd · (g - mean(g) - x̂ · mean(g · x̂))` for `g = gamma · dy`, `dgamma =
//! sum(dy · x̂)` and `dbeta = sum(dy)` over all rows. After its first pass, a row is read from the first-level cache;
//! the backward pass recomputes mean and standard deviation.

use wide::f32x8;

use crate::buffer::write_with;
use crate::math::{sum, sum_of};
use crate::rows;

/// Mean of `row`, and the reciprocal of its standard deviation, with `epsilon` added to the variance.
#[inline]
pub(crate) fn moments(row: &[f32], epsilon: f32) -> (f32, f32) {
    let len = row.len() as f32;
    let mean = sum(row) / len;
    let center = f32x8::splat(mean);
    let variance = sum_of([row], |[x]| (x - center) * (x - center)) / len;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// Normalises the rows `[.., W]` of `x`, multiplies by `gamma` `[W]` and adds `beta` `[W]`.
///
/// # Panics
/// If the rows of `x`, `gamma` and `beta` have different lengths.
#[must_use]
pub fn forward(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32) -> Vec<f32> {
    let width = gamma.len();
    assert_eq!(width, beta.len(), "widths of scale and offset");
    rows::mapped(rows::count(x, width), width, |row, out| {
        let x = &x[row * width..][..width];
        let (mean, rstd) = moments(x, epsilon);
        assert!(out.len() == width && beta.len() == width);
        write_with(out, |i| ((x[i] - mean) * rstd).mul_add(gamma[i], beta[i]))
    })
}

/// Gradients of [`forward`].
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// Gradient of the input, `[.., W]`.
    pub x: Vec<f32>,
    /// Gradient of the scale, `[W]`.
    pub gamma: Vec<f32>,
    /// Gradient of the offset, `[W]`.
    pub beta: Vec<f32>,
}

/// Gradients of [`forward`], given the gradient `dy` of its result. `other` `[.., W]`, if present, is added to the
/// gradient of `x`.
///
/// # Panics
/// If the rows of `x`, `dy`, `other` and `gamma` have different lengths, or there are more of one than of another.
#[must_use]
pub fn backward(x: &[f32], gamma: &[f32], dy: &[f32], other: Option<&[f32]>, epsilon: f32) -> Gradients {
    let width = gamma.len();
    let rows = rows::count(x, width);
    assert_eq!(x.len(), dy.len(), "values of the input and of the gradient");
    assert!(other.is_none_or(|other| other.len() == x.len()), "values of the input and of its other gradient");
    let len = width as f32;
    let (dx, mut sums) = rows::summed(rows, width, 2 * width, |row, out, sums| {
        let range = row * width..(row + 1) * width;
        let (x, dy) = (&x[range.clone()], &dy[range.clone()]);
        let (mean, rstd) = moments(x, epsilon);
        let (dgamma, dbeta) = sums.split_at_mut(width);
        for (((dgamma, dbeta), &x), &dy) in dgamma.iter_mut().zip(dbeta).zip(x).zip(dy) {
            *dgamma += dy * ((x - mean) * rstd);
            *dbeta += dy;
        }
        assert!(dy.len() == width && x.len() == width && out.len() == width);
        let center = f32x8::splat(mean);
        let along = sum_of([gamma, dy, x], |[gamma, dy, x]| gamma * dy * (x - center)) * rstd / len;
        let level = sum_of([gamma, dy], |[gamma, dy]| gamma * dy) / len;
        let dx = |i: usize| rstd * ((gamma[i] * dy[i] - level) - (x[i] - mean) * rstd * along);
        match other {
            Some(other) => {
                let other = &other[range];
                assert!(other.len() == width);
                write_with(out, |i| dx(i) + other[i])
            }
            None => write_with(out, dx),
        }
    });
    let beta = sums.split_off(width);
    Gradients { x: dx, gamma: sums, beta }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits, wave, wide};

    const EPSILON: f32 = 1e-5;

    /// Value and gradients of one row in f64: y, dx, x̂.
    fn row(x: &[f64], gamma: &[f64], beta: &[f64], dy: &[f64]) -> [Vec<f64>; 3] {
        let len = x.len() as f64;
        let mean = x.iter().sum::<f64>() / len;
        let rstd = 1.0 / (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / len + f64::from(EPSILON)).sqrt();
        let normal: Vec<f64> = x.iter().map(|v| (v - mean) * rstd).collect();
        let g: Vec<f64> = gamma.iter().zip(dy).map(|(a, b)| a * b).collect();
        let level = g.iter().sum::<f64>() / len;
        let along = g.iter().zip(&normal).map(|(a, b)| a * b).sum::<f64>() / len;
        let y = (0..x.len()).map(|i| normal[i] * gamma[i] + beta[i]).collect();
        let dx = (0..x.len()).map(|i| rstd * (g[i] - level - normal[i] * along)).collect();
        [y, dx, normal]
    }

    #[test]
    fn values_and_gradients_are_the_definition() {
        for (rows, width) in [(1, 2), (7, 66), (300, 96), (3, 37), (2, 20_000)] {
            let (x, dy) = (wave(rows * width, 0.7, 5.0), wave(rows * width, 0.3, 1.0));
            let (gamma, beta) = (wave(width, 1.3, 1.0), wave(width, 0.9, 2.0));
            let other = wave(rows * width, 0.2, 1.0);
            let [wide_x, wide_dy, wide_other] = [&x, &dy, &other].map(|v| wide(v));
            let (mut y, mut dx) = (vec![], vec![]);
            let (mut dgamma, mut dbeta) = (vec![0.0; width], vec![0.0; width]);
            for (x, dy) in wide_x.chunks_exact(width).zip(wide_dy.chunks_exact(width)) {
                let [own_y, own_dx, normal] = row(x, &wide(&gamma), &wide(&beta), dy);
                y.extend(own_y);
                dx.extend(own_dx);
                for i in 0..width {
                    dgamma[i] += dy[i] * normal[i];
                    dbeta[i] += dy[i];
                }
            }
            assert_close(&forward(&x, &gamma, &beta, EPSILON), &y, 1e-6);
            let ours = backward(&x, &gamma, &dy, None, EPSILON);
            // A row of two values has a gradient that nearly cancels.
            assert_close(&ours.x, &dx, if width == 2 { 1e-2 } else { 2e-6 });
            assert_close(&ours.gamma, &dgamma, 3e-6);
            assert_close(&ours.beta, &dbeta, 3e-6);
            let sum: Vec<f64> = dx.iter().zip(wide_other).map(|(a, b)| a + b).collect();
            let with_other = backward(&x, &gamma, &dy, Some(&other), EPSILON);
            assert_close(&with_other.x, &sum, 2e-6);
            assert_eq!((with_other.gamma, with_other.beta), (ours.gamma, ours.beta));
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (x, dy, gamma) = (wave(300 * 96, 0.7, 4.0), wave(300 * 96, 0.3, 1.0), wave(96, 0.9, 1.0));
        assert_same_bits(|| {
            let Gradients { x: dx, gamma: dgamma, beta } = backward(&x, &gamma, &dy, None, EPSILON);
            vec![forward(&x, &gamma, &gamma, EPSILON), dx, dgamma, beta]
        });
    }
}
