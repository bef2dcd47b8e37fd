//! Instance norm of channels-last volumes `[N, V, C]`, the sum with a branch, and the leaky rectifier, with gradients.
//!
//! A unit reduces one vector of channels over one group of voxels ([`Groups`]), to a mean and a sum of squares about it; a
//! plane merges the groups of one channel (Chan, Golub and `LeVeque`, 1979). The order of both is a function of the shape
//! alone, so that the same input gives the same bits. Then one pass over the values normalizes, adds and bends them. On
//! the way back the sign in front of the rectifier is computed again, so that the result is not kept.
//!
//! Bytes per value of a block's last norm, with 16-bit convolutions, a normalized branch and a result in f32: 4 for the
//! statistics and 8 for the values forward, 8 and 12 backward. Composed of Burn's operations it is a dozen passes each way,
//! of 4 to 12 bytes.

use burn::tensor::{DType, FloatDType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{RowLaunch, elem, elementwise, f32_vector_size, uninit};
use super::plane::{lanes_sum, own_row};

/// Fewest voxels of a group.
const SMALLEST_GROUP: usize = 32;
/// Number of groups above which they grow: enough to occupy a device, few enough to be merged by one plane.
const MOST_GROUPS: usize = 2048;

/// Groups that the voxels of each case are divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Groups {
    cases: u32,
    voxels: u32,
    channels: u32,
    /// Voxels of a group; the last of a case may have fewer.
    size: u32,
    /// Groups of a case.
    count: u32,
}

impl Groups {
    /// The groups of `x` `[N, .., C]`.
    fn of(x: &CubeTensor) -> Self {
        let shape = x.meta.shape();
        let (cases, channels) = (shape[0], shape[shape.num_dims() - 1]);
        let all = shape.num_elements();
        assert!(u32::try_from(all).is_ok(), "kernels count values in 32 bits; use micro-batches");
        Self::new(cases, all / cases / channels, channels)
    }

    fn new(cases: usize, voxels: usize, channels: usize) -> Self {
        let size = voxels.div_ceil(MOST_GROUPS).next_power_of_two().max(SMALLEST_GROUP);
        let count = voxels.div_ceil(size);
        let [cases, voxels, channels, size, count] =
            [cases, voxels, channels, size, count].map(|number| u32::try_from(number).expect("counted above"));
        Self { cases, voxels, channels, size, count }
    }

    /// An uninitialised buffer for `kinds` sums of each group, `[kinds, N, groups, C]` in f32.
    fn buffer(self, kinds: u32, x: &CubeTensor) -> CubeTensor {
        let shape = [kinds, self.cases, self.count, self.channels].map(|length| length as usize);
        uninit(x, Shape::from(shape), DType::F32)
    }

    /// An uninitialised buffer for `kinds` values of each case and channel, `[kinds, N, C]` in f32.
    fn totals(self, kinds: u32, x: &CubeTensor) -> CubeTensor {
        let shape = [kinds, self.cases, self.channels].map(|length| length as usize);
        uninit(x, Shape::from(shape), DType::F32)
    }
}

/// Normalized values of the vector at `at` among those of one case's channels. `stats` holds the means of all cases, then
/// the reciprocals of their deviations.
#[cube]
fn normalized<T: Float, N: Size>(x: Vector<T, N>, stats: &[Vector<f32, N>], at: u32, all: u32) -> Vector<f32, N> {
    (Vector::<f32, N>::cast_from(x) - stats[at as usize]) * stats[(all + at) as usize]
}

/// Vector of the branch, normalized if `normed`.
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

/// `dy` times the slope of the rectifier at `z`.
#[cube]
fn unbent<T: Float, N: Size>(dy: Vector<T, N>, z: Vector<f32, N>, slope: f32) -> Vector<f32, N> {
    let mut factor = Vector::<f32, N>::new(1.0f32);
    #[unroll]
    for i in 0usize..N::value().comptime() {
        factor.insert(i, select(z.extract(i) < 0.0f32, slope, 1.0f32));
    }
    Vector::<f32, N>::cast_from(dy) * factor
}

/// Mean of each group, and its sum of squares about that mean.
#[cube(launch_unchecked)]
pub(super) fn moments_of_groups<T: Float, N: Size>(
    x: &[Vector<T, N>],
    means: &mut [Vector<f32, N>],
    squares: &mut [Vector<f32, N>],
    units: u32,
    voxels: u32,
    groups: u32,
    size: u32,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < units {
        let column = at % width;
        let group = at / width % groups;
        let case = at / (width * groups);
        let start = group * size;
        let end = min(start + size, voxels);
        let base = case * voxels;
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

/// Mean and reciprocal deviation of each case and channel: a plane merges the groups of one.
#[cube(launch_unchecked)]
pub(super) fn moments_of_cases(
    means: &[f32],
    squares: &[f32],
    stats: &mut [f32],
    rows: u32,
    voxels: u32,
    groups: u32,
    size: u32,
    epsilon: f32,
    #[comptime] channels: u32,
    #[comptime] lanes: u32,
) {
    let row = own_row();
    if row < rows {
        let first = row / channels * groups * channels + row % channels;
        let turns = groups.div_ceil(lanes);
        let mut sum = 0.0f32;
        for turn in 0..turns {
            let group = turn * lanes + UNIT_POS_X;
            if group < groups {
                let count = f32::cast_from(min(voxels - group * size, size));
                sum += means[(first + group * channels) as usize] * count;
            }
        }
        let mean = lanes_sum(sum, lanes) / f32::cast_from(voxels);
        let mut square = 0.0f32;
        for turn in 0..turns {
            let group = turn * lanes + UNIT_POS_X;
            if group < groups {
                let count = f32::cast_from(min(voxels - group * size, size));
                let deviation = means[(first + group * channels) as usize] - mean;
                square += squares[(first + group * channels) as usize] + deviation * deviation * count;
            }
        }
        let variance = lanes_sum(square, lanes) / f32::cast_from(voxels);
        if UNIT_POS_X == 0 {
            stats[row as usize] = mean;
            stats[(rows + row) as usize] = 1.0f32 / (variance + epsilon).sqrt();
        }
    }
}

/// `leaky(norm(x) + branch)`, the branch normalized if it has statistics.
#[cube(launch_unchecked)]
pub(super) fn bend_values<T: Float, B: Float, O: Float, N: Size>(
    x: &[Vector<T, N>],
    stats: &[Vector<f32, N>],
    branch: ComptimeOption<&[Vector<B, N>]>,
    branch_stats: &[Vector<f32, N>],
    y: &mut [Vector<O, N>],
    count: u32,
    voxels: u32,
    cases: u32,
    slope: f32,
    #[comptime] width: u32,
    #[comptime] normed: bool,
    #[define(T, B, O)] _dtypes: [ElemType; 3],
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let channel = at / (width * voxels) * width + at % width;
        let all = cases * width;
        let mut z = normalized::<T, N>(x[at as usize], stats, channel, all);
        #[comptime]
        if let ComptimeOption::Some(branch) = &branch {
            z += added::<B, N>(branch[at as usize], branch_stats, channel, all, normed);
        }
        // Keeps NaN, which the maximum of 0 and a NaN would drop.
        y[at as usize] = Vector::<O, N>::cast_from(max(z, z * Vector::new(slope)));
    }
}

/// For each group, the sums of the gradient `g` in front of the rectifier, of its products with the normalized values,
/// and, if the branch is normalized, with those of the branch.
#[cube(launch_unchecked)]
pub(super) fn gradients_of_groups<T: Float, B: Float, G: Float, N: Size>(
    x: &[Vector<T, N>],
    stats: &[Vector<f32, N>],
    branch: ComptimeOption<&[Vector<B, N>]>,
    branch_stats: &[Vector<f32, N>],
    dy: &[Vector<G, N>],
    sums: &mut [Vector<f32, N>],
    units: u32,
    voxels: u32,
    groups: u32,
    cases: u32,
    size: u32,
    slope: f32,
    #[comptime] width: u32,
    #[comptime] normed: bool,
    #[define(T, B, G)] _dtypes: [ElemType; 3],
) {
    let unit = ABSOLUTE_POS as u32;
    if unit < units {
        let column = unit % width;
        let case = unit / (width * groups);
        let start = unit / width % groups * size;
        let end = min(start + size, voxels);
        let (channel, all) = (case * width + column, cases * width);
        let mut sum = Vector::<f32, N>::zeroed();
        let mut along = Vector::<f32, N>::zeroed();
        let mut along_branch = Vector::<f32, N>::zeroed();
        for voxel in start..end {
            let at = (case * voxels + voxel) * width + column;
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

/// Means over the voxels of each sum of [`gradients_of_groups`], case and channel.
#[cube(launch_unchecked)]
pub(super) fn means_of_cases(
    sums: &[f32],
    means: &mut [f32],
    rows: u32,
    voxels: u32,
    groups: u32,
    #[comptime] channels: u32,
    #[comptime] lanes: u32,
) {
    let row = own_row();
    if row < rows {
        let first = row / channels * groups * channels + row % channels;
        let mut sum = 0.0f32;
        for turn in 0..groups.div_ceil(lanes) {
            let group = turn * lanes + UNIT_POS_X;
            if group < groups {
                sum += sums[(first + group * channels) as usize];
            }
        }
        let sum = lanes_sum(sum, lanes);
        if UNIT_POS_X == 0 {
            means[row as usize] = sum / f32::cast_from(voxels);
        }
    }
}

/// Gradients of `x` and of the branch.
#[cube(launch_unchecked)]
pub(super) fn bend_values_backward<T: Float, B: Float, G: Float, N: Size>(
    x: &[Vector<T, N>],
    stats: &[Vector<f32, N>],
    branch: ComptimeOption<&[Vector<B, N>]>,
    branch_stats: &[Vector<f32, N>],
    dy: &[Vector<G, N>],
    means: &[Vector<f32, N>],
    dx: &mut [Vector<T, N>],
    dbranch: ComptimeOption<&mut [Vector<B, N>]>,
    count: u32,
    voxels: u32,
    cases: u32,
    slope: f32,
    #[comptime] width: u32,
    #[comptime] normed: bool,
    #[define(T, B, G)] _dtypes: [ElemType; 3],
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let channel = at / (width * voxels) * width + at % width;
        let all = cases * width;
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

/// Means of each case and channel of `x` `[N, .., C]` over its voxels, then reciprocals of deviations: `[2, N, C]`.
pub(crate) fn stats(x: CubeTensor, epsilon: f64) -> CubeTensor {
    let x = into_contiguous(x);
    let groups = Groups::of(&x);
    let (means, squares, stats) = (groups.buffer(1, &x), groups.buffer(1, &x), groups.totals(2, &x));
    let vector = f32_vector_size(&[groups.channels as usize]);
    let width = groups.channels / vector as u32;
    let units = groups.cases * groups.count * width;
    let (client, dtype) = (x.client.clone(), elem(&x));
    let (cubes, dim) = elementwise(&client, units as usize);
    // SAFETY: `x` holds `cases` times `voxels` rows of `width` vectors, `means` and `squares` one row per group, which
    // bounds every index; no group is empty.
    unsafe {
        moments_of_groups::launch_unchecked(
            &client,
            cubes,
            dim,
            vector,
            x.into_buffer_arg(),
            means.clone().into_buffer_arg(),
            squares.clone().into_buffer_arg(),
            units,
            groups.voxels,
            groups.count,
            groups.size,
            width,
            dtype,
        );
    }
    let RowLaunch { count, dim, rows, lanes, .. } = RowLaunch::of(&stats, groups.cases * groups.channels);
    // SAFETY: `means` and `squares` hold `count` values per row, `stats` two, which bounds every index.
    unsafe {
        moments_of_cases::launch_unchecked(
            &client,
            count,
            dim,
            means.into_buffer_arg(),
            squares.into_buffer_arg(),
            stats.clone().into_buffer_arg(),
            rows,
            groups.voxels,
            groups.count,
            groups.size,
            epsilon as f32,
            groups.channels,
            lanes,
        );
    }
    stats
}

/// Second summand in front of the rectifier, with its statistics if it is normalized.
#[derive(Clone)]
pub(crate) struct Summand {
    pub(crate) x: CubeTensor,
    pub(crate) stats: Option<CubeTensor>,
}

impl Summand {
    /// The summand with its values in the order of its axes.
    ///
    /// # Panics
    /// If its shape is not that of `x`.
    fn beside(self, x: &CubeTensor) -> Self {
        assert!(self.x.meta.shape() == x.meta.shape(), "terms of a sum have one shape");
        Self { x: into_contiguous(self.x), stats: self.stats }
    }
}

/// `leaky(norm(x) + branch)` in `dtype`, with the statistics of [`stats`] and a slope of at most 1.
pub(crate) fn forward(
    x: CubeTensor,
    stats: CubeTensor,
    branch: Option<Summand>,
    slope: f32,
    dtype: FloatDType,
) -> CubeTensor {
    let x = into_contiguous(x);
    let branch = branch.map(|branch| branch.beside(&x));
    let groups = Groups::of(&x);
    let y = uninit(&x, x.meta.shape().clone(), dtype.into());
    let vector = f32_vector_size(&[groups.channels as usize]);
    let width = groups.channels / vector as u32;
    let count = groups.cases * groups.voxels * width;
    let dtypes = [elem(&x), elem(branch.as_ref().map_or(&x, |branch| &branch.x)), elem(&y)];
    let branch_stats = branch.as_ref().and_then(|branch| branch.stats.clone());
    let normed = branch_stats.is_some();
    let client = x.client.clone();
    let (cubes, dim) = elementwise(&client, count as usize);
    // SAFETY: `x`, the branch and `y` hold `count` vectors, statistics two rows of `cases` times `width`, which bounds
    // every index.
    unsafe {
        bend_values::launch_unchecked(
            &client,
            cubes,
            dim,
            vector,
            x.into_buffer_arg(),
            stats.clone().into_buffer_arg(),
            branch.map(|branch| branch.x.into_buffer_arg()).into(),
            branch_stats.unwrap_or(stats).into_buffer_arg(),
            y.clone().into_buffer_arg(),
            count,
            groups.voxels,
            groups.cases,
            slope,
            width,
            normed,
            dtypes,
        );
    }
    y
}

/// Gradients of `x` and of the branch, each in the type of its tensor.
pub(crate) fn backward(
    x: CubeTensor,
    stats: CubeTensor,
    branch: Option<Summand>,
    dy: CubeTensor,
    slope: f32,
) -> (CubeTensor, Option<CubeTensor>) {
    let (x, dy) = (into_contiguous(x), into_contiguous(dy));
    assert!(dy.meta.shape() == x.meta.shape(), "a gradient has its tensor's shape");
    let branch = branch.map(|branch| branch.beside(&x));
    let groups = Groups::of(&x);
    let vector = f32_vector_size(&[groups.channels as usize]);
    let width = groups.channels / vector as u32;
    let dtypes = [elem(&x), elem(branch.as_ref().map_or(&x, |branch| &branch.x)), elem(&dy)];
    let branch_stats = branch.as_ref().and_then(|branch| branch.stats.clone());
    let normed = branch_stats.is_some();
    let branch_stats = branch_stats.unwrap_or_else(|| stats.clone());
    let kinds = if normed { 3 } else { 2 };
    let (sums, means) = (groups.buffer(kinds, &x), groups.totals(kinds, &x));
    let client = x.client.clone();
    let units = groups.cases * groups.count * width;
    let (cubes, dim) = elementwise(&client, units as usize);
    // SAFETY: `x`, the branch and `dy` hold `cases` times `voxels` rows of `width` vectors, `sums` one row per kind and
    // group, statistics two rows per case, which bounds every index.
    unsafe {
        gradients_of_groups::launch_unchecked(
            &client,
            cubes,
            dim,
            vector,
            x.clone().into_buffer_arg(),
            stats.clone().into_buffer_arg(),
            branch.clone().map(|branch| branch.x.into_buffer_arg()).into(),
            branch_stats.clone().into_buffer_arg(),
            dy.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            units,
            groups.voxels,
            groups.count,
            groups.cases,
            groups.size,
            slope,
            width,
            normed,
            dtypes,
        );
    }
    let RowLaunch { count, dim, rows, lanes, .. } = RowLaunch::of(&means, kinds * groups.cases * groups.channels);
    // SAFETY: `sums` holds `count` values per row, `means` one, which bounds every index.
    unsafe {
        means_of_cases::launch_unchecked(
            &client,
            count,
            dim,
            sums.into_buffer_arg(),
            means.clone().into_buffer_arg(),
            rows,
            groups.voxels,
            groups.count,
            groups.channels,
            lanes,
        );
    }
    let dx = uninit(&x, x.meta.shape().clone(), x.dtype);
    let dbranch = branch.as_ref().map(|branch| uninit(&x, x.meta.shape().clone(), branch.x.dtype));
    let count = groups.cases * groups.voxels * width;
    let (cubes, dim) = elementwise(&client, count as usize);
    // SAFETY: `x`, the branch, `dy` and both gradients hold `count` vectors, statistics two rows per case and `means`
    // `kinds`, which bounds every index.
    unsafe {
        bend_values_backward::launch_unchecked(
            &client,
            cubes,
            dim,
            vector,
            x.into_buffer_arg(),
            stats.into_buffer_arg(),
            branch.map(|branch| branch.x.into_buffer_arg()).into(),
            branch_stats.into_buffer_arg(),
            dy.into_buffer_arg(),
            means.into_buffer_arg(),
            dx.clone().into_buffer_arg(),
            dbranch.clone().map(CubeTensor::into_buffer_arg).into(),
            count,
            groups.voxels,
            groups.cases,
            slope,
            width,
            normed,
            dtypes,
        );
    }
    (dx, dbranch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_all_voxels_once_and_none_is_empty() {
        for voxels in [1, 31, 32, 33, 1000, 1728, 65_536, 65_537, 96 * 96 * 96, 240 * 240 * 240] {
            let Groups { size, count, .. } = Groups::new(2, voxels, 3);
            assert!((size * count) as usize >= voxels && ((size * (count - 1)) as usize) < voxels, "{voxels}");
            assert!(count as usize <= MOST_GROUPS && size.is_power_of_two(), "{voxels}");
        }
    }
}
