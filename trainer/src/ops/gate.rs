//! Gates, which take the gradients of a block during the backward pass, as soon as they are final.
//!
//! Burn runs the steps of a backward pass by their depth in the graph, deepest first. A block behind a gate reads its input
//! through the gate, so that all its operations are deeper: when the gate's step runs, nothing more is added to the
//! gradients of the block's parameters. The gate then takes them out of the pass and hands them on, while Burn continues
//! with the blocks before it.
//!
//! A gate passes tokens and their gradient unchanged. It is part of every training graph, whether or not the gradients
//! are taken, so that Burn always adds gradients in the same order.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Backend, DispatchDevice, DispatchTensor, Flex};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use super::recompute::{Converts, KNOWN};

/// Final gradients of a block's trained parameters, flat, in the order in which the block visits its parameters.
pub type Final = Vec<(ParamId, Tensor<1>)>;

/// Function that takes the gradients of one block.
type Taker = Box<dyn FnMut(Final) + Send>;

/// Gates of a model's blocks, open while their gradients are taken. Clones share them.
#[derive(Clone, Default)]
pub struct Gates(Arc<Mutex<Option<Taker>>>);

impl Gates {
    /// Passes the gradients of blocks to `take`, in passes whose forward part begins after this call.
    ///
    /// If some parameter of a block has no gradient yet when its gate is reached, all gradients of the block stay until
    /// the end of the pass: a cast of a weight, for example, has its step at the end.
    pub fn open(&self, take: impl FnMut(Final) + Send + 'static) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(take));
    }

    /// Leaves all gradients to the pass, and drops the function that took them.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn is_open(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn give(&self, gradients: Final) {
        if let Some(take) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            take(gradients);
        }
    }

    /// Returns the input `x` `[N, L, W]` of `block`. All of the block's operations must depend on the result.
    #[must_use]
    pub fn pass<M: Module + 'static>(&self, block: &M, x: Tensor<3>) -> Tensor<3> {
        if !x.is_tracked() {
            return x;
        }
        match x.device().inner().as_dispatch() {
            DispatchDevice::Flex(_) => on::<Flex, M>(self, block, x),
            #[cfg(feature = "cube")]
            DispatchDevice::Cube(_) => on::<burn::backend::Cube, M>(self, block, x),
            _ => x,
        }
    }
}

impl fmt::Debug for Gates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gates")
    }
}

fn on<B: Backend, M: Module + 'static>(gates: &Gates, block: &M, x: Tensor<3>) -> Tensor<3>
where
    DispatchTensor: Converts<B>,
{
    let x = x.try_into_primitive::<Autodiff<B>>().expect(KNOWN);
    let nodes = [x.node()];
    let x = x.into_primitive();
    let gate = Gate { block: gates.is_open().then(|| (block.clone(), gates.clone())) };
    let y = match Backward::<B, 1>::prepare::<NoCheckpointing>(gate, nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish((), x),
        OpsKind::UnTracked(prepared) => prepared.finish(x),
    };
    Tensor::from_primitive::<Autodiff<B>>(y)
}

/// One passage through a gate: the block as in the forward pass, if its gradients are to be taken. Its tensors are
/// shared, not copied.
struct Gate<M> {
    block: Option<(M, Gates)>,
}

impl<M> fmt::Debug for Gate<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl<B: Backend, M: Module + 'static> Backward<B, 1> for Gate<M>
where
    DispatchTensor: Converts<B>,
{
    type State = ();

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        if let Some((block, gates)) = self.block {
            let mut complete = Complete::<B> { grads, all: true, backend: PhantomData };
            block.visit(&mut complete);
            if complete.all {
                let mut taken = Taken::<B> { grads, gradients: vec![], backend: PhantomData };
                block.visit(&mut taken);
                gates.give(taken.gradients);
            }
        }
        let dy = grads.consume::<B>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, dy);
        }
    }
}

/// Visitor that checks that each trained parameter of a block has a gradient.
struct Complete<'a, B> {
    grads: &'a Gradients,
    all: bool,
    backend: PhantomData<B>,
}

impl<B: Backend> ModuleVisitor for Complete<'_, B>
where
    DispatchTensor: Converts<B>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            let value = param.val().try_into_primitive::<Autodiff<B>>().expect(KNOWN);
            self.all &= self.grads.get::<B>(&value).is_some();
        }
    }
}

/// Visitor that takes the gradients of a block's trained parameters out of the pass.
struct Taken<'a, B> {
    grads: &'a mut Gradients,
    gradients: Final,
    backend: PhantomData<B>,
}

impl<B: Backend> ModuleVisitor for Taken<'_, B>
where
    DispatchTensor: Converts<B>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let value = param.val().try_into_primitive::<Autodiff<B>>().expect(KNOWN);
        if let Some(grad) = self.grads.remove::<B>(&value) {
            let grad = Tensor::<D>::from_primitive::<B>(grad);
            let len = grad.shape().num_elements();
            self.gradients.push((param.id, grad.reshape([len])));
        }
    }
}
