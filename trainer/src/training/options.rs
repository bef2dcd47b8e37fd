//! Settings of a run that do not change its losses.

use std::path::PathBuf;
use std::sync::Arc;

use hiend_loader::stop::Stop;

use crate::distributed::ProcessGroup;

/// The state a run starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// First weights; the folder must not hold a run.
    #[default]
    Begin,
    /// The newest checkpoint in the folder.
    Newest,
    /// The checkpoint of this step; later ones are set aside.
    Step(u64),
}

impl From<bool> for Resume {
    /// `true` resumes from the newest checkpoint.
    fn from(resume: bool) -> Self {
        if resume { Self::Newest } else { Self::Begin }
    }
}

/// Settings of a run. None of them changes its losses, but for rounding where several ranks add up theirs.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Folder for everything the run writes.
    pub run_dir: PathBuf,
    /// The state to start from.
    pub resume: Resume,
    /// Total number of optimizer steps to stop after, those before a resume included. The learning-rate schedule is
    /// unaffected.
    pub max_steps: Option<u64>,
    /// Optimizer steps between checkpoints; 0 writes only the last one.
    pub checkpoint_every: u64,
    /// Number of checkpoints to keep, not counting the best one.
    pub keep: usize,
    /// Keep only the inputs of transformer blocks and recompute the rest in the backward pass: less memory, more time.
    pub gradient_checkpointing: bool,
    /// The ranks that train together, if there are several. Each takes its share of every batch.
    pub group: Option<Arc<ProcessGroup>>,
    /// Queue a step before the previous step's loss is read, so that the device never waits for the host; each record
    /// then comes one step later. Default: on every device but the CPU, which has finished when a call returns.
    pub overlap: Option<bool>,
    /// Request to stop early.
    pub stop: Stop,
}

impl TrainOptions {
    /// Settings of a new run in `run_dir` with one checkpoint, at its end.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            resume: Resume::Begin,
            max_steps: None,
            checkpoint_every: 0,
            keep: 3,
            gradient_checkpointing: false,
            group: None,
            overlap: None,
            stop: Stop::default(),
        }
    }
}
