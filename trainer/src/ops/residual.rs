//! A branch of a block added to what it branched off: `x + branch + bias`, in one pass and in f32.
//!
//! The bias is that of the linear map at the branch's end. Composed, adding it, widening the branch and summing are three
//! passes over the tokens; here they are one, and one on the way back, where the branch gets the gradient in its own type
//! and the bias its sum over all tokens.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{FloatDType, Tensor};

use super::columns::ColumnSums;
use super::{along_rows, cast, dtype_of, widened};

/// `x + branch + bias`: `x` `[.., W]` in f32, `branch` `[.., W]` in any type, `bias` `[W]` in f32.
#[must_use]
pub fn add_branch<const D: usize>(x: Tensor<D>, branch: Tensor<D>, bias: Tensor<1>) -> Tensor<D> {
    let [x, branch] = [x, branch].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Residual>::residual(x, branch, bias.into_dispatch()))
}

/// The operation for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait Residual: Backend {
    /// `x + branch + bias`.
    fn residual(x: FloatTensor<Self>, branch: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let bias = along_rows::<Self>(bias, &branch);
        Self::float_add(x, Self::float_add(widened::<Self>(branch), bias))
    }
}

impl Residual for Flex {}

#[cfg(feature = "cube")]
impl Residual for burn::backend::Cube {
    fn residual(x: FloatTensor<Self>, branch: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::residual::forward(x, branch, bias)
    }
}

/// The way back, for each backend.
pub trait ResidualBackward: ColumnSums {
    /// The gradients of the branch, in `dtype`, and of the bias; that of `x` is `dy` itself.
    #[must_use]
    fn residual_backward(dy: FloatTensor<Self>, dtype: FloatDType) -> (FloatTensor<Self>, FloatTensor<Self>) {
        (cast::<Self>(dy.clone(), dtype), Self::column_sums(dy))
    }
}

impl ResidualBackward for Flex {}

#[cfg(feature = "cube")]
impl ResidualBackward for burn::backend::Cube {
    fn residual_backward(dy: FloatTensor<Self>, dtype: FloatDType) -> (FloatTensor<Self>, FloatTensor<Self>) {
        super::kernels::residual::backward(dy, dtype)
    }
}

impl<B: Residual + ResidualBackward, C: CheckpointStrategy> Residual for Autodiff<B, C> {
    fn residual(x: FloatTensor<Self>, branch: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: ResidualBackward> Backward<B, 3> for Derivative {
            type State = FloatDType;

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [x, branch, bias] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                if branch.is_some() || bias.is_some() {
                    let (dbranch, dbias) = B::residual_backward(dy.clone(), ops.state);
                    for (parent, grad) in [(branch, dbranch), (bias, dbias)] {
                        if let Some(node) = parent {
                            grads.register::<B>(node.id, grad);
                        }
                    }
                }
                if let Some(node) = x {
                    grads.register::<B>(node.id, dy);
                }
            }
        }

        let nodes = [x.node(), branch.node(), bias.node()];
        let (x, branch, bias) = (x.into_primitive(), branch.into_primitive(), bias.into_primitive());
        match Derivative.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let dtype = dtype_of::<B>(&branch);
                prepared.finish(dtype, B::residual(x, branch, bias))
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::residual(x, branch, bias)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, short_of, values_and_gradients, wave};

    #[test]
    fn value_and_gradients_are_those_of_the_composition() {
        for device in devices() {
            // More rows than a unit adds up, and rows that cannot be read in pieces.
            for (rows, width) in [(6, 37), (3, 528), (70, 96)] {
                let shapes = [[2, rows, width], [2, rows, width], [1, 1, width]];
                let tensors = shapes.map(|shape| wave(shape, 0.7 / shape[1] as f32, 2.0));
                let ours = values_and_gradients(&device, &tensors, |[x, branch, bias]| {
                    add_branch(x, branch, bias.reshape([width]))
                });
                let composed = values_and_gradients(&device, &tensors, |[x, branch, bias]| x + (branch + bias));
                ours.assert_close(&composed, 1e-6);
            }
        }
    }

    #[test]
    fn a_short_branch_is_added_in_full() {
        for device in devices() {
            let short = short_of(&device);
            let tensors = [wave([2, 9, 24], 0.7, 2.0), wave([2, 9, 24], 0.3, 2.0), wave([1, 1, 24], 0.9, 2.0)];
            let ours = values_and_gradients(&device, &tensors, |[x, branch, bias]| {
                add_branch(x, branch.cast(short), bias.reshape([24]))
            });
            let composed = values_and_gradients(&device, &tensors, |[x, branch, bias]| {
                x + branch.cast(short).cast(FloatDType::F32) + bias
            });
            ours.assert_close(&composed, 1e-6);
        }
    }
}
