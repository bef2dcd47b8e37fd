//! 16-bit factors of matrix products, made from f32 weights.
//!
//! On a GPU the optimizer step writes a 16-bit copy of each weight along with the weight, so that a weight is not cast
//! again for each product: a copy is kept from the weight's first use in a training graph on. On the CPU this is a
//! plain cast, with the same bits.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{FloatDType, Tensor};

use super::primitive::{cast, dtype_of};

/// Converts `weight` to `dtype`, a type of 16 bits. The gradient of `weight` has the type of `weight`.
#[must_use]
pub fn narrowed<const D: usize>(weight: Tensor<D>, dtype: FloatDType) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as NarrowedWeight>::narrowed(weight.into_dispatch(), dtype))
}

/// The conversion, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait NarrowedWeight: Backend {
    /// Returns `weight` in `dtype`: its kept copy, or a cast.
    fn narrowed(weight: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        cast::<Self>(weight, dtype)
    }
}

impl NarrowedWeight for Flex {}

#[cfg(feature = "cube")]
impl NarrowedWeight for burn::backend::Cube {
    fn narrowed(weight: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        super::kernels::narrowed::of(weight, dtype)
    }
}

/// Conversion of a weight in training, for each backend.
pub trait KeptNarrowed: NarrowedWeight {
    /// Converts as [`NarrowedWeight::narrowed`] does; keeps the result for the optimizer step to rewrite.
    #[must_use]
    fn kept_narrowed(weight: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        Self::narrowed(weight, dtype)
    }
}

impl KeptNarrowed for Flex {}

#[cfg(feature = "cube")]
impl KeptNarrowed for burn::backend::Cube {
    fn kept_narrowed(weight: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        super::kernels::narrowed::keep(weight, dtype)
    }
}

impl<B: KeptNarrowed, C: CheckpointStrategy> NarrowedWeight for Autodiff<B, C> {
    fn narrowed(weight: FloatTensor<Self>, dtype: FloatDType) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: Backend> Backward<B, 1> for Derivative {
            type State = FloatDType;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [weight] = ops.parents;
                if let Some(node) = weight {
                    grads.register::<B>(node.id, cast::<B>(grad, ops.state));
                }
            }
        }

        let nodes = [weight.node()];
        let weight = weight.into_primitive();
        match Backward::<B, 1>::prepare::<C>(Derivative, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(dtype_of::<B>(&weight), B::kept_narrowed(weight, dtype)),
            OpsKind::UnTracked(prepared) => prepared.finish(B::narrowed(weight, dtype)),
        }
    }
}
