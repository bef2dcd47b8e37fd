//! Additive Gaussian noise on the device: the same field as the loader adds ([`GaussianNoiseParams`]), each voxel's value
//! a function of the seed and of the voxel's index.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{Tensor, TensorData};
use hiend_loader::transform::GaussianNoiseParams;

/// Adds the noise of `params` to `x`.
#[must_use]
pub fn add_noise<const D: usize>(x: Tensor<D>, params: GaussianNoiseParams) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as AddNoise>::add_noise(x.into_dispatch(), params))
}

/// Additive noise, for each backend. It has no derivative, because voxels are constants.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait AddNoise: Backend {
    /// Adds the noise of `params` to `x`.
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

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{largest_difference, on_devices, wave};
    use burn::tensor::Device;

    fn the_field_is_that_of_the_loader(device: &Device) {
        // No whole number of cipher blocks, and more than one cube of units.
        let image = wave([7, 13, 41], 0.7, 0.5);
        let params = GaussianNoiseParams { std: 0.3, seed: 0x1234_5678_9abc_def0 };
        let mut expected = image.clone().try_to_vec::<f32>().unwrap();
        params.apply(&mut expected);
        let x = Tensor::<3>::from_data(image, device);
        let ours: Vec<f32> = add_noise(x, params).into_data().try_to_vec().unwrap();
        let error = largest_difference(&ours, &expected);
        // A device's logarithm, root, sine and cosine are good to a few ulp of normal values up to 5.8, times 0.3.
        assert!(error <= 2e-6, "{device:?}: {error:e}");
    }

    on_devices!(the_field_is_that_of_the_loader);
}
