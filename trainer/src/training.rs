//! The loop that every kind of run shares: batches in, checkpoints, a journal and pictures out.
//!
//! What is trained is a [`Task`]: [`crate::pretrain`] and [`crate::finetune`] are the two there are. The loop is a
//! library function, so that commands, examples and tests run the same one. It never prints: whoever calls it listens
//! to [`Event`]s.

mod ema;
mod error;
mod event;
mod options;
pub mod ranks;
mod readback;
pub mod replica;
mod run;
mod run_dir;
mod stream;

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;

pub use error::TrainingError;
pub use event::{Event, Outcome, Summary};
pub use options::{Stop, TrainOptions};
pub use run_dir::saved_config;
pub use stream::{OpenBatchSource, Stream};

use crate::checkpoint::Kind;
use crate::config::RunConfig;
use crate::device::Compute;
use crate::feed::{DeviceBatch, Part, Targets};
use crate::model::init::WeightInit;
use crate::report::journal::Entry;
use run::Run;

/// What a batch on the device holds for a task.
pub type Target<T> = <<T as Task>::Targets as Targets>::Target;

/// What is trained, and how.
pub trait Task: Sync {
    /// Of which kind its checkpoints are.
    const KIND: Kind;
    /// Everything that decides the result, but the data.
    type Config: RunConfig;
    /// What is trained.
    type Model: Module + 'static;
    /// What the model is to find.
    type Targets: Targets;

    /// The resolved configuration.
    fn config(&self) -> &Self::Config;

    /// A model with first weights.
    fn init(&self, weights: &mut WeightInit) -> Self::Model;

    /// The same model with the weights that a new run begins with. A run that goes on has its own.
    ///
    /// # Errors
    /// If they cannot be read, or are no such model's.
    fn begin(&self, model: Self::Model) -> Result<(Self::Model, Option<Beginning>), TrainingError> {
        Ok((model, None))
    }

    /// Makes what the model is to find.
    fn targets(&self) -> Self::Targets;

    /// The loss of some crops, averaged over them, `[1]`.
    fn loss(&self, model: &Self::Model, part: &Part<Target<Self>>) -> Tensor<1>;

    /// Draws what the model makes of some crops of a batch into a PNG file.
    ///
    /// # Errors
    /// Why there is none. A run does not fail for want of a picture.
    fn picture(
        &self,
        model: &Self::Model,
        batch: &DeviceBatch<Target<Self>>,
        compute: &Compute,
        path: &Path,
    ) -> Result<(), String>;

    /// Names of the classes that a validation measures, background first.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// Updates from validation to validation, if there are any.
    fn validation_every(&self, steps_per_epoch: u64) -> Option<u64> {
        let _ = steps_per_epoch;
        None
    }

    /// Measures a model on the validation cases; tells how many are done; nothing if it was asked to stop.
    ///
    /// # Errors
    /// If a case cannot be read or predicted.
    fn validate(
        &self,
        model: &Self::Model,
        compute: &Compute,
        stop: &Stop,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Scores>, TrainingError> {
        let _ = (model, compute, stop, progress);
        Ok(None)
    }
}

/// What a new run began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// In a line.
    pub summary: String,
    /// At length, for `init.txt`.
    pub report: String,
}

/// What a validation measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Mean over cases and classes, background included.
    pub mean_dice: f64,
    /// The same without background.
    pub mean_fg_dice: f64,
    /// Mean over cases by class, background first; nothing for a class that no case has.
    pub dice_per_class: Vec<Option<f64>>,
    /// Cases predicted.
    pub num_cases: usize,
}

/// Trains as `task` says, on batches of `stream`, and tells `watch` what happens.
///
/// # Errors
/// [`TrainingError`]. What was saved before stays as it is.
pub fn train<T: Task>(
    task: &T,
    stream: Stream,
    compute: &Compute,
    options: &TrainOptions,
    watch: &mut dyn FnMut(&Event<'_>),
) -> Result<Summary, TrainingError> {
    task.config().validate("configuration")?;
    if stream.steps_per_epoch == 0 {
        return Err(TrainingError::EmptyEpoch);
    }
    let mut run = Run::open(task, &stream, compute, options)?;
    let end_step = run.end_step();
    watch(&Event::Started {
        num_params: run.model().num_params(),
        device: run.devices(),
        step: run.step,
        end_step,
        run_dir: &options.run_dir,
    });
    if let Some(Beginning { summary, .. }) = &run.beginning {
        watch(&Event::Note(summary));
    }
    run.write(&Entry::Started { step: run.step, device: run.devices() })?;
    if run.validation_due {
        run.validate(watch)?;
        run.save(watch)?;
    }
    if run.step < end_step {
        if !compute.is_cpu() {
            watch(&Event::Tuning);
        }
        run.lead(&stream, end_step, watch)?;
    }
    let interrupted = run.step < end_step;
    run.write(&Entry::Stopped { step: run.step, interrupted })?;
    let summary = run.summary(if interrupted { Outcome::Interrupted } else { Outcome::Finished });
    watch(&Event::Stopped(&summary));
    Ok(summary)
}
