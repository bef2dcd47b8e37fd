//! Instance norm of channels-last volumes `[N, V, C]`, the sum with a branch, and the leaky rectifier, with gradients.
//!
//! A unit reduces one vector of channels over one group of voxels ([`Groups`]), to a mean and a sum of squares about
//! it; a plane merges the groups of one channel (Chan, Golub and `LeVeque`, 1979). The order of both is a function of
//! the shape alone, so that the same input gives the same bits. Then one pass over the values normalises them, adds the
//! branch and applies the rectifier. In the backward pass the sign before the rectifier is recomputed, so that the
//! result is not kept.
//!
//! Bytes per value of a block's last norm, with 16-bit convolutions, a normalized branch and a result in f32: 4 for the
//! statistics and 8 for the values forward, 8 and 12 backward. Composed of Burn's operations it is a dozen passes each way,
//! of 4 to 12 bytes.

pub(super) mod device;
pub(super) mod groups;

use burn::tensor::FloatDType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::launch::{RowLaunch, elem, elementwise, f32_vector_size, uninit};
use device::{
    bend_values, bend_values_backward, gradients_of_groups, means_of_cases, moments_of_cases, moments_of_groups,
};
use groups::Groups;

/// Means of each case and channel of `x` `[N, .., C]` over its voxels, then the reciprocals of the standard deviations:
/// `[2, N, C]`.
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
            groups.arg(),
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
            groups.arg(),
            epsilon as f32,
            groups.channels,
            lanes,
        );
    }
    stats
}

/// Second summand before the rectifier, with its statistics if it is normalised.
#[derive(Clone)]
pub(crate) struct Summand {
    pub(crate) x: CubeTensor,
    pub(crate) stats: Option<CubeTensor>,
}

impl Summand {
    /// Returns the summand with its values in the order of its axes.
    ///
    /// # Panics
    /// If its shape is not that of `x`.
    fn beside(self, x: &CubeTensor) -> Self {
        assert!(self.x.meta.shape() == x.meta.shape(), "terms of a sum have one shape");
        Self { x: into_contiguous(self.x), stats: self.stats }
    }
}

/// Computes `leaky(norm(x) + branch)` in `dtype`, with the statistics of [`stats`] and a slope of at most 1.
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
            groups.arg(),
            slope,
            width,
            normed,
            dtypes,
        );
    }
    y
}

/// Computes the gradients of `x` and of the branch, each in the type of its tensor.
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
            groups.arg(),
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
            groups.arg(),
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
            groups.arg(),
            slope,
            width,
            normed,
            dtypes,
        );
    }
    (dx, dbranch)
}
