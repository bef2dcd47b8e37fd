//! Why a run fails.

use std::io;
use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::feed::{FeedError, SourceError};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// A configuration that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Reading or writing a checkpoint.
    #[error("checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// Another file of the run.
    #[error("{}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No batch.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The stream cannot be opened.
    #[error("the stream does not open at step {step}")]
    Open {
        /// The first step asked for.
        step: u64,
        /// What the loader says.
        #[source]
        source: SourceError,
    },
    /// The data holds less than a batch.
    #[error("the stream has no step in an epoch: fewer cases than stream.visits_per_batch")]
    EmptyEpoch,
    /// There is a run already.
    #[error("{} holds a run already; --resume goes on with it, another --run-dir begins anew", run_dir.display())]
    RunExists {
        /// The folder.
        run_dir: PathBuf,
    },
    /// There is no run to go on with.
    #[error("{} holds no run to go on with", run_dir.display())]
    NothingToResume {
        /// The folder.
        run_dir: PathBuf,
    },
    /// Another process trains there.
    #[error("{} is in use by a run that is going on; wait for it, or give this one another --run-dir", run_dir.display())]
    InUse {
        /// The folder.
        run_dir: PathBuf,
    },
    /// The run began otherwise.
    #[error("cannot resume: {key} is {now} now, and was {before} when the run began")]
    Changed {
        /// The first setting that differs.
        key: String,
        /// Its value now.
        now: String,
        /// Its value in the run.
        before: String,
    },
    /// The weights to begin with.
    #[error(transparent)]
    Init(SourceError),
    /// A volume could not be validated on.
    #[error("validation of case {case}")]
    Validation {
        /// The case.
        case: String,
        /// Why not.
        #[source]
        source: SourceError,
    },
    /// The loss is no number any more.
    #[error(
        "loss is {loss} at step {step} (lr {lr:.3e}), cases in the batch: {}; {}",
        cases.join(", "),
        last_good.as_ref().map_or_else(|| "no checkpoint yet".to_owned(), |p| format!("last good checkpoint: {}", p.display()))
    )]
    NonFinite {
        /// The update.
        step: u64,
        /// Its learning rate.
        lr: f64,
        /// What came out.
        loss: f64,
        /// The cases of the batch.
        cases: Vec<String>,
        /// The newest checkpoint from before.
        last_good: Option<PathBuf>,
    },
    /// A device beside the first one failed, or its share of the batches did.
    #[error("{device} (rank {rank}) failed at step {step}: {message}; {}",
        last_good.as_ref().map_or_else(|| "no checkpoint yet".to_owned(), |p| format!("last good checkpoint: {}", p.display()))
    )]
    Rank {
        /// Which.
        rank: usize,
        /// Its device.
        device: String,
        /// The update.
        step: u64,
        /// What it says.
        message: String,
        /// The newest checkpoint from before.
        last_good: Option<PathBuf>,
    },
    /// The device failed.
    #[error("the device failed at step {step}: {message}; {}",
        last_good.as_ref().map_or_else(|| "no checkpoint yet".to_owned(), |p| format!("last good checkpoint: {}", p.display()))
    )]
    Device {
        /// The update.
        step: u64,
        /// What it says.
        message: String,
        /// The newest checkpoint from before.
        last_good: Option<PathBuf>,
    },
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> TrainingError {
    let path = path.to_owned();
    move |source| TrainingError::Io { path, source }
}
