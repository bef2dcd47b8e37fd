//! Kernels of instance norms, in the order in which [`super`] launches them.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::groups::Groups;
use crate::ops::kernels::plane::{lanes_sum, own_row};

/// Normalises the vector at `at` among one case's channels. `stats` holds the means of all cases, then the reciprocals
/// of their standard deviations.
#[cube]
fn normalized<T: Float, N: Size>(x: Vector<T, N>, stats: &[Vector<f32, N>], at: u32, all: u32) -> Vector<f32, N> {
    (Vector::<f32, N>::cast_from(x) - stats[at as usize]) * stats[(all + at) as usize]
}

/// Returns a vector of the branch, normalised if `normed`.
#[cube]
fn added<T: Float, N: Size>(
    x: Vector<T, N>,
    stats: &[Vector<f32, N>],
    at: u32,
    all: u32,
    #[comptime] normed: bool,
) -> Vector<f32, N> {
    if comptime!(normed) { normalized::<T, N>(x, stats, at, all) } else { Vector::<f32, N>::cast_from(x) }
}

/// Computes `dy` times the slope of the rectifier at `z`.
#[cube]
fn unbent<T: Float, N: Size>(dy: Vector<T, N>, z: Vector<f32, N>, slope: f32) -> Vector<f32, N> {
    let mut factor = Vector::<f32, N>::new(1.0f32);
    #[unroll]
    for i in 0usize..N::value().comptime() {
        factor.insert(i, select(z.extract(i) < 0.0f32, slope, 1.0f32));
    }
    Vector::<f32, N>::cast_from(dy) * factor
}

/// Computes the mean of each group, and the sum of squares about it.
#[cube(launch_unchecked)]
pub(crate) fn moments_of_groups<T: Float, N: Size>(
    x: &[Vector<T, N>],
    means: &mut [Vector<f32, N>],
    squares: &mut [Vector<f32, N>],
    units: u32,
    groups: Groups,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < units {
        let column = at % width;
        let group = at / width % groups.count;
        let case = at / (width * groups.count);
        let start = group * groups.size;
        let end = min(start + groups.size, groups.voxels);
        let base = case * groups.voxels;
        // Deviations from the first value: squares of the values themselves would lose a small variance.
        let first = Vector::<f32, N>::cast_from(x[((base + start) * width + column) as usize]);
        let mut sum = Vector::<f32, N>::zeroed();
        let mut square = Vector::<f32, N>::zeroed();
        for voxel in start..end {
            let deviation = Vector::<f32, N>::cast_from(x[((base + voxel) * width + column) as usize]) - first;
            sum += deviation;
            square += deviation * deviation;
        }
        let mean = sum / Vector::new(f32::cast_from(end - start));
        means[at as usize] = first + mean;
        squares[at as usize] = square - sum * mean;
    }
}

/// Computes mean and reciprocal standard deviation of each case and channel; each plane merges the groups of one
/// channel.
#[cube(launch_unchecked)]
pub(crate) fn moments_of_cases(
    means: &[f32],
    squares: &[f32],
    stats: &mut [f32],
    rows: u32,
    groups: Groups,
    epsilon: f32,
    #[comptime] channels: u32,
    #[comptime] lanes: u32,
) {
    let row = own_row();
    if row < rows {
        let first = row / channels * groups.count * channels + row % channels;
        let turns = groups.count.div_ceil(lanes);
        let mut sum = 0.0f32;
        for turn in 0..turns {
            let group = turn * lanes + UNIT_POS_X;
            if group < groups.count {
                let count = f32::cast_from(min(groups.voxels - group * groups.size, groups.size));
                sum += means[(first + group * channels) as usize] * count;
            }
        }
        let mean = lanes_sum(sum, lanes) / f32::cast_from(groups.voxels);
        let mut square = 0.0f32;
        for turn in 0..turns {
            let group = turn * lanes + UNIT_POS_X;
            if group < groups.count {
                let count = f32::cast_from(min(groups.voxels - group * groups.size, groups.size));
                let deviation = means[(first + group * channels) as usize] - mean;
                square += squares[(first + group * channels) as usize] + deviation * deviation * count;
            }
        }
        let variance = lanes_sum(square, lanes) / f32::cast_from(groups.voxels);
        if UNIT_POS_X == 0 {
            stats[row as usize] = mean;
            stats[(rows + row) as usize] = 1.0f32 / (variance + epsilon).sqrt();
        }
    }
}

/// Computes `leaky(norm(x) + branch)`, with the branch normalised if it has statistics.
#[cube(launch_unchecked)]
pub(crate) fn bend_values<T: Float, B: Float, O: Float, N: Size>(
    x: &[Vector<T, N>],
    stats: &[Vector<f32, N>],
    branch: ComptimeOption<&[Vector<B, N>]>,
    branch_stats: &[Vector<f32, N>],
    y: &mut [Vector<O, N>],
    count: u32,
    groups: Groups,
    slope: f32,
    #[comptime] width: u32,
    #[comptime] normed: bool,
    #[define(T, B, O)] _dtypes: [ElemType; 3],
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let channel = at / (width * groups.voxels) * width + at % width;
        let all = groups.cases * width;
        let mut z = normalized::<T, N>(x[at as usize], stats, channel, all);
        #[comptime]
        if let ComptimeOption::Some(branch) = &branch {
            z += added::<B, N>(branch[at as usize], branch_stats, channel, all, normed);
        }
        // Keeps NaN, which the maximum of 0 and a NaN would drop.
        y[at as usize] = Vector::<O, N>::cast_from(max(z, z * Vector::new(slope)));
    }
}

/// Sums, over each group, the gradient `g` before the rectifier, its products with the normalised values and, if the
/// branch is normalised, its products with those of the branch.
#[cube(launch_unchecked)]
pub(crate) fn gradients_of_groups<T: Float, B: Float, G: Float, N: Size>(
    x: &[Vector<T, N>],
    stats: &[Vector<f32, N>],
    branch: ComptimeOption<&[Vector<B, N>]>,
    branch_stats: &[Vector<f32, N>],
    dy: &[Vector<G, N>],
    sums: &mut [Vector<f32, N>],
    units: u32,
    groups: Groups,
    slope: f32,
    #[comptime] width: u32,
    #[comptime] normed: bool,
    #[define(T, B, G)] _dtypes: [ElemType; 3],
) {
    let unit = ABSOLUTE_POS as u32;
    if unit < units {
        let column = unit % width;
        let case = unit / (width * groups.count);
        let start = unit / width % groups.count * groups.size;
        let end = min(start + groups.size, groups.voxels);
        let (channel, all) = (case * width + column, groups.cases * width);
        let mut sum = Vector::<f32, N>::zeroed();
        let mut along = Vector::<f32, N>::zeroed();
        let mut along_branch = Vector::<f32, N>::zeroed();
        for voxel in start..end {
            let at = (case * groups.voxels + voxel) * width + column;
            let own = normalized::<T, N>(x[at as usize], stats, channel, all);
            let mut other = Vector::<f32, N>::zeroed();
            #[comptime]
            if let ComptimeOption::Some(branch) = &branch {
                other += added::<B, N>(branch[at as usize], branch_stats, channel, all, normed);
            }
            let g = unbent::<G, N>(dy[at as usize], own + other, slope);
            sum += g;
            along += g * own;
            along_branch += g * other;
        }
        sums[unit as usize] = sum;
        sums[(units + unit) as usize] = along;
        if comptime!(normed) {
            sums[(2 * units + unit) as usize] = along_branch;
        }
    }
}

/// Computes the means over the voxels, for each sum of [`gradients_of_groups`], case and channel.
#[cube(launch_unchecked)]
pub(crate) fn means_of_cases(
    sums: &[f32],
    means: &mut [f32],
    rows: u32,
    groups: Groups,
    #[comptime] channels: u32,
    #[comptime] lanes: u32,
) {
    let row = own_row();
    if row < rows {
        let first = row / channels * groups.count * channels + row % channels;
        let mut sum = 0.0f32;
        for turn in 0..groups.count.div_ceil(lanes) {
            let group = turn * lanes + UNIT_POS_X;
            if group < groups.count {
                sum += sums[(first + group * channels) as usize];
            }
        }
        let sum = lanes_sum(sum, lanes);
        if UNIT_POS_X == 0 {
            means[row as usize] = sum / f32::cast_from(groups.voxels);
        }
    }
}

/// Computes the gradients of `x` and of the branch.
#[cube(launch_unchecked)]
pub(crate) fn bend_values_backward<T: Float, B: Float, G: Float, N: Size>(
    x: &[Vector<T, N>],
    stats: &[Vector<f32, N>],
    branch: ComptimeOption<&[Vector<B, N>]>,
    branch_stats: &[Vector<f32, N>],
    dy: &[Vector<G, N>],
    means: &[Vector<f32, N>],
    dx: &mut [Vector<T, N>],
    dbranch: ComptimeOption<&mut [Vector<B, N>]>,
    count: u32,
    groups: Groups,
    slope: f32,
    #[comptime] width: u32,
    #[comptime] normed: bool,
    #[define(T, B, G)] _dtypes: [ElemType; 3],
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let channel = at / (width * groups.voxels) * width + at % width;
        let all = groups.cases * width;
        let own = normalized::<T, N>(x[at as usize], stats, channel, all);
        let mut other = Vector::<f32, N>::zeroed();
        #[comptime]
        if let ComptimeOption::Some(branch) = &branch {
            other += added::<B, N>(branch[at as usize], branch_stats, channel, all, normed);
        }
        let g = unbent::<G, N>(dy[at as usize], own + other, slope);
        let centered = g - means[channel as usize];
        let own = (centered - own * means[(all + channel) as usize]) * stats[(all + channel) as usize];
        dx[at as usize] = Vector::<T, N>::cast_from(own);
        #[comptime]
        if let ComptimeOption::Some(dbranch) = dbranch {
            let mut change = g;
            if comptime!(normed) {
                change =
                    (centered - other * means[(2 * all + channel) as usize]) * branch_stats[(all + channel) as usize];
            }
            dbranch[at as usize] = Vector::<B, N>::cast_from(change);
        }
    }
}
