//! One copy of the weights on one device, and its update by a batch.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor};

use super::ranks::{RankError, RankHandle};
use super::{Beginning, Target, Task, TrainingError};
use crate::checkpoint;
use crate::config::RunConfig as _;
use crate::device::Compute;
use crate::feed::{DeviceBatch, Part};
use crate::model::init::WeightInit;
use crate::optim::clip_global_norm;

/// Weights and their optimizer, on one device.
pub struct Replica<M> {
    /// Absent only during an update: the optimizer consumes it, so that no second copy of the weights exists.
    model: Option<M>,
    optimizer: ModuleOptimizer,
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

    /// Updates the weights by the crops of all ranks; does nothing if no rank has any.
    ///
    /// # Errors
    /// If another rank has left, or the gradients cannot be summed. The weights are unchanged then.
    pub fn update<T: Task<Model = M>>(
        &mut self,
        task: &T,
        batch: Option<&DeviceBatch<Target<T>>>,
        lr: f64,
        handle: Option<&RankHandle>,
    ) -> Result<Option<Update>, RankError> {
        let own = batch.map_or(0, |batch| batch.crops.len());
        let all = handle.map_or(Ok(own), |handle| handle.crops(own))?;
        if all == 0 {
            return Ok(None);
        }
        let model = self.model();
        let (mut loss, mut grads) = match batch {
            Some(batch) => gradients(task, model, batch),
            // All its cases are corrupt; the other ranks' crops still update these weights.
            None => (None, GradientsParams::new()),
        };
        if let Some(handle) = handle {
            (loss, grads) = summed(model, handle, own as f64 / all as f64, loss, grads)?;
        }
        let clip_norm = task.config().optim().clip_norm;
        let norm = clip_norm.and_then(|max| clip_global_norm(model, &mut grads, max));
        let model = self.model.take().expect("restored by the last update");
        self.model = Some(self.optimizer.step(lr, model, grads));
        let loss = loss.expect("some rank has crops");
        Ok(Some(Update { loss, norm, crops: all }))
    }
}

/// Computes loss `[1]` and gradients of a batch: those of its parts, weighted by their crops.
fn gradients<T: Task>(
    task: &T,
    model: &T::Model,
    batch: &DeviceBatch<Target<T>>,
) -> (Option<Tensor<1>>, GradientsParams) {
    let num_crops = batch.parts.iter().map(Part::num_crops).sum::<usize>() as f64;
    let mut accumulator = GradientsAccumulator::new();
    let mut total: Option<Tensor<1>> = None;
    for part in &batch.parts {
        let mut loss = task.loss(model, part);
        // The loss of a batch in one part keeps its bits.
        if batch.parts.len() > 1 {
            loss = loss * (part.num_crops() as f64 / num_crops);
        }
        let grads = GradientsParams::from_grads(loss.backward(), model);
        accumulator.accumulate(model, grads);
        let loss = loss.inner();
        total = Some(match total {
            Some(total) => total + loss,
            None => loss,
        });
    }
    (total, accumulator.grads())
}

/// Sums loss and gradients over the ranks; `share` is this rank's fraction of the crops.
fn summed<M: Module>(
    model: &M,
    handle: &RankHandle,
    share: f64,
    loss: Option<Tensor<1>>,
    grads: GradientsParams,
) -> Result<(Option<Tensor<1>>, GradientsParams), RankError> {
    let mut flat = Flatten { grads, share, device: None, tensors: vec![], ids: vec![] };
    model.visit(&mut flat);
    let Flatten { device, mut tensors, ids, .. } = flat;
    let Some(device) = device else { return Ok((loss, GradientsParams::new())) };
    tensors.push(loss.map_or_else(|| Tensor::zeros([1], &device), |loss| loss * share));
    let mut sums = handle.sum(tensors)?;
    let loss = sums.pop();
    let mut summed =
        Register { sums: sums.into_iter(), ids: ids.into_iter().peekable(), grads: GradientsParams::new() };
    model.visit(&mut summed);
    Ok((loss, summed.grads))
}

/// Collects the gradients in parameter order, scaled by `share`. A rank without crops contributes zeros; on other ranks
/// every trained parameter of our models has a gradient.
struct Flatten {
    grads: GradientsParams,
    share: f64,
    device: Option<Device>,
    tensors: Vec<Tensor<1>>,
    ids: Vec<ParamId>,
}

impl ModuleVisitor for Flatten {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() || self.ids.contains(&param.id) {
            return;
        }
        let grad = match self.grads.remove::<D>(param.id) {
            Some(grad) => grad * self.share,
            None => param.val().inner().zeros_like(),
        };
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
