//! How a run is carried out.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::device::Compute;

/// A request to stop after the step at hand; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks to stop; says whether that had been asked before.
    #[expect(clippy::must_use_candidate, reason = "most who ask need no answer")]
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a run is carried out. None of this changes its losses, but for rounding where several devices add up theirs.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Everything the run leaves behind goes there.
    pub run_dir: PathBuf,
    /// Go on from the last checkpoint in `run_dir`.
    pub resume: bool,
    /// Stop after so many updates in all, counting those before a resume. The learning rate's course stays the same.
    pub max_steps: Option<u64>,
    /// Updates from checkpoint to checkpoint; 0 for none but the last.
    pub checkpoint_every: u64,
    /// Checkpoints that stay, the best one aside.
    pub keep: usize,
    /// Keep only the inputs of transformer blocks and compute them again on the way back: less memory, more time.
    pub gradient_checkpointing: bool,
    /// Further devices. Each takes its share of every batch; [`super::ranks`] says how.
    pub others: Vec<Compute>,
    /// Queue an update before the loss of the one before it is read, so that the device never waits for the host; its
    /// line then comes an update later. Absent: everywhere but on the CPU, which is done when it returns.
    pub overlap: Option<bool>,
    /// To stop early.
    pub stop: Stop,
}

impl TrainOptions {
    /// A run in `run_dir` with a checkpoint at its end.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            resume: false,
            max_steps: None,
            checkpoint_every: 0,
            keep: 3,
            gradient_checkpointing: false,
            others: vec![],
            overlap: None,
            stop: Stop::default(),
        }
    }
}
