//! Products of matrices, row-major, by the crate `gemm`, whose kernel reaches 0.75 to 0.95 of a core's peak on the
//! models' shapes. Rows are divided among threads here, by shapes alone, so that each call of the crate runs on one
//! thread and sums do not depend on the number of threads.
#![allow(unsafe_code, reason = "the crate takes pointers and strides")]

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::{Unwritten, write_with, written};

/// A matrix in a slice: element (i, j) is value `i · row + j · column`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

impl<'a> Matrix<'a> {
    /// Creates a matrix of `rows` rows with `columns` values each; rows begin `row` values apart.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize, row: usize) -> Self {
        let len = if rows * columns == 0 { 0 } else { (rows - 1) * row + columns };
        assert!(len <= values.len(), "{rows} x {columns} values, {row} apart, of {}", values.len());
        Self { values, rows, columns, row, column: 1 }
    }

    /// Transposes the matrix without copying it.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row: self.column, column: self.row, ..self }
    }

    /// Selects the rows `start..start + rows`.
    fn rows(self, start: usize, rows: usize) -> Self {
        assert!(start + rows <= self.rows, "rows of the matrix");
        Self { values: &self.values[(start * self.row).min(self.values.len())..], rows, ..self }
    }
}

/// Writes `a · b` to `out`, whose rows begin `row` values apart; values between the rows are unchanged. With `add`,
/// adds to the existing values.
///
/// # Safety
/// `out` must be valid for writing the elements of the product, which nothing else reads or writes meanwhile. With `add`,
/// they must be initialized.
unsafe fn multiply(a: Matrix<'_>, b: Matrix<'_>, out: *mut f32, row: usize, add: bool) {
    assert_eq!(a.columns, b.rows, "inner sizes of a product");
    if a.rows == 0 || b.columns == 0 {
        return;
    }
    let stride = |stride: usize| isize::try_from(stride).expect("sizes of tensors fit");
    // SAFETY: `Matrix` asserts that its elements lie in its slice; the caller passes an `out` that holds the product's
    // elements. Without `add` the crate does not read them.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            stride(row),
            add,
            a.values.as_ptr(),
            stride(a.column),
            stride(a.row),
            b.values.as_ptr(),
            stride(b.column),
            stride(b.row),
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Adds `a · b` to `out` if `add` is set; otherwise overwrites it.
pub(crate) fn multiply_into(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], row: usize, add: bool) {
    assert!(a.rows == 0 || (a.rows - 1) * row + b.columns <= out.len(), "a product's place");
    // SAFETY: `out` holds the product's elements, which are initialized.
    unsafe { multiply(a, b, out.as_mut_ptr(), row, add) };
}

/// Writes `a · b` to `out`, without gaps between its rows.
fn multiply_to(a: Matrix<'_>, b: Matrix<'_>, out: &mut Unwritten) {
    assert_eq!(out.len(), a.rows * b.columns, "a product's place");
    if a.columns == 0 {
        out.fill(MaybeUninit::new(0.0));
        return;
    }
    // SAFETY: `out` holds the product's elements, all of which the crate writes.
    unsafe { multiply(a, b, out.as_mut_ptr().cast(), b.columns, false) };
}

/// Largest number of rows that a thread computes at a time.
const ROWS: usize = 64;
/// Number of rows that the crate's kernel computes at a time.
const KERNEL_ROWS: usize = 6;

/// Writes `a · b` to `out`. Rows are halved recursively down to a small number, so that two, four or eight threads have
/// equal work.
fn by_halves(a: Matrix<'_>, b: Matrix<'_>, out: &mut Unwritten) {
    if a.rows <= ROWS {
        return multiply_to(a, b, out);
    }
    let middle = (a.rows / 2).next_multiple_of(KERNEL_ROWS);
    let (upper, lower) = out.split_at_mut(middle * b.columns);
    rayon::join(|| by_halves(a.rows(0, middle), b, upper), || by_halves(a.rows(middle, a.rows - middle), b, lower));
}

/// Computes `a · b`, without gaps between rows.
fn by_rows(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    // SAFETY: `by_halves` writes all of its output.
    unsafe { written(a.rows * b.columns, |out| by_halves(a, b, out)) }
}

/// Computes `x` `[M, K]` times `weight` `[K, N]`, plus `bias` `[N]` if there is one.
///
/// # Panics
/// If lengths do not fit to the sizes.
#[must_use]
pub fn forward(x: &[f32], weight: &[f32], bias: Option<&[f32]>, [m, k, n]: [usize; 3]) -> Vec<f32> {
    assert!(x.len() == m * k && weight.len() == k * n, "{m} x {k} times {k} x {n}");
    let mut y = by_rows(Matrix::new(x, m, k, k), Matrix::new(weight, k, n, n));
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "length of the bias");
        let add = |rows: &mut [f32]| rows.chunks_exact_mut(n).for_each(|row| crate::rows::add_to(row, bias));
        y.par_chunks_mut((ROWS * n).max(1)).for_each(add);
    }
    y
}

/// Gradient of `x` `[M, K]` in [`forward`]: `dy` `[M, N]` times the transposed `weight` `[K, N]`.
///
/// # Panics
/// If lengths do not fit to the sizes.
#[must_use]
pub fn input_gradient(weight: &[f32], dy: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    assert!(dy.len() == m * n && weight.len() == k * n, "{m} x {n} times {k} x {n} transposed");
    // Copied once, instead of by the crate for each block of rows.
    let transposed = crate::rows::mapped(n, k, |row, out| write_with(out, |i| weight[i * n + row]));
    by_rows(Matrix::new(dy, m, n, n), Matrix::new(&transposed, n, k, k))
}

/// Gradient of `weight` `[K, N]` in [`forward`]: the transposed `x` `[M, K]` times `dy` `[M, N]`.
///
/// # Panics
/// If lengths do not fit to the sizes.
#[must_use]
pub fn weight_gradient(x: &[f32], dy: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    assert!(x.len() == m * k && dy.len() == m * n, "{m} x {k} transposed times {m} x {n}");
    by_rows(Matrix::new(x, m, k, k).transposed(), Matrix::new(dy, m, n, n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits, wave};

    /// Sizes M, K and N, some with more rows than a thread takes or with a remainder.
    const SIZES: [[usize; 3]; 7] =
        [[1, 1, 1], [1, 64, 16], [10, 8, 12], [51, 11, 33], [128, 96, 128], [200, 400, 50], [48, 3, 5]];

    fn product(a: impl Fn(usize, usize) -> f32, b: impl Fn(usize, usize) -> f32, [m, k, n]: [usize; 3]) -> Vec<f64> {
        let element = |i, j| (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j))).sum();
        (0..m * n).map(|index| element(index / n, index % n)).collect()
    }

    #[test]
    fn products_are_the_definition() {
        for sizes @ [m, k, n] in SIZES {
            let (x, weight, dy) = (wave(m * k, 0.7, 2.0), wave(k * n, 0.3, 1.0), wave(m * n, 1.3, 1.0));
            let bias = wave(n, 0.9, 1.0);
            let (x_at, weight_at, dy_at) = (
                |i: usize, j: usize| x[i * k + j],
                |i: usize, j: usize| weight[i * n + j],
                |i: usize, j: usize| dy[i * n + j],
            );
            let expected = product(x_at, weight_at, [m, k, n]);
            assert_close(&forward(&x, &weight, None, sizes), &expected, 2e-6);
            let biased: Vec<f64> = expected.iter().zip((0..n).cycle()).map(|(y, j)| y + f64::from(bias[j])).collect();
            assert_close(&forward(&x, &weight, Some(&bias), sizes), &biased, 2e-6);
            let expected = product(dy_at, |i, j| weight_at(j, i), [m, n, k]);
            assert_close(&input_gradient(&weight, &dy, sizes), &expected, 2e-6);
            let expected = product(|i, j| x_at(j, i), dy_at, [k, m, n]);
            assert_close(&weight_gradient(&x, &dy, sizes), &expected, 2e-6);
        }
    }

    #[test]
    fn empty_products_are_zeros() {
        assert_eq!(forward(&[], &[], None, [2, 0, 3]), [0.0; 6]);
        assert_eq!(forward(&[], &[1.0; 6], None, [0, 2, 3]), [0.0; 0]);
        assert_eq!(weight_gradient(&[], &[], [0, 2, 3]), [0.0; 6]);
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let sizes @ [m, k, n] = [200, 400, 300];
        let (x, weight, dy) = (wave(m * k, 0.7, 2.0), wave(k * n, 0.3, 1.0), wave(m * n, 1.3, 1.0));
        assert_same_bits(|| {
            let y = forward(&x, &weight, Some(&dy[..n]), sizes);
            vec![y, input_gradient(&weight, &dy, sizes), weight_gradient(&x, &dy, sizes)]
        });
    }
}
