//! Additive Gaussian noise on the device: the very field that the loader would have added
//! ([`GaussianNoiseParams`]), each voxel's normal a function of the seed and the voxel's number.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{Tensor, TensorData};
use hiend_loader::transform::GaussianNoiseParams;

/// `x` plus the noise.
#[must_use]
pub fn add_noise<const D: usize>(x: Tensor<D>, params: GaussianNoiseParams) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as AddNoise>::add_noise(x.into_dispatch(), params))
}

/// The operation for each backend. Voxels are constants, so it has no derivative.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait AddNoise: Backend {
    /// `x` plus the noise.
    fn add_noise(x: FloatTensor<Self>, params: GaussianNoiseParams) -> FloatTensor<Self> {
        let shape = x.shape();
        let field = TensorData::new(params.field(shape.num_elements()), shape);
        let field = Self::float_from_data(field, &x.device());
        Self::float_add(x, Self::float_mul_scalar(field, params.std.into()))
    }
}

impl AddNoise for Flex {}

#[cfg(feature = "cube")]
impl AddNoise for burn::backend::Cube {
    fn add_noise(x: FloatTensor<Self>, params: GaussianNoiseParams) -> FloatTensor<Self> {
        super::kernels::noise::add(x, params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, largest_difference, wave};

    #[test]
    fn the_field_is_that_of_the_loader() {
        // No whole number of blocks, and more than one group of units.
        let image = wave([7, 13, 41], 0.7, 0.5);
        let params = GaussianNoiseParams { std: 0.3, seed: 0x1234_5678_9abc_def0 };
        let mut expected = image.clone().try_to_vec::<f32>().unwrap();
        params.apply(&mut expected);
        for device in devices() {
            let x = Tensor::<3>::from_data(image.clone(), &device);
            let ours: Vec<f32> = add_noise(x, params).into_data().try_to_vec().unwrap();
            let error = largest_difference(&ours, &expected);
            println!("{device:?}: largest difference {error:e}");
            assert!(error <= 2e-6, "{device:?}: {error:e}");
        }
    }
}
