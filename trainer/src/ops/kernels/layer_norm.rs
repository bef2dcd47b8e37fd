//! Layer norm of rows and its gradients.
//!
//! Forward, the units of a plane hold a row in registers: it is read once, and its moments are computed from the
//! registers. Backward, the units of a cube hold one row of a group after the other, and the sums over the group for the
//! gradients of `gamma` and `beta`, so that `x` and `dy` are read once; a plane has too few registers for that.
//!
//! Bytes per value where the result is 16 bits: 6 forward; 10 backward, 14 if the gradient of the residual branch is
//! added, and a quarter for the sums of groups of 32 rows. A step of `vit-l-p12` on 192 crops moves 10.1 GB forward
//! (3.4 ms at 3.0 TB/s of an H100, 2.3 at 4.3 of an H200) and 23.6 GB backward (7.9 ms, 5.5).

use burn::tensor::{DType, FloatDType};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::columns::{GROUP, Groups};
use super::launch::{RowLaunch, cubes, elem, even_rows, f32_vector_size, uninit};
use super::plane::{FOLDS, cube_sum, lanes_sum, own_row, vector_sum};

/// Maximum number of units that share a row in the backward pass.
const UNITS: u32 = 256;

/// Vectors that this unit holds of a row shared by `units` units, in f32; zeros beyond the end of the row.
#[cube]
fn row_of<T: Float, N: Size>(
    x: &[Vector<T, N>],
    first: u32,
    #[comptime] width: u32,
    #[comptime] units: u32,
) -> Array<Vector<f32, N>> {
    let turns = comptime!(width.div_ceil(units));
    let mut values = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
    #[unroll]
    for turn in 0..turns {
        let at = turn * units + UNIT_POS_X;
        let mut value = Vector::<f32, N>::zeroed();
        if at < width {
            value = Vector::<f32, N>::cast_from(x[(first + at) as usize]);
        }
        values[turn as usize] = value;
    }
    values
}

/// Subtracts the mean from a row; returns the reciprocal of its standard deviation.
#[cube]
fn center<N: Size>(
    values: &mut Array<Vector<f32, N>>,
    epsilon: f32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
) -> f32 {
    let turns = comptime!(width.div_ceil(lanes));
    let n = N::value().comptime() as u32;
    let count = comptime!((width * n) as f32);
    let mut sum = Vector::<f32, N>::zeroed();
    #[unroll]
    for turn in 0..turns {
        sum += values[turn as usize];
    }
    let mean = lanes_sum(vector_sum(sum), lanes) / count;
    let mut squares = Vector::<f32, N>::zeroed();
    #[unroll]
    for turn in 0..turns {
        if turn * lanes + UNIT_POS_X < width {
            let centered = values[turn as usize] - Vector::new(mean);
            values[turn as usize] = centered;
            squares += centered * centered;
        }
    }
    let variance = lanes_sum(vector_sum(squares), lanes) / count;
    1.0f32 / (variance + epsilon).sqrt()
}

#[cube(launch_unchecked)]
pub(super) fn norm_rows<T: Float, N: Size>(
    x: &[Vector<f32, N>],
    gamma: &[Vector<f32, N>],
    beta: &[Vector<f32, N>],
    y: &mut [Vector<T, N>],
    rows: u32,
    pitch: u32,
    epsilon: f32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = own_row();
    if row < rows {
        let mut values = row_of::<f32, N>(x, row * pitch, width, lanes);
        let rstd = center::<N>(&mut values, epsilon, width, lanes);
        #[unroll]
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let value = values[turn as usize] * Vector::new(rstd) * gamma[at as usize] + beta[at as usize];
                y[(row * width + at) as usize] = Vector::<T, N>::cast_from(value);
            }
        }
    }
}

/// Computes the gradient of `x`, plus `other`, and the first stage of the gradients of `gamma` and `beta`. Each cube
/// takes the rows of one group in order; its units hold the columns.
#[cube(launch_unchecked)]
pub(super) fn norm_groups_backward<T: Float, N: Size>(
    x: &[Vector<f32, N>],
    gamma: &[Vector<f32, N>],
    dy: &[Vector<T, N>],
    other: ComptimeOption<&[Vector<f32, N>]>,
    dx: &mut [Vector<f32, N>],
    dgamma: &mut [Vector<f32, N>],
    dbeta: &mut [Vector<f32, N>],
    rows: u32,
    pitch: u32,
    dy_pitch: u32,
    other_pitch: u32,
    epsilon: f32,
    #[comptime] width: u32,
    #[comptime] units: u32,
    #[define(T)] _dtype: ElemType,
) {
    let group = CUBE_POS as u32;
    let start = group * GROUP;
    if start < rows {
        let turns = comptime!(width.div_ceil(units));
        let n = N::value().comptime() as u32;
        let count = comptime!((width * n) as f32);
        let weights = row_of::<f32, N>(gamma, 0u32, width, units);
        let mut by_gamma = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
        let mut by_beta = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
        let mut others = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
        #[unroll]
        for turn in 0..turns {
            by_gamma[turn as usize] = Vector::<f32, N>::zeroed();
            by_beta[turn as usize] = Vector::<f32, N>::zeroed();
        }
        for row in start..min(start + GROUP, rows) {
            let mut values = row_of::<f32, N>(x, row * pitch, width, units);
            let grads = row_of::<T, N>(dy, row * dy_pitch, width, units);
            let mut total = Vector::<f32, N>::zeroed();
            #[unroll]
            for turn in 0..turns {
                let at = turn * units + UNIT_POS_X;
                if at < width {
                    total += values[turn as usize];
                    // All loads of a row are under way before its units wait for each other.
                    #[comptime]
                    if let ComptimeOption::Some(other) = &other {
                        others[turn as usize] = other[(row * other_pitch + at) as usize];
                    }
                }
            }
            let totals = cube_sum::<Const<1>>(Vector::new(vector_sum(total)), units);
            let mean = totals.extract(0usize) / count;
            let mut squares = Vector::<f32, N>::zeroed();
            let mut sum = Vector::<f32, N>::zeroed();
            let mut along = Vector::<f32, N>::zeroed();
            #[unroll]
            for turn in 0..turns {
                if turn * units + UNIT_POS_X < width {
                    let centered = values[turn as usize] - Vector::new(mean);
                    let grad = grads[turn as usize] * weights[turn as usize];
                    values[turn as usize] = centered;
                    squares += centered * centered;
                    sum += grad;
                    along += grad * centered;
                }
            }
            let mut sums = Vector::<f32, Const<4>>::zeroed();
            sums.insert(0usize, vector_sum(squares));
            sums.insert(1usize, vector_sum(sum));
            sums.insert(2usize, vector_sum(along));
            let sums = cube_sum::<Const<4>>(sums, units);
            let rstd = 1.0f32 / (sums.extract(0usize) / count + epsilon).sqrt();
            let sum = sums.extract(1usize) / count;
            let along = sums.extract(2usize) / count * rstd;
            #[unroll]
            for turn in 0..turns {
                let at = turn * units + UNIT_POS_X;
                if at < width {
                    let normal = values[turn as usize] * Vector::new(rstd);
                    let grad = grads[turn as usize];
                    by_gamma[turn as usize] += grad * normal;
                    by_beta[turn as usize] += grad;
                    let rest = grad * weights[turn as usize] - Vector::new(sum) - normal * Vector::new(along);
                    let mut value = rest * Vector::new(rstd);
                    #[comptime]
                    if let ComptimeOption::Some(_) = &other {
                        value += others[turn as usize];
                    }
                    dx[(row * width + at) as usize] = value;
                }
            }
        }
        #[unroll]
        for turn in 0..turns {
            let at = turn * units + UNIT_POS_X;
            if at < width {
                dgamma[(group * width + at) as usize] = by_gamma[turn as usize];
                dbeta[(group * width + at) as usize] = by_beta[turn as usize];
            }
        }
    }
}

/// Number of units, [`UNITS`] and `most` at most, that share a row of `width` vectors in the backward pass.
pub(super) fn units_of(width: u32, most: u32) -> u32 {
    let turns = width.div_ceil(UNITS.min(most));
    width.div_ceil(turns).next_multiple_of(FOLDS)
}

/// Normalises the rows of `x`, multiplies by `gamma` and adds `beta`; the result is in `dtype`.
pub(crate) fn forward(
    x: CubeTensor,
    gamma: CubeTensor,
    beta: CubeTensor,
    epsilon: f64,
    dtype: FloatDType,
) -> CubeTensor {
    let [gamma, beta] = [gamma, beta].map(into_contiguous);
    let (x, pitch) = even_rows(x);
    assert!([&x, &gamma, &beta].iter().all(|tensor| tensor.dtype == DType::F32), "norms are f32");
    let y = uninit(&x, x.meta.shape().clone(), dtype.into());
    let RowLaunch { count, dim, rows, width, lanes } = RowLaunch::over(&x);
    assert!(
        [&gamma, &beta].iter().all(|tensor| tensor.meta.shape().num_elements() == width as usize),
        "gamma and beta have a value per column"
    );
    let vector = f32_vector_size(&[width as usize, pitch as usize]) as u32;
    let (client, dtype) = (x.client.clone(), elem(&y));
    // SAFETY: `x` at its pitch and `y` hold `rows` rows of `width` values, `gamma` and `beta` one row, which bounds every
    // index.
    unsafe {
        norm_rows::launch_unchecked(
            &client,
            count,
            dim,
            vector as usize,
            x.into_buffer_arg(),
            gamma.into_buffer_arg(),
            beta.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            rows,
            pitch / vector,
            epsilon as f32,
            width / vector,
            lanes,
            dtype,
        );
    }
    y
}

/// Computes the gradients of `x` (plus `other`), of `gamma` and of `beta`.
pub(crate) fn backward(
    x: CubeTensor,
    gamma: CubeTensor,
    dy: CubeTensor,
    other: Option<CubeTensor>,
    epsilon: f64,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let gamma = into_contiguous(gamma);
    let ((x, pitch), (dy, dy_pitch)) = (even_rows(x), even_rows(dy));
    let (other, other_pitch) = other.map(even_rows).map_or((None, pitch), |(other, pitch)| (Some(other), pitch));
    assert!(
        other.as_ref().is_none_or(|other| other.meta.shape() == x.meta.shape()),
        "gradients that meet have one shape"
    );
    let groups = Groups::of(&x);
    assert!([&x, &gamma].iter().all(|tensor| tensor.dtype == DType::F32), "norms are f32");
    assert!(other.as_ref().is_none_or(|other| other.dtype == DType::F32), "gradients of the trunk are f32");
    assert!(dy.meta.shape() == x.meta.shape(), "a gradient has its tensor's shape");
    assert_eq!(gamma.meta.shape().num_elements(), groups.width, "gamma has a value per column");
    let dx = uninit(&x, x.meta.shape().clone(), DType::F32);
    let (dgamma, dbeta) = (groups.sums(&x), groups.sums(&x));
    let lengths = [groups.width as u32, pitch, dy_pitch, other_pitch].map(|length| length as usize);
    let vector = f32_vector_size(&lengths);
    let width = (groups.width / vector) as u32;
    let (client, dtype) = (x.client.clone(), elem(&dy));
    let units = units_of(width, client.properties().hardware.max_units_per_cube);
    // SAFETY: `x`, `dy`, `other` and `dx` hold `rows` rows of `width` vectors, each at its pitch, `gamma` one row,
    // `dgamma` and `dbeta` one row per group, which bounds every index.
    unsafe {
        norm_groups_backward::launch_unchecked(
            &client,
            cubes(&client, groups.count),
            CubeDim::new_1d(units),
            vector,
            x.into_buffer_arg(),
            gamma.into_buffer_arg(),
            dy.into_buffer_arg(),
            other.map(CubeTensor::into_buffer_arg).into(),
            dx.clone().into_buffer_arg(),
            dgamma.clone().into_buffer_arg(),
            dbeta.clone().into_buffer_arg(),
            groups.rows,
            pitch / vector as u32,
            dy_pitch / vector as u32,
            other_pitch / vector as u32,
            epsilon as f32,
            width,
            units,
            dtype,
        );
    }
    (dx, groups.total(dgamma), groups.total(dbeta))
}
