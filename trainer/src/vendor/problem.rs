//! Everything that determines how a product is computed: sizes, layouts, types, and the epilogue applied to its result.
//!
//! Plans are cached by it, and the algorithm chosen for it is recorded with a run.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::layout::Matrix;

/// Alignment in bytes that libraries assume and `CubeCL`'s allocations have; a larger one brings no benefit.
pub const FULL_ALIGNMENT: u32 = 256;

/// Alignment of an epilogue's vector in bytes, assumed because a plan is made before the vector's address is known.
pub const VECTOR_ALIGNMENT: u64 = 16;

/// Type of the values of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Number {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, 5 bits of exponent.
    F16,
    /// 16-bit floating point, 8 bits of exponent.
    Bf16,
}

impl Number {
    /// Number of bytes of a value.
    #[must_use]
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Operation applied to a product's result before it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Epilogue {
    /// Writes the result unchanged.
    Plain,
    /// Adds a vector to every row of the result.
    Bias,
    /// Also writes the column sums of the right factor to a vector: the gradient of a bias, if the right factor is the
    /// gradient of the biased result.
    BiasGradient,
}

/// Memory layout of one matrix of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Operand {
    /// Distance between neighbouring rows, or columns if transposed, in values.
    pub pitch: u64,
    /// True if columns are contiguous.
    pub transposed: bool,
    /// Distance between neighbouring matrices of a batch, in values.
    pub batch_stride: u64,
    /// Alignment in bytes: the largest power of two, up to [`FULL_ALIGNMENT`], that divides the address of the first
    /// value.
    pub alignment: u32,
}

/// One product, or a batch of equal products: `[rows, inner]` times `[inner, columns]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// Number of rows of the left factor and of the result.
    pub rows: u64,
    /// Number of columns of the right factor and of the result.
    pub columns: u64,
    /// Number of columns of the left factor and of rows of the right factor.
    pub inner: u64,
    /// Number of products.
    pub batch: u32,
    /// Layout of the left factor.
    pub left: Operand,
    /// Layout of the right factor.
    pub right: Operand,
    /// Layout of the result; never transposed.
    pub out: Operand,
    /// Type of both factors.
    pub factors: Number,
    /// Type of the result, and of the vector of an epilogue.
    pub result: Number,
    /// True if 32-bit factors may be rounded to TF32 (10 bits of fraction).
    pub tf32: bool,
    /// Operation applied to the result.
    pub epilogue: Epilogue,
}

/// A matrix, and the offset in bytes of its first value from the start of an allocation.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Memory layout of the matrix.
    pub matrix: Matrix,
    /// Offset of the first value in bytes.
    pub offset: u64,
}

impl Placed {
    fn operand(&self, batch: usize) -> Option<Operand> {
        let Matrix { pitch, transposed, batch_stride, .. } = self.matrix;
        let batch_stride = match (self.matrix.batch, batch) {
            (own, all) if own == all => batch_stride,
            (1, _) => 0,
            _ => return None,
        };
        let alignment = if self.offset == 0 { FULL_ALIGNMENT } else { 1 << self.offset.trailing_zeros().min(8) };
        Some(Operand { pitch: pitch as u64, transposed, batch_stride: batch_stride as u64, alignment })
    }
}

impl Problem {
    /// Creates the product `left · right`, written to `out`; a single factor takes part in every product of a batch.
    ///
    /// `None` if the sizes do not match, if `out` is transposed, or if the batch is too large.
    #[must_use]
    pub fn new(left: Placed, right: Placed, out: Placed, factors: Number, result: Number, tf32: bool) -> Option<Self> {
        let (l, r, o) = (&left.matrix, &right.matrix, &out.matrix);
        let batch = o.batch;
        let fits = l.columns == r.rows && l.rows == o.rows && r.columns == o.columns && !o.transposed;
        // A result whose matrices lie on top of each other would be written more than once.
        if !fits || (batch > 1 && o.batch_stride == 0) {
            return None;
        }
        Some(Self {
            rows: l.rows as u64,
            columns: r.columns as u64,
            inner: l.columns as u64,
            batch: i32::try_from(batch).ok()?.try_into().ok()?,
            left: left.operand(batch)?,
            right: right.operand(batch)?,
            out: out.operand(batch)?,
            factors,
            result,
            tf32: tf32 && factors == Number::F32,
            epilogue: Epilogue::Plain,
        })
    }

    /// Adds an epilogue to the product.
    #[must_use]
    pub fn with(self, epilogue: Epilogue) -> Self {
        Self { epilogue, ..self }
    }

    /// Describes the product for a library of column-major matrices: the transposed result is the transposed right
    /// factor times the transposed left factor, and a row-major matrix is the transpose of a column-major matrix in the
    /// same memory.
    #[must_use]
    pub fn column_major(&self) -> ColumnMajor {
        let factor = |rows, columns, operand: Operand| {
            let Operand { pitch, transposed, batch_stride, .. } = operand;
            let (rows, columns) = if transposed { (rows, columns) } else { (columns, rows) };
            Stored { rows, columns, pitch, batch_stride, transpose: transposed }
        };
        ColumnMajor {
            a: factor(self.inner, self.columns, self.right),
            b: factor(self.rows, self.inner, self.left),
            d: factor(self.rows, self.columns, self.out),
        }
    }

    /// Number of multiplications and additions.
    #[must_use]
    pub fn flops(&self) -> u64 {
        2 * self.rows * self.columns * self.inner * u64::from(self.batch)
    }
}

/// Formats sizes and types, such as `product 16x 129x129x96 bf16 to f32`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, columns, inner, batch, factors, result, tf32, epilogue, .. } = self;
        f.write_str("product ")?;
        if *batch > 1 {
            write!(f, "{batch}x ")?;
        }
        let name = |number: Number| format!("{number:?}").to_lowercase();
        write!(f, "{rows}x{inner}x{columns} {}", if *tf32 { "tf32".to_owned() } else { name(*factors) })?;
        if factors != result {
            write!(f, " to {}", name(*result))?;
        }
        match epilogue {
            Epilogue::Plain => Ok(()),
            Epilogue::Bias => f.write_str(" + bias"),
            Epilogue::BiasGradient => f.write_str(" + bias gradient"),
        }
    }
}

/// A column-major matrix as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Number of rows.
    pub rows: u64,
    /// Number of columns.
    pub columns: u64,
    /// Distance between neighbouring columns, in values.
    pub pitch: u64,
    /// Distance between neighbouring matrices of a batch, in values.
    pub batch_stride: u64,
    /// True if the product uses the transposed matrix.
    pub transpose: bool,
}

/// A product `d = a · b` of column-major matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnMajor {
    /// Left factor of the column-major product, which is the right factor of a [`Problem`].
    pub a: Stored,
    /// Right factor of the column-major product.
    pub b: Stored,
    /// Result of the product.
    pub d: Stored,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Stored {
        /// Position of a value of the matrix that the product uses.
        fn position(&self, matrix: u64, row: u64, column: u64) -> usize {
            let (row, column) = if self.transpose { (column, row) } else { (row, column) };
            assert!(row < self.rows && column < self.columns && self.rows <= self.pitch, "{self:?}");
            (matrix * self.batch_stride + column * self.pitch + row) as usize
        }
    }

    /// Reference for a library: computes a product of column-major matrices in buffers by its definition.
    fn multiplied(problem: &Problem, left: &[f64], right: &[f64], out_len: usize) -> Vec<f64> {
        let ColumnMajor { a, b, d } = problem.column_major();
        let mut out = vec![0.0; out_len];
        for matrix in 0..u64::from(problem.batch) {
            for row in 0..problem.columns {
                for column in 0..problem.rows {
                    out[d.position(matrix, row, column)] = (0..problem.inner)
                        .map(|k| right[a.position(matrix, row, k)] * left[b.position(matrix, k, column)])
                        .sum();
                }
            }
        }
        out
    }

    /// A matrix of these sizes with gaps between its rows or columns and between the matrices of a batch.
    fn matrix([rows, columns]: [usize; 2], transposed: bool, gap: usize, batch: usize) -> Matrix {
        let (major, minor) = if transposed { (columns, rows) } else { (rows, columns) };
        let pitch = minor + gap;
        let batch_stride = if batch > 1 { major * pitch + gap } else { 0 };
        Matrix { rows, columns, pitch, transposed, batch, batch_stride }
    }

    proptest! {
        /// Pitches, transposition flags and batch strides have the same meaning for a column-major library as for this
        /// module.
        #[test]
        fn a_column_major_library_computes_the_row_major_product(
            sizes in [1usize..6, 1usize..6, 1usize..6],
            transposed in [any::<bool>(), any::<bool>()],
            gaps in [0usize..4, 0usize..4, 0usize..4],
            batch in 1usize..4,
            shared in any::<bool>(),
        ) {
            let [rows, inner, columns] = sizes;
            let left = matrix([rows, inner], transposed[0], gaps[0], if shared { 1 } else { batch });
            let right = matrix([inner, columns], transposed[1], gaps[1], batch);
            let out = matrix([rows, columns], false, gaps[2], batch);
            let placed = |matrix| Placed { matrix, offset: 0 };
            let problem =
                Problem::new(placed(left), placed(right), placed(out), Number::F32, Number::F32, false).unwrap();
            let buffer = |m: &Matrix, seed: f64| -> Vec<f64> {
                let len = m.position(m.batch - 1, m.rows - 1, m.columns - 1) + 1;
                (0..len).map(|i| ((i as f64 + seed) * 0.7).sin()).collect()
            };
            let (l, r) = (buffer(&left, 1.0), buffer(&right, 2.0));
            let result = multiplied(&problem, &l, &r, buffer(&out, 0.0).len());
            for number in 0..batch {
                let of_left = if left.batch == 1 { 0 } else { number };
                for row in 0..rows {
                    for column in 0..columns {
                        let term = |k| l[left.position(of_left, row, k)] * r[right.position(number, k, column)];
                        let expected: f64 = (0..inner).map(term).sum();
                        // Both sum the same terms in the same order.
                        prop_assert!((result[out.position(number, row, column)] - expected).abs() < 1e-12);
                    }
                }
            }
        }
    }

    fn placed(shape: &[usize], strides: &[usize], offset: u64) -> Placed {
        Placed { matrix: Matrix::of_batch(shape, strides).unwrap(), offset }
    }

    #[test]
    fn a_single_factor_serves_the_whole_batch() {
        let weight = placed(&[1, 8, 4], &[32, 4, 1], 0);
        let x = placed(&[3, 4, 5], &[20, 5, 1], 64);
        let out = placed(&[3, 8, 5], &[40, 5, 1], 0);
        let problem = Problem::new(weight, x, out, Number::Bf16, Number::F32, true).unwrap();
        assert_eq!((problem.rows, problem.columns, problem.inner, problem.batch), (8, 5, 4, 3));
        assert_eq!((problem.left.batch_stride, problem.right.batch_stride, problem.out.batch_stride), (0, 20, 40));
        assert_eq!((problem.left.alignment, problem.right.alignment), (256, 64));
        assert!(!problem.tf32, "16-bit factors are not rounded again");
        assert_eq!(problem.flops(), 2 * 8 * 5 * 4 * 3);
        assert_eq!(problem.with(Epilogue::Bias).to_string(), "product 3x 8x4x5 bf16 to f32 + bias");
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let [a, b] = [[8, 4], [5, 4]].map(|shape: [usize; 2]| placed(&shape, &[shape[1], 1], 0));
        let out = placed(&[8, 5], &[5, 1], 0);
        let new = |a, b, out| Problem::new(a, b, out, Number::F32, Number::F32, false);
        assert!(new(a, b, out).is_none());
        let transposed = |p: Placed| Placed { matrix: p.matrix.transpose(), ..p };
        assert!(new(a, transposed(b), out).is_some());
        assert!(new(a, transposed(b), transposed(placed(&[5, 8], &[8, 1], 0))).is_none());
        assert!(new(a, transposed(b), placed(&[2, 8, 5], &[0, 5, 1], 0)).is_none());
    }

    #[test]
    fn alignment_is_that_of_the_first_value() {
        let check = |offset, expected| {
            let x = placed(&[8, 8], &[8, 1], offset).operand(1).unwrap();
            assert_eq!(x.alignment, expected, "{offset}");
        };
        for (offset, expected) in [(0, 256), (2, 2), (1056, 32), (512, 256), (768, 256), (4, 4)] {
            check(offset, expected);
        }
    }
}
