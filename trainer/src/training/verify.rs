//! Checks of a run's files without loading them.

use std::io;
use std::path::{Path, PathBuf};

use hiend_cache::{FileError, lookup, regular};

use super::TrainingError;
use super::run_cases::{CASES, RunCases, RunCasesError};
use super::run_dir::{CHECKPOINTS, CONFIG, JOURNAL};
use crate::checkpoint::{self, CheckpointError, Integrity, Kind};
use crate::config::finetune::FinetuneConfig;
use crate::config::pretrain::PretrainConfig;
use crate::config::{ConfigError, RunConfig as _};
use crate::journal::{self, JournalError, missing_steps, missing_text};

/// Results of checking a run.
#[derive(Debug)]
pub struct RunCheck {
    /// Every checkpoint with its step and result, in ascending order.
    pub checkpoints: Vec<(u64, PathBuf, Result<Integrity, CheckpointError>)>,
    /// Every other file with its result.
    pub files: Vec<(PathBuf, Result<String, FileFault>)>,
}

/// A fault of a run's file other than a checkpoint's.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// The file is missing or empty.
    #[error("{}: missing or empty; --resume restores it from the newest checkpoint", path.display())]
    Absent {
        /// Path of the missing or empty file.
        path: PathBuf,
    },
    /// The configuration cannot be parsed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration differs from the newest checkpoint's.
    #[error("{}: {key} is {found}, but {expected} in the newest checkpoint; delete the file, and --resume restores it", path.display())]
    Differs {
        /// Path of the configuration.
        path: PathBuf,
        /// First setting that differs.
        key: String,
        /// Value of the setting in the file.
        found: String,
        /// Value of the setting in the checkpoint.
        expected: String,
    },
    /// The configuration cannot be read.
    #[error(transparent)]
    Unreadable(FileError),
    /// The newest checkpoint's configuration cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The cases with which the run began cannot be read.
    #[error(transparent)]
    Cases(#[from] RunCasesError),
    /// There is no journal.
    #[error("the checkpoints do not need it; curves will lack the steps so far")]
    NoJournal,
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl RunCheck {
    /// Number of damaged checkpoints and files.
    #[must_use]
    pub fn num_faults(&self) -> usize {
        let checkpoints = self.checkpoints.iter().filter(|(.., result)| result.is_err()).count();
        checkpoints + self.files.iter().filter(|(_, result)| result.is_err()).count()
    }

    /// Step of the newest undamaged checkpoint, if there is one.
    #[must_use]
    pub fn newest_whole(&self) -> Option<u64> {
        self.checkpoints.iter().rev().find(|(.., result)| result.is_ok()).map(|(step, ..)| *step)
    }
}

/// Checks every checkpoint, the configuration, the cases and the journal of a run.
///
/// # Errors
/// If the folder cannot be read or holds no run. Damaged files are results, not errors.
pub fn verify(run_dir: &Path) -> Result<RunCheck, TrainingError> {
    let steps = checkpoint::all(&run_dir.join(CHECKPOINTS))?;
    let config = run_dir.join(CONFIG);
    let has_config = lookup::exists(&config)?;
    if steps.is_empty() && !has_config {
        return Err(TrainingError::NothingToResume { run_dir: run_dir.to_owned() });
    }
    let mut checkpoints: Vec<_> = steps
        .into_iter()
        .map(|(step, path)| {
            let result = checkpoint::check(&path);
            (step, path, result)
        })
        .collect();
    // A run in progress removes old checkpoints: one that is gone now is not damaged.
    checkpoints.retain(|(_, path, result)| result.is_ok() || lookup::exists(path).unwrap_or(true));
    let newest = checkpoints.iter().rev().find(|(.., result)| result.is_ok());
    let mut files = vec![(config.clone(), check_config(&config, newest.map(|(_, path, _)| path.as_path())))];
    if let Some(cases) = RunCases::read(run_dir).transpose() {
        let result = cases.map(|cases| format!("cases: {}", cases.num_cases()));
        files.push((run_dir.join(CASES), result.map_err(FileFault::from)));
    }
    let path = run_dir.join(JOURNAL);
    // No checkpoint is ahead of its journal.
    let done = newest.map_or(0, |(step, ..)| *step);
    files.push((path.clone(), check_journal(&path, done)));
    Ok(RunCheck { checkpoints, files })
}

/// Parses the configuration and compares it with the one in a checkpoint.
fn check_config(path: &Path, newest: Option<&Path>) -> Result<String, FileFault> {
    let text = match regular::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.map_err(|error| FileFault::Unreadable(FileError::at(path, "read")(error)))?,
    };
    if text.trim().is_empty() {
        return Err(FileFault::Absent { path: path.to_owned() });
    }
    let origin = path.display().to_string();
    let differences = match newest.and_then(|newest| Some((newest, checkpoint::read_head(newest).ok()?.kind))) {
        Some((newest, Kind::Pretrain)) => {
            let now = PretrainConfig::parse(&text, &origin)?;
            checkpoint::read_state(newest, Kind::Pretrain).map(|state| now.changes_since(&state.config))
        }
        Some((newest, Kind::Finetune)) => {
            let now = FinetuneConfig::parse(&text, &origin)?;
            checkpoint::read_state(newest, Kind::Finetune).map(|state| now.changes_since(&state.config))
        }
        None => {
            // Without a checkpoint either kind will do; if the text fits neither, the error of pre-training is shown.
            if FinetuneConfig::parse(&text, &origin).is_err() {
                PretrainConfig::parse(&text, &origin)?;
            }
            return Ok("valid".into());
        }
    };
    match differences?.into_iter().find(|(key, ..)| !super::run_dir::may_change(key)) {
        Some((key, found, expected)) => Err(FileFault::Differs { path: path.to_owned(), key, found, expected }),
        None => Ok("valid, equal to the newest checkpoint's".into()),
    }
}

/// Reads the journal of a run of `done` steps from start to end. Steps without a line are reported and not a fault: no
/// checkpoint needs them.
fn check_journal(path: &Path, done: u64) -> Result<String, FileFault> {
    if !lookup::exists(path).map_err(FileFault::Unreadable)? {
        return Err(FileFault::NoJournal);
    }
    let mut num_entries = 0u64;
    let entries = journal::read(path)?.inspect(|_| num_entries += 1);
    let steps = missing_steps(entries, done)?;
    Ok(match steps.as_slice() {
        [] => format!("entries: {num_entries}"),
        steps => format!("entries: {num_entries}; {}", missing_text(steps)),
    })
}
