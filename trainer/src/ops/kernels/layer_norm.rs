//! Layer norm of rows and its derivatives.
//!
//! The lanes of a plane hold a row in registers: it is read once, and its moments are taken of what was read.

use burn::tensor::FloatDType;

use super::columns::{GROUP, Groups};
use super::*;

/// The pieces of a row that this lane holds; zeros beyond its end.
#[cube]
fn row_of<T: Float, N: Size>(
    x: &[Vector<T, N>],
    first: u32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
) -> Array<Vector<f32, N>> {
    let turns = comptime!(width.div_ceil(lanes));
    let mut values = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
    #[unroll]
    for turn in 0..turns {
        let at = turn * lanes + UNIT_POS_X;
        let mut value = Vector::<f32, N>::zeroed();
        if at < width {
            value = Vector::<f32, N>::cast_from(x[(first + at) as usize]);
        }
        values[turn as usize] = value;
    }
    values
}

/// Takes its mean from a row; one over its standard deviation, and the mean.
#[cube]
fn centre<N: Size>(
    values: &mut Array<Vector<f32, N>>,
    epsilon: f32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
) -> (f32, f32) {
    let turns = comptime!(width.div_ceil(lanes));
    let n = N::value().comptime() as u32;
    let count = comptime!((width * n) as f32);
    let mut sum = Vector::<f32, N>::zeroed();
    #[unroll]
    for turn in 0..turns {
        sum += values[turn as usize];
    }
    let mean = lanes_sum(sum_of(sum), lanes) / count;
    let mut squares = Vector::<f32, N>::zeroed();
    #[unroll]
    for turn in 0..turns {
        if turn * lanes + UNIT_POS_X < width {
            let centred = values[turn as usize] - Vector::new(mean);
            values[turn as usize] = centred;
            squares += centred * centred;
        }
    }
    let variance = lanes_sum(sum_of(squares), lanes) / count;
    (1.0f32 / (variance + epsilon).sqrt(), mean)
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
        let (rstd, _) = centre::<N>(&mut values, epsilon, width, lanes);
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

#[cube(launch_unchecked)]
pub(super) fn norm_rows_backward<T: Float, N: Size>(
    x: &[Vector<f32, N>],
    gamma: &[Vector<f32, N>],
    dy: &[Vector<T, N>],
    dx: &mut [Vector<f32, N>],
    stats: &mut [f32],
    rows: u32,
    pitch: u32,
    dy_pitch: u32,
    epsilon: f32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = own_row();
    if row < rows {
        let turns = comptime!(width.div_ceil(lanes));
        let n = N::value().comptime() as u32;
        let count = comptime!((width * n) as f32);
        let mut values = row_of::<f32, N>(x, row * pitch, width, lanes);
        let mut grads = row_of::<T, N>(dy, row * dy_pitch, width, lanes);
        let (rstd, mean) = centre::<N>(&mut values, epsilon, width, lanes);
        let mut sum = Vector::<f32, N>::zeroed();
        let mut along = Vector::<f32, N>::zeroed();
        #[unroll]
        for turn in 0..turns {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let normal = values[turn as usize] * Vector::new(rstd);
                let grad = grads[turn as usize] * gamma[at as usize];
                values[turn as usize] = normal;
                grads[turn as usize] = grad;
                sum += grad;
                along += grad * normal;
            }
        }
        let sum = lanes_sum(sum_of(sum), lanes) / count;
        let along = lanes_sum(sum_of(along), lanes) / count;
        #[unroll]
        for turn in 0..turns {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let rest = grads[turn as usize] - Vector::new(sum) - values[turn as usize] * Vector::new(along);
                dx[(row * width + at) as usize] = rest * Vector::new(rstd);
            }
        }
        if UNIT_POS_X == 0 {
            stats[(2 * row) as usize] = mean;
            stats[(2 * row + 1) as usize] = rstd;
        }
    }
}

/// One unit a piece of columns and group of rows.
#[cube(launch_unchecked)]
pub(super) fn norm_columns_backward<T: Float, N: Size>(
    x: &[Vector<f32, N>],
    stats: &[f32],
    dy: &[Vector<T, N>],
    dgamma: &mut [Vector<f32, N>],
    dbeta: &mut [Vector<f32, N>],
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
        let mut by_gamma = Vector::<f32, N>::zeroed();
        let mut by_beta = Vector::<f32, N>::zeroed();
        for row in start..min(start + GROUP, rows) {
            let dy = Vector::<f32, N>::cast_from(dy[(row * dy_pitch + column) as usize]);
            let centred = x[(row * pitch + column) as usize] - Vector::new(stats[(2 * row) as usize]);
            by_gamma += dy * centred * Vector::new(stats[(2 * row + 1) as usize]);
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
    let Spread { count, dim, rows, width, lanes } = Spread::of(&x);
    let piece = f32_piece_of(&[width as usize, pitch as usize]) as u32;
    let (client, dtype) = (x.client.clone(), elem(&y));
    // SAFETY: `x` and `y` hold `rows` rows of `width` values, `x` at its pitch, and the others `width`, which is as far as
    // the kernel goes.
    unsafe {
        norm_rows::launch_unchecked(
            &client,
            count,
            dim,
            piece as usize,
            x.into_buffer_arg(),
            gamma.into_buffer_arg(),
            beta.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            rows,
            pitch / piece,
            epsilon as f32,
            width / piece,
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
    let gamma = into_contiguous(gamma);
    let ((x, pitch), (dy, dy_pitch)) = (even_rows(x), even_rows(dy));
    let Spread { count, dim, rows, width, lanes } = Spread::of(&x);
    let dx = beside(&x, x.meta.shape().clone(), DType::F32);
    let stats = beside(&x, Shape::from([rows as usize, 2]), DType::F32);
    let piece = f32_piece_of(&[width as usize, pitch as usize, dy_pitch as usize]) as u32;
    let (client, dtype) = (x.client.clone(), elem(&dy));
    // SAFETY: `x`, `dy` and `dx` hold `rows` rows of `width` values, each at its pitch, `gamma` `width`, `stats` two a row.
    unsafe {
        norm_rows_backward::launch_unchecked(
            &client,
            count,
            dim,
            piece as usize,
            x.clone().into_buffer_arg(),
            gamma.into_buffer_arg(),
            dy.clone().into_buffer_arg(),
            dx.clone().into_buffer_arg(),
            stats.clone().into_buffer_arg(),
            rows,
            pitch / piece,
            dy_pitch / piece,
            epsilon as f32,
            width / piece,
            lanes,
            dtype,
        );
    }
    let groups = Groups::of(&x);
    let (dgamma, dbeta) = (groups.sums(&x), groups.sums(&x));
    let (count, dim) = elementwise(&client, (groups.count * width / piece) as usize);
    // SAFETY: both sums hold a row a group, and the kernel looks whether it is inside.
    unsafe {
        norm_columns_backward::launch_unchecked(
            &client,
            count,
            dim,
            piece as usize,
            x.into_buffer_arg(),
            stats.into_buffer_arg(),
            dy.into_buffer_arg(),
            dgamma.clone().into_buffer_arg(),
            dbeta.clone().into_buffer_arg(),
            rows,
            groups.count,
            pitch / piece,
            dy_pitch / piece,
            width / piece,
            dtype,
        );
    }
    (dx, groups.total(dgamma), groups.total(dbeta))
}
