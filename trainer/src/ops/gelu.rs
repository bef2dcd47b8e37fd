//! The exact GELU and its exact derivative (Hendrycks and Gimpel, arXiv 1606.08415, section 2): `x · Φ(x)`, and
//! `Φ(x) + x · φ(x)`, where Φ and φ are the normal distribution and its density.
//!
//! Burn's own derivative is that of the approximation by tanh on every backend but the CPU; the two differ by up to
//! 5e-4, which is more than a bf16 product's rounding at small gradients and has no reason to be there.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

use super::{cast, dtype_of, widened};

/// `x · Φ(x)`, in the type of `x`.
#[must_use]
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as ExactGelu>::exact_gelu(x.into_dispatch()))
}

/// The operation for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait ExactGelu: Backend {
    /// `x · Φ(x)`.
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = dtype_of::<Self>(&x);
        cast::<Self>(Self::gelu(widened::<Self>(x)), dtype)
    }

    /// `dy · (Φ(x) + x · φ(x))`. Exact where the backend's own derivative is; [`Flex`]'s is.
    fn exact_gelu_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        let dtype = dtype_of::<Self>(&x);
        cast::<Self>(Self::gelu_backward(widened::<Self>(x), widened::<Self>(dy)), dtype)
    }
}

impl ExactGelu for Flex {}

#[cfg(feature = "cube")]
impl ExactGelu for burn::backend::Cube {
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::gelu::forward(x)
    }

    fn exact_gelu_backward(x: FloatTensor<Self>, dy: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::gelu::backward(x, dy)
    }
}

impl<B: ExactGelu, C: CheckpointStrategy> ExactGelu for Autodiff<B, C> {
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: ExactGelu> Backward<B, 1> for Derivative {
            type State = FloatTensor<B>;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [parent] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                if let Some(node) = parent {
                    grads.register::<B>(node.id, B::exact_gelu_backward(ops.state, dy));
                }
            }
        }

        match Derivative.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let x = x.into_primitive();
                prepared.finish(x.clone(), B::exact_gelu(x))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::exact_gelu(x.into_primitive())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, values_and_gradients, wave};

    #[test]
    fn value_and_gradient_are_those_of_the_composition() {
        for device in devices() {
            let x = wave([3, 7, 66], 0.7, 4.0);
            let ours = values_and_gradients(&device, std::array::from_ref(&x), |[x]| gelu(x));
            // From the error function, whose own derivative every backend composes exactly.
            let composed = values_and_gradients(&device, &[x], |[x]| {
                x.clone() * 0.5 * ((x / std::f64::consts::SQRT_2).erf() + 1.0)
            });
            ours.assert_close(&composed, 1e-6);
        }
    }
}
