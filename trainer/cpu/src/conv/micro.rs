//! Innermost loops: blocks of sums that stay in vector registers.
//!
//! A block has 12 sums of 8 lanes in 12 of the 16 registers of AVX2, so that a fused multiply-add does not wait for any
//! of the previous 11. Slices are cut to constant lengths before they are read, which leaves one bounds check per row.

#![allow(clippy::inline_always, reason = "sums stay in registers only within one function")]

use wide::f32x8;

/// Number of channels in a block.
pub(crate) const BLOCK: usize = 4;
/// Number of voxels in a vector.
pub(crate) const LANES: usize = 8;

/// Sums of one block: `V` vectors of voxels for each of its channels.
pub(crate) type Sums<const V: usize> = [[f32x8; V]; BLOCK];

/// Loads the 8 values from index `at` on.
#[inline(always)]
pub(crate) fn load(values: &[f32], at: usize) -> f32x8 {
    let lanes: [f32; LANES] = values[at..at + LANES].try_into().expect("eight values");
    f32x8::from(lanes)
}

/// Adds `weights` times shifted copies of `row` to a block: `TAPS` shifts of one voxel, `weights` as `[TAPS][BLOCK]`.
#[inline(always)]
pub(crate) fn add_row<const V: usize, const TAPS: usize>(sums: &mut Sums<V>, row: &[f32], weights: &[f32]) {
    let row = &row[..V * LANES + TAPS - 1];
    let weights = &weights[..TAPS * BLOCK];
    for tap in 0..TAPS {
        let x: [f32x8; V] = std::array::from_fn(|v| load(row, v * LANES + tap));
        for (sums, &weight) in sums.iter_mut().zip(&weights[tap * BLOCK..][..BLOCK]) {
            let weight = f32x8::splat(weight);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = x.mul_add(weight, *sum);
            }
        }
    }
}

/// Adds the products of a block's gradients with a row at three shifts, to `[BLOCK][3]` sums of 8 lanes each.
/// `dy` is `[vectors][BLOCK][LANES]`, `row` has two values more than the vectors cover.
#[inline(always)]
pub(crate) fn add_products_of_shifts(sums: &mut Sums<3>, dy: &[f32], row: &[f32]) {
    for (v, dy) in dy.as_chunks::<{ BLOCK * LANES }>().0.iter().enumerate() {
        let x = &row[v * LANES..][..LANES + 2];
        add_products(sums, dy, std::array::from_fn(|shift| load(x, shift)));
    }
}

/// Adds the products of a block's gradients with three rows, to `[BLOCK][3]` sums of 8 lanes each. `dy` is
/// `[vectors][BLOCK][LANES]`, each row has as many vectors.
#[inline(always)]
pub(crate) fn add_products_of_rows(sums: &mut Sums<3>, dy: &[f32], rows: [&[f32]; 3]) {
    let rows = rows.map(|row| row.as_chunks::<LANES>().0.iter());
    let [first, second, third] = rows;
    for (((dy, a), b), c) in dy.as_chunks::<{ BLOCK * LANES }>().0.iter().zip(first).zip(second).zip(third) {
        add_products(sums, dy, [f32x8::from(*a), f32x8::from(*b), f32x8::from(*c)]);
    }
}

#[inline(always)]
fn add_products(sums: &mut Sums<3>, dy: &[f32; BLOCK * LANES], x: [f32x8; 3]) {
    for (sums, dy) in sums.iter_mut().zip(dy.as_chunks::<LANES>().0) {
        let dy = f32x8::from(*dy);
        for (sum, x) in sums.iter_mut().zip(x) {
            *sum = dy.mul_add(x, *sum);
        }
    }
}

/// Rearranges a block's sums to one row of values per channel, `[BLOCK][3 * LANES]`, of which the first `V` vectors are
/// used.
#[inline(always)]
pub(crate) fn rows_of<const V: usize>(sums: &Sums<V>) -> [[f32; 3 * LANES]; BLOCK] {
    let mut rows = [[0.0; 3 * LANES]; BLOCK];
    for (row, sums) in rows.iter_mut().zip(sums) {
        for (lanes, sum) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            *lanes = sum.to_array();
        }
    }
    rows
}
