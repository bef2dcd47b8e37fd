//! Reductions over the units of a plane or of a cube, and over the values of a vector.

use cubecl::prelude::*;

/// Row of this unit's plane in a [`RowLaunch`](super::launch::RowLaunch).
#[cube]
pub(super) fn own_row() -> u32 {
    CUBE_POS as u32 * CUBE_DIM_Y + UNIT_POS_Y
}

/// Sum over the units of a plane, returned in each of them.
#[cube]
pub(super) fn lanes_sum(value: f32, #[comptime] lanes: u32) -> f32 {
    if comptime!(lanes > 1) { plane_sum(value) } else { value }
}

/// Maximum over the units of a plane, returned in each of them.
#[cube]
pub(super) fn lanes_max(value: f32, #[comptime] lanes: u32) -> f32 {
    if comptime!(lanes > 1) { plane_max(value) } else { value }
}

/// Number of partial sums in [`cube_sum`].
pub(super) const FOLDS: u32 = 16;

/// Sum over the units of a one-dimensional cube, returned in each of them. The number of units, a multiple of [`FOLDS`],
/// alone decides the order, so that planes of any size give the same bits.
#[cube]
pub(super) fn cube_sum<N: Size>(value: Vector<f32, N>, #[comptime] units: u32) -> Vector<f32, N> {
    let mut values = Shared::<[Vector<f32, N>]>::new_slice(comptime!(units as usize));
    let mut folds = Shared::<[Vector<f32, N>]>::new_slice(comptime!(FOLDS as usize));
    values[UNIT_POS_X as usize] = value;
    sync_cube();
    if UNIT_POS_X < FOLDS {
        let mut fold = values[UNIT_POS_X as usize];
        #[unroll]
        for i in 1..comptime!(units / FOLDS) {
            fold += values[(i * FOLDS + UNIT_POS_X) as usize];
        }
        folds[UNIT_POS_X as usize] = fold;
    }
    sync_cube();
    let mut sum = folds[0usize];
    #[unroll]
    for i in 1..FOLDS {
        sum += folds[i as usize];
    }
    sum
}

/// Sum of a vector's values.
#[cube]
pub(super) fn vector_sum<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut sum = vector.extract(0usize);
    #[unroll]
    for i in 1usize..N::value().comptime() {
        sum += vector.extract(i);
    }
    sum
}

/// Maximum of a vector's values.
#[cube]
pub(super) fn vector_max<N: Size>(vector: Vector<f32, N>) -> f32 {
    let mut largest = vector.extract(0usize);
    #[unroll]
    for i in 1usize..N::value().comptime() {
        largest = max(largest, vector.extract(i));
    }
    largest
}
