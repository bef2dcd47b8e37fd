//! One copy of the weights on one device, and how a batch moves it.

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

/// Weights and their optimizer.
pub struct Replica<M> {
    /// Absent only within an update: the optimizer takes it, so that no second copy of the weights is alive.
    model: Option<M>,
    optimizer: ModuleOptimizer,
}

/// What an update tells, on the device still.
#[derive(Debug)]
pub struct Update {
    /// Of all ranks' crops, `[1]`.
    pub loss: Tensor<1>,
    /// Of their gradients before clipping, `[1]`, where they are clipped.
    pub norm: Option<Tensor<1>>,
    /// How many crops.
    pub crops: usize,
}

impl<M: Module + 'static> Replica<M> {
    /// Those of a checkpoint, or those that a new run of `task` begins with.
    ///
    /// # Errors
    /// If they cannot be read.
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
        // After loading: the groups name parameters by the ids that the checkpoint gave them.
        let mut optimizer = config.optim().init(&model);
        if let Some(checkpoint) = checkpoint {
            optimizer = checkpoint::load_optimizer(checkpoint, optimizer)?;
        }
        Ok((Self { model: Some(model), optimizer }, beginning))
    }

    /// The weights.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn model(&self) -> &M {
        self.model.as_ref().expect("absent only within an update")
    }

    /// What moves them.
    #[must_use]
    pub fn optimizer(&self) -> &ModuleOptimizer {
        &self.optimizer
    }

    /// One update by the crops of all ranks; none if no rank has any.
    ///
    /// # Errors
    /// If another rank has left, or devices cannot add up their gradients.
    ///
    /// # Panics
    /// Never.
    pub fn update<T: Task<Model = M>>(
        &mut self,
        task: &T,
        batch: Option<&DeviceBatch<Target<T>>>,
        lr: f64,
        member: Option<&RankHandle>,
    ) -> Result<Option<Update>, RankError> {
        let own = batch.map_or(0, |batch| batch.crops.len());
        let all = member.map_or(Ok(own), |member| member.crops(own))?;
        if all == 0 {
            return Ok(None);
        }
        let model = self.model();
        let (mut loss, mut grads) = match batch {
            Some(batch) => gradients(task, model, batch),
            // Its cases are corrupt; the others' crops move these weights all the same.
            None => (None, GradientsParams::new()),
        };
        if let Some(member) = member {
            (loss, grads) = shared(model, member, own as f64 / all as f64, loss, grads)?;
        }
        let clip_norm = task.config().optim().clip_norm;
        let norm = clip_norm.and_then(|max| clip_global_norm(model, &mut grads, max));
        let model = self.model.take().expect("put back by the last update");
        self.model = Some(self.optimizer.step(lr, model, grads));
        let loss = loss.expect("some rank has crops");
        Ok(Some(Update { loss, norm, crops: all }))
    }
}

/// Loss `[1]` and gradients of a batch: those of its parts, each weighted by its crops.
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
        // A batch in one part is left as it is, to the bit.
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

/// Loss and gradients of all ranks' crops, from those of this rank's `share` of them.
fn shared<M: Module>(
    model: &M,
    member: &RankHandle,
    share: f64,
    loss: Option<Tensor<1>>,
    grads: GradientsParams,
) -> Result<(Option<Tensor<1>>, GradientsParams), RankError> {
    let mut flat = Flatten { grads, share, device: None, tensors: vec![], ids: vec![] };
    model.visit(&mut flat);
    let Flatten { device, mut tensors, ids, .. } = flat;
    let Some(device) = device else { return Ok((loss, GradientsParams::new())) };
    tensors.push(loss.map_or_else(|| Tensor::zeros([1], &device), |loss| loss * share));
    let mut sums = member.sum(tensors)?;
    let loss = sums.pop();
    let mut whole = Whole { sums: sums.into_iter(), ids: ids.into_iter().peekable(), grads: GradientsParams::new() };
    model.visit(&mut whole);
    Ok((loss, whole.grads))
}

/// Takes the gradients out, in the order of the parameters; zeros where there is none, which is where a rank has no
/// crops: every trained parameter of our models has a part in the loss.
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

/// Puts them back.
struct Whole<I: Iterator<Item = Tensor<1>>, P: Iterator<Item = ParamId>> {
    sums: I,
    ids: std::iter::Peekable<P>,
    grads: GradientsParams,
}

impl<I: Iterator<Item = Tensor<1>>, P: Iterator<Item = ParamId>> ModuleVisitor for Whole<I, P> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.ids.next_if_eq(&param.id).is_some()
            && let Some(sum) = self.sums.next()
        {
            self.grads.register::<D>(param.id, sum.reshape(param.dims()));
        }
    }
}
