//! Events of a run.

use std::path::{Path, PathBuf};

use crate::checkpoint::Best;
use crate::journal::{StepRecord, ValidationRecord};

/// An event of a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run starts, or resumes.
    Started {
        /// Number of the model's parameters.
        num_params: usize,
        /// Names of the devices.
        device: String,
        /// Number of optimizer steps done before.
        step: u64,
        /// Number of optimizer steps done when the run ends.
        end_step: u64,
        /// Best previous validation on the same cases, if there was one.
        best: Option<Best>,
        /// Folder of the run.
        run_dir: &'a Path,
    },
    /// The first step compiles kernels, and tunes those that take a missing library's place, which takes minutes without
    /// another event.
    Tuning,
    /// An optimizer step was done.
    Step(&'a StepRecord),
    /// A validation was done.
    Validation(&'a ValidationRecord),
    /// A validation case was predicted.
    Validating {
        /// Number of cases done.
        done: usize,
        /// Total number of cases.
        total: usize,
    },
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// A picture was written.
    Picture(&'a Path),
    /// Information for the user.
    Note(&'a str),
    /// A failure that does not end the run.
    Warning(String),
    /// The run is over.
    Stopped(&'a Summary),
}

/// Reason why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// A stop was requested.
    Interrupted,
}

/// Summary of a run that ended.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Reason why the run ended.
    pub outcome: Outcome,
    /// Number of optimizer steps done, including those before a resume.
    pub step: u64,
    /// Number of optimizer steps done by this process.
    pub steps_done: u64,
    /// Losses of this process's steps, in order.
    pub losses: Vec<f64>,
    /// Seconds from the request of the first batch to the last step.
    pub elapsed_secs: f64,
    /// Fraction of `elapsed_secs` in which the device waited for data.
    pub wait_share: f64,
    /// Last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Best validation so far.
    pub best: Option<Best>,
    /// Last picture.
    pub picture: Option<PathBuf>,
}
