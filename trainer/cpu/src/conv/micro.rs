//! Innermost loops: blocks of sums that stay in vector registers.
//!
//! A block has 12 sums of 8 lanes in 12 of the 16 registers of AVX2, so that a fused multiply-add does not wait for any
//! of the previous 11. Blocks of fewer sums would be slower by a tenth to a half, so the three vectors of a block may lie in
//! different rows of voxels.
//!
//! Vectors have 8 lanes on processors with AVX-512, too. On Zen 4, whose multipliers are 256 bits wide, the peak rate of a
//! core is 118.2 GFLOP/s with 8 lanes and with 16, and blocks whose operands are in the caches reach 117.8 and 118.0
//! (`cargo run --release -p hiend-cpu --example lanes`).

#![allow(clippy::inline_always, reason = "sums stay in registers only within one function")]

use wide::{f32x4, f32x8};

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

/// Adds `weights` times vectors of voxels to a block, at `TAPS` shifts of one voxel; `weights` is `[TAPS][BLOCK]`. The first
/// shift of each vector begins at one of `starts` in `values`.
///
/// # Safety
/// `values` must have at least `LANES + TAPS - 1` elements from each of `starts` on.
#[inline(always)]
#[allow(unsafe_code, reason = "checks of each vector's bounds take up to a quarter of the time")]
pub(crate) unsafe fn add_vectors<const V: usize, const TAPS: usize>(
    sums: &mut Sums<V>,
    values: &[f32],
    starts: [usize; V],
    weights: &[f32],
) {
    let weights = &weights[..TAPS * BLOCK];
    for tap in 0..TAPS {
        let x = starts.map(|start| {
            // SAFETY: the caller promises that these elements lie in `values`; an array of floats is aligned as a float.
            let lanes = unsafe { *values.as_ptr().add(start + tap).cast::<[f32; LANES]>() };
            f32x8::from(lanes)
        });
        for (sums, &weight) in sums.iter_mut().zip(&weights[tap * BLOCK..][..BLOCK]) {
            let weight = f32x8::splat(weight);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = x.mul_add(weight, *sum);
            }
        }
    }
}

/// Adds the products of a block's gradients with three shifts of vectors of voxels, to `[BLOCK][3]` sums of 8 lanes each.
/// `dy` is `[vectors][BLOCK][LANES]`. Each vector begins at an index of `values`, and two more values follow it.
#[inline(always)]
pub(crate) fn add_products_of_shifts(
    sums: &mut Sums<3>,
    dy: &[f32],
    values: &[f32],
    starts: impl Iterator<Item = usize>,
) {
    for (dy, start) in dy.as_chunks::<{ BLOCK * LANES }>().0.iter().zip(starts) {
        let x = &values[start..][..LANES + 2];
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

/// Adds the sum of the 8 lanes of each channel's vector to the channel's element of `totals`: in pairs of lanes four apart,
/// two apart, and then adjacent ones.
#[inline(always)]
pub(crate) fn add_lanes(totals: &mut [f32; BLOCK], sums: [f32x8; BLOCK]) {
    let halves = sums.map(|sum| {
        let [a, b, c, d, e, f, g, h] = sum.to_array();
        f32x4::from([a, b, c, d]) + f32x4::from([e, f, g, h])
    });
    let [a, b, c, d] = f32x4::transpose(halves);
    *totals = (f32x4::from(*totals) + ((a + c) + (b + d))).to_array();
}

/// Rearranges a block's sums to one row of values per channel.
#[inline(always)]
pub(crate) fn rows_of(sums: &Sums<3>) -> [[f32; 3 * LANES]; BLOCK] {
    let mut rows = [[0.0; 3 * LANES]; BLOCK];
    for (row, sums) in rows.iter_mut().zip(sums) {
        for (lanes, sum) in row.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            *lanes = sum.to_array();
        }
    }
    rows
}
