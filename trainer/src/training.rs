//! The training loop shared by all kinds of runs: batches in; checkpoints, a journal and pictures out.
//!
//! A [`Task`] says what is trained; there are two, [`crate::pretrain`] and [`crate::finetune`]. The loop is a library
//! function, so commands, examples and tests run the same one. It never prints: the caller receives [`Event`]s.

mod ema;
mod error;
mod event;
pub mod headspace;
mod launch;
mod memory_advice;
mod options;
pub mod ranks;
mod readback;
pub mod replica;
mod run;
mod run_dir;
mod step_loop;
mod stream;
mod verify;

use std::path::Path;

use burn::module::Module;
use burn::tensor::Tensor;

pub use error::{LastGood, TrainingError};
pub use event::{Event, Outcome, Summary};
pub use hiend_loader::stop::Stop;
pub use options::{Resume, TrainOptions};
pub use run_dir::{CHECKPOINTS, CONFIG, JOURNAL, PICTURES, saved_config};
pub use stream::{OpenBatchSource, Stream};
pub use verify::{FileFault, RunCheck, verify};

use crate::checkpoint::Kind;
use crate::config::RunConfig;
use crate::device::Compute;
use crate::feed::{DeviceBatch, Part, Targets};
use crate::journal::Entry;
use crate::model::init::WeightInit;
use run::Run;

/// The targets of a task in a batch on the device.
pub type Target<T> = <<T as Task>::Targets as Targets>::Target;

/// A kind of training: model, targets and loss.
pub trait Task: Sync {
    /// Kind of its checkpoints.
    const KIND: Kind;
    /// Configuration: everything that decides the result except the data.
    type Config: RunConfig;
    /// The model.
    type Model: Module + 'static;
    /// Maker of the training targets.
    type Targets: Targets;

    /// The resolved configuration.
    fn config(&self) -> &Self::Config;

    /// Makes a model with random weights.
    fn init(&self, weights: &mut WeightInit) -> Self::Model;

    /// Replaces random weights by those that a new run begins with. Not called for a resumed run.
    ///
    /// # Errors
    /// If the weights cannot be read or belong to another model.
    fn begin(&self, model: Self::Model) -> Result<(Self::Model, Option<Beginning>), TrainingError> {
        Ok((model, None))
    }

    /// Returns the maker of the training targets.
    fn targets(&self) -> Self::Targets;

    /// Computes the mean loss over some crops, `[1]`.
    fn loss(&self, model: &Self::Model, part: &Part<Target<Self>>) -> Tensor<1>;

    /// Draws the model's output on some crops of a batch into a PNG file.
    ///
    /// # Errors
    /// The reason there is no picture. The run continues without it.
    fn picture(
        &self,
        model: &Self::Model,
        batch: &DeviceBatch<Target<Self>>,
        compute: &Compute,
        path: &Path,
    ) -> Result<(), String>;

    /// Class names of a validation, background first.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// Optimizer steps between validations, if there are any.
    fn validation_every(&self, steps_per_epoch: u64) -> Option<u64> {
        let _ = steps_per_epoch;
        None
    }

    /// Measures a model on the validation cases; `progress` receives the cases done and their total. Returns nothing if a
    /// stop was requested.
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

/// The first weights of a new run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// One line for the console.
    pub summary: String,
    /// Full report for `init.txt`.
    pub report: String,
}

/// Results of a validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Mean Dice over cases and classes, background included.
    pub mean_dice: f64,
    /// Mean Dice over cases and classes, without background.
    pub mean_fg_dice: f64,
    /// Mean Dice over cases for each class, background first; absent for a class that no case has.
    pub dice_per_class: Vec<Option<f64>>,
    /// Number of cases predicted.
    pub num_cases: usize,
}

/// Trains `task` on the batches of `stream` and reports to `watch`.
///
/// # Errors
/// [`TrainingError`]. Earlier checkpoints stay intact; if the data failed and the weights are sound, they are saved.
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
    for path in &run.set_aside {
        watch(&Event::Warning(format!("the run repeats this checkpoint's steps; kept as {}", path.display())));
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
        run.train(&stream, end_step, watch)?;
    }
    // A validation that is due after the last step was cut short.
    let interrupted = run.step < end_step || run.validation_due;
    run.write(&Entry::Stopped { step: run.step, interrupted })?;
    let summary = run.summary(if interrupted { Outcome::Interrupted } else { Outcome::Finished });
    watch(&Event::Stopped(&summary));
    Ok(summary)
}
