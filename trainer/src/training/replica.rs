//! One copy of the weights on one device, with its optimizer steps.

use std::path::Path;

use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;

use super::{Beginning, Counts, Share, Target, Task, TrainingError, overlap};
use crate::checkpoint;
use crate::config::RunConfig as _;
use crate::device::Compute;
use crate::distributed::{Pairwise, ReduceError, Sums};
use crate::feed::{DeviceBatch, Part};
use crate::model::gated::Gated;
use crate::model::init::WeightInit;
use crate::ops::gate::Gates;
use crate::optim::clip_global_norm;

/// Weights and their optimizer, on one device.
pub struct Replica<M> {
    /// Absent only during a step: the optimizer consumes it, so that no second copy of the weights exists.
    model: Option<M>,
    optimizer: ModuleOptimizer,
    /// Gates of the model's blocks.
    gates: Gates,
}

/// Ranks that take part in a step.
#[derive(Clone, Copy)]
pub struct Participants<'a> {
    /// Sums of gradients over the ranks.
    pub sums: &'a Sums,
    /// Counts of the step over all ranks.
    pub all: Counts,
}

/// Results of a step, still on the device.
#[derive(Debug)]
pub struct StepResult {
    /// Loss of the step over all ranks, `[1]`.
    pub loss: Tensor<1>,
    /// Global gradient norm before clipping, `[1]`; absent without clipping.
    pub norm: Option<Tensor<1>>,
    /// Number of crops over all ranks.
    pub crops: usize,
}

impl<M: Gated + 'static> Replica<M> {
    /// Loads the weights of a checkpoint, or creates the initial weights of a new run of `task`.
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
        let gates = Gates::default();
        let mut weights = WeightInit::new(config.train().seed, &compute.autodiff())
            .with_precision(config.train().precision)
            .with_attention(config.train().attention)
            .with_recompute(gradient_checkpointing)
            .with_gates(gates.clone());
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
        Ok((Self { model: Some(model), optimizer, gates }, beginning))
    }

    /// Returns the model with the current weights.
    #[must_use]
    pub fn model(&self) -> &M {
        self.model.as_ref().expect("absent only during a step")
    }

    /// Optimizer with its moments.
    #[must_use]
    pub fn optimizer(&self) -> &ModuleOptimizer {
        &self.optimizer
    }

    /// Takes one optimizer step with the crops of all ranks; does nothing if no rank has any. Without `participants`, only
    /// this batch is used.
    ///
    /// Gradients are added in pairs ([`Pairwise`]) over micro-batches and ranks. With equal micro-batches, and numbers
    /// of ranks and of micro-batches per rank that are powers of two, the order of additions, and hence every bit, is
    /// the same as in one process with all micro-batches. (NCCL adds over ranks in its own order.) Sums over ranks
    /// begin during the backward pass of the last micro-batch (`training::overlap`).
    ///
    /// # Errors
    /// If a rank failed, or the gradients cannot be summed. The weights are unchanged then.
    pub fn step<T: Task<Model = M>>(
        &mut self,
        task: &T,
        batch: Option<&DeviceBatch<Target<T>>>,
        lr: f64,
        participants: Option<Participants<'_>>,
    ) -> Result<Option<StepResult>, ReduceError> {
        let all = participants.map_or_else(|| counts(task, batch), |participants| participants.all);
        if all.crops == 0 {
            return Ok(None);
        }
        let model = self.model();
        let (loss, mut grads) = match (participants, batch) {
            (Some(Participants { sums, .. }), _) => {
                let parts = batch.map_or(&[][..], |batch| &batch.parts);
                let loss_of = |part: &Part<Target<T>>| share_of_loss(task, model, part, all);
                overlap::summed(model, &self.gates, sums, parts, loss_of)?
            }
            (None, Some(batch)) => gradients(task, model, batch, all),
            (None, None) => (None, GradientsParams::new()),
        };
        let clip_norm = task.config().optim().clip_norm;
        let norm = clip_norm.and_then(|max| clip_global_norm(model, &mut grads, max));
        let model = self.model.take().expect("restored by the last step");
        self.model = Some(self.optimizer.step(lr, model, grads));
        let loss = loss.expect("some rank has crops");
        Ok(Some(StepResult { loss, norm, crops: all.crops }))
    }
}

/// Sums the counts of the micro-batches of a rank's share of a step; 0 without a batch.
pub(super) fn counts<T: Task>(task: &T, batch: Option<&DeviceBatch<Target<T>>>) -> Counts {
    batch.into_iter().flat_map(|batch| &batch.parts).map(|part| task.counts(part)).sum()
}

/// Computes loss `[1]` and gradients of a batch: the sums over its micro-batches.
fn gradients<T: Task>(
    task: &T,
    model: &T::Model,
    batch: &DeviceBatch<Target<T>>,
    all: Counts,
) -> (Option<Tensor<1>>, GradientsParams) {
    let add = |(loss, grads): (Tensor<1>, GradientsParams), (other_loss, other_grads)| {
        let mut sum = GradientsAccumulator::new();
        sum.accumulate(model, grads);
        sum.accumulate(model, other_grads);
        (loss + other_loss, sum.grads())
    };
    let mut sum = Pairwise::default();
    for part in &batch.parts {
        let loss = share_of_loss(task, model, part, all);
        let grads = GradientsParams::from_grads(loss.backward(), model);
        sum.push((loss.inner(), grads), add);
    }
    match sum.finish(add) {
        Some((loss, grads)) => (Some(loss), grads),
        None => (None, GradientsParams::new()),
    }
}

/// Computes the contribution `[1]` of a micro-batch to the loss of a step with the counts `all`.
fn share_of_loss<T: Task>(task: &T, model: &T::Model, part: &Part<Target<T>>, all: Counts) -> Tensor<1> {
    task.loss(model, part, Share { own: task.counts(part), all })
}
