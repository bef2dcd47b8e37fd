//! One optimizer step of `AdamW` for a parameter (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), moments
//! included.
//!
//! Composed, a step is a dozen passes over parameter, gradient and moments, and as many launches; as one operation it
//! reads each once and writes all but the gradient once.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use super::cpu;
use super::step_params::StepParams;

/// Returns parameter and moments after one step with `params`; before the first step the moments are zero.
#[must_use]
pub fn adamw<const D: usize>(
    [param, grad, first, second]: [Tensor<D>; 4],
    params: StepParams,
) -> (Tensor<D>, Tensor<D>, Tensor<D>) {
    let [param, grad, first, second] = [param, grad, first, second].map(Tensor::into_dispatch);
    let (param, first, second) = <Dispatch as AdamWUpdate>::adamw_update(param, grad, first, second, params);
    (Tensor::from_dispatch(param), Tensor::from_dispatch(first), Tensor::from_dispatch(second))
}

/// Optimizer step, for each backend. It has no derivative, because the changed parameter is not part of a graph.
#[backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait AdamWUpdate: Backend {
    /// Returns parameter and moments after one step.
    fn adamw_update(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        params: StepParams,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Computes the step with the backend's own operations.
fn composed<B: Backend>(
    param: FloatTensor<B>,
    grad: FloatTensor<B>,
    first: FloatTensor<B>,
    second: FloatTensor<B>,
    params: StepParams,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let StepParams { lr, keep, betas: [b1, b2], epsilon, corrections: [c1, c2] } = params;
    let times = |x: FloatTensor<B>, factor: f32| B::float_mul_scalar(x, factor.into());
    let first = B::float_add(times(first, b1), times(grad.clone(), 1.0 - b1));
    let square = B::float_mul(grad.clone(), grad);
    let second = B::float_add(times(second, b2), times(square, 1.0 - b2));
    let mean = B::float_div_scalar(first.clone(), c1.into());
    let root = B::float_sqrt(B::float_div_scalar(second.clone(), c2.into()));
    let delta = B::float_div(mean, B::float_add_scalar(root, epsilon.into()));
    let kept = B::float_mul_scalar(param, keep.into());
    (B::float_sub(kept, B::float_mul_scalar(delta, lr.into())), first, second)
}

impl AdamWUpdate for Flex {
    fn adamw_update(
        mut param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        mut first: FloatTensor<Self>,
        mut second: FloatTensor<Self>,
        params: StepParams,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        if !cpu::all_f32([&param, &grad, &first, &second]) {
            return composed::<Self>(param, grad, first, second, params);
        }
        let StepParams { lr, keep, betas, epsilon, corrections } = params;
        let step = hiend_cpu::adamw::Step { lr: lr as f32, keep: keep as f32, betas, epsilon, corrections };
        let grad = cpu::in_order(grad);
        let [param_values, first_values, second_values] = [&mut param, &mut first, &mut second].map(cpu::values_mut);
        hiend_cpu::adamw::apply(param_values, cpu::values(&grad), first_values, second_values, step);
        (param, first, second)
    }
}

#[cfg(feature = "cube")]
impl AdamWUpdate for burn::backend::Cube {
    fn adamw_update(
        param: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        params: StepParams,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        super::kernels::adamw::apply(param, grad, first, second, params)
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::narrowed::narrowed;
    use crate::ops::testing::{largest_difference, on_devices, short_of, wave};
    use burn::optim::{AdamWConfig, Optimizer as _};
    use burn::tensor::Device;

    const LR: f64 = 1e-2;

    fn params(step: usize) -> StepParams {
        let time = i32::try_from(step + 1).unwrap();
        StepParams {
            lr: LR,
            keep: 1.0 - LR * 0.05,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            corrections: [1.0 - 0.9f32.powi(time), 1.0 - 0.95f32.powi(time)],
        }
    }

    fn grad(step: usize, shape: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::from_data(wave(shape, 0.3 + step as f32, 2.0), device)
    }

    fn host(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    fn steps_are_those_of_burn(device: &Device) {
        // Sizes divisible and not divisible by four, the length of a vector.
        for shape in [[9, 13], [8, 12]] {
            let config = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.05);
            let (reference, flex) = (config.build(), Device::flex());
            let (mut expected, mut state) = (Tensor::<2>::from_data(wave(shape, 0.7, 1.0), &flex), None);
            for step in 0..5 {
                (expected, state) = reference.step(LR, expected, grad(step, shape, &flex), state);
            }
            let mut param = Tensor::<2>::from_data(wave(shape, 0.7, 1.0), device);
            // A holder of the initial value; its tensor must not change.
            let before = param.clone();
            let (mut first, mut second) = (param.zeros_like(), param.zeros_like());
            for step in 0..5 {
                // Another holder at every second step.
                let held = (step % 2 == 1).then(|| (param.clone(), param.clone().into_data()));
                (param, first, second) = adamw([param, grad(step, shape, device), first, second], params(step));
                assert!(held.is_none_or(|(tensor, values)| tensor.into_data() == values));
            }
            // Six operations of f32, five times, on values up to 1.
            let error = largest_difference(&host(param), &host(expected));
            assert!(error < 1e-6, "{device:?}: {error:e}");
            assert_eq!(before.into_data(), wave(shape, 0.7, 1.0));
        }
    }

    fn narrowed_weights_are_casts_of_the_weights_after_every_step(device: &Device) {
        let (shape, short, device) = ([8, 12], short_of(device), device.clone().autodiff());
        let mut param = Tensor::<2>::from_data(wave(shape, 0.7, 1.0), &device).require_grad();
        let (mut first, mut second) = (param.clone().inner().zeros_like(), param.clone().inner().zeros_like());
        for step in 0..4 {
            let check = |param: &Tensor<2>, when: &str| {
                let ours = narrowed(param.clone(), short).inner().into_data();
                assert_eq!(ours, param.clone().inner().cast(short).into_data(), "{when} step {step}");
            };
            check(&param, "before");
            // Another holder of the copy at the second step: its values must not change.
            let held = (step == 1).then(|| narrowed(param.clone(), short).inner());
            let values = held.clone().map(Tensor::into_data);
            let tensors = [param.inner(), grad(step, shape, &device.clone().inner()), first, second];
            let changed;
            (changed, first, second) = adamw(tensors, params(step));
            param = Tensor::from_inner(changed).require_grad();
            assert_eq!(held.map(Tensor::into_data), values);
            check(&param, "after");
            // A weight that is changed by another operation than a step has no copy.
            if step == 2 {
                param = Tensor::from_inner(param.inner() * 0.5).require_grad();
                check(&param, "halved after");
            }
        }
    }

    fn narrowed_weights_have_the_gradient_of_a_cast(device: &Device) {
        let (short, device) = (short_of(device), device.clone().autodiff());
        let weight = Tensor::<2>::from_data(wave([8, 12], 0.7, 1.0), &device).require_grad();
        let grads = narrowed(weight.clone(), short).cast(burn::tensor::FloatDType::F32).square().sum().backward();
        let ours = host(weight.grad(&grads).unwrap());
        let grads = weight.clone().cast(short).cast(burn::tensor::FloatDType::F32).square().sum().backward();
        assert_eq!(ours, host(weight.grad(&grads).unwrap()));
    }

    on_devices!(
        steps_are_those_of_burn,
        narrowed_weights_are_casts_of_the_weights_after_every_step,
        narrowed_weights_have_the_gradient_of_a_cast,
    );
}
