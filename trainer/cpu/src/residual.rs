//! Residual sum `x + branch + bias`, in one pass.

use crate::buffer::write_with;
use crate::rows;

/// Computes `x + (branch + bias)` for rows `[.., W]`.
///
/// # Panics
/// If `x` and `branch` do not consist of equally many rows as long as `bias`.
#[must_use]
pub fn forward(x: &[f32], branch: &[f32], bias: &[f32]) -> Vec<f32> {
    let width = bias.len();
    let rows = rows::count(x, width);
    assert_eq!(x.len(), branch.len(), "values of the trunk and of the branch");
    rows::mapped(rows, width, |row, out| {
        let (x, branch) = (&x[row * width..][..width], &branch[row * width..][..width]);
        assert!(out.len() == width);
        write_with(out, |i| x[i] + (branch[i] + bias[i]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_same_bits, wave};

    #[test]
    fn values_are_the_sums() {
        for (rows, width) in [(0, 3), (1, 1), (7, 66), (1000, 96), (2, 20_000)] {
            let (x, branch) = (wave(rows * width, 0.7, 2.0), wave(rows * width, 0.3, 1.0));
            let bias = wave(width, 0.9, 1.0);
            let expected: Vec<f32> = (0..x.len()).map(|i| x[i] + (branch[i] + bias[i % width])).collect();
            assert_eq!(forward(&x, &branch, &bias), expected);
        }
        let x = wave(1000 * 96, 0.7, 2.0);
        assert_same_bits(|| vec![forward(&x, &x, &x[..96])]);
    }
}
