//! Blocks of rows that are divided among threads. Their size depends only on the width of a row.

use crate::buffer::{Unwritten, in_blocks, write_rows};

/// Number of values in a block: 64 KiB of f32, so that a block's rows of several tensors stay in a core's second-level
/// cache, and computing a block takes many times as long as handing it to a thread.
const BLOCK_VALUES: usize = 16 * 1024;

/// Number of rows of `width` values in a block.
pub(crate) fn rows_per_block(width: usize) -> usize {
    (BLOCK_VALUES / width.max(1)).max(1)
}

/// Creates the vector of `rows` rows of `width` values that `f` writes row by row.
pub(crate) fn mapped(
    rows: usize,
    width: usize,
    f: impl for<'a> Fn(usize, &'a mut Unwritten) -> &'a mut [f32] + Sync,
) -> Vec<f32> {
    summed(rows, width, 0, |row, out, _| f(row, out)).0
}

/// Like [`mapped`], and also returns a vector of `sums` values to which `f` adds: within a block in the order of its
/// rows, then block after block.
pub(crate) fn summed(
    rows: usize,
    width: usize,
    sums: usize,
    f: impl for<'a> Fn(usize, &'a mut Unwritten, &mut [f32]) -> &'a mut [f32] + Sync,
) -> (Vec<f32>, Vec<f32>) {
    if rows == 0 || width == 0 {
        return (vec![], vec![0.0; sums]);
    }
    let rows_per_block = rows_per_block(width);
    let (values, partial) = in_blocks(rows * width, rows_per_block * width, sums, |number, out, sums| {
        write_rows(out, width, |row, out| f(number * rows_per_block + row, out, sums))
    });
    (values, added(partial, sums))
}

/// Sum of `rows`, each of `width` values, added in order.
pub(crate) fn added(mut rows: Vec<f32>, width: usize) -> Vec<f32> {
    if width > 0 {
        let (first, others) = rows.split_at_mut(width);
        for row in others.chunks_exact(width) {
            add_to(first, row);
        }
        rows.truncate(width);
    }
    rows
}

/// Adds `values` element-wise to `sums`.
pub(crate) fn add_to(sums: &mut [f32], values: &[f32]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// Number of rows of `width` values in `values`.
///
/// # Panics
/// If the last row is incomplete.
pub(crate) fn count(values: &[f32], width: usize) -> usize {
    assert!(width > 0 && values.len().is_multiple_of(width), "{} values in rows of {width}", values.len());
    values.len() / width
}
