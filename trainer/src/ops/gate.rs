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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use burn::optim::GradientsParams;
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::model::gated::Gated;
    use crate::model::hi_end_mae::{HiEndMae, HiEndMaeConfig};
    use crate::model::init::WeightInit;
    use crate::model::masking::Mask;
    use crate::model::precision::Precision;
    use crate::model::unetr::{Unetr, UnetrConfig};

    const CROP: [usize; 3] = [24; 3];

    struct Flat {
        grads: GradientsParams,
        values: HashMap<ParamId, Vec<f32>>,
    }

    impl ModuleVisitor for Flat {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                self.values.insert(param.id, grad.into_data().try_to_vec().unwrap());
            }
        }
    }

    /// Gradients of one pass, and those delivered by gates, in the order of delivery.
    fn pass<M: Module>(model: &M, loss: impl Fn(&M) -> Tensor<1>) -> HashMap<ParamId, Vec<f32>> {
        let grads = GradientsParams::from_grads(loss(model).backward(), model);
        let mut flat = Flat { grads, values: HashMap::new() };
        model.visit(&mut flat);
        flat.values
    }

    fn check<M: Gated>(gates: &Gates, model: &M, loss: impl Fn(&M) -> Tensor<1>) {
        let closed = pass(model, &loss);
        let given: Arc<Mutex<Vec<Final>>> = Arc::default();
        let sink = Arc::clone(&given);
        gates.open(move |gradients| sink.lock().unwrap().push(gradients));
        let rest = pass(model, &loss);
        gates.close();
        let given = std::mem::take(&mut *given.lock().unwrap());
        // Every block, the last one first, and its parameters have no gradient at the end of the pass.
        let blocks: Vec<Vec<ParamId>> = model.gated().into_iter().rev().collect();
        let ids = |block: &Final| block.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(given.iter().map(ids).collect::<Vec<_>>(), blocks);
        let mut open = rest.clone();
        for (id, grad) in given.into_iter().flatten() {
            assert!(open.insert(id, grad.into_data().try_to_vec().unwrap()).is_none(), "taken, and left in the pass");
        }
        assert!(!rest.is_empty() && open == closed, "gradients differ");
        assert_eq!(pass(model, &loss), closed, "closed again");
    }

    fn mae(gates: &Gates, recompute: bool, precision: Precision) -> (HiEndMae, impl Fn(&HiEndMae) -> Tensor<1>) {
        let config = HiEndMaeConfig {
            embed_dim: 24,
            depth: 3,
            taps: vec![0, 2],
            num_heads: 2,
            decoder_embed_dim: 12,
            decoder_num_heads: 2,
            ..HiEndMaeConfig::tiny()
        };
        let weights =
            WeightInit::new(1, &Device::flex().autodiff()).with_recompute(recompute).with_precision(precision);
        let model = config.init(CROP, &mut weights.with_gates(gates.clone()));
        let mask = Mask::from_noise(&[0.4, 0.2, 0.1, 0.8, 0.3, 0.7, 0.6, 0.5], 8, config.mask_ratio);
        let mask = mask.upload(&Device::flex());
        (model, move |model: &HiEndMae| model.forward(images(), &mask))
    }

    fn images() -> Tensor<5> {
        let [x, y, z] = CROP;
        let values: Vec<f32> = (0..x * y * z).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::from_data(TensorData::new(values, [1, 1, x, y, z]), &Device::flex())
    }

    #[test]
    fn gates_give_the_bits_of_a_closed_pass_block_by_block() {
        for recompute in [false, true] {
            let gates = Gates::default();
            let (model, loss) = mae(&gates, recompute, Precision::F32);
            assert_eq!(model.gated().len(), 5);
            check(&gates, &model, loss);

            let config = UnetrConfig {
                embed_dim: 12,
                num_heads: 2,
                depth: 4,
                taps: [1, 2, 3],
                feature_size: 2,
                ..UnetrConfig::for_encoder_of(&HiEndMaeConfig::tiny(), CROP, 3).unwrap()
            };
            let weights = WeightInit::new(2, &Device::flex().autodiff()).with_recompute(recompute);
            let model = config.init(&mut weights.with_gates(gates.clone()));
            check(&gates, &model, |model: &Unetr| model.forward(images()).square().mean());
        }
    }

    #[test]
    fn block_whose_gradients_come_late_keeps_them() {
        // On the CPU, 16-bit weights are Burn's casts, whose steps are the last ones.
        let gates = Gates::default();
        let (model, loss) = mae(&gates, false, Precision::Bf16);
        let closed = pass(&model, &loss);
        gates.open(|_| panic!("a block that is not complete"));
        assert_eq!(pass(&model, &loss), closed);
    }

    #[test]
    fn untracked_tokens_pass_open_gates() {
        let gates = Gates::default();
        gates.open(|_| panic!("a gradient without a backward pass"));
        let (model, loss) = mae(&gates, false, Precision::F32);
        assert!(loss(&model.valid()).into_data().try_to_vec::<f32>().unwrap()[0].is_finite());
    }
}
