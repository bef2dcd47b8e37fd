//! Column sums over all rows, which are the gradient of a bias.

use rayon::prelude::*;

use crate::rows;

/// Sums of the columns of `x` `[.., width]`.
///
/// # Panics
/// If `x` does not consist of rows of `width` values.
#[must_use]
pub fn sums(x: &[f32], width: usize) -> Vec<f32> {
    let rows_per_block = rows::rows_per_block(width);
    let blocks = rows::count(x, width).div_ceil(rows_per_block).max(1);
    let mut partial = vec![0.0; blocks * width];
    let blocks = partial.par_chunks_mut(width).zip(x.par_chunks(rows_per_block * width));
    blocks.for_each(|(sums, x)| x.chunks_exact(width).for_each(|row| rows::add_to(sums, row)));
    rows::added(partial, width)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits, wave};

    #[test]
    fn sums_are_those_of_the_columns() {
        for (rows, width) in [(0, 3), (1, 1), (7, 66), (1000, 96), (2, 20_000)] {
            let x = wave(rows * width, 0.7, 2.0);
            let column = |j: usize| x.iter().skip(j).step_by(width).map(|&v| f64::from(v)).sum();
            let expected: Vec<f64> = (0..width).map(column).collect();
            if rows == 0 {
                assert_eq!(sums(&x, width), [0.0; 3]);
            } else {
                assert_close(&sums(&x, width), &expected, 2e-6);
            }
        }
        assert_same_bits(|| vec![sums(&wave(1000 * 96, 0.7, 2.0), 96)]);
    }
}
