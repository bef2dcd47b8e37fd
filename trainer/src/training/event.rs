//! What a run tells of itself.

use std::path::{Path, PathBuf};

use crate::checkpoint::Best;
use crate::report::journal::{StepRecord, ValidationRecord};

/// What happens in a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// The first batch is on its way.
    Started {
        /// Parameters of the model.
        num_params: usize,
        /// Where it runs.
        device: String,
        /// Updates done before.
        step: u64,
        /// Updates done when it ends.
        end_step: u64,
        /// What it leaves behind goes there.
        run_dir: &'a Path,
    },
    /// The first updates compile and tune kernels: minutes in which nothing else is told.
    Tuning,
    /// An update was done.
    Step(&'a StepRecord),
    /// A validation was done.
    Validation(&'a ValidationRecord),
    /// A volume of the validation was predicted.
    Validating {
        /// Volumes done.
        done: usize,
        /// Volumes in all.
        total: usize,
    },
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// A picture was written.
    Picture(&'a Path),
    /// Something worth knowing.
    Note(&'a str),
    /// Something failed that the run does not need.
    Warning(String),
    /// The run is over.
    Stopped(&'a Summary),
}

/// Why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop.
    Interrupted,
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Why.
    pub outcome: Outcome,
    /// Updates done in all.
    pub step: u64,
    /// Updates done by this process.
    pub steps_done: u64,
    /// Losses of this process's updates, in order.
    pub losses: Vec<f64>,
    /// Seconds from the first batch's request to the last update.
    pub elapsed_secs: f64,
    /// Part of that in which the device waited for data.
    pub wait_share: f64,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// The best validation so far.
    pub best: Option<Best>,
    /// The last picture.
    pub picture: Option<PathBuf>,
}
