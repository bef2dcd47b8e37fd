//! One update of a parameter by `AdamW` (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), moments included.
//!
//! Composed, an update is a dozen passes over parameter, gradient and moments, and as many launches a parameter; as one
//! it reads each once and writes all but the gradient once.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

/// The numbers of an update, bias corrections included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepParams {
    /// Learning rate.
    pub lr: f64,
    /// What weight decay leaves of the parameter: `1 - lr · decay`.
    pub keep: f64,
    /// Decay rates of the moments.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// `1 - betasᵗ` at the t-th update.
    pub corrections: [f32; 2],
}

/// Parameter and moments after an update; before the first one the moments are zero.
#[must_use]
pub fn adamw<const D: usize>(
    [param, grad, first, second]: [Tensor<D>; 4],
    numbers: StepParams,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let [param, grad, first, second] = [param, grad, first, second].map(Tensor::into_dispatch);
    let (param, first, second) = <Dispatch as AdamWUpdate>::adamw_update(param, grad, first, second, numbers);
    (Tensor::from_dispatch(param), Tensor::from_dispatch(first), Tensor::from_dispatch(second))
}

/// The operation for each backend. It has no derivative: what is updated is no longer part of a graph.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait AdamWUpdate: Backend {
    /// Parameter and moments after an update.
    fn adamw_update(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        numbers: StepParams,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let StepParams { lr, keep, betas: [b1, b2], epsilon, corrections: [c1, c2] } = numbers;
        let times = |x: FloatTensor<Self>, factor: f32| Self::float_mul_scalar(x, factor.into());
        let first = Self::float_add(times(first, b1), times(grad.clone(), 1.0 - b1));
        let square = Self::float_mul(grad.clone(), grad);
        let second = Self::float_add(times(second, b2), times(square, 1.0 - b2));
        let mean = Self::float_div_scalar(first.clone(), c1.into());
        let root = Self::float_sqrt(Self::float_div_scalar(second.clone(), c2.into()));
        let delta = Self::float_div(mean, Self::float_add_scalar(root, epsilon.into()));
        let kept = Self::float_mul_scalar(param, keep.into());
        (Self::float_sub(kept, Self::float_mul_scalar(delta, lr.into())), first, second)
    }
}

impl AdamWUpdate for Flex {}

#[cfg(feature = "cube")]
impl AdamWUpdate for burn::backend::Cube {
    fn adamw_update(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        numbers: StepParams,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        super::kernels::adamw::update(param, grad, first, second, numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, largest_difference, wave};
    use burn::optim::{AdamWConfig, Optimizer as _};
    use burn::tensor::Device;

    #[test]
    fn updates_are_those_of_burn() {
        let config = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.05);
        let (reference, lr) = (config.build(), 1e-2);
        let grad = |step: usize, device: &Device| Tensor::<2>::from_data(wave([9, 13], 0.3 + step as f32, 2.0), device);
        let host = |tensor: Tensor<2>| tensor.into_data().try_to_vec::<f32>().unwrap();
        let flex = Device::flex();
        let (mut expected, mut state) = (Tensor::<2>::from_data(wave([9, 13], 0.7, 1.0), &flex), None);
        for step in 0..5 {
            (expected, state) = reference.step(lr, expected, grad(step, &flex), state);
        }
        for device in devices() {
            let mut param = Tensor::<2>::from_data(wave([9, 13], 0.7, 1.0), &device);
            // Somebody else holds on to the first value; it must stay as it is.
            let before = param.clone();
            let (mut first, mut second) = (param.zeros_like(), param.zeros_like());
            for step in 0..5 {
                let time = i32::try_from(step + 1).unwrap();
                let numbers = StepParams {
                    lr,
                    keep: 1.0 - lr * 0.05,
                    betas: [0.9, 0.95],
                    epsilon: 1e-8,
                    corrections: [1.0 - 0.9f32.powi(time), 1.0 - 0.95f32.powi(time)],
                };
                // Every other one is held on to by somebody else.
                let held = (step % 2 == 1).then(|| (param.clone(), param.clone().into_data()));
                (param, first, second) = adamw([param, grad(step, &device), first, second], numbers);
                assert!(held.is_none_or(|(tensor, values)| tensor.into_data() == values));
            }
            let error = largest_difference(&host(param), &host(expected.clone()));
            assert!(error < 1e-6, "{device:?}: {error:e}");
            assert_eq!(before.into_data(), wave([9, 13], 0.7, 1.0));
        }
    }
}
