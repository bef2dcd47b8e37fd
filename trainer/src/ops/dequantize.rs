//! Converts quantized voxels to floats on the device: `clamp(quantized · gain + bias, low, high) · factor + shift`,
//! with six parameters per crop. Not differentiable, because voxels are constants.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{FloatDType, Int, IntDType, Tensor};
use hiend_cpu::dequantize::Params;

use super::cpu;

/// Converts `quantized` `[n, 1, x, y, z]` to floats with `params` `[n, 6]`, the
/// [`hiend_loader::batch::Dequantize::row`] of each crop.
#[must_use]
pub fn dequantize(quantized: Tensor<5, Int>, params: Tensor<2>) -> Tensor<5> {
    Tensor::from_dispatch(<Dispatch as DequantizeVoxels>::dequantize(quantized.into_dispatch(), params.into_dispatch()))
}

/// Conversion of quantized voxels, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait DequantizeVoxels: Backend {
    /// Converts `quantized` to floats with `params`.
    fn dequantize(quantized: IntTensor<Self>, params: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Casts the tensors to the types that the conversion reads.
fn cast<B: Backend>(quantized: IntTensor<B>, params: FloatTensor<B>) -> (IntTensor<B>, FloatTensor<B>) {
    (B::int_cast(quantized, IntDType::U16), B::float_cast(params, FloatDType::F32))
}

impl DequantizeVoxels for Flex {
    fn dequantize(quantized: IntTensor<Self>, params: FloatTensor<Self>) -> FloatTensor<Self> {
        let (quantized, params) = cast::<Self>(quantized, params);
        let (quantized, params) = (cpu::in_order(quantized), cpu::in_order(params));
        let of_crop =
            |&[gain, bias, low, high, factor, shift]: &[f32; 6]| Params { gain, bias, low, high, factor, shift };
        let crops: Vec<Params> = cpu::values(&params).as_chunks().0.iter().map(of_crop).collect();
        let values = quantized.as_slice::<u16>().expect("16-bit voxels in order");
        cpu::tensor(hiend_cpu::dequantize::floats(values, &crops), quantized.shape())
    }
}

#[cfg(feature = "cube")]
impl DequantizeVoxels for burn::backend::Cube {
    fn dequantize(quantized: IntTensor<Self>, params: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::dequantize::dequantize(quantized, params)
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{largest_difference, on_devices};
    use burn::tensor::{DType, Device, TensorData};
    use hiend_loader::batch::Dequantize;
    use hiend_loader::preprocess::window::Scale;

    fn floats_are_those_of_the_loader(device: &Device) {
        let of_crop =
            |low: f64, factor, shift| Dequantize { scale: Scale::new(1.0, -175.0, [low, 250.0]), factor, shift };
        // The last crop's values are z-scores in multiples of 1/1024, which no device rounds.
        let zscores = Dequantize { scale: Scale::unchanged(1.0 / 1024.0, -20.0), factor: 1.0, shift: 0.0 };
        let crops = [of_crop(-175.0, 1.0, 0.0), of_crop(-100.0, 1.07, -0.031), of_crop(0.0, 0.93, 0.1), zscores];
        let quantized: Vec<u16> =
            (0..4 * 64).map(|i| (i * 7919 % 65_536) as u16 % if i < 128 { 426 } else { 65_535 }).collect();
        let expected: Vec<f32> = quantized
            .chunks_exact(64)
            .zip(&crops)
            .flat_map(|(values, crop)| values.iter().map(|&value| crop.apply(value)))
            .collect();
        let params: Vec<f32> = crops.iter().flat_map(Dequantize::row).collect();
        let quantized = Tensor::from_data(TensorData::new(quantized, [4, 1, 4, 4, 4]), (device, DType::U16));
        let params = Tensor::from_data(TensorData::new(params, [4, 6]), device);
        let ours: Vec<f32> = dequantize(quantized, params).into_data().try_to_vec().unwrap();
        let error = largest_difference(&ours, &expected);
        // A GPU may round a product and a sum once instead of twice: 2^-23 of values up to 1.17.
        assert!(error <= 2e-7, "{device:?}: {error:e}");
        assert_eq!(ours[3 * 64..], expected[3 * 64..], "{device:?}");
    }

    on_devices!(floats_are_those_of_the_loader);
}
