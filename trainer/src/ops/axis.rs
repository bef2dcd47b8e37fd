//! One matrix times each of many, in full 32 bits: a linear map of an axis other than the last, which leaves the order of
//! values in memory as it is. A product with the axis last would transpose a volume before and after.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{Shape, Tensor};

/// Largest number of matrices in one product: a device's grid of cubes has 65,535 along the axis that counts them.
const MOST_MATRICES: usize = 1 << 15;

/// Computes `matrix` `[R, K]` times each matrix of `x` `[B, K, C]` → `[B, R, C]`, all of one number type. Gradients flow to `x`
/// only.
#[must_use]
pub fn along_axis(matrix: Tensor<2>, x: Tensor<3>) -> Tensor<3> {
    let product = |x: Tensor<3>| {
        let (matrix, x) = (matrix.clone().into_dispatch(), x.into_dispatch());
        Tensor::from_dispatch(<Dispatch as AxisProduct>::along_axis(matrix, x))
    };
    let [batch, ..] = x.dims();
    if batch <= MOST_MATRICES {
        return product(x);
    }
    let parts = (0..batch).step_by(MOST_MATRICES);
    Tensor::cat(parts.map(|first| product(x.clone().narrow(0, first, MOST_MATRICES.min(batch - first)))).collect(), 0)
}

/// Differentiable product, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait AxisProduct: Backend {
    /// Multiplies one matrix with each of many; see the function [`along_axis`].
    fn along_axis(matrix: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Computes the product with the backend's own operation.
fn composed<B: Backend>(matrix: FloatTensor<B>, x: FloatTensor<B>) -> FloatTensor<B> {
    let [rows, inner] = matrix.shape().dims();
    B::float_matmul(B::float_reshape(matrix, Shape::from([1, rows, inner])), x)
}

impl AxisProduct for Flex {
    fn along_axis(matrix: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        composed::<Self>(matrix, x)
    }
}

#[cfg(feature = "cube")]
impl AxisProduct for burn::backend::Cube {
    fn along_axis(matrix: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if let Some(y) = super::product::cuda::along_axis(&matrix, &x) {
            return y;
        }
        composed::<Self>(matrix, x)
    }
}

impl<B: AxisProduct, C: CheckpointStrategy> AxisProduct for Autodiff<B, C> {
    fn along_axis(matrix: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Derivative;

        impl<B: AxisProduct> Backward<B, 1> for Derivative {
            type State = FloatTensor<B>;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let dy = grads.consume::<B>(&ops.node);
                let transposed = B::float_swap_dims(ops.state, 0, 1);
                let [parent] = ops.parents;
                if let Some(node) = parent {
                    grads.register::<B>(node.id, B::along_axis(transposed, dy));
                }
            }
        }

        let nodes = [x.node()];
        let (matrix, x) = (matrix.into_primitive(), x.into_primitive());
        match Derivative.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let y = B::along_axis(matrix.clone(), x);
                prepared.finish(matrix, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::along_axis(matrix, x)),
        }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{on_devices, values_and_gradients, wave};
    use burn::tensor::Device;

    fn values_and_gradients_are_those_of_a_product_with_the_axis_last(device: &Device) {
        // One matrix, a few, and more than one product takes.
        for [batch, inner, columns, rows] in [[1, 5, 7, 3], [6, 4, 9, 11], [MOST_MATRICES + 3, 2, 3, 4]] {
            let matrix = |device: &Device| {
                Tensor::<3>::from_data(wave([1, rows, inner], 0.3, 1.0), device).reshape([rows, inner])
            };
            let inputs = [wave([batch, inner, columns], 0.7, 1.0)];
            let ours = values_and_gradients(device, &inputs, |[x]| along_axis(matrix(device), x));
            let expected = values_and_gradients(&Device::flex(), &inputs, |[x]| {
                let matrix = matrix(&Device::flex()).transpose();
                x.swap_dims(1, 2).matmul(matrix.unsqueeze_dim::<3>(0).repeat_dim(0, batch)).swap_dims(1, 2)
            });
            // Burn's kernels on a GPU round both factors to TF32, 10 bits of fraction.
            ours.assert_close(&expected, if *device == Device::flex() { 1e-5 } else { 2e-3 });
        }
    }

    on_devices!(values_and_gradients_are_those_of_a_product_with_the_axis_last);
}
