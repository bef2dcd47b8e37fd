//! A branch and a bias added to what the branch came off, and the way back.

use burn::tensor::FloatDType;

use super::columns::{GROUP, Groups};
use super::*;

#[cube(launch_unchecked)]
pub(super) fn add_values<T: Float, N: Size>(
    x: &[Vector<f32, N>],
    branch: &[Vector<T, N>],
    bias: &[Vector<f32, N>],
    y: &mut [Vector<f32, N>],
    count: u32,
    x_pitch: u32,
    branch_pitch: u32,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        let (row, column) = (at / width, at % width);
        let added = Vector::<f32, N>::cast_from(branch[(row * branch_pitch + column) as usize]) + bias[column as usize];
        y[at as usize] = x[(row * x_pitch + column) as usize] + added;
    }
}

/// One unit a piece of columns and group of rows.
#[cube(launch_unchecked)]
pub(super) fn add_values_backward<T: Float, N: Size>(
    dy: &[Vector<f32, N>],
    dbranch: &mut [Vector<T, N>],
    sums: &mut [Vector<f32, N>],
    rows: u32,
    groups: u32,
    pitch: u32,
    #[comptime] width: u32,
    #[define(T)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS as u32;
    if at < groups * width {
        let column = at % width;
        let start = at / width * GROUP;
        let mut sum = Vector::<f32, N>::zeroed();
        for row in start..min(start + GROUP, rows) {
            let value = dy[(row * pitch + column) as usize];
            dbranch[(row * width + column) as usize] = Vector::<T, N>::cast_from(value);
            sum += value;
        }
        sums[at as usize] = sum;
    }
}

/// `x + branch + bias`.
pub fn forward(x: CubeTensor, branch: CubeTensor, bias: CubeTensor) -> CubeTensor {
    let bias = into_contiguous(bias);
    let ((x, x_pitch), (branch, branch_pitch)) = (even_rows(x), even_rows(branch));
    assert!([&x, &bias].iter().all(|tensor| tensor.dtype == DType::F32), "tokens and biases are f32");
    let y = beside(&x, x.meta.shape().clone(), DType::F32);
    let Groups { rows, width, .. } = Groups::of(&x);
    let piece = f32_piece_of(&[width, x_pitch as usize, branch_pitch as usize]);
    let count = rows as usize * width / piece;
    let (client, dtype) = (x.client.clone(), elem(&branch));
    let (cubes, dim) = elementwise(&client, count);
    // SAFETY: `x`, `branch` and `y` hold the `count` pieces, each at its pitch, and `bias` a row of them.
    unsafe {
        add_values::launch_unchecked(
            &client,
            cubes,
            dim,
            piece,
            x.into_buffer_arg(),
            branch.into_buffer_arg(),
            bias.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            count as u32,
            x_pitch / piece as u32,
            branch_pitch / piece as u32,
            (width / piece) as u32,
            dtype,
        );
    }
    y
}

/// The gradients of the branch, in `dtype`, and of the bias.
pub fn backward(dy: CubeTensor, dtype: FloatDType) -> (CubeTensor, CubeTensor) {
    let (dy, pitch) = even_rows(dy);
    assert_eq!(dy.dtype, DType::F32, "tokens are f32");
    let dbranch = beside(&dy, dy.meta.shape().clone(), dtype.into());
    let groups = Groups::of(&dy);
    let sums = groups.sums(&dy);
    let piece = f32_piece_of(&[groups.width, pitch as usize]);
    let width = groups.width / piece;
    let (client, dtype) = (dy.client.clone(), elem(&dbranch));
    let (cubes, dim) = elementwise(&client, groups.count as usize * width);
    // SAFETY: `dy`, at its pitch, and `dbranch` hold `rows` rows, `sums` one a group, which is as far as the kernel goes.
    unsafe {
        add_values_backward::launch_unchecked(
            &client,
            cubes,
            dim,
            piece,
            dy.into_buffer_arg(),
            dbranch.clone().into_buffer_arg(),
            sums.clone().into_buffer_arg(),
            groups.rows,
            groups.count,
            pitch / piece as u32,
            width as u32,
            dtype,
        );
    }
    (dbranch, groups.total(sums))
}
