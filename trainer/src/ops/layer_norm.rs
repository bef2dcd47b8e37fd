//! Layer norm (Ba, Kiros and Hinton, arXiv 1607.06450) over the last axis, in full precision, with one derivative.
//!
//! With `x̂ = (x - mean) · rstd`: `dx = rstd · (g - mean(g) - x̂ · mean(g · x̂))` for `g = gamma · dy`,
//! `dgamma = sum(dy · x̂)` and `dbeta = sum(dy)` over all rows. Only `x` and each row's mean and `rstd` are kept.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{FloatDType, Shape, Tensor};

use super::{cast, widened};

/// Rows `[.., W]` of `x` normalised, times `gamma` `[W]`, plus `beta` `[W]`, with the result in `dtype`.
#[must_use]
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    dtype: FloatDType,
) -> Tensor<D> {
    let [gamma, beta] = [gamma, beta].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as RowNorm>::row_norm(x.into_dispatch(), gamma, beta, epsilon, dtype))
}

/// The operation for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait RowNorm: Backend {
    /// Normalised rows `[.., W]`, times `gamma` `[W]`, plus `beta` `[W]`, in `dtype`.
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        cast::<Self>(Self::layer_norm(x, gamma, Some(beta), epsilon), dtype)
    }

    /// The gradients of `x`, `gamma` and `beta`.
    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1];
        let rows = [shape.num_elements() / width, width];
        let x = Self::float_reshape(x, Shape::from(rows));
        let dy = Self::float_reshape(widened::<Self>(dy), Shape::from(rows));
        let centred = Self::float_sub(x.clone(), Self::float_mean_dim(x, 1));
        let variance = Self::float_mean_dim(Self::float_mul(centred.clone(), centred.clone()), 1);
        let rstd = Self::float_recip(Self::float_sqrt(Self::float_add_scalar(variance, epsilon.into())));
        let normal = Self::float_mul(centred, rstd.clone());
        let vector = |sums: FloatTensor<Self>| Self::float_reshape(sums, Shape::from([width]));
        let dgamma = vector(Self::float_sum_dim(Self::float_mul(dy.clone(), normal.clone()), 0));
        let dbeta = vector(Self::float_sum_dim(dy.clone(), 0));
        let g = Self::float_mul(dy, Self::float_reshape(gamma, Shape::from([1, width])));
        let along = Self::float_mean_dim(Self::float_mul(g.clone(), normal.clone()), 1);
        let mean = Self::float_mean_dim(g.clone(), 1);
        let dx = Self::float_sub(Self::float_sub(g, mean), Self::float_mul(normal, along));
        (Self::float_reshape(Self::float_mul(dx, rstd), shape), dgamma, dbeta)
    }
}

impl RowNorm for Flex {}

#[cfg(feature = "cube")]
impl RowNorm for burn::backend::Cube {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        super::kernels::layer_norm::forward(x, gamma, beta, epsilon, dtype)
    }

    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        super::kernels::layer_norm::backward(x, gamma, dy, epsilon)
    }
}

impl<B: RowNorm, C: CheckpointStrategy> RowNorm for Autodiff<B, C> {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: RowNorm> Backward<B, 3> for Derivative {
            type State = (FloatTensor<B>, FloatTensor<B>, f64);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let (x, gamma, epsilon) = ops.state;
                let (dx, dgamma, dbeta) = B::row_norm_backward(x, gamma, dy, epsilon);
                for (parent, grad) in ops.parents.into_iter().zip([dx, dgamma, dbeta]) {
                    if let Some(node) = parent {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }

        let nodes = [x.node(), gamma.node(), beta.node()];
        let (x, gamma, beta) = (x.into_primitive(), gamma.into_primitive(), beta.into_primitive());
        match Derivative.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::row_norm(x.clone(), gamma.clone(), beta, epsilon, dtype);
                prepared.finish((x, gamma, epsilon), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::row_norm(x, gamma, beta, epsilon, dtype)),
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
            for (rows, width) in [(6, 37), (3, 528), (70, 96)] {
                let tensors =
                    [wave([2, rows, width], 0.7, 5.0), wave([1, 1, width], 1.3, 1.0), wave([1, 1, width], 0.9, 2.0)];
                let ours = values_and_gradients(&device, &tensors, |[x, gamma, beta]| {
                    let (gamma, beta) = (gamma.reshape([width]), beta.reshape([width]));
                    layer_norm(x, gamma, beta, 1e-5, FloatDType::F32)
                });
                let composed = values_and_gradients(&device, &tensors, |[x, gamma, beta]| {
                    let centred = x.clone() - x.mean_dim(2);
                    let variance = centred.clone().square().mean_dim(2);
                    centred / (variance + 1e-5).sqrt() * gamma + beta
                });
                ours.assert_close(&composed, 3e-6);
            }
        }
    }

    #[test]
    fn a_result_of_sixteen_bits_is_the_rounded_one() {
        for device in devices() {
            let short = short_of(&device);
            let tensors = [wave([2, 70, 96], 0.7, 5.0), wave([1, 1, 96], 1.3, 1.0), wave([1, 1, 96], 0.9, 2.0)];
            let norm = |dtype| {
                values_and_gradients(&device, &tensors, |[x, gamma, beta]| {
                    layer_norm(x, gamma.reshape([96]), beta.reshape([96]), 1e-5, dtype).cast(FloatDType::F32)
                })
            };
            norm(short).assert_close(&norm(FloatDType::F32), 0.01);
        }
    }
}
