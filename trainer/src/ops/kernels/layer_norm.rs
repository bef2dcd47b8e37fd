//! Layer norm of rows and its derivatives.

use burn::tensor::FloatDType;
use burn_cubecl::CubeBackend;

use super::*;

/// Rows that one unit adds up for the derivatives of gamma and beta; the sums of such groups are added afterwards.
const GROUP: u32 = 128;

/// Mean and one over the standard deviation of a row.
#[cube]
fn moments(x: &[f32], first: u32, epsilon: f32, #[comptime] width: u32, #[comptime] lanes: u32) -> (f32, f32) {
    let mut sum = 0.0f32;
    for turn in 0..comptime!(width.div_ceil(lanes)) {
        let at = turn * lanes + UNIT_POS_X;
        if at < width {
            sum += x[(first + at) as usize];
        }
    }
    let mean = lanes_sum(sum, lanes) / comptime!(width as f32);
    let mut squares = 0.0f32;
    for turn in 0..comptime!(width.div_ceil(lanes)) {
        let at = turn * lanes + UNIT_POS_X;
        if at < width {
            let centred = x[(first + at) as usize] - mean;
            squares += centred * centred;
        }
    }
    let variance = lanes_sum(squares, lanes) / comptime!(width as f32);
    (mean, 1.0f32 / (variance + epsilon).sqrt())
}

#[cube(launch_unchecked)]
pub(super) fn norm_rows<T: Float>(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    y: &mut [T],
    rows: u32,
    pitch: u32,
    epsilon: f32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    if row < rows {
        let first = row * pitch;
        let (mean, rstd) = moments(x, first, epsilon, width, lanes);
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let normal = (x[(first + at) as usize] - mean) * rstd;
                y[(row * width + at) as usize] = T::cast_from(normal * gamma[at as usize] + beta[at as usize]);
            }
        }
    }
}

#[cube(launch_unchecked)]
pub(super) fn norm_rows_backward<T: Float>(
    x: &[f32],
    gamma: &[f32],
    dy: &[T],
    dx: &mut [f32],
    stats: &mut [f32],
    rows: u32,
    pitch: u32,
    dy_pitch: u32,
    epsilon: f32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    if row < rows {
        let first = row * pitch;
        let first_dy = row * dy_pitch;
        let (mean, rstd) = moments(x, first, epsilon, width, lanes);
        let mut sum = 0.0f32;
        let mut along = 0.0f32;
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let g = f32::cast_from(dy[(first_dy + at) as usize]) * gamma[at as usize];
                sum += g;
                along += g * (x[(first + at) as usize] - mean) * rstd;
            }
        }
        let sum = lanes_sum(sum, lanes) / comptime!(width as f32);
        let along = lanes_sum(along, lanes) / comptime!(width as f32);
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let g = f32::cast_from(dy[(first_dy + at) as usize]) * gamma[at as usize];
                let normal = (x[(first + at) as usize] - mean) * rstd;
                dx[(row * width + at) as usize] = rstd * (g - sum - normal * along);
            }
        }
        if UNIT_POS_X == 0 {
            stats[(2 * row) as usize] = mean;
            stats[(2 * row + 1) as usize] = rstd;
        }
    }
}

/// One unit a column and group of rows; neighbours read neighbouring columns.
#[cube(launch_unchecked)]
pub(super) fn norm_columns_backward<T: Float>(
    x: &[f32],
    stats: &[f32],
    dy: &[T],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    rows: u32,
    groups: u32,
    pitch: u32,
    dy_pitch: u32,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < groups * width {
        let column = at % width;
        let start = at / width * GROUP;
        let mut by_gamma = 0.0f32;
        let mut by_beta = 0.0f32;
        for row in start..min(start + GROUP, rows) {
            let dy = f32::cast_from(dy[(row * dy_pitch + column) as usize]);
            by_gamma +=
                dy * (x[(row * pitch + column) as usize] - stats[(2 * row) as usize]) * stats[(2 * row + 1) as usize];
            by_beta += dy;
        }
        dgamma[at as usize] = by_gamma;
        dbeta[at as usize] = by_beta;
    }
}

/// Normalised rows of `x`, times `gamma`, plus `beta`.
pub fn forward(x: CubeTensor, gamma: CubeTensor, beta: CubeTensor, epsilon: f64, dtype: FloatDType) -> CubeTensor {
    let [gamma, beta] = [gamma, beta].map(into_contiguous);
    let (x, pitch) = even_rows(x);
    assert!([&x, &gamma, &beta].iter().all(|tensor| tensor.dtype == DType::F32), "norms are f32");
    let y = beside(&x, x.meta.shape().clone(), dtype.into());
    let Rows { count, dim, rows, width, lanes } = Rows::of(&x);
    let (client, dtype) = (x.client.clone(), elem(&y));
    // SAFETY: `x` and `y` hold `rows` rows of `width` values, `x` at its pitch, and the others `width`, which is as far as
    // the kernel goes.
    unsafe {
        norm_rows::launch_unchecked(
            &client,
            count,
            dim,
            x.into_buffer_arg(),
            gamma.into_buffer_arg(),
            beta.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            rows,
            pitch,
            epsilon as f32,
            width,
            lanes,
            dtype,
        );
    }
    y
}

/// The gradients of `x`, `gamma` and `beta`.
pub fn backward(
    x: CubeTensor,
    gamma: CubeTensor,
    dy: CubeTensor,
    epsilon: f64,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    use burn::backend::ops::FloatTensorOps as _;

    let gamma = into_contiguous(gamma);
    let ((x, pitch), (dy, dy_pitch)) = (even_rows(x), even_rows(dy));
    let Rows { count, dim, rows, width, lanes } = Rows::of(&x);
    let dx = beside(&x, x.meta.shape().clone(), DType::F32);
    let stats = beside(&x, Shape::from([rows as usize, 2]), DType::F32);
    let (client, dtype) = (x.client.clone(), elem(&dy));
    // SAFETY: `x`, `dy` and `dx` hold `rows` rows of `width` values, each at its pitch, `gamma` `width`, `stats` two a row.
    unsafe {
        norm_rows_backward::launch_unchecked(
            &client,
            count,
            dim,
            x.clone().into_buffer_arg(),
            gamma.into_buffer_arg(),
            dy.clone().into_buffer_arg(),
            dx.clone().into_buffer_arg(),
            stats.clone().into_buffer_arg(),
            rows,
            pitch,
            dy_pitch,
            epsilon as f32,
            width,
            lanes,
            dtype,
        );
    }
    let groups = rows.div_ceil(GROUP);
    let partial = || beside(&x, Shape::from([groups as usize, width as usize]), DType::F32);
    let (dgamma, dbeta) = (partial(), partial());
    let (count, dim) = elementwise(&client, (groups * width) as usize);
    // SAFETY: both sums hold `groups` times `width` values, and the kernel looks whether it is inside.
    unsafe {
        norm_columns_backward::launch_unchecked(
            &client,
            count,
            dim,
            x.into_buffer_arg(),
            stats.into_buffer_arg(),
            dy.into_buffer_arg(),
            dgamma.clone().into_buffer_arg(),
            dbeta.clone().into_buffer_arg(),
            rows,
            groups,
            pitch,
            dy_pitch,
            width,
            dtype,
        );
    }
    let total = |sums: CubeTensor| {
        let sums = if groups > 1 { CubeBackend::float_sum_dim(sums, 0) } else { sums };
        CubeBackend::float_reshape(sums, Shape::from([width as usize]))
    };
    (dx, total(dgamma), total(dbeta))
}
