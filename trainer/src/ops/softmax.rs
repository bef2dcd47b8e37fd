//! Softmax that keeps only its output for the backward pass.
//!
//! Burn's autodiff takes softmax apart into five tracked operations, each of which keeps a tensor of the size of the
//! attention matrix and costs passes over it in both directions. The derivative needs the output alone:
//! `dx = scale · y · (dy - sum(dy · y))`.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::Tensor;

use super::{cast, dtype_of, widened};

/// Softmax over the last axis of `scale · x`, in the type of `x`.
#[must_use]
pub fn softmax<const D: usize>(x: Tensor<D>, scale: f64) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as ScaledSoftmax>::scaled_softmax(x.into_dispatch(), scale))
}

/// The operation for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait ScaledSoftmax: Backend {
    /// Softmax over the last axis of `scale · x`.
    fn scaled_softmax(x: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        let (dtype, last) = (dtype_of::<Self>(&x), x.rank() - 1);
        let mut x = widened::<Self>(x);
        #[expect(clippy::float_cmp, reason = "exactly one is worth no pass over the matrix")]
        if scale != 1.0 {
            x = Self::float_mul_scalar(x, scale.into());
        }
        cast::<Self>(Self::softmax(x, last), dtype)
    }

    /// The gradient of `x`, from the output and its gradient.
    fn scaled_softmax_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        let (dtype, last) = (dtype_of::<Self>(&y), y.rank() - 1);
        let (y, dy) = (widened::<Self>(y), widened::<Self>(dy));
        let common = Self::float_sum_dim(Self::float_mul(dy.clone(), y.clone()), last);
        let mut dx = Self::float_mul(Self::float_sub(dy, common), y);
        #[expect(clippy::float_cmp, reason = "exactly one is worth no pass over the matrix")]
        if scale != 1.0 {
            dx = Self::float_mul_scalar(dx, scale.into());
        }
        cast::<Self>(dx, dtype)
    }
}

impl ScaledSoftmax for Flex {}

#[cfg(feature = "cube")]
impl ScaledSoftmax for burn::backend::Cube {
    fn scaled_softmax(x: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        super::kernels::softmax::forward(x, scale)
    }

    fn scaled_softmax_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        super::kernels::softmax::backward(y, dy, scale)
    }
}

impl<B: ScaledSoftmax, C: CheckpointStrategy> ScaledSoftmax for Autodiff<B, C> {
    fn scaled_softmax(x: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: ScaledSoftmax> Backward<B, 1> for Derivative {
            type State = (FloatTensor<B>, f64);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [parent] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (y, scale) = ops.state;
                if let Some(node) = parent {
                    grads.register::<B>(node.id, B::scaled_softmax_backward(y, dy, scale));
                }
            }
        }

        match Derivative.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::scaled_softmax(x.into_primitive(), scale);
                prepared.finish((y.clone(), scale), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::scaled_softmax(x.into_primitive(), scale)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, values_and_gradients, wave};
    use burn::tensor::activation;

    #[test]
    fn value_and_gradient_are_those_of_the_composition() {
        for device in devices() {
            for (shape, scale) in [([2, 3, 37], 1.0), ([4, 5, 129], 0.3), ([1, 2, 513], 0.25)] {
                let x = wave(shape, 0.7, 5.0);
                let ours = values_and_gradients(&device, std::array::from_ref(&x), |[x]| softmax(x, scale));
                let composed = values_and_gradients(&device, &[x], |[x]| activation::softmax(x * scale, 2));
                ours.assert_close(&composed, 1e-6);
            }
        }
    }

    #[test]
    fn sixteen_bits_in_sixteen_bits_out_and_f32_between() {
        for device in devices() {
            let x = wave([3, 4, 129], 0.37, 8.0);
            let ours = values_and_gradients(&device, std::array::from_ref(&x), |[x]| {
                softmax(x.cast(burn::tensor::FloatDType::BF16), 0.3).cast(burn::tensor::FloatDType::F32)
            });
            let full = values_and_gradients(&device, &[x], |[x]| softmax(x, 0.3));
            // The input is rounded to 8 bits: 8 · 2⁻⁹ · 0.3 in the exponent, then the output once more.
            ours.assert_close(&full, 0.02);
        }
    }
}
