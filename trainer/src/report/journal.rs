//! `RUN_DIR/journal.jsonl`: one JSON object a line, one line a step.
//!
//! A run that is killed and goes on repeats the steps since its last checkpoint; of two lines for a step, the later
//! one counts (and with the same data both say the same loss).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What one update was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Updates done with this one, from 1.
    pub step: u64,
    /// Position in epochs.
    pub epoch: f64,
    /// Before the update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of all gradients before clipping, where they are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Crops of the batch.
    pub crops: usize,
    /// Crops a second, of this step.
    pub crops_per_sec: f64,
    /// From the end of the last step to the end of this one: waiting and computing.
    pub step_ms: f64,
    /// How long the device had nothing to do since no batch was there.
    pub wait_ms: f64,
    /// From the loader's buffer to the device. On another thread, so no part of `step_ms`.
    pub upload_ms: f64,
    /// Forward, backward, update, and reading the loss.
    pub compute_ms: f64,
    /// Reading and decoding in the loader, summed over its threads.
    pub decode_ms: f64,
    /// Cutting and augmenting in the loader, summed over its threads.
    pub augment_ms: f64,
}

/// What a validation during fine-tuning found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Updates done before.
    pub step: u64,
    /// Position in epochs.
    pub epoch: f64,
    /// Mean over cases and classes, background included: what the recipe chooses the best checkpoint by.
    pub mean_dice: f64,
    /// The same without background.
    pub mean_fg_dice: f64,
    /// Mean over cases by class, background first; nothing for a class that no case has.
    pub dice_per_class: Vec<Option<f64>>,
    /// Cases predicted.
    pub num_cases: usize,
    /// Whether no earlier validation was better.
    pub best: bool,
    /// How long it took.
    pub secs: f64,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry {
    /// The run began, or went on.
    Started {
        /// Updates done before.
        step: u64,
        /// Where it runs.
        device: String,
    },
    /// An update.
    Step(StepRecord),
    /// A validation.
    Validation(ValidationRecord),
    /// The run stopped.
    Stopped {
        /// Updates done.
        step: u64,
        /// Whether it was asked to stop early.
        interrupted: bool,
    },
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens `path`; what is there stays if the run goes on.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path, goes_on: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        if goes_on {
            options.append(true);
        } else {
            options.write(true).truncate(true);
        }
        Ok(Self { file: options.create(true).open(path)? })
    }

    /// Writes a line at once: it is there even if the process is killed after this.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}
