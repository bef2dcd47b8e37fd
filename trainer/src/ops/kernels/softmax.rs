//! Softmax of rows and its derivative, each written over what it was taken of.
//!
//! Rows have `width` values and begin every `pitch` values; what lies between is set to zero.

use super::*;

#[cube(launch_unchecked)]
pub(super) fn softmax_rows<T: Float>(
    x: &mut [T],
    rows: u32,
    scale: f32,
    #[comptime] width: u32,
    #[comptime] pitch: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    if row < rows {
        let first = row * pitch;
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
        for turn in 0..comptime!(pitch.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let value = (f32::cast_from(x[(first + at) as usize]) * scale - most).exp() * share;
                x[(first + at) as usize] = T::cast_from(value);
            } else if at < pitch {
                x[(first + at) as usize] = T::cast_from(0.0f32);
            }
        }
    }
}

#[cube(launch_unchecked)]
pub(super) fn softmax_rows_backward<T: Float>(
    y: &[T],
    dy: &mut [T],
    rows: u32,
    scale: f32,
    #[comptime] width: u32,
    #[comptime] pitch: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = CUBE_POS_X * CUBE_DIM_Y + UNIT_POS_Y;
    if row < rows {
        let first = row * pitch;
        let mut sum = 0.0f32;
        for turn in 0..comptime!(width.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                sum += f32::cast_from(y[(first + at) as usize]) * f32::cast_from(dy[(first + at) as usize]);
            }
        }
        let common = lanes_sum(sum, lanes);
        for turn in 0..comptime!(pitch.div_ceil(lanes)) {
            let at = turn * lanes + UNIT_POS_X;
            if at < width {
                let (y, of_y) = (f32::cast_from(y[(first + at) as usize]), f32::cast_from(dy[(first + at) as usize]));
                dy[(first + at) as usize] = T::cast_from(scale * y * (of_y - common));
            } else if at < pitch {
                dy[(first + at) as usize] = T::cast_from(0.0f32);
            }
        }
    }
}

/// Softmax over the first `keys` columns of `scale · x`; `x`, which nobody else holds, is overwritten.
pub fn forward(x: CubeTensor, keys: usize, scale: f64) -> CubeTensor {
    let x = into_contiguous(x);
    let Rows { count, dim, rows, width: pitch, lanes } = Rows::of(&x);
    let (client, dtype) = (x.client.clone(), elem(&x));
    // SAFETY: the buffer holds `rows` times `pitch` values, which is as far as the kernel goes.
    unsafe {
        softmax_rows::launch_unchecked(
            &client,
            count,
            dim,
            x.clone().into_buffer_arg(),
            rows,
            scale as f32,
            keys as u32,
            pitch,
            lanes,
            dtype,
        );
    }
    x
}

/// The gradient of what softmax was taken of; that of its result, `dy`, which nobody else holds, is overwritten.
pub fn backward(y: CubeTensor, dy: CubeTensor, keys: usize, scale: f64) -> CubeTensor {
    let (y, dy) = (into_contiguous(y), into_contiguous(dy));
    let Rows { count, dim, rows, width: pitch, lanes } = Rows::of(&y);
    let (client, dtype) = (y.client.clone(), elem(&y));
    assert_eq!(elem(&dy), dtype, "a gradient has its tensor's type");
    // SAFETY: both buffers hold `rows` times `pitch` values, which is as far as the kernel goes.
    unsafe {
        softmax_rows_backward::launch_unchecked(
            &client,
            count,
            dim,
            y.into_buffer_arg(),
            dy.clone().into_buffer_arg(),
            rows,
            scale as f32,
            keys as u32,
            pitch,
            lanes,
            dtype,
        );
    }
    dy
}
