//! Operations made of functions on slices, for the CPU in f32, each with one derivative.
//!
//! Tensors are read in place. Only a tensor whose values are not in the order of its axes is copied first.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, DispatchDevice, Flex};
use burn::tensor::{DType, Shape, Tensor, TensorData};

/// A tensor of the CPU backend.
pub(super) type CpuTensor = FloatTensor<Flex>;

/// Returns true if `x` is on the CPU and in f32.
pub(super) fn is_on_cpu<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_)) && x.dtype() == DType::F32
}

/// A function of `N` tensors with its gradients.
pub(super) trait CpuOperation<const N: usize>: Clone + Debug + Send + 'static {
    /// Tensors that the gradients need.
    type Saved: Clone + Debug + Send + 'static;

    /// Computes the result, and the values that the gradients of the `tracked` inputs need.
    fn forward(self, inputs: [CpuTensor; N], tracked: [bool; N]) -> (CpuTensor, Self::Saved);

    /// Computes the gradients of the `wanted` inputs, given the gradient `dy` of the result.
    fn backward(self, saved: Self::Saved, dy: CpuTensor, wanted: [bool; N]) -> [Option<CpuTensor>; N];
}

/// An input of an operation, with or without autodiff.
#[derive(Debug)]
pub(super) enum Operand {
    Plain(CpuTensor),
    Graph(FloatTensor<Autodiff<Flex>>),
}

impl Operand {
    /// # Panics
    /// If the tensor is not on the CPU.
    pub(super) fn of<const D: usize>(x: Tensor<D>) -> Self {
        const KNOWN: &str = "the backend was matched";
        if x.is_autodiff() {
            Self::Graph(x.try_into_primitive::<Autodiff<Flex>>().expect(KNOWN))
        } else {
            Self::Plain(x.try_into_primitive::<Flex>().expect(KNOWN))
        }
    }
}

/// Applies an operation, as one node of the graph if an input has one.
#[expect(clippy::redundant_closure_for_method_calls, reason = "the tensors' type has no public name")]
pub(super) fn apply<const N: usize, const D: usize, O: CpuOperation<N>>(
    operation: O,
    inputs: [Operand; N],
) -> Tensor<D> {
    if inputs.iter().all(|input| matches!(input, Operand::Plain(_))) {
        let inputs = inputs.map(|input| match input {
            Operand::Plain(x) => x,
            Operand::Graph(x) => x.into_primitive(),
        });
        return Tensor::from_primitive::<Flex>(operation.forward(inputs, [false; N]).0);
    }
    let inputs = inputs.map(|input| match input {
        Operand::Plain(x) => Autodiff::<Flex>::from_inner(x),
        Operand::Graph(x) => x,
    });
    let tracked = inputs.each_ref().map(|input| input.is_tracked());
    let nodes = inputs.each_ref().map(|input| input.node());
    let inputs = inputs.map(|input| input.into_primitive());
    let derivative = Derivative(operation.clone());
    let y = match Backward::<Flex, N>::prepare::<NoCheckpointing>(derivative, nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let (y, saved) = operation.forward(inputs, tracked);
            prepared.finish(saved, y)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(operation.forward(inputs, tracked).0),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(y)
}

/// Gradients of an operation, as a node of the backward pass.
#[derive(Debug)]
struct Derivative<O>(O);

impl<const N: usize, O: CpuOperation<N>> Backward<Flex, N> for Derivative<O> {
    type State = O::Saved;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = in_order(grads.consume::<Flex>(&ops.node));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        for (parent, gradient) in ops.parents.into_iter().zip(self.0.backward(ops.state, dy, wanted)) {
            if let (Some(node), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// Returns `x` with its values in the order of its axes, copied only if necessary.
pub(super) fn in_order(x: CpuTensor) -> CpuTensor {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// Values of a tensor returned by [`in_order`].
///
/// # Panics
/// If it did not, or is not in f32.
pub(super) fn values(x: &CpuTensor) -> &[f32] {
    x.as_slice().expect("an f32 tensor in order")
}

/// Wraps `values` in a tensor, without a copy.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> CpuTensor {
    CpuTensor::from_data(TensorData::new(values, shape))
}
