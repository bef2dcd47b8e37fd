//! The exact GELU and its exact derivative, value by value.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use burn_cubecl::tensor::CubeTensor;
use cubecl::std::tensor::layout::linear::{LinearView, LinearViewMut};

use super::*;

#[cube(launch_unchecked)]
pub(super) fn gelu_values<T: Float, N: Size>(
    x: LinearView<'_, Vector<T, N>>,
    mut y: LinearViewMut<'_, Vector<T, N>>,
    #[define(T)] _dtype: ElemType,
) {
    if !y.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x.read(ABSOLUTE_POS));
    let value = x * Vector::new(0.5f32) * (Vector::new(1.0f32) + (x * Vector::new(comptime!(FRAC_1_SQRT_2))).erf());
    y.write(ABSOLUTE_POS, Vector::<T, N>::cast_from(value));
}

#[cube(launch_unchecked)]
pub(super) fn gelu_values_backward<T: Float, N: Size>(
    x: LinearView<'_, Vector<T, N>>,
    dy: LinearView<'_, Vector<T, N>>,
    mut dx: LinearViewMut<'_, Vector<T, N>>,
    #[define(T)] _dtype: ElemType,
) {
    if !dx.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x.read(ABSOLUTE_POS));
    let dy = Vector::<f32, N>::cast_from(dy.read(ABSOLUTE_POS));
    let below = Vector::new(0.5f32) * (Vector::new(1.0f32) + (x * Vector::new(comptime!(FRAC_1_SQRT_2))).erf());
    let density = (x * x * Vector::new(-0.5f32)).exp() * Vector::new(comptime!(1.0 / (2.0 * PI).sqrt()));
    dx.write(ABSOLUTE_POS, Vector::<T, N>::cast_from(dy * (below + x * density)));
}

/// Values that are read in one go.
fn lanes_of(x: &CubeTensor) -> usize {
    let count = x.meta.shape().num_elements();
    // 16 bytes, as far as they divide the tensor.
    [16 / x.elem_size(), 4, 2].into_iter().find(|&lanes| count.is_multiple_of(lanes)).unwrap_or(1)
}

/// `x · Φ(x)`.
pub fn forward(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let y = beside(&x, x.meta.shape().clone(), x.dtype);
    let lanes = lanes_of(&x);
    let (client, dtype) = (x.client.clone(), elem(&x));
    let (count, dim) = elementwise(&client, x.meta.shape().num_elements() / lanes);
    // SAFETY: both views have the same shape, and the kernel looks whether it is inside.
    unsafe {
        gelu_values::launch_unchecked(
            &client,
            count,
            dim,
            lanes,
            x.into_linear_view(),
            y.clone().into_linear_view(),
            dtype,
        );
    }
    y
}

/// `dy · (Φ(x) + x · φ(x))`.
pub fn backward(x: CubeTensor, dy: CubeTensor) -> CubeTensor {
    let (x, dy) = (into_contiguous(x), into_contiguous(dy));
    let dx = beside(&x, x.meta.shape().clone(), x.dtype);
    let lanes = lanes_of(&x);
    let (client, dtype) = (x.client.clone(), elem(&x));
    assert_eq!(elem(&dy), dtype, "a gradient has its tensor's type");
    let (count, dim) = elementwise(&client, x.meta.shape().num_elements() / lanes);
    // SAFETY: all views have the same shape, and the kernel looks whether it is inside.
    unsafe {
        gelu_values_backward::launch_unchecked(
            &client,
            count,
            dim,
            lanes,
            x.into_linear_view(),
            dy.into_linear_view(),
            dx.clone().into_linear_view(),
            dtype,
        );
    }
    dx
}
