//! Burn's sums and expansions with another order of additions on GPUs, one that the shape alone decides.
//!
//! On CUDA, Burn times several kernels for each sum of its own and takes the fastest; most kernels for a sum of all
//! values add by atomics. Two runs of one program may then differ in bits, and so may two ranks. The gradient of an
//! expanded tensor is such a sum as well. On the CPU, sums and expansions with their gradients have the bits of Burn's
//! operations.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata as _, backend_extension};
use burn::tensor::{Shape, Tensor};

use super::columns::ColumnSums;

/// Sums all values of `x`, in f32 or f64.
#[must_use]
pub fn sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as FixedOrder>::sum_of_all(x.into_dispatch()))
}

/// Mean of all values of `x`, in f32 or f64.
#[must_use]
pub fn mean<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let count = x.shape().num_elements();
    sum(x).div_scalar(count as f64)
}

/// Repeats `x`, in f32 or f64, along leading axes of length 1, so that it has `shape`.
///
/// # Panics
/// If an axis behind the first one that is longer than 1 has another length in `shape`.
#[must_use]
pub fn expand<const D: usize>(x: Tensor<D>, shape: [usize; D]) -> Tensor<D> {
    let axes = || x.dims().into_iter().zip(shape);
    let kept = axes().skip_while(|&(length, _)| length == 1);
    assert!(kept.clone().all(|(length, wanted)| length == wanted), "{:?} cannot be expanded to {shape:?}", x.dims());
    Tensor::from_dispatch(<Dispatch as FixedOrder>::expand_leading(x.into_dispatch(), Shape::from(shape)))
}

/// Differentiable operations, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait FixedOrder: Backend {
    /// Sums all values of `x`: `[1]`.
    fn sum_of_all(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Repeats `x` along leading axes of length 1, so that it has `shape`.
    fn expand_leading(x: FloatTensor<Self>, shape: Shape) -> FloatTensor<Self>;
}

/// Operations without a derivative.
impl<B: ColumnSums> FixedOrder for B {
    fn sum_of_all(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::total(x)
    }

    fn expand_leading(x: FloatTensor<Self>, shape: Shape) -> FloatTensor<Self> {
        Self::float_expand(x, shape)
    }
}

/// Derivative of an operation. Its state is the shape of the input.
#[derive(Clone, Copy, Debug)]
enum Derivative {
    OfSum,
    OfExpansion,
}

impl<B: ColumnSums> Backward<B, 1> for Derivative {
    type State = Shape;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            let shape = ops.state;
            let dx = match self {
                Self::OfSum => B::float_expand(B::float_reshape(dy, Shape::from(vec![1; shape.num_dims()])), shape),
                Self::OfExpansion => B::leading_sums(dy, shape),
            };
            grads.register::<B>(node.id, dx);
        }
    }
}

impl Derivative {
    /// Applies `operation`, whose derivative this is.
    fn of<B: ColumnSums, C: CheckpointStrategy>(
        self,
        x: FloatTensor<Autodiff<B, C>>,
        operation: impl FnOnce(FloatTensor<B>) -> FloatTensor<B>,
    ) -> FloatTensor<Autodiff<B, C>> {
        let nodes = [x.node()];
        let x = x.into_primitive();
        match Backward::<B, 1>::prepare::<C>(self, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(x.shape(), operation(x)),
            OpsKind::UnTracked(prepared) => prepared.finish(operation(x)),
        }
    }
}

impl<B: ColumnSums, C: CheckpointStrategy> FixedOrder for Autodiff<B, C> {
    fn sum_of_all(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Derivative::OfSum.of::<B, C>(x, B::total)
    }

    fn expand_leading(x: FloatTensor<Self>, shape: Shape) -> FloatTensor<Self> {
        Derivative::OfExpansion.of::<B, C>(x, |x| B::float_expand(x, shape))
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{Outcome, on_devices, values_and_gradients, wave};
    use burn::tensor::Device;

    /// Shapes with few and many values: one column, an odd number, and several columns of several groups.
    const SHAPES: [[usize; 3]; 4] = [[1, 1, 1], [3, 7, 37], [1, 131_073, 1], [5, 300, 528]];

    /// Tolerance of a comparison with Burn on the CPU: no difference there, and on a device the rounding of a sum of up
    /// to 792,000 values of either sign.
    fn tolerance(device: &Device) -> f32 {
        if *device == Device::flex() { 0.0 } else { 1e-4 }
    }

    /// Sum three times, since the first value of a wave is 0, and its gradient.
    fn of_sum(device: &Device, shape: [usize; 3], sum: fn(Tensor<3>) -> Tensor<1>) -> Outcome {
        values_and_gradients(device, &[wave(shape, 0.7, 1.0)], |[x]| {
            // Shifted, so that the sum does not cancel.
            let sum = sum(x + 0.3).reshape([1, 1, 1]);
            Tensor::cat(vec![sum.clone(), sum.clone(), sum], 2)
        })
    }

    fn of_expansion(
        device: &Device,
        shape: [usize; 3],
        wanted: [usize; 3],
        expand: fn(Tensor<3>, [usize; 3]) -> Tensor<3>,
    ) -> Outcome {
        values_and_gradients(device, &[wave(shape, 0.7, 1.0)], |[x]| expand(x, wanted).square())
    }

    fn values_and_gradients_are_those_of_burn(device: &Device) {
        for shape in SHAPES {
            let burns = of_sum(&Device::flex(), shape, Tensor::sum);
            of_sum(device, shape, sum).assert_close(&burns, tolerance(device));
            let burns = of_sum(&Device::flex(), shape, Tensor::mean);
            of_sum(device, shape, mean).assert_close(&burns, tolerance(device).max(1e-6));
        }
        for (shape, wanted) in [
            ([1, 1, 96], [5, 1, 96]),
            ([1, 1, 37], [5, 40, 37]),
            ([1, 9, 48], [5, 9, 48]),
            ([3, 4, 5], [3, 4, 5]),
            ([1, 1, 14], [2, 80_000, 14]),
        ] {
            let ours = of_expansion(device, shape, wanted, expand);
            let burns = of_expansion(&Device::flex(), shape, wanted, Tensor::expand);
            ours.assert_close(&burns, tolerance(device));
        }
    }

    fn the_same_input_gives_the_same_bits(device: &Device) {
        let total = || of_sum(device, SHAPES[3], sum);
        total().assert_close(&total(), 0.0);
        let expansion = || of_expansion(device, [1, 1, 37], [50, 400, 37], expand);
        expansion().assert_close(&expansion(), 0.0);
    }

    on_devices!(values_and_gradients_are_those_of_burn, the_same_input_gives_the_same_bits);

    #[cfg(test)]
    #[test]
    #[should_panic(expected = "[2, 1, 3] cannot be expanded to [2, 4, 3]")]
    fn an_axis_in_the_middle_is_not_expanded() {
        drop(expand(Tensor::<3>::zeros([2, 1, 3], &Device::flex()), [2, 4, 3]));
    }
}
