//! Softmax of rows and its derivative.

use super::*;

#[cube(launch_unchecked)]
pub(super) fn softmax_rows<T: Float>(
    x: &[T],
    y: &mut [T],
    rows: u32,
    scale: f32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    if row < rows {
        let first = row * width;
        let mut most = f32::cast_from(x[first as usize]) * scale;
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                most = max(most, f32::cast_from(x[(first + at) as usize]) * scale);
            }
        }
        let most = lanes_max(most, lanes);
        let mut sum = 0.0f32;
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                sum += (f32::cast_from(x[(first + at) as usize]) * scale - most).exp();
            }
        }
        let share = 1.0f32 / lanes_sum(sum, lanes);
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let value = (f32::cast_from(x[(first + at) as usize]) * scale - most).exp() * share;
                y[(first + at) as usize] = T::cast_from(value);
            }
        }
    }
}

#[cube(launch_unchecked)]
pub(super) fn softmax_rows_backward<T: Float>(
    y: &[T],
    dy: &[T],
    dx: &mut [T],
    rows: u32,
    scale: f32,
    #[comptime] width: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    if row < rows {
        let first = row * width;
        let mut sum = 0.0f32;
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                sum += f32::cast_from(y[(first + at) as usize]) * f32::cast_from(dy[(first + at) as usize]);
            }
        }
        let common = lanes_sum(sum, lanes);
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let (y, dy) = (f32::cast_from(y[(first + at) as usize]), f32::cast_from(dy[(first + at) as usize]));
                dx[(first + at) as usize] = T::cast_from(scale * y * (dy - common));
            }
        }
    }
}

/// Softmax over the last axis of `scale · x`.
pub fn forward(x: CubeTensor, scale: f64) -> CubeTensor {
    let x = into_contiguous(x);
    let y = beside(&x, x.meta.shape().clone(), x.dtype);
    let Rows { count, dim, rows, width, lanes } = Rows::of(&x);
    let (client, dtype) = (x.client.clone(), elem(&x));
    // SAFETY: both buffers hold `rows` times `width` values, which is as far as the kernel goes.
    unsafe {
        softmax_rows::launch_unchecked(
            &client,
            count,
            dim,
            x.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            rows,
            scale as f32,
            width,
            lanes,
            dtype,
        );
    }
    y
}

/// The gradient of `x` from the output and its gradient.
pub fn backward(y: CubeTensor, dy: CubeTensor, scale: f64) -> CubeTensor {
    let (y, dy) = (into_contiguous(y), into_contiguous(dy));
    let dx = beside(&y, y.meta.shape().clone(), y.dtype);
    let Rows { count, dim, rows, width, lanes } = Rows::of(&y);
    let (client, dtype) = (y.client.clone(), elem(&y));
    assert_eq!(elem(&dy), dtype, "a gradient has its tensor's type");
    // SAFETY: all three buffers hold `rows` times `width` values, which is as far as the kernel goes.
    unsafe {
        softmax_rows_backward::launch_unchecked(
            &client,
            count,
            dim,
            y.into_buffer_arg(),
            dy.into_buffer_arg(),
            dx.clone().into_buffer_arg(),
            rows,
            scale as f32,
            width,
            lanes,
            dtype,
        );
    }
    dx
}
