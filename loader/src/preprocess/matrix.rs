//! Small matrices with the rounding of `NumPy`'s linear algebra.
//!
//! A resampled voxel can lie exactly half-way between two source voxels, and then the last bit of the grid decides
//! which label it gets. These functions therefore repeat, operation by operation, the computation of LAPACK and of the
//! BLAS behind `NumPy` for matrices of this size. Results are equal to the last bit, which the golden cases check.

/// The product `a * b`: every product is rounded, then added, from the first column on.
pub(super) fn product<const R: usize, const K: usize, const C: usize>(
    a: &[[f64; K]; R],
    b: &[[f64; C]; K],
) -> [[f64; C]; R] {
    std::array::from_fn(|row| std::array::from_fn(|column| (0..K).map(|k| a[row][k] * b[k][column]).sum()))
}

/// The product of two affines with `PyTorch`'s rounding: each sum is one chain of fused multiply-adds.
pub(super) fn fused_product(a: &[[f64; 4]; 4], b: &[[f64; 4]; 4]) -> [[f64; 4]; 4] {
    std::array::from_fn(|row| {
        std::array::from_fn(|column| (0..4).fold(0.0, |sum: f64, k| a[row][k].mul_add(b[k][column], sum)))
    })
}

/// The product `a * v`. The BLAS adds the middle product last.
pub(super) fn times_vector(a: &[[f64; 3]; 3], v: [f64; 3]) -> [f64; 3] {
    a.map(|row| (row[0] * v[0] + row[2] * v[2]) + row[1] * v[1])
}

/// The transpose of `a`.
pub(super) fn transpose<const N: usize>(a: &[[f64; N]; N]) -> [[f64; N]; N] {
    std::array::from_fn(|row| std::array::from_fn(|column| a[column][row]))
}

/// The lower triangle L with L * transpose(L) = `a`. `a` must be positive definite.
pub(super) fn cholesky<const N: usize>(a: &[[f64; N]; N]) -> [[f64; N]; N] {
    let mut lower = [[0.0; N]; N];
    for column in 0..N {
        let rest = |lower: &[[f64; N]; N], row: usize| {
            a[row][column] - (0..column).map(|k| lower[row][k] * lower[column][k]).sum::<f64>()
        };
        lower[column][column] = rest(&lower, column).sqrt();
        let reciprocal = 1.0 / lower[column][column];
        for row in column + 1..N {
            lower[row][column] = rest(&lower, row) * reciprocal;
        }
    }
    lower
}

/// The solution X of `a` * X = `b`, by triangular factors with row pivots and substitution. `a` must be regular.
///
/// Division by a pivot is multiplication by its reciprocal.
pub(super) fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [[f64; N]; N]) -> [[f64; N]; N] {
    for column in 0..N {
        for row in 1..N {
            let known = row.min(column);
            a[row][column] -= (0..known).map(|k| a[row][k] * a[k][column]).sum::<f64>();
        }
        // The first of equal pivots, like the BLAS.
        let mut pivot = column;
        for row in column + 1..N {
            if a[row][column].abs() > a[pivot][column].abs() {
                pivot = row;
            }
        }
        a.swap(column, pivot);
        b.swap(column, pivot);
        let reciprocal = 1.0 / a[column][column];
        for row in &mut a[column + 1..] {
            row[column] *= reciprocal;
        }
    }
    let mut columns = transpose(&b);
    for x in &mut columns {
        for row in 0..N {
            for k in 0..row {
                x[row] -= a[row][k] * x[k];
            }
        }
        for row in (0..N).rev() {
            for k in (row + 1..N).rev() {
                x[row] -= a[row][k] * x[k];
            }
            x[row] *= 1.0 / a[row][row];
        }
    }
    transpose(&columns)
}

/// The diagonal matrix with these values.
pub(super) fn diagonal<const N: usize>(values: [f64; N]) -> [[f64; N]; N] {
    std::array::from_fn(|row| std::array::from_fn(|column| if row == column { values[row] } else { 0.0 }))
}

/// The inverse of `a`, which must be regular.
pub(super) fn inverse<const N: usize>(a: [[f64; N]; N]) -> [[f64; N]; N] {
    solve(a, diagonal([1.0; N]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn product_with_a_vector_sums_each_row() {
        let a = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 10.0]];
        assert_eq!(times_vector(&a, [2.0, 3.0, 5.0]).map(f64::to_bits), [23.0, 53.0, 88.0].map(f64::to_bits));
    }

    proptest! {
        #[test]
        fn solving_and_factoring_invert_multiplication(
            entries in prop::array::uniform3(prop::array::uniform3(-1.0f64..1.0)),
            strength in 2.5f64..5.0,
        ) {
            let mut a = entries;
            (0..3).for_each(|at| a[at][(at + 1) % 3] += strength);
            let identity = product(&a, &inverse(a));
            let square = product(&transpose(&a), &a);
            let lower = cholesky(&square);
            let again = product(&lower, &transpose(&lower));
            for row in 0..3 {
                for column in 0..3 {
                    let expected = f64::from(u8::from(row == column));
                    prop_assert!((identity[row][column] - expected).abs() < 1e-9);
                    prop_assert!((again[row][column] - square[row][column]).abs() < 1e-9);
                }
            }
        }
    }
}
