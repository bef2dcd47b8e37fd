//! Reductions over the units of a plane and over the values of a vector.

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
