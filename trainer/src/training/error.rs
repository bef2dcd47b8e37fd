//! Errors of a run.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use hiend_cache::{FileError, is_abandoned};
use hiend_loader::program::escape_name;

use super::run_cases::{OtherCases, RunCasesError};
use super::stream::is_stopped;
use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::distributed::{Cause, PeerFailure};
use crate::feed::{FeedError, SourceError};
use crate::model::precision::Precision;
use crate::vendor::recorded;

/// Error of a run.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// An invalid configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An invalid `config.toml` of a run that has a checkpoint.
    #[error(
        "{fault}; delete the file to restore it from the newest checkpoint, or begin another run from its weights (--init)"
    )]
    SavedConfig {
        /// Error in the file.
        fault: ConfigError,
    },
    /// An error of reading or writing a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint to resume from cannot be used.
    #[error("cannot resume from {}{}", checkpoint.display(), Alternative(*whole))]
    CannotResume {
        /// Path of the checkpoint.
        checkpoint: PathBuf,
        /// Step of the newest undamaged checkpoint before this one.
        whole: Option<u64>,
        /// Error from reading the checkpoint.
        #[source]
        source: CheckpointError,
    },
    /// A run without checkpoint of the requested step.
    #[error("{} has no checkpoint of step {step}; {}", run_dir.display(), Available(steps))]
    NoSuchCheckpoint {
        /// The run's folder.
        run_dir: PathBuf,
        /// The requested step.
        step: u64,
        /// Steps that have a checkpoint, ascending.
        steps: Vec<u64>,
    },
    /// A file system error.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system refused to start a thread.
    #[error("cannot start the {name} thread; see the limit on processes (ulimit -u)")]
    Thread {
        /// Name of the thread.
        name: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file of the run that cannot be written.
    #[error("cannot save the run; {last_good}; the same command with --resume continues once the cause is gone")]
    Unsaved {
        /// The newest checkpoint.
        last_good: LastGood,
        /// Error concerning the file.
        #[source]
        source: Box<TrainingError>,
    },
    /// No batch could be made.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The stream cannot be opened.
    #[error("the stream cannot be opened at step {step}")]
    Open {
        /// First step requested.
        step: u64,
        /// The loader's error.
        #[source]
        source: SourceError,
    },
    /// The data holds fewer cases than a batch.
    #[error("an epoch has no batch: fewer cases than stream.visits_per_batch")]
    EmptyEpoch,
    /// The folder already holds a run.
    #[error("{} already holds a run; continue it with --resume, or begin another with a new --run-dir", run_dir.display())]
    RunExists {
        /// The run's folder.
        run_dir: PathBuf,
    },
    /// A folder for a new run that holds data.
    #[error("{} holds {holds}; choose another folder for the run with --run-dir", run_dir.display())]
    HoldsData {
        /// The folder.
        run_dir: PathBuf,
        /// Kind of the data, or the name of a part of it.
        holds: String,
    },
    /// The folder holds nothing to resume.
    #[error("{} holds no run to resume (no checkpoint, and config.toml is missing or empty)", run_dir.display())]
    NothingToResume {
        /// The run's folder.
        run_dir: PathBuf,
    },
    /// Another process trains in the folder.
    #[error("{} is in use by another process; wait until it ends, or choose another --run-dir", run_dir.display())]
    InUse {
        /// The run's folder.
        run_dir: PathBuf,
    },
    /// A setting differs from the run's.
    #[error(
        "cannot resume: {key} is {now} now, but was {before} when the run began; take the change back (leave out a flag, or \
         delete an edited config.toml in the run's folder, which the newest checkpoint restores; for preprocess, give the \
         run's own cache), or begin another run with these weights (--init RUN and a new --run-dir)"
    )]
    Changed {
        /// First setting that differs.
        key: String,
        /// Value of the setting now.
        now: String,
        /// Value of the setting in the run.
        before: String,
    },
    /// The stream has cases other than those with which the run began.
    #[error("cannot resume: {0}")]
    OtherCases(OtherCases),
    /// The cases with which the run began cannot be read.
    #[error(transparent)]
    RunCases(#[from] RunCasesError),
    /// A library that computed the run is not used now.
    #[error("{lost}; {}", recorded::REMEDY)]
    OtherKernels {
        /// Path of the record, number and origin of its choices, and the reason why they cannot be used.
        lost: String,
    },
    /// The run is already beyond the requested number of steps.
    #[error("the run is at step {step} already, beyond --max-steps {max_steps}; give a larger number, or none")]
    Beyond {
        /// Number of optimizer steps done.
        step: u64,
        /// Requested number of steps.
        max_steps: u64,
    },
    /// The initial weights cannot be loaded.
    #[error(transparent)]
    Init(SourceError),
    /// A validation case cannot be read or predicted.
    #[error("validation of case {}", escape_name(case))]
    Validation {
        /// Case, as `DATASET/CASE`.
        case: String,
        /// Error concerning the case.
        #[source]
        source: SourceError,
    },
    /// The loss is not finite.
    #[error(
        "loss is {loss} at step {step} (lr {lr:.3e}), cases in the batch: {}; look at them with `hiend-shard inspect`, \
         {}; {last_good}{suspect}",
        cases.join(", "),
        Remedies(*precision)
    )]
    NonFinite {
        /// Step whose loss is not finite, from 1.
        step: u64,
        /// Learning rate of the step.
        lr: f64,
        /// Value of the loss.
        loss: f64,
        /// Cases of the batch.
        cases: Vec<String>,
        /// Number type of the factors of products.
        precision: Precision,
        /// Newest checkpoint before the step.
        last_good: LastGood,
        /// Weights with which the loss was computed.
        suspect: Suspect,
    },
    /// An optimizer step produced weights that a network cannot compute with.
    #[error(
        "the weights diverged at step {step}: {tensor} holds {value:e}, and no checkpoint of them was written; {}; {last_good}",
        Remedies(*precision)
    )]
    Diverged {
        /// Optimizer steps done.
        step: u64,
        /// First such parameter, by its name in the checkpoint.
        tensor: String,
        /// Value found in the weights.
        value: f32,
        /// Number type of the factors of products.
        precision: Precision,
        /// Newest checkpoint before the step.
        last_good: LastGood,
    },
    /// Another rank failed or was lost, which ends the run.
    #[error("{failure}; stopped after step {step}{}", LastSaved(last_good.as_ref()))]
    Rank {
        /// Rank that failed, with the reason.
        failure: PeerFailure,
        /// Optimizer steps done.
        step: u64,
        /// True if the weights of this rank are those after `step`.
        sound: bool,
        /// Newest checkpoint; absent on ranks that do not write checkpoints.
        last_good: Option<LastGood>,
    },
    /// A rank would not train the same run as rank 0.
    #[error("rank {rank} ({name}): {difference}")]
    Disagreement {
        /// Number of the rank, from 0.
        rank: usize,
        /// Host and process of the rank.
        name: String,
        /// First difference.
        difference: String,
    },
    /// The device failed.
    #[error("the device failed at step {step}: {message}{}", LastSaved(last_good.as_ref()))]
    Device {
        /// Step at which the device failed, from 1.
        step: u64,
        /// Reason given by the device, with advice if its memory is exhausted.
        message: String,
        /// Newest checkpoint before the step; absent on ranks that do not write checkpoints.
        last_good: Option<LastGood>,
    },
}

impl TrainingError {
    /// Returns whether this rank or another one was asked to stop while servers or object storage did not answer.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        match self {
            Self::Feed(FeedError::Source { source, .. }) | Self::Open { source, .. } => is_stopped(source),
            Self::Rank { failure, .. } => matches!(failure.cause, Cause::Stopped(_)),
            error => is_abandoned(error),
        }
    }

    /// Returns whether the weights after the last finished step are intact, so that they can be saved.
    pub(super) fn spares_weights(&self) -> bool {
        match self {
            Self::Feed(_) | Self::Open { .. } | Self::Thread { .. } | Self::Validation { .. } => true,
            Self::Rank { sound, .. } => *sound,
            _ => false,
        }
    }

    /// Adds the newest checkpoint to an error from writing a file during training.
    pub(super) fn with_way_back(self, path: Option<&Path>) -> Self {
        match self {
            error @ (Self::Checkpoint(_) | Self::File(_)) => {
                Self::Unsaved { last_good: LastGood(path.map(Path::to_owned)), source: Box::new(error) }
            }
            error => error,
        }
    }

    /// Returns the error with the path of a checkpoint that was written since.
    pub(super) fn with_last_good(mut self, path: Option<&Path>) -> Self {
        if let Self::Rank { last_good: Some(last_good), .. } = &mut self {
            *last_good = LastGood(path.map(Path::to_owned));
        }
        self
    }
}

/// Advice on settings against values that are not finite.
struct Remedies(Precision);

impl fmt::Display for Remedies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Precision::F32 => "lower optim.lr or set optim.clip_norm",
            Precision::Tf32 | Precision::Bf16 => {
                "lower optim.lr, set optim.clip_norm, or compute with train.precision = \"f32\""
            }
        })
    }
}

/// Newest checkpoint to fall back on, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastGood(pub Option<PathBuf>);

impl fmt::Display for LastGood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "last good checkpoint: {}", path.display()),
            None => f.write_str("no checkpoint yet"),
        }
    }
}

/// Weights that produced a loss that is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// Initial weights of the run, which no step has changed.
    FirstWeights,
    /// Weights of the newest checkpoint.
    LastGood {
        /// Step of the preceding checkpoint, if one is kept.
        earlier: Option<u64>,
    },
    /// Weights of a step without a checkpoint.
    Unknown,
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstWeights => {
                f.write_str("; the first weights gave this loss: with --init, look at where they come from")
            }
            Self::LastGood { earlier: Some(step) } => {
                write!(
                    f,
                    "; its weights gave this loss: if --resume fails again, --resume-from {step} goes back further"
                )
            }
            Self::LastGood { earlier: None } => {
                f.write_str("; its weights gave this loss, and no earlier checkpoint is kept (--keep)")
            }
            Self::Unknown => Ok(()),
        }
    }
}

/// Newest checkpoint, on the rank that writes checkpoints.
struct LastSaved<'a>(Option<&'a LastGood>);

impl fmt::Display for LastSaved<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |last_good| write!(f, "; {last_good}"))
    }
}

/// Advice to resume from the newest undamaged checkpoint.
struct Alternative(Option<u64>);

impl fmt::Display for Alternative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(step) => {
                write!(
                    f,
                    " (the newest whole checkpoint is that of step {step}; --resume-from {step} continues from it)"
                )
            }
            None => f.write_str(" (no earlier checkpoint is whole)"),
        }
    }
}

/// Steps for which there are checkpoints.
struct Available<'a>(&'a [u64]);

impl fmt::Display for Available<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("it has none yet"),
            [step] => write!(f, "there is that of step {step}"),
            steps => {
                let steps = steps.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                write!(f, "there are those of the steps {steps}")
            }
        }
    }
}

pub(super) fn io_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> TrainingError {
    let path = path.to_owned();
    move |source| TrainingError::File(FileError { path, action, source })
}

pub(super) fn thread_error(name: &'static str) -> impl FnOnce(io::Error) -> TrainingError {
    move |source| TrainingError::Thread { name, source }
}
