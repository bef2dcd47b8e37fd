//! Residual sum `x + branch + bias`, in one pass and in f32.
//!
//! The bias belongs to the linear map at the end of the branch. Composed of Burn's operations, adding it, converting
//! the branch to f32 and the sum are three passes over the tokens. The backward pass is one memory pass, which writes
//! the gradient of the branch in the branch's type and sums it for the bias.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{FloatDType, Tensor};

use super::columns::ColumnSums;
use super::cpu;
use super::junction::Junction;
use super::primitive::{along_rows, cast, dtype_of, widened};

/// Computes `x + branch + bias`: `x` `[.., W]` in f32, `branch` `[.., W]` in any type, `bias` `[W]` in f32.
#[must_use]
pub fn add_branch<const D: usize>(x: Tensor<D>, branch: Tensor<D>, bias: Tensor<1>) -> Tensor<D> {
    add_branch_at(x, branch, bias, Junction::default())
}

/// Computes [`add_branch`]; in the backward pass the gradient of `x` is stored at `junction`, if that is open.
pub(super) fn add_branch_at<const D: usize>(
    x: Tensor<D>,
    branch: Tensor<D>,
    bias: Tensor<1>,
    junction: Junction,
) -> Tensor<D> {
    let [x, branch] = [x, branch].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Residual>::residual(x, branch, bias.into_dispatch(), junction))
}

/// Residual sum, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait Residual: Backend {
    /// Computes `x + branch + bias`. The `junction` is used only by the derivative.
    fn residual(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        junction: Junction,
    ) -> FloatTensor<Self>;
}

/// Computes the sum with the backend's own operations.
fn composed<B: Backend>(x: FloatTensor<B>, branch: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    let bias = along_rows::<B>(bias, &branch);
    B::float_add(x, B::float_add(widened::<B>(branch), bias))
}

impl Residual for Flex {
    fn residual(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        _: Junction,
    ) -> FloatTensor<Self> {
        if !cpu::all_f32([&x, &branch, &bias]) || x.shape() != branch.shape() {
            return composed::<Self>(x, branch, bias);
        }
        let [x, branch, bias] = [x, branch, bias].map(cpu::in_order);
        let sum = hiend_cpu::residual::forward(cpu::values(&x), cpu::values(&branch), cpu::values(&bias));
        cpu::tensor(sum, x.shape())
    }
}

#[cfg(feature = "cube")]
impl Residual for burn::backend::Cube {
    fn residual(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        _: Junction,
    ) -> FloatTensor<Self> {
        super::kernels::residual::forward(x, branch, bias)
    }
}

/// Gradients of the residual sum, for each backend.
pub trait ResidualBackward: ColumnSums {
    /// Computes the gradients of the branch, in `dtype`, and of the bias. The gradient of `x` is `dy` itself.
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
    fn residual(
        x: FloatTensor<Self>,
        branch: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        junction: Junction,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: ResidualBackward> Backward<B, 3> for Derivative {
            type State = (FloatDType, Junction);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [x, branch, bias] = ops.parents;
                let (dtype, junction) = ops.state;
                let dy = grads.consume::<B>(&ops.node);
                if branch.is_some() || bias.is_some() {
                    let (dbranch, dbias) = B::residual_backward(dy.clone(), dtype);
                    for (parent, grad) in [(branch, dbranch), (bias, dbias)] {
                        if let Some(node) = parent {
                            grads.register::<B>(node.id, grad);
                        }
                    }
                }
                if let Some(node) = x
                    && let Some(dy) = junction.leave::<B>(dy)
                {
                    grads.register::<B>(node.id, dy);
                }
            }
        }

        let nodes = [x.node(), branch.node(), bias.node()];
        let (x, branch, bias) = (x.into_primitive(), branch.into_primitive(), bias.into_primitive());
        match Backward::<B, 3>::prepare::<C>(Derivative, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let dtype = dtype_of::<B>(&branch);
                let y = B::residual(x, branch, bias, junction.clone());
                prepared.finish((dtype, junction), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::residual(x, branch, bias, junction)),
        }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{on_devices, short_of, values_and_gradients, wave};
    use burn::tensor::Device;

    fn value_and_gradients_match_the_composition(device: &Device) {
        // More rows than one unit sums, and an odd width.
        for (rows, width) in [(6, 37), (3, 528), (70, 96)] {
            let shapes = [[2, rows, width], [2, rows, width], [1, 1, width]];
            let tensors = shapes.map(|shape| wave(shape, 0.7 / shape[1] as f32, 2.0));
            let ours = values_and_gradients(device, &tensors, |[x, branch, bias]| {
                add_branch(x, branch, bias.reshape([width]))
            });
            let composed = values_and_gradients(device, &tensors, |[x, branch, bias]| x + (branch + bias));
            ours.assert_close(&composed, 1e-6);
        }
    }

    fn a_16_bit_branch_is_added_in_f32(device: &Device) {
        let short = short_of(device);
        let tensors = [wave([2, 9, 24], 0.7, 2.0), wave([2, 9, 24], 0.3, 2.0), wave([1, 1, 24], 0.9, 2.0)];
        let ours = values_and_gradients(device, &tensors, |[x, branch, bias]| {
            add_branch(x, branch.cast(short), bias.reshape([24]))
        });
        let composed = values_and_gradients(device, &tensors, |[x, branch, bias]| {
            x + branch.cast(short).cast(FloatDType::F32) + bias
        });
        ours.assert_close(&composed, 1e-6);
    }

    on_devices!(value_and_gradients_match_the_composition, a_16_bit_branch_is_added_in_f32);
}
