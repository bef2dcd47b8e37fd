//! Activation checkpointing (Chen et al., arXiv 1604.06174, section 4): only the inputs of a block are kept for the
//! backward pass, in which the block is recomputed. It takes a third more computation and saves the memory of all inner
//! tensors.
//!
//! To the graph around it the block is one operation. In the backward pass the block runs again in a graph of its own,
//! from inputs that are leaves there; its parameters are leaves of both graphs, and their gradients are moved to the
//! outer one. A block contains no random numbers, so the second run gives the same bits.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, DispatchDevice, DispatchKindConversion, DispatchTensor, Flex, TensorMetadata as _,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Shape, Tensor};

use super::primitive::dtype_of;

/// Part of a model whose result depends only on its inputs and parameters.
pub trait Recompute<const N: usize>: Module + 'static {
    /// Computes the result of the block.
    fn run(&self, inputs: [Tensor<3>; N]) -> Tensor<3>;
}

/// Computes the result of `block` on `inputs`, keeping only the inputs for the backward pass. Runs the block unchanged
/// if no input is tracked.
#[must_use]
pub fn recomputed<const N: usize, M: Recompute<N>>(block: &M, inputs: [Tensor<3>; N]) -> Tensor<3> {
    if !inputs.iter().any(Tensor::is_tracked) {
        return block.run(inputs);
    }
    match inputs[0].device().inner().as_dispatch() {
        DispatchDevice::Flex(_) => on::<Flex, N, M>(block, inputs),
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => on::<burn::backend::Cube, N, M>(block, inputs),
        _ => block.run(inputs),
    }
}

/// Conversion of a backend's tensors, with and without autodiff, to those of the dispatcher.
pub(super) trait Converts<B: Backend>: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>> {}

impl<B: Backend, T: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>> Converts<B> for T {}

pub(super) const KNOWN: &str = "the backend was matched";

#[expect(clippy::redundant_closure_for_method_calls, reason = "the tensors' type has no public name")]
fn on<B: Backend, const N: usize, M: Recompute<N>>(block: &M, inputs: [Tensor<3>; N]) -> Tensor<3>
where
    DispatchTensor: Converts<B>,
{
    // A constant input may be on the device without autodiff.
    let inputs = inputs.map(|input| if input.is_autodiff() { input } else { Tensor::from_inner(input) });
    let inputs = inputs.map(|input| input.try_into_primitive::<Autodiff<B>>().expect(KNOWN));
    let nodes = inputs.each_ref().map(|input| input.node());
    let inputs = inputs.map(|input| input.into_primitive());
    let without_graph = |inputs: [FloatTensor<B>; N]| {
        let y = block.valid().run(inputs.map(Tensor::from_primitive::<B>));
        y.try_into_primitive::<B>().expect(KNOWN)
    };
    let again = Again { block: block.clone() };
    let y = match Backward::<B, N>::prepare::<NoCheckpointing>(again, nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => {
            let y = without_graph(inputs.clone());
            prepared.finish(inputs, y)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(without_graph(inputs)),
    };
    Tensor::from_primitive::<Autodiff<B>>(y)
}

/// The block as in the forward pass; its tensors are shared, not copied.
struct Again<M> {
    block: M,
}

impl<M> std::fmt::Debug for Again<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Again")
    }
}

impl<B: Backend, const N: usize, M: Recompute<N>> Backward<B, N> for Again<M>
where
    DispatchTensor: Converts<B>,
{
    type State = [FloatTensor<B>; N];

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let inputs = ops.state.map(|input| Tensor::<3>::from_inner(Tensor::from_primitive::<B>(input)).require_grad());
        let y = self.block.run(inputs.clone()).try_into_primitive::<Autodiff<B>>().expect(KNOWN);
        let mut inner = Tensor::<1>::from_primitive::<Autodiff<B>>(root_of::<B>(y, dy)).backward();
        for (input, parent) in inputs.into_iter().zip(ops.parents) {
            if let (Some(node), Some(grad)) = (parent, input.grad_remove(&mut inner)) {
                grads.register::<B>(node.id, grad.try_into_primitive::<B>().expect(KNOWN));
            }
        }
        self.block.visit(&mut Parameters::<B> { inner: &mut inner, outer: grads, backend: std::marker::PhantomData });
    }
}

/// Tensor `[1]` from which a backward pass starts whose derivative with respect to `y` is `dy`. The sum of `y · dy`
/// would do the same with two more memory passes in each direction.
fn root_of<B: Backend>(y: FloatTensor<Autodiff<B>>, dy: FloatTensor<B>) -> FloatTensor<Autodiff<B>> {
    #[derive(Debug)]
    struct Root;

    impl<B: Backend> Backward<B, 1> for Root {
        type State = FloatTensor<B>;

        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            grads.consume::<B>(&ops.node);
            if let [Some(node)] = ops.parents {
                grads.register::<B>(node.id, ops.state);
            }
        }
    }

    let value = B::float_zeros(Shape::from([1]), &dy.device(), dtype_of::<B>(&dy));
    match Backward::<B, 1>::prepare::<NoCheckpointing>(Root, [y.node()]).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(dy, value),
        OpsKind::UnTracked(prepared) => prepared.finish(value),
    }
}

/// Moves the gradients of a block's parameters from the inner graph to the outer one.
struct Parameters<'a, B> {
    inner: &'a mut burn::tensor::Gradients,
    outer: &'a mut Gradients,
    backend: std::marker::PhantomData<B>,
}

impl<B: Backend> ModuleVisitor for Parameters<'_, B>
where
    DispatchTensor: Converts<B>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if let Some(grad) = value.grad_remove(self.inner) {
            let node: NodeId = value.try_into_primitive::<Autodiff<B>>().expect(KNOWN).node().id();
            self.outer.register::<B>(node, grad.try_into_primitive::<B>().expect(KNOWN));
        }
    }
}
