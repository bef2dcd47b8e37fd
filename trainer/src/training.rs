//! The training loop shared by all kinds of runs: batches in; checkpoints, a journal and pictures out.
//!
//! A [`Task`] defines what is trained; there are two, [`crate::pretrain`] and [`crate::finetune`]. The loop is a
//! library function, so commands, examples and tests all run the same loop. It never prints; the caller receives
//! [`Event`]s.

mod ema;
mod error;
mod event;
mod failure_context;
mod follow;
pub mod headspace;
mod memory_advice;
mod memory_need;
mod options;
mod overlap;
mod picture_error;
mod queued;
mod ranks;
mod readback;
mod recorded;
pub mod replica;
mod run;
mod run_cases;
mod run_dir;
mod run_feed;
mod share;
mod step_loop;
mod stream;
mod validation;
mod verify;
mod weights_digest;

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;

pub use error::{LastGood, Suspect, TrainingError};
pub use event::{Event, Outcome, Summary};
pub use hiend_loader::stop::Stop;
pub use memory_need::KeptValues;
pub use options::{Resume, TrainOptions};
pub use picture_error::PictureError;
pub use run_cases::{CASES, CaseChanges, OtherCases, RunCases, RunCasesError};
pub use run_dir::{CHECKPOINTS, CONFIG, FIRST_WEIGHTS, JOURNAL, PICTURES, saved_config};
pub use share::{Counts, Share};
pub use stream::{OpenBatchSource, Stream, is_stopped};
pub use validation::{CaseScores, Scores};
pub use verify::{FileFault, RunCheck, verify};

use crate::checkpoint::Kind;
use crate::config::RunConfig;
use crate::device::Compute;
use crate::feed::{DeviceBatch, Part, Targets};
use crate::journal::Entry;
use crate::model::gated::Gated;
use crate::model::init::WeightInit;
use ranks::{Facts, Ranks};
use run::Run;

/// Targets of a task in a batch on the device.
pub type Target<T> = <<T as Task>::Targets as Targets>::Target;

/// A kind of training: model, targets and loss.
pub trait Task: Sync {
    /// Kind of the task's checkpoints.
    const KIND: Kind;
    /// Configuration: everything that determines the result except the data.
    type Config: RunConfig;
    /// Model that the task trains.
    type Model: Gated + 'static;
    /// Maker of the training targets.
    type Targets: Targets;

    /// Resolved configuration.
    fn config(&self) -> &Self::Config;

    /// Lower bound on the number of values that a step keeps in memory.
    fn kept_values(&self, gradient_checkpointing: bool) -> KeptValues;

    /// Creates a model with random weights.
    fn init(&self, weights: &mut WeightInit) -> Self::Model;

    /// Replaces random weights by the initial weights of a new run. Not called for a resumed run.
    ///
    /// # Errors
    /// If the weights cannot be read or belong to another model.
    fn begin(&self, model: Self::Model) -> Result<(Self::Model, Option<Beginning>), TrainingError> {
        Ok((model, None))
    }

    /// Returns the maker of the training targets.
    fn targets(&self) -> Self::Targets;

    /// Numbers of crops and voxels in a micro-batch over which the means of the loss are taken.
    fn counts(&self, part: &Part<Target<Self>>) -> Counts {
        Counts { crops: part.num_crops(), annotated: 0 }
    }

    /// Computes the contribution of a micro-batch to a step's loss, `[1]`: its means, each weighted by its `share`.
    fn loss(&self, model: &Self::Model, part: &Part<Target<Self>>, share: Share) -> Tensor<1>;

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
    ) -> Result<(), PictureError>;

    /// Class names of a validation, background first.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// Digest of the validation cases and their labels, if there are any. Results for other cases cannot be compared.
    fn validation_digest(&self) -> Option<&str> {
        None
    }

    /// Number of optimizer steps between validations, if there are any.
    fn validation_every(&self, steps_per_epoch: u64) -> Option<u64> {
        let _ = steps_per_epoch;
        None
    }

    /// Measures a model on this rank's share of the validation cases: those whose position leaves the remainder
    /// `share.0` when divided by `share.1`. `progress` receives the number of cases done and of all cases. `None` once
    /// `is_over` returns true, because a stop was requested or another rank has failed.
    ///
    /// # Errors
    /// If a case cannot be read or predicted.
    fn validate(
        &self,
        model: &Self::Model,
        compute: &Compute,
        share: (usize, usize),
        is_over: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Vec<CaseScores>>, TrainingError> {
        let _ = (model, compute, share, is_over, progress);
        Ok(None)
    }
}

/// Initial weights of a new run, as reported to the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// One line for the console.
    pub summary: String,
    /// Full report for `init.txt`.
    pub report: String,
}

/// Trains `task` on the batches of `stream` and reports to `watch`.
///
/// # Errors
/// [`TrainingError`]. Earlier checkpoints stay intact; if the data failed and the weights are sound, they are saved.
pub fn train<T: Task>(
    task: &T,
    mut stream: Stream,
    compute: &Compute,
    options: &TrainOptions,
    watch: &mut dyn FnMut(&Event<'_>),
) -> Result<Summary, TrainingError> {
    task.config().validate_to_train("configuration")?;
    if stream.steps_per_epoch == 0 {
        return Err(TrainingError::EmptyEpoch);
    }
    let total = task.config().schedule().total_steps(stream.steps_per_epoch);
    let end_step = options.max_steps.map_or(total, |max| total.min(max));
    let Some(group) = &options.group else {
        let alone = (None, vec![compute.to_string()]);
        return lead(task, stream, compute, options, alone, end_step, watch);
    };
    let ranks = Arc::new(Ranks::new(group, compute)?);
    let facts = Facts {
        name: group.name(group.rank()).to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        task: T::KIND.to_string(),
        config: task.config().to_toml(),
        stream_digest: stream.digest.clone(),
        validation_digest: task.validation_digest().map(str::to_owned),
        steps_per_epoch: stream.steps_per_epoch,
        end_step,
        device: compute.to_string(),
    };
    let result = ranks.agree::<T::Config>(&facts).and_then(|devices| {
        if group.rank() == 0 {
            lead(task, stream, compute, options, (Some(Arc::clone(&ranks)), devices), end_step, watch)
        } else {
            // Recorded by rank 0.
            stream.cases = None;
            follow::follow(task, &stream, compute, options, &ranks, end_step)
        }
    });
    result.inspect_err(|error| ranks.abort(error))
}

/// Trains alone or as rank 0, which writes everything.
fn lead<T: Task>(
    task: &T,
    mut stream: Stream,
    compute: &Compute,
    options: &TrainOptions,
    ranks: (Option<Arc<Ranks>>, Vec<String>),
    end_step: u64,
    watch: &mut dyn FnMut(&Event<'_>),
) -> Result<Summary, TrainingError> {
    let mut run = Run::open(task, &stream, compute, options, ranks)?;
    // Recorded now; those of a large cache take much memory.
    stream.cases = None;
    run.agree_on_start()?;
    watch(&Event::Started {
        num_params: run.model().num_params(),
        device: run.devices(),
        step: run.step,
        end_step,
        best: run.best,
        run_dir: &options.run_dir,
    });
    if let Some(Beginning { summary, .. }) = &run.beginning {
        watch(&Event::Note(summary));
    }
    for (step, path) in &run.set_aside {
        let line = format!("the checkpoint of step {step}, which the run repeats, is kept as {}", path.display());
        watch(&Event::Note(&line));
    }
    if let Some(path) = &run.earlier_journal {
        let line = format!("the journal of a run without a checkpoint in this folder is kept as {}", path.display());
        watch(&Event::Note(&line));
    }
    for warning in std::mem::take(&mut run.warnings) {
        watch(&Event::Warning(warning));
    }
    run.write(&Entry::Started { step: run.step, device: run.devices() })?;
    if run.validation_due {
        watch(&Event::Note(&format!("the validation after step {}, which was interrupted, is repeated", run.step)));
        run.validate(watch)?;
        run.save(watch)?;
    }
    // An interrupted validation stays due after the step that it belongs to.
    if run.step < end_step && !run.validation_due {
        if !compute.is_cpu() {
            watch(&Event::Tuning);
        }
        run.train(&stream, end_step, watch)?;
    }
    // A validation that is due after the last step was cut short.
    let interrupted = run.step < end_step || run.validation_due;
    run.write(&Entry::Stopped { step: run.step, interrupted })?;
    if let Some(Err(failure)) = run.ranks.as_ref().map(|ranks| ranks.group().finish()) {
        watch(&Event::Warning(format!("{failure}; everything was saved before")));
    }
    let summary = run.summary(if interrupted { Outcome::Interrupted } else { Outcome::Finished });
    watch(&Event::Stopped(&summary));
    Ok(summary)
}
