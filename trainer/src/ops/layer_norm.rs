//! Layer norm (Ba, Kiros and Hinton, arXiv 1607.06450) over the last axis, in f32, as one operation with one derivative.
//!
//! With `x̂ = (x - mean) · rstd`: `dx = rstd · (g - mean(g) - x̂ · mean(g · x̂))` for `g = gamma · dy`,
//! `dgamma = sum(dy · x̂)` and `dbeta = sum(dy)` over all rows. Only `x` and `gamma` are kept for the way back.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{FloatDType, Shape, Tensor};

use super::junction::Junction;
use super::primitive::{cast, widened};

/// The rows `[.., W]` of `x` normalized, times `gamma` `[W]`, plus `beta` `[W]`, in `dtype`.
#[must_use]
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    dtype: FloatDType,
) -> Tensor<D> {
    layer_norm_at(x, gamma, beta, epsilon, dtype, Junction::default())
}

/// [`layer_norm`]; on the way back the gradient that waits at `junction` is added to that of `x`.
pub(super) fn layer_norm_at<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
    dtype: FloatDType,
    junction: Junction,
) -> Tensor<D> {
    let [gamma, beta] = [gamma, beta].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as RowNorm>::row_norm(x.into_dispatch(), gamma, beta, epsilon, dtype, junction))
}

/// Layer norm, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait RowNorm: Backend {
    /// Normalized rows `[.., W]`, times `gamma` `[W]`, plus `beta` `[W]`, in `dtype`. The `junction` is of use to the
    /// derivative alone.
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        dtype: FloatDType,
        junction: Junction,
    ) -> FloatTensor<Self> {
        let _ = junction;
        cast::<Self>(Self::layer_norm(x, gamma, Some(beta), epsilon), dtype)
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
        _: Junction,
    ) -> FloatTensor<Self> {
        super::kernels::layer_norm::forward(x, gamma, beta, epsilon, dtype)
    }
}

/// Gradients of the layer norm, for each backend.
pub trait RowNormBackward: Backend {
    /// Gradients of `x`, to which `other` is added, of `gamma` and of `beta`.
    #[must_use]
    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        other: Option<FloatTensor<Self>>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1];
        let rows = [shape.num_elements() / width, width];
        let x = Self::float_reshape(x, Shape::from(rows));
        let dy = Self::float_reshape(widened::<Self>(dy), Shape::from(rows));
        let centered = Self::float_sub(x.clone(), Self::float_mean_dim(x, 1));
        let variance = Self::float_mean_dim(Self::float_mul(centered.clone(), centered.clone()), 1);
        let rstd = Self::float_recip(Self::float_sqrt(Self::float_add_scalar(variance, epsilon.into())));
        let normal = Self::float_mul(centered, rstd.clone());
        let vector = |sums: FloatTensor<Self>| Self::float_reshape(sums, Shape::from([width]));
        let dgamma = vector(Self::float_sum_dim(Self::float_mul(dy.clone(), normal.clone()), 0));
        let dbeta = vector(Self::float_sum_dim(dy.clone(), 0));
        let g = Self::float_mul(dy, Self::float_reshape(gamma, Shape::from([1, width])));
        let along = Self::float_mean_dim(Self::float_mul(g.clone(), normal.clone()), 1);
        let mean = Self::float_mean_dim(g.clone(), 1);
        let dx = Self::float_sub(Self::float_sub(g, mean), Self::float_mul(normal, along));
        let dx = Self::float_reshape(Self::float_mul(dx, rstd), shape);
        let dx = if let Some(other) = other { Self::float_add(dx, other) } else { dx };
        (dx, dgamma, dbeta)
    }
}

impl RowNormBackward for Flex {}

#[cfg(feature = "cube")]
impl RowNormBackward for burn::backend::Cube {
    fn row_norm_backward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        other: Option<FloatTensor<Self>>,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        super::kernels::layer_norm::backward(x, gamma, dy, other, epsilon)
    }
}

impl<B: RowNorm + RowNormBackward, C: CheckpointStrategy> RowNorm for Autodiff<B, C> {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
        dtype: FloatDType,
        junction: Junction,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: RowNormBackward> Backward<B, 3> for Derivative {
            type State = (FloatTensor<B>, FloatTensor<B>, f64, Junction);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let (x, gamma, epsilon, junction) = ops.state;
                let other = junction.collect::<B>();
                let (dx, dgamma, dbeta) = B::row_norm_backward(x, gamma, dy, other, epsilon);
                for (parent, grad) in ops.parents.into_iter().zip([dx, dgamma, dbeta]) {
                    if let Some(node) = parent {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }

        let nodes = [x.node(), gamma.node(), beta.node()];
        let (x, gamma, beta) = (x.into_primitive(), gamma.into_primitive(), beta.into_primitive());
        match Backward::<B, 3>::prepare::<C>(Derivative, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::row_norm(x.clone(), gamma.clone(), beta, epsilon, dtype, junction.clone());
                prepared.finish((x, gamma, epsilon, junction), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::row_norm(x, gamma, beta, epsilon, dtype, junction)),
        }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(
    not(test),
    allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "a test module all the same")
)]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{on_devices, short_of, values_and_gradients, wave};
    use burn::tensor::Device;

    fn value_and_gradients_match_the_composition(device: &Device) {
        for (rows, width) in [(6, 37), (3, 528), (70, 96)] {
            let tensors =
                [wave([2, rows, width], 0.7, 5.0), wave([1, 1, width], 1.3, 1.0), wave([1, 1, width], 0.9, 2.0)];
            let ours = values_and_gradients(device, &tensors, |[x, gamma, beta]| {
                let (gamma, beta) = (gamma.reshape([width]), beta.reshape([width]));
                layer_norm(x, gamma, beta, 1e-5, FloatDType::F32)
            });
            let composed = values_and_gradients(device, &tensors, |[x, gamma, beta]| {
                let centered = x.clone() - x.mean_dim(2);
                let variance = centered.clone().square().mean_dim(2);
                centered / (variance + 1e-5).sqrt() * gamma + beta
            });
            ours.assert_close(&composed, 3e-6);
        }
    }

    fn a_16_bit_result_is_the_rounded_f32_result(device: &Device) {
        let short = short_of(device);
        let tensors = [wave([2, 70, 96], 0.7, 5.0), wave([1, 1, 96], 1.3, 1.0), wave([1, 1, 96], 0.9, 2.0)];
        let norm = |dtype| {
            values_and_gradients(device, &tensors, |[x, gamma, beta]| {
                layer_norm(x, gamma.reshape([96]), beta.reshape([96]), 1e-5, dtype).cast(FloatDType::F32)
            })
        };
        norm(short).assert_close(&norm(FloatDType::F32), 0.01);
    }

    on_devices!(value_and_gradients_match_the_composition, a_16_bit_result_is_the_rounded_f32_result);
}
