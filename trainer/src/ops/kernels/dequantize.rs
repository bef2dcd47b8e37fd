//! Conversion of quantized voxels to floats, as a kernel.

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::launch::{elementwise, uninit};

/// Number of parameters per crop, see [`hiend_loader::batch::Dequantize::row`].
pub(super) const PARAMS: u32 = 6;

/// Converts the stored `value` with the parameters of its crop.
#[cube]
pub(super) fn units_of(value: u32, params: &[f32], crop: u32) -> f32 {
    let first = (crop * comptime!(PARAMS)) as usize;
    let units = f32::cast_from(value) * params[first] + params[first + 1];
    let units = clamp(units, params[first + 2], params[first + 3]);
    units * params[first + 4] + params[first + 5]
}

#[cube(launch_unchecked)]
pub(super) fn dequantize_values(quantized: &[u16], params: &[f32], y: &mut [f32], count: u32, voxels: u32) {
    let at = ABSOLUTE_POS as u32;
    if at < count {
        y[at as usize] = units_of(u32::cast_from(quantized[at as usize]), params, at / voxels);
    }
}

/// Converts `quantized` `[n, ..]` (16 bits) to floats with the `params` `[n, 6]` of each crop.
pub(crate) fn dequantize(quantized: CubeTensor, params: CubeTensor) -> CubeTensor {
    let (quantized, params) = (into_contiguous(quantized), into_contiguous(params));
    assert_eq!((quantized.dtype, params.dtype), (DType::U16, DType::F32), "voxels are 16 bits, their parameters f32");
    let shape = quantized.meta.shape().clone();
    let count = shape.num_elements();
    assert_eq!(params.meta.shape().num_elements(), PARAMS as usize * shape[0], "six parameters per crop");
    let y = uninit(&quantized, shape.clone(), DType::F32);
    let client = quantized.client.clone();
    let (cubes, dim) = elementwise(&client, count);
    // SAFETY: `y` holds as many values as `quantized`, `params` six per crop, which bounds every index.
    unsafe {
        dequantize_values::launch_unchecked(
            &client,
            cubes,
            dim,
            quantized.into_buffer_arg(),
            params.into_buffer_arg(),
            y.clone().into_buffer_arg(),
            count as u32,
            (count / shape[0]) as u32,
        );
    }
    y
}
