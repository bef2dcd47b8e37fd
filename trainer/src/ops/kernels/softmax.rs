//! Softmax of rows and its derivative, each written over what it was taken of.
//!
//! Rows have `width` values and begin every `pitch` pieces of `N`; what lies between is set to zero. The lanes of a plane
//! hold the whole row in registers: it is read once and written once.

use super::*;

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
        // Beyond the row: nothing that the exponential would leave anything of.
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
        let most = lanes_max(most_of(most), lanes);
        let mut sum = Vector::<f32, N>::zeroed();
        #[unroll]
        for turn in 0..turns {
            let value = (values[turn as usize] - Vector::new(most)).exp();
            values[turn as usize] = value;
            sum += value;
        }
        let share = 1.0f32 / lanes_sum(sum_of(sum), lanes);
        #[unroll]
        for turn in 0..turns {
            let at = turn * lanes + UNIT_POS_X;
            if at < pitch {
                x[(first + at) as usize] = Vector::<T, N>::cast_from(values[turn as usize] * Vector::new(share));
            }
        }
    }
}

/// Where there is padding `y` is zero, and so is the result.
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
        let common = lanes_sum(sum_of(sum), lanes);
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

/// Softmax over the first `keys` columns of `scale · x`; `x`, which nobody else holds, is overwritten.
pub fn forward(x: CubeTensor, keys: usize, scale: f64) -> CubeTensor {
    let x = into_contiguous(x);
    let Spread { count, dim, rows, width, lanes } = Spread::of(&x);
    let piece = piece_of(&x, &[width as usize]);
    let (client, dtype) = (x.client.clone(), elem(&x));
    // SAFETY: the buffer holds `rows` times `width` values, which is as far as the kernel goes.
    unsafe {
        softmax_rows::launch_unchecked(
            &client,
            count,
            dim,
            piece,
            x.clone().into_buffer_arg(),
            rows,
            scale as f32,
            keys as u32,
            width / piece as u32,
            lanes,
            dtype,
        );
    }
    x
}

/// The gradient of what softmax was taken of; that of its result, `dy`, which nobody else holds, is overwritten.
pub fn backward(y: CubeTensor, dy: CubeTensor, scale: f64) -> CubeTensor {
    let (y, dy) = (into_contiguous(y), into_contiguous(dy));
    let Spread { count, dim, rows, width, lanes } = Spread::of(&y);
    let piece = piece_of(&y, &[width as usize]);
    let (client, dtype) = (y.client.clone(), elem(&y));
    assert_eq!(elem(&dy), dtype, "a gradient has its tensor's type");
    // SAFETY: both buffers hold `rows` times `width` values, which is as far as the kernel goes.
    unsafe {
        softmax_rows_backward::launch_unchecked(
            &client,
            count,
            dim,
            piece,
            y.into_buffer_arg(),
            dy.clone().into_buffer_arg(),
            rows,
            scale as f32,
            width / piece as u32,
            lanes,
            dtype,
        );
    }
    dy
}
