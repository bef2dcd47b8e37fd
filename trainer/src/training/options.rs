//! Settings of a run that do not change its losses.

use std::path::PathBuf;
use std::sync::Arc;

use hiend_loader::stop::Stop;

use crate::distributed::ProcessGroup;

/// State from which a run starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resume {
    /// Initial weights; the folder must not hold a run.
    #[default]
    Begin,
    /// Newest checkpoint in the folder.
    Newest,
    /// Checkpoint of this step; later ones are set aside.
    Step(u64),
}

impl From<bool> for Resume {
    /// Converts `true` to the newest checkpoint, `false` to a new run.
    fn from(resume: bool) -> Self {
        if resume { Self::Newest } else { Self::Begin }
    }
}

/// Settings of a run. None of them changes its losses, except for rounding in sums over several ranks and where
/// [`other_rounding`](Self::other_rounding) allows it.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Folder for everything the run writes.
    pub run_dir: PathBuf,
    /// State from which to start.
    pub resume: Resume,
    /// Total number of optimizer steps to stop after, including those before a resume. The learning-rate schedule is
    /// unaffected.
    pub max_steps: Option<u64>,
    /// Number of optimizer steps between checkpoints; 0 writes only the last one.
    pub checkpoint_every: u64,
    /// Number of checkpoints to keep, not counting the best one.
    pub keep: usize,
    /// True to keep only the inputs of transformer blocks and recompute everything else in the backward pass: less
    /// memory, more time.
    pub gradient_checkpointing: bool,
    /// Group of ranks that train together, if there are several. Each takes its share of every batch.
    pub group: Option<Arc<ProcessGroup>>,
    /// True to queue a step before the previous step's loss is read, so that the device never waits for the host; each
    /// record then appears one step later. Default: true on every device except the CPU, where calls return only when
    /// finished.
    pub overlap: Option<bool>,
    /// True to resume a run although a library that computed it is not used now or rejects a recorded choice.
    pub other_rounding: bool,
    /// Request to stop early.
    pub stop: Stop,
}

impl TrainOptions {
    /// Creates settings for a new run in `run_dir` with a single checkpoint, at its end.
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
            other_rounding: false,
            stop: Stop::default(),
        }
    }
}
