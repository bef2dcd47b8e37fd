//! Softmax that keeps only its output for the backward pass.
//!
//! Burn's autodiff takes softmax apart into five tracked operations, each of which keeps a tensor of the size of the
//! attention matrix and costs passes over it in both directions. The derivative needs the output alone:
//! `dx = y · (dy - sum(dy · y))`.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;

/// Softmax over the last axis.
#[must_use]
pub fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as LastSoftmax>::last_softmax(x.into_dispatch(), D - 1))
}

/// The operation for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub trait LastSoftmax: Backend {
    /// Softmax over `last`, the last axis.
    fn last_softmax(x: FloatTensor<Self>, last: usize) -> FloatTensor<Self> {
        Self::softmax(x, last)
    }
}

impl LastSoftmax for Flex {}

#[cfg(feature = "cuda")]
impl LastSoftmax for burn::backend::Cube {}

impl<B: LastSoftmax, C: CheckpointStrategy> LastSoftmax for Autodiff<B, C> {
    fn last_softmax(x: FloatTensor<Self>, last: usize) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: Backend> Backward<B, 1> for Derivative {
            type State = (FloatTensor<B>, usize);

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let [parent] = ops.parents;
                let dy = grads.consume::<B>(&ops.node);
                let (y, last) = ops.state;
                if let Some(node) = parent {
                    let common = B::float_sum_dim(B::float_mul(dy.clone(), y.clone()), last);
                    grads.register::<B>(node.id, B::float_mul(B::float_sub(dy, common), y));
                }
            }
        }

        match Derivative.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::last_softmax(x.into_primitive(), last);
                prepared.finish((y.clone(), last), y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::last_softmax(x.into_primitive(), last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData, activation};

    #[test]
    fn value_and_gradient_are_those_of_the_composition() {
        let device = Device::flex().autodiff();
        let values: Vec<f32> = (0..2 * 3 * 37).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
        let weights: Vec<f32> = (0..2 * 3 * 37).map(|i| (i as f32 * 1.3).cos()).collect();
        let run = |f: fn(Tensor<3>) -> Tensor<3>| -> (Vec<f32>, Vec<f32>) {
            let x = Tensor::<3>::from_data(TensorData::new(values.clone(), [2, 3, 37]), &device).require_grad();
            let w = Tensor::<3>::from_data(TensorData::new(weights.clone(), [2, 3, 37]), &device);
            let y = f(x.clone());
            let grads = (y.clone() * w).sum().backward();
            let host = |t: Tensor<3>| t.into_data().try_to_vec().unwrap();
            (host(y.inner()), host(x.grad(&grads).unwrap()))
        };
        let (ours, composed) = (run(softmax), run(|x| activation::softmax(x, 2)));
        for (a, b) in ours.0.iter().zip(&composed.0).chain(ours.1.iter().zip(&composed.1)) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}
