//! Mean squared error of patches whose targets are normalised to zero mean and unit variance (He et al., arXiv
//! 2111.06377, section 4.1), computed without tensors of targets or differences.

use rayon::prelude::*;
use wide::f32x8;

use crate::buffer::write_with;
use crate::layer_norm::moments;
use crate::math::sum_of;
use crate::rows;

/// Mean of `(pred - x̂)²` over all values, for rows `[.., width]`; `x̂` is `x` normalised by row, with `epsilon` added
/// to its variance.
///
/// # Panics
/// If `pred` and `x` do not consist of equally many rows of `width` values, or of none.
#[must_use]
pub fn forward(pred: &[f32], x: &[f32], width: usize, epsilon: f32) -> f32 {
    let len = rows::rows_per_block(width) * width;
    assert_eq!(pred.len(), x.len(), "values of the prediction and of the patches");
    assert!(rows::count(x, width) > 0, "a mean of no patches");
    let row = |(pred, x): (&[f32], &[f32])| {
        let (mean, rstd) = moments(x, epsilon);
        let (mean, rstd) = (f32x8::splat(mean), f32x8::splat(rstd));
        let square = |[pred, x]: [f32x8; 2]| {
            let error = pred - (x - mean) * rstd;
            error * error
        };
        f64::from(sum_of([pred, x], square))
    };
    let block = |(pred, x): (&[f32], &[f32])| pred.chunks_exact(width).zip(x.chunks_exact(width)).map(row).sum();
    let sums: Vec<f64> = pred.par_chunks(len).zip(x.par_chunks(len)).map(block).collect();
    #[expect(clippy::cast_possible_truncation, reason = "rounded to the type of the values")]
    let mean = (sums.iter().sum::<f64>() / x.len() as f64) as f32;
    mean
}

/// Gradient of `pred`, given the gradient `dy` of the result of [`forward`].
///
/// # Panics
/// See [`forward`].
#[must_use]
pub fn backward(pred: &[f32], x: &[f32], width: usize, epsilon: f32, dy: f32) -> Vec<f32> {
    assert_eq!(pred.len(), x.len(), "values of the prediction and of the patches");
    let factor = 2.0 * dy / x.len() as f32;
    rows::mapped(rows::count(x, width), width, |row, out| {
        let range = row * width..(row + 1) * width;
        let (pred, x) = (&pred[range.clone()], &x[range]);
        let (mean, rstd) = moments(x, epsilon);
        assert!(out.len() == width && x.len() == width);
        write_with(out, |i| (pred[i] - (x[i] - mean) * rstd) * factor)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits, wave, wide};

    #[test]
    fn value_and_gradient_are_the_definition() {
        for (rows, width) in [(1, 2), (7, 66), (40, 1728)] {
            let (pred, x) = (wave(rows * width, 0.7, 2.0), wave(rows * width, 0.3, 3.0));
            let errors: Vec<f64> = wide(&pred)
                .chunks_exact(width)
                .zip(wide(&x).chunks_exact(width))
                .flat_map(|(pred, x)| {
                    let mean = x.iter().sum::<f64>() / width as f64;
                    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                    let error = |(pred, x): (&f64, &f64)| pred - (x - mean) / (variance + 1e-6).sqrt();
                    pred.iter().zip(x).map(error).collect::<Vec<f64>>()
                })
                .collect();
            let expected = errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64;
            assert_close(&[forward(&pred, &x, width, 1e-6)], &[expected], 1e-6);
            let expected: Vec<f64> = errors.iter().map(|e| 0.75 * 2.0 * e / errors.len() as f64).collect();
            assert_close(&backward(&pred, &x, width, 1e-6, 0.75), &expected, 1e-6);
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (pred, x) = (wave(40 * 1728, 0.7, 2.0), wave(40 * 1728, 0.3, 3.0));
        assert_same_bits(|| vec![vec![forward(&pred, &x, 1728, 1e-6)], backward(&pred, &x, 1728, 1e-6, 1.0)]);
    }
}
