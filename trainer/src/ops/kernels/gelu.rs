//! Exact GELU of a linear map's result plus its bias, and the exact derivative.
//!
//! Bytes per value in 16 bits: 4 forward, 6 backward, the first stage of the bias gradient included. A step of
//! `vit-l-p12` on 192 crops moves 28.7 GB: 9.6 ms at 3.0 TB/s of an H100, 6.7 at 4.3 of an H200.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::columns::{GROUP, Groups};
use super::launch::{elem, elementwise, even_rows, f32_vector_size, uninit};

/// Computes `Φ(h)`.
#[cube]
fn below<N: Size>(h: Vector<f32, N>) -> Vector<f32, N> {
    Vector::new(0.5f32) * (Vector::new(1.0f32) + (h * Vector::new(comptime!(FRAC_1_SQRT_2))).erf())
}

#[cube(launch_unchecked)]
pub(super) fn gelu_values<T: Float, N: Size>(
    x: &[Vector<T, N>],
    bias: &[Vector<f32, N>],
    y: &mut [Vector<T, N>],
    count: u32,
    pitch: u32,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let (row, column) = (at / width, at % width);
        let h = Vector::<f32, N>::cast_from(x[(row * pitch + column) as usize]) + bias[column as usize];
        y[at as usize] = Vector::<T, N>::cast_from(h * below(h));
    }
}

/// Gradients of `x` and the first stage of the bias gradient: each unit handles one column vector over one row group.
#[cube(launch_unchecked)]
pub(super) fn gelu_values_backward<T: Float, N: Size>(
    x: &[Vector<T, N>],
    bias: &[Vector<f32, N>],
    dy: &[Vector<T, N>],
    dx: &mut [Vector<T, N>],
    sums: &mut [Vector<f32, N>],
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
        let bias = bias[column as usize];
        let mut sum = Vector::<f32, N>::zeroed();
        for row in start..min(start + GROUP, rows) {
            let h = Vector::<f32, N>::cast_from(x[(row * pitch + column) as usize]) + bias;
            let dy = Vector::<f32, N>::cast_from(dy[(row * dy_pitch + column) as usize]);
            let density = (h * h * Vector::new(-0.5f32)).exp() * Vector::new(comptime!(1.0 / (2.0 * PI).sqrt()));
            let value = dy * (below(h) + h * density);
            dx[(row * width + column) as usize] = Vector::<T, N>::cast_from(value);
            sum += value;
        }
        sums[at as usize] = sum;
    }
}

/// Computes `h · Φ(h)` for `h = x + bias`.
pub(crate) fn forward(x: CubeTensor, bias: CubeTensor) -> CubeTensor {
    let bias = into_contiguous(bias);
    let (x, pitch) = even_rows(x);
    assert_eq!(bias.dtype, DType::F32, "biases are f32");
    let y = uninit(&x, x.meta.shape().clone(), x.dtype);
    let Groups { rows, width, .. } = Groups::of(&x);
    assert_eq!(bias.meta.shape().num_elements(), width, "a bias has a value per column");
    let vector = f32_vector_size(&[width, pitch as usize]);
    let count = rows as usize * width / vector;
    let (client, dtype) = (x.client.clone(), elem(&x));
    let (cubes, dim) = elementwise(&client, count);
    // SAFETY: `x` at its pitch and `y` hold `count` vectors, `bias` one row of them, which bounds every index.
    unsafe {
        gelu_values::launch_unchecked(
            &client,
            cubes,
            dim,
            vector,
            x.into_buffer_arg(),
            bias.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            count as u32,
            pitch / vector as u32,
            (width / vector) as u32,
            dtype,
        );
    }
    y
}

/// Computes the gradients of `x` and `bias`.
pub(crate) fn backward(x: CubeTensor, bias: CubeTensor, dy: CubeTensor) -> (CubeTensor, CubeTensor) {
    let bias = into_contiguous(bias);
    let ((x, pitch), (dy, dy_pitch)) = (even_rows(x), even_rows(dy));
    let dx = uninit(&x, x.meta.shape().clone(), x.dtype);
    let groups = Groups::of(&x);
    let sums = groups.sums(&x);
    let vector = f32_vector_size(&[groups.width, pitch as usize, dy_pitch as usize]);
    let width = groups.width / vector;
    let (client, dtype) = (x.client.clone(), elem(&x));
    assert_eq!(elem(&dy), dtype, "a gradient has its tensor's type");
    assert!(dy.meta.shape() == x.meta.shape(), "a gradient has its tensor's shape");
    assert_eq!((bias.dtype, bias.meta.shape().num_elements()), (DType::F32, groups.width), "a bias is a row in f32");
    let (cubes, dim) = elementwise(&client, groups.count as usize * width);
    // SAFETY: `x` and `dy`, each at its pitch, and `dx` hold `rows` rows, `bias` one row and `sums` one row per group,
    // which bounds every index.
    unsafe {
        gelu_values_backward::launch_unchecked(
            &client,
            cubes,
            dim,
            vector,
            x.into_buffer_arg(),
            bias.into_buffer_arg(),
            dy.into_buffer_arg(),
            dx.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            groups.rows,
            groups.count,
            pitch / vector as u32,
            dy_pitch / vector as u32,
            width as u32,
            dtype,
        );
    }
    (dx, groups.total(sums))
}
