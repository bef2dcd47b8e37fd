//! Stored steps become floats on the device: `clamp(step · gain + bias, 0, 1) · factor + shift`, with four numbers a
//! crop. Not differentiable, since voxels are constants.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{FloatDType, Int, Shape, Tensor};

/// `steps` `[n, 1, x, y, z]` by `laws` `[n, 4]`: gain, bias, factor, shift; see [`hiend_loader::batch::Dequantize`].
#[must_use]
pub fn floats_of(steps: Tensor<5, Int>, laws: Tensor<2>) -> Tensor<5> {
    Tensor::from_dispatch(<Dispatch as FromSteps>::from_steps(steps.into_dispatch(), laws.into_dispatch()))
}

/// The operation for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait FromSteps: Backend {
    /// Floats of `steps` by `laws`.
    fn from_steps(steps: IntTensor<Self>, laws: FloatTensor<Self>) -> FloatTensor<Self> {
        let crops = steps.shape()[0];
        let law = |number: usize| {
            let column = Self::float_slice(laws.clone(), &[(0..crops).into(), (number..number + 1).into()]);
            Self::float_reshape(column, Shape::from([crops, 1, 1, 1, 1]))
        };
        let steps = Self::int_into_float(steps, FloatDType::F32);
        let units = Self::float_add(Self::float_mul(steps, law(0)), law(1));
        let units = Self::float_clamp(units, 0.0.into(), 1.0.into());
        Self::float_add(Self::float_mul(units, law(2)), law(3))
    }
}

impl FromSteps for Flex {}

#[cfg(feature = "cube")]
impl FromSteps for burn::backend::Cube {
    fn from_steps(steps: IntTensor<Self>, laws: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::window::from_steps(steps, laws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, largest_difference};
    use burn::tensor::{DType, TensorData};
    use hiend_loader::batch::Dequantize;
    use hiend_loader::preprocess::window::Scale;

    #[test]
    fn floats_are_those_of_the_loader() {
        let law = |low: f64, factor, shift| Dequantize { scale: Scale::new(1.0, -175.0, [low, 250.0]), factor, shift };
        let laws = [law(-175.0, 1.0, 0.0), law(-100.0, 1.07, -0.031), law(0.0, 0.93, 0.1)];
        let steps: Vec<u16> =
            (0..3 * 64).map(|i| (i * 7919 % 65_536) as u16 % if i < 128 { 426 } else { 65_535 }).collect();
        let expected: Vec<f32> =
            steps.chunks_exact(64).zip(&laws).flat_map(|(steps, law)| steps.iter().map(|&s| law.apply(s))).collect();
        let numbers: Vec<f32> = laws.iter().flat_map(|l| [l.scale.gain, l.scale.bias, l.factor, l.shift]).collect();
        for device in devices() {
            let steps = Tensor::from_data(TensorData::new(steps.clone(), [3, 1, 4, 4, 4]), (&device, DType::U16));
            let laws = Tensor::from_data(TensorData::new(numbers.clone(), [3, 4]), &device);
            let ours: Vec<f32> = floats_of(steps, laws).into_data().try_to_vec().unwrap();
            let error = largest_difference(&ours, &expected);
            // A GPU may round a product and a sum once instead of twice.
            assert!(error <= 2e-7, "{device:?}: {error:e}");
        }
    }
}
