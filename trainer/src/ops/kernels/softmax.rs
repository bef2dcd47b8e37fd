//! Softmax of rows and its derivative, each written over its input.
//!
//! Rows have `width` values and begin every `pitch` vectors of `N`; the values between are set to zero. The units of a
//! plane hold the whole row in registers: it is read once and written once.

use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::launch::{RowLaunch, elem, vector_size_of};
use super::plane::{lanes_max, lanes_sum, own_row, vector_max, vector_sum};

#[cube(launch_unchecked)]
pub(super) fn softmax_rows<T: Float, N: Size>(
    x: &mut [Vector<T, N>],
    rows: u32,
    scale: f32,
    #[comptime] width: u32,
    #[comptime] pitch: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = own_row();
    if row < rows {
        let first = row * pitch;
        let turns = comptime!(pitch.div_ceil(lanes));
        let n = N::value().comptime() as u32;
        let mut values = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
        // Values beyond the row have an exponential of zero.
        let mut most = Vector::<f32, N>::new(f32::min_value());
        #[unroll]
        for turn in 0..turns {
            let at = turn * lanes + UNIT_POS_X;
            let mut value = Vector::<f32, N>::new(f32::min_value());
            if at < pitch {
                value = Vector::<f32, N>::cast_from(x[(first + at) as usize]) * Vector::new(scale);
                if comptime!(width < pitch * n) {
                    #[unroll]
                    for i in 0..n {
                        let inside = at * n + i < width;
                        let kept = select(inside, value.extract(comptime!(i as usize)), f32::min_value());
                        value.insert(comptime!(i as usize), kept);
                    }
                }
            }
            values[turn as usize] = value;
            most = max(most, value);
        }
        let most = lanes_max(vector_max(most), lanes);
        let mut sum = Vector::<f32, N>::zeroed();
        #[unroll]
        for turn in 0..turns {
            let value = (values[turn as usize] - Vector::new(most)).exp();
            values[turn as usize] = value;
            sum += value;
        }
        let share = 1.0f32 / lanes_sum(vector_sum(sum), lanes);
        #[unroll]
        for turn in 0..turns {
            let at = turn * lanes + UNIT_POS_X;
            if at < pitch {
                x[(first + at) as usize] = Vector::<T, N>::cast_from(values[turn as usize] * Vector::new(share));
            }
        }
    }
}

/// Computes the gradient of softmax, in place of `dy`. In the padding `y` is zero, and so is the gradient.
#[cube(launch_unchecked)]
pub(super) fn softmax_rows_backward<T: Float, N: Size>(
    y: &[Vector<T, N>],
    dy: &mut [Vector<T, N>],
    rows: u32,
    scale: f32,
    #[comptime] pitch: u32,
    #[comptime] lanes: u32,
    #[define(T)] _dtype: ElemType,
) {
    let row = own_row();
    if row < rows {
        let first = row * pitch;
        let turns = comptime!(pitch.div_ceil(lanes));
        let mut values = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
        let mut grads = Array::<Vector<f32, N>>::new(comptime!(turns as usize));
        let mut sum = Vector::<f32, N>::zeroed();
        #[unroll]
        for turn in 0..turns {
            let at = turn * lanes + UNIT_POS_X;
            let mut value = Vector::<f32, N>::zeroed();
            let mut grad = Vector::<f32, N>::zeroed();
            if at < pitch {
                value = Vector::<f32, N>::cast_from(y[(first + at) as usize]);
                grad = Vector::<f32, N>::cast_from(dy[(first + at) as usize]);
            }
            values[turn as usize] = value;
            grads[turn as usize] = grad;
            sum += value * grad;
        }
        let common = lanes_sum(vector_sum(sum), lanes);
        #[unroll]
        for turn in 0..turns {
            let at = turn * lanes + UNIT_POS_X;
            if at < pitch {
                let grad = values[turn as usize] * (grads[turn as usize] - Vector::new(common)) * Vector::new(scale);
                dy[(first + at) as usize] = Vector::<T, N>::cast_from(grad);
            }
        }
    }
}

/// Computes softmax over the first `keys` columns of `scale · x`. Overwrites `x`, which must have no other holder.
pub(crate) fn forward(x: CubeTensor, keys: usize, scale: f64) -> CubeTensor {
    let x = into_contiguous(x);
    let RowLaunch { count, dim, rows, width, lanes } = RowLaunch::over(&x);
    let vector = vector_size_of(&x, &[width as usize]);
    let (client, dtype) = (x.client.clone(), elem(&x));
    // SAFETY: the buffer holds `rows` times `width` values, which bounds every index.
    unsafe {
        softmax_rows::launch_unchecked(
            &client,
            count,
            dim,
            vector,
            x.clone().into_buffer_arg(),
            rows,
            scale as f32,
            keys as u32,
            width / vector as u32,
            lanes,
            dtype,
        );
    }
    x
}

/// Gradient of the softmax's input, given its result `y` and that result's gradient `dy`. Overwrites `dy`, which must
/// have no other holder.
pub(crate) fn backward(y: CubeTensor, dy: CubeTensor, scale: f64) -> CubeTensor {
    let (y, dy) = (into_contiguous(y), into_contiguous(dy));
    let RowLaunch { count, dim, rows, width, lanes } = RowLaunch::over(&y);
    let vector = vector_size_of(&y, &[width as usize]);
    let (client, dtype) = (y.client.clone(), elem(&y));
    assert_eq!(elem(&dy), dtype, "a gradient has its tensor's type");
    assert!(dy.meta.shape() == y.meta.shape(), "a gradient has its tensor's shape");
    // SAFETY: both buffers hold `rows` times `width` values, which bounds every index.
    unsafe {
        softmax_rows_backward::launch_unchecked(
            &client,
            count,
            dim,
            vector,
            y.into_buffer_arg(),
            dy.clone().into_buffer_arg(),
            rows,
            scale as f32,
            width / vector as u32,
            lanes,
            dtype,
        );
    }
    dy
}
