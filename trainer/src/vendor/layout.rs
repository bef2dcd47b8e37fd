//! Matrices inside a tensor's buffer, in the form that a library of products expects: a pitch, a transposition flag, a
//! batch stride.
//!
//! A tensor whose shape and strides cannot be expressed that way has to be copied first. All distances are counted in
//! values, not bytes.

/// A matrix, or a batch of matrices of equal shape, inside a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Distance between neighbouring rows, or between neighbouring columns if [`Self::transposed`].
    pub pitch: usize,
    /// True if columns rather than rows are contiguous.
    pub transposed: bool,
    /// Number of matrices.
    pub batch: usize,
    /// Distance between neighbouring matrices; 0 if the batch repeats one matrix.
    pub batch_stride: usize,
}

impl Matrix {
    /// Matrix whose columns are the last axis of a tensor and whose rows are all other axes together.
    ///
    /// `None` if the rows are not evenly spaced, if they overlap, or if the tensor is empty.
    #[must_use]
    pub fn of_rows(shape: &[usize], strides: &[usize]) -> Option<Self> {
        let last = shape.len().checked_sub(1)?;
        let (rows, row_stride) = merged(&shape[..last], &strides[..last])?;
        Self::plane([rows, shape[last]], [row_stride, strides[last]])
    }

    /// Batch of matrices over the last two axes of a tensor; all other axes count the batch.
    ///
    /// `None` if the matrices are not evenly spaced, if their rows overlap, or if the tensor is empty.
    #[must_use]
    pub fn of_batch(shape: &[usize], strides: &[usize]) -> Option<Self> {
        let plane = shape.len().checked_sub(2)?;
        let (batch, batch_stride) = merged(&shape[..plane], &strides[..plane])?;
        let matrix = Self::plane([shape[plane], shape[plane + 1]], [strides[plane], strides[plane + 1]])?;
        Some(Self { batch, batch_stride, ..matrix })
    }

    /// Transposes the matrix without changing memory.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self { rows: self.columns, columns: self.rows, transposed: !self.transposed, ..self }
    }

    /// Position of a value in the buffer.
    #[must_use]
    pub fn position(&self, matrix: usize, row: usize, column: usize) -> usize {
        let (major, minor) = if self.transposed { (column, row) } else { (row, column) };
        matrix * self.batch_stride + major * self.pitch + minor
    }

    /// Single matrix of this shape and these strides.
    fn plane([rows, columns]: [usize; 2], [row_stride, column_stride]: [usize; 2]) -> Option<Self> {
        if rows == 0 || columns == 0 {
            return None;
        }
        // An axis of length 1 has no stride that matters. Where both directions fit, rows are taken as contiguous.
        let by_rows = (columns == 1 || column_stride == 1) && (rows == 1 || row_stride >= columns);
        let by_columns = (rows == 1 || row_stride == 1) && (columns == 1 || column_stride >= rows);
        let (pitch, transposed) = match (by_rows, by_columns) {
            (true, _) => (if rows == 1 { columns } else { row_stride }, false),
            (false, true) => (if columns == 1 { rows } else { column_stride }, true),
            (false, false) => return None,
        };
        Some(Self { rows, columns, pitch, transposed, batch: 1, batch_stride: 0 })
    }
}

/// Length and stride of several axes merged into one; `None` if they are not evenly spaced or one of them is empty.
fn merged(shape: &[usize], strides: &[usize]) -> Option<(usize, usize)> {
    let mut merged: Option<(usize, usize)> = None;
    for (&len, &stride) in shape.iter().zip(strides).rev() {
        merged = match (len, merged) {
            (0, _) => return None,
            (1, merged) => merged,
            (_, None) => Some((len, stride)),
            (_, Some((inner, step))) if stride == inner * step => Some((len * inner, step)),
            _ => return None,
        };
    }
    Some(merged.unwrap_or((1, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Strides of a contiguous tensor of this shape whose innermost rows begin every `pitch` values.
    fn strides_of(shape: &[usize], pitch: usize) -> Vec<usize> {
        let mut strides = vec![1; shape.len()];
        let mut step = pitch;
        for axis in (0..shape.len() - 1).rev() {
            strides[axis] = step;
            step *= shape[axis];
        }
        strides
    }

    /// Every index of a tensor with its position in the buffer.
    fn positions(shape: &[usize], strides: &[usize]) -> Vec<(Vec<usize>, usize)> {
        let mut all = vec![(vec![], 0)];
        for (&len, &stride) in shape.iter().zip(strides) {
            let with = |(index, at): &(Vec<usize>, usize)| {
                let (index, at) = (index.clone(), *at);
                (0..len).map(move |i| ([index.as_slice(), &[i]].concat(), at + i * stride)).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(with).collect();
        }
        all
    }

    /// Flattens the index of the leading axes.
    fn flat(index: &[usize], shape: &[usize]) -> usize {
        index.iter().zip(shape).fold(0, |flat, (&i, &len)| flat * len + i)
    }

    fn check_rows(shape: &[usize], strides: &[usize], expected: Option<(usize, bool)>) {
        let found = Matrix::of_rows(shape, strides).map(|matrix| (matrix.pitch, matrix.transposed));
        assert_eq!(found, expected, "{shape:?} {strides:?}");
    }

    #[test]
    fn rows_with_gaps_are_a_pitch() {
        check_rows(&[4, 16, 24], &[16 * 24, 24, 1], Some((24, false)));
        check_rows(&[4, 16, 24], &[16 * 64, 64, 1], Some((64, false)));
        check_rows(&[24], &[1], Some((24, false)));
        check_rows(&[1, 1, 24], &[0, 7, 1], Some((24, false)));
    }

    #[test]
    fn a_transposed_view_is_a_flag() {
        check_rows(&[16, 24], &[1, 16], Some((16, true)));
        check_rows(&[16, 24], &[1, 64], Some((64, true)));
        let batch = Matrix::of_batch(&[2, 3, 16, 24], &[3 * 384, 384, 1, 16]).unwrap();
        assert_eq!((batch.batch, batch.batch_stride, batch.pitch, batch.transposed), (6, 384, 16, true));
    }

    #[test]
    fn layouts_without_a_single_pitch_are_refused() {
        // Expanded rows, rows that are cut out of every second sequence, and values that are not contiguous either way.
        check_rows(&[4, 16, 24], &[0, 0, 1], None);
        check_rows(&[4, 16, 24], &[2 * 32 * 24, 24, 1], None);
        check_rows(&[16, 24], &[48, 2], None);
        check_rows(&[4, 0, 24], &[0, 24, 1], None);
        assert_eq!(Matrix::of_batch(&[2, 3, 16, 24], &[384, 2 * 384, 24, 1]), None);
    }

    #[test]
    fn one_matrix_for_a_whole_batch_has_no_batch_stride() {
        let expanded = Matrix::of_batch(&[6, 16, 24], &[0, 24, 1]).unwrap();
        assert_eq!((expanded.batch, expanded.batch_stride), (6, 0));
    }

    proptest! {
        /// Any view of any tensor is either expressed exactly, or rejected because its axes cannot be merged.
        #[test]
        fn every_accepted_view_addresses_the_tensors_own_values(
            shape in prop::collection::vec(1usize..5, 2..5),
            gap in 0usize..4,
            order in prop::collection::vec(any::<prop::sample::Index>(), 4),
        ) {
            let strides = strides_of(&shape, shape[shape.len() - 1] + gap);
            let (mut shape, mut strides) = (shape, strides);
            for axis in 0..shape.len() {
                let other = order[axis.min(3)].index(shape.len());
                shape.swap(axis, other);
                strides.swap(axis, other);
            }
            let rank = shape.len();
            if let Some(matrix) = Matrix::of_rows(&shape, &strides) {
                prop_assert_eq!(matrix.rows * matrix.columns, shape.iter().product::<usize>());
                for (index, at) in positions(&shape, &strides) {
                    let row = flat(&index[..rank - 1], &shape);
                    prop_assert_eq!(matrix.position(0, row, index[rank - 1]), at);
                    prop_assert_eq!(matrix.transpose().position(0, index[rank - 1], row), at);
                }
                let contiguous = if matrix.transposed { matrix.rows } else { matrix.columns };
                prop_assert!(matrix.pitch >= contiguous);
            }
            if let Some(matrix) = Matrix::of_batch(&shape, &strides) {
                for (index, at) in positions(&shape, &strides) {
                    let number = flat(&index[..rank - 2], &shape);
                    prop_assert_eq!(matrix.position(number, index[rank - 2], index[rank - 1]), at);
                }
            }
        }

        /// Contiguous tensors, with or without gaps between rows, never need a copy.
        #[test]
        fn tensors_as_they_are_allocated_are_never_copied(
            shape in prop::collection::vec(1usize..6, 2..5),
            gap in 0usize..9,
        ) {
            let strides = strides_of(&shape, shape[shape.len() - 1] + gap);
            prop_assert!(Matrix::of_rows(&shape, &strides).is_some());
            prop_assert!(Matrix::of_batch(&shape, &strides).is_some());
        }
    }
}
