//! Sums over all rows, in two stages whose order is a function of the shape alone: the same input gives the same bits.
//!
//! First stage: each unit reduces one column vector over one group of [`GROUP`] rows. Where another kernel passes over
//! the same rows anyway (GELU, residual sum and layer norm in the backward pass), it does the first stage on its way.
//! Second stage: each cube reduces the group sums of [`TILE`] column vectors, its units first in registers, then in
//! shared memory.
//!
//! A step of `vit-l-p12` on 192 crops launches the second stage 155 times, on 1.3 GB of group sums: 0.43 ms at the 3.0
//! TB/s of an H100, 0.30 at 4.3 of an H200, and less where they are still in the second-level cache. With Burn's
//! `float_sum_dim` for a second stage, its kernel took 28.5 ms per step on the H100.

use burn::tensor::{DType, Shape};
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{RowLaunch, elem, elementwise, even_rows, f32_vector_size, uninit};

/// Number of rows in a group: few enough that groups times columns occupy a device, and enough that the group sums are
/// much smaller than the input.
pub(super) const GROUP: u32 = 32;

/// Number of column vectors per cube in the second stage: 64 bytes of each row, two sectors of a cache line.
const TILE: u32 = 4;

/// Maximum number of units of the second stage that share a column vector.
const LANES: u32 = 64;

/// Number of loads that a unit has in flight in the second stage.
const UNROLL: u32 = 4;

/// First stage: sums of groups of rows.
#[cube(launch_unchecked)]
pub(super) fn sum_groups<T: Float, N: Size>(
    x: &[Vector<T, N>],
    sums: &mut [Vector<f32, N>],
    rows: u32,
    groups: u32,
    pitch: u32,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < groups * width {
        let column = at % width;
        let start = at / width * GROUP;
        let mut sum = Vector::<f32, N>::zeroed();
        for row in start..min(start + GROUP, rows) {
            sum += Vector::<f32, N>::cast_from(x[(row * pitch + column) as usize]);
        }
        sums[at as usize] = sum;
    }
}

/// Second stage: sums of the groups' sums. `lanes`, a power of two, is the height of the cube and `TILE` its width.
#[cube(launch_unchecked)]
pub(super) fn sum_totals<N: Size>(
    sums: &[Vector<f32, N>],
    totals: &mut [Vector<f32, N>],
    groups: u32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
) {
    let column = CUBE_POS_X * TILE + UNIT_POS_X;
    let mut sum = Vector::<f32, N>::zeroed();
    if column < width {
        let mut parts = Array::<Vector<f32, N>>::new(comptime!(UNROLL as usize));
        #[unroll]
        for part in 0..UNROLL {
            parts[part as usize] = Vector::<f32, N>::zeroed();
        }
        let mut group = UNIT_POS_Y;
        while group + comptime!((UNROLL - 1) * lanes) < groups {
            #[unroll]
            for part in 0..UNROLL {
                parts[part as usize] += sums[((group + part * lanes) * width + column) as usize];
            }
            group += comptime!(UNROLL * lanes);
        }
        while group < groups {
            parts[0usize] += sums[(group * width + column) as usize];
            group += lanes;
        }
        #[unroll]
        for part in 0..UNROLL {
            sum += parts[part as usize];
        }
    }
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(comptime!((TILE * lanes) as usize));
    let at = UNIT_POS_Y * TILE + UNIT_POS_X;
    shared[at as usize] = sum;
    sync_cube();
    #[unroll]
    for halving in 0..comptime!(lanes.ilog2()) {
        let half = comptime!(lanes >> (halving + 1));
        if UNIT_POS_Y < half {
            let upper = shared[(at + half * TILE) as usize];
            shared[at as usize] += upper;
        }
        sync_cube();
    }
    if UNIT_POS_Y == 0 && column < width {
        totals[column as usize] = shared[UNIT_POS_X as usize];
    }
}

/// Groups into which the rows of a tensor `[.., W]` are divided.
pub(super) struct Groups {
    /// Number of rows.
    pub(super) rows: u32,
    /// Number of groups.
    pub(super) count: u32,
    /// Number of values in a row.
    pub(super) width: usize,
}

impl Groups {
    /// Divides the rows of `x` `[.., W]` into groups.
    pub(super) fn of(x: &CubeTensor) -> Self {
        let RowLaunch { rows, width, .. } = RowLaunch::over(x);
        Self { rows, count: rows.div_ceil(GROUP), width: width as usize }
    }

    /// Allocates an uninitialised buffer for the sums of the groups, `[groups, W]` in f32.
    pub(super) fn sums(&self, x: &CubeTensor) -> CubeTensor {
        uninit(x, Shape::from([self.count as usize, self.width]), DType::F32)
    }

    /// Adds the groups' `sums`, `[W]`.
    pub(super) fn total(&self, sums: CubeTensor) -> CubeTensor {
        let totals = uninit(&sums, Shape::from([self.width]), DType::F32);
        let vector = f32_vector_size(&[self.width]);
        let width = (self.width / vector) as u32;
        let client = sums.client.clone();
        let hardware = &client.properties().hardware;
        let most = (hardware.max_units_per_cube / TILE).clamp(1, LANES);
        let lanes = self.count.next_power_of_two().min(1 << most.ilog2());
        // SAFETY: `sums` holds `count` rows and `totals` one, of `width` vectors each, which bounds every index.
        unsafe {
            sum_totals::launch_unchecked(
                &client,
                CubeCount::Static(width.div_ceil(TILE), 1, 1),
                CubeDim::new_2d(TILE, lanes),
                vector,
                sums.into_buffer_arg(),
                totals.clone().into_buffer_arg(),
                self.count,
                width,
                lanes,
            );
        }
        totals
    }
}

/// Sums `x` `[.., W]` over all rows, `[W]` in f32.
pub(crate) fn sums(x: CubeTensor) -> CubeTensor {
    let (x, pitch) = even_rows(x);
    let groups = Groups::of(&x);
    let sums = groups.sums(&x);
    let vector = f32_vector_size(&[groups.width, pitch as usize]);
    let width = groups.width / vector;
    let (client, dtype) = (x.client.clone(), elem(&x));
    let (cubes, dim) = elementwise(&client, groups.count as usize * width);
    // SAFETY: `x` holds `rows` rows at its pitch and `sums` one row per group, which bounds every index.
    unsafe {
        sum_groups::launch_unchecked(
            &client,
            cubes,
            dim,
            vector,
            x.into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            groups.rows,
            groups.count,
            pitch / vector as u32,
            width as u32,
            dtype,
        );
    }
    groups.total(sums)
}
