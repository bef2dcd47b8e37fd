//! One copy of the weights on one device, and its update by a batch.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};

use super::{Beginning, Target, Task, TrainingError};
use crate::checkpoint;
use crate::config::RunConfig as _;
use crate::device::Compute;
use crate::distributed::{AllReduce, Pairwise, ReduceError};
use crate::feed::DeviceBatch;
use crate::model::init::WeightInit;
use crate::optim::clip_global_norm;

/// Weights and their optimizer, on one device.
pub struct Replica<M> {
    /// Absent only during an update: the optimizer consumes it, so that no second copy of the weights exists.
    model: Option<M>,
    optimizer: ModuleOptimizer,
}

/// The ranks that take part in an update.
#[derive(Clone, Copy)]
pub struct Participants<'a> {
    /// Sums gradients over the ranks.
    pub reduce: &'a dyn AllReduce,
    /// Number of crops over all ranks.
    pub crops: usize,
}

/// Results of an update, still on the device.
#[derive(Debug)]
pub struct Update {
    /// Mean loss over the crops of all ranks, `[1]`.
    pub loss: Tensor<1>,
    /// Global gradient norm before clipping, `[1]`; absent without clipping.
    pub norm: Option<Tensor<1>>,
    /// Number of crops over all ranks.
    pub crops: usize,
}

impl<M: Module + 'static> Replica<M> {
    /// Loads the weights of a checkpoint, or makes those that a new run of `task` begins with.
    ///
    /// # Errors
    /// If weights cannot be read.
    pub fn on<T: Task<Model = M>>(
        task: &T,
        compute: &Compute,
        gradient_checkpointing: bool,
        checkpoint: Option<&Path>,
    ) -> Result<(Self, Option<Beginning>), TrainingError> {
        let config = task.config();
        let mut weights = WeightInit::new(config.train().seed, &compute.autodiff())
            .with_precision(config.train().precision)
            .with_attention(config.train().attention)
            .with_recompute(gradient_checkpointing);
        let model = task.init(&mut weights);
        let (model, beginning) = match checkpoint {
            Some(checkpoint) => (checkpoint::load_model(checkpoint, model)?, None),
            None => task.begin(model)?,
        };
        // After loading: the groups refer to parameters by the ids read from the checkpoint.
        let mut optimizer = config.optim().init(&model);
        if let Some(checkpoint) = checkpoint {
            optimizer = checkpoint::load_optimizer(checkpoint, &model, optimizer)?;
        }
        Ok((Self { model: Some(model), optimizer }, beginning))
    }

    /// The weights.
    #[must_use]
    pub fn model(&self) -> &M {
        self.model.as_ref().expect("absent only during an update")
    }

    /// The optimizer and its moments.
    #[must_use]
    pub fn optimizer(&self) -> &ModuleOptimizer {
        &self.optimizer
    }

    /// Updates the weights by the crops of all ranks; does nothing if no rank has any. Without `participants`, the batch
    /// is all there is.
    ///
    /// Gradients are added in pairs ([`Pairwise`]) over micro-batches and ranks. With equal micro-batches, and numbers
    /// of ranks and of micro-batches per rank that are powers of two, the order of additions and hence every bit is that
    /// of one process with all micro-batches. (NCCL adds over ranks in an order of its own.)
    ///
    /// # Errors
    /// If a rank failed, or the gradients cannot be summed. The weights are unchanged then.
    pub fn update<T: Task<Model = M>>(
        &mut self,
        task: &T,
        batch: Option<&DeviceBatch<Target<T>>>,
        lr: f64,
        participants: Option<Participants<'_>>,
    ) -> Result<Option<Update>, ReduceError> {
        let own = batch.map_or(0, |batch| batch.crops.len());
        let all = participants.map_or(own, |participants| participants.crops);
        if all == 0 {
            return Ok(None);
        }
        let model = self.model();
        let (mut loss, mut grads) = match batch {
            Some(batch) => gradients(task, model, batch, all),
            // All its cases are corrupt; the other ranks' crops still update these weights.
            None => (None, GradientsParams::new()),
        };
        if let Some(Participants { reduce, .. }) = participants {
            (loss, grads) = summed(model, reduce, loss, grads)?;
        }
        let clip_norm = task.config().optim().clip_norm;
        let norm = clip_norm.and_then(|max| clip_global_norm(model, &mut grads, max));
        let model = self.model.take().expect("restored by the last update");
        self.model = Some(self.optimizer.step(lr, model, grads));
        let loss = loss.expect("some rank has crops");
        Ok(Some(Update { loss, norm, crops: all }))
    }
}

/// Computes this rank's part of loss `[1]` and gradients: those of its micro-batches, each weighted by its fraction of
/// the crops of all ranks.
fn gradients<T: Task>(
    task: &T,
    model: &T::Model,
    batch: &DeviceBatch<Target<T>>,
    all_crops: usize,
) -> (Option<Tensor<1>>, GradientsParams) {
    let add = |(loss, grads): (Tensor<1>, GradientsParams), (other_loss, other_grads)| {
        let mut sum = GradientsAccumulator::new();
        sum.accumulate(model, grads);
        sum.accumulate(model, other_grads);
        (loss + other_loss, sum.grads())
    };
    let mut sum = Pairwise::default();
    for part in &batch.parts {
        let mut loss = task.loss(model, part);
        // The loss of a batch in one part keeps its bits.
        if part.num_crops() != all_crops {
            loss = loss * (part.num_crops() as f64 / all_crops as f64);
        }
        let grads = GradientsParams::from_grads(loss.backward(), model);
        sum.push((loss.inner(), grads), add);
    }
    match sum.finish(add) {
        Some((loss, grads)) => (Some(loss), grads),
        None => (None, GradientsParams::new()),
    }
}

/// Sums loss and gradients over the ranks.
fn summed<M: Module>(
    model: &M,
    reduce: &dyn AllReduce,
    loss: Option<Tensor<1>>,
    grads: GradientsParams,
) -> Result<(Option<Tensor<1>>, GradientsParams), ReduceError> {
    let mut flat = Flatten { grads, device: None, tensors: vec![], ids: vec![] };
    model.visit(&mut flat);
    let Flatten { device, mut tensors, ids, .. } = flat;
    let Some(device) = device else { return Ok((loss, GradientsParams::new())) };
    tensors.push(loss.unwrap_or_else(|| Tensor::zeros([1], &device)));
    let mut sums = reduce.sum(tensors)?;
    let loss = sums.pop();
    let mut summed =
        Register { sums: sums.into_iter(), ids: ids.into_iter().peekable(), grads: GradientsParams::new() };
    model.visit(&mut summed);
    Ok((loss, summed.grads))
}

/// Collects the gradients in parameter order. A rank without crops contributes zeros; on other ranks every trained
/// parameter of our models has a gradient.
struct Flatten {
    grads: GradientsParams,
    device: Option<Device>,
    tensors: Vec<Tensor<1>>,
    ids: Vec<ParamId>,
}

impl ModuleVisitor for Flatten {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() || self.ids.contains(&param.id) {
            return;
        }
        let grad = self.grads.remove::<D>(param.id).unwrap_or_else(|| param.val().inner().zeros_like());
        self.device.get_or_insert_with(|| grad.device());
        let len = grad.shape().num_elements();
        self.tensors.push(grad.reshape([len]));
        self.ids.push(param.id);
    }
}

/// Writes the summed gradients back to each parameter.
struct Register<I: Iterator<Item = Tensor<1>>, P: Iterator<Item = ParamId>> {
    sums: I,
    ids: std::iter::Peekable<P>,
    grads: GradientsParams,
}

impl<I: Iterator<Item = Tensor<1>>, P: Iterator<Item = ParamId>> ModuleVisitor for Register<I, P> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.ids.next_if_eq(&param.id).is_some()
            && let Some(sum) = self.sums.next()
        {
            self.grads.register::<D>(param.id, sum.reshape(param.dims()));
        }
    }
}
