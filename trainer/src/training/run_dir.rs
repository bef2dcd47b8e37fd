//! A run's folder: found or made, and held by one process at a time.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::TrainingError;
use super::error::io_error;
use crate::checkpoint;
use crate::config::RunConfig;

const CONFIG: &str = "config.toml";
const LOCK: &str = "lock";

/// A folder that this process trains in until this is dropped, or that it may begin to train in.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    checkpoint: Option<PathBuf>,
    lock: Option<File>,
}

impl RunDir {
    /// Looks what is there. Makes nothing that is not there, so that a mistyped name leaves no folder.
    ///
    /// # Errors
    /// If there is nothing to go on with or a run where none is wanted, or another process trains there.
    pub(super) fn find(path: &Path, resume: bool) -> Result<Self, TrainingError> {
        if resume && !path.join(CONFIG).exists() {
            return Err(TrainingError::NothingToResume { run_dir: path.to_owned() });
        }
        let lock = if path.is_dir() { hold(path)? } else { None };
        let checkpoints = path.join("checkpoints");
        let checkpoint = if checkpoints.is_dir() { checkpoint::latest(&checkpoints)? } else { None };
        if !resume && checkpoint.is_some() {
            return Err(TrainingError::RunExists { run_dir: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), checkpoint, lock })
    }

    /// The newest checkpoint, if there is one.
    pub(super) fn checkpoint(&self) -> Option<&Path> {
        self.checkpoint.as_deref()
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes what is missing of it, and keeps the configuration there.
    ///
    /// # Errors
    /// If it cannot be written, or another process was faster.
    pub(super) fn begin(self, config: &impl RunConfig) -> Result<Self, TrainingError> {
        let pictures = self.path.join("pictures");
        fs::create_dir_all(&pictures).map_err(io_error(&pictures))?;
        let lock = match self.lock {
            Some(lock) => Some(lock),
            None => hold(&self.path)?,
        };
        write_config(&self.path.join(CONFIG), config)?;
        Ok(Self { lock, ..self })
    }
}

/// Takes the folder for this process. The system lets go of it when the process ends, however it ends.
fn hold(path: &Path) -> Result<Option<File>, TrainingError> {
    let name = path.join(LOCK);
    let file = File::options().create(true).append(true).open(&name).map_err(io_error(&name))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(TrainingError::InUse { run_dir: path.to_owned() }),
        // Some network file systems have no locks. A run is worth more than the check.
        Err(TryLockError::Error(error)) => {
            tracing::warn!("{} cannot be locked ({error}): see to it that one run alone writes there", name.display());
            Ok(None)
        }
    }
}

/// The configuration saved with a run.
///
/// # Errors
/// If it cannot be read or used.
pub fn saved_config<C: RunConfig>(run_dir: &Path) -> Result<C, TrainingError> {
    let path = run_dir.join(CONFIG);
    if !path.exists() {
        return Err(TrainingError::NothingToResume { run_dir: run_dir.to_owned() });
    }
    let text = fs::read_to_string(&path).map_err(io_error(&path))?;
    Ok(C::parse(&text, &path.display().to_string())?)
}

fn write_config(path: &Path, config: &impl RunConfig) -> Result<(), TrainingError> {
    let partial = path.with_extension("toml.partial");
    fs::write(&partial, config.to_toml()).map_err(io_error(&partial))?;
    fs::rename(&partial, path).map_err(io_error(path))
}

/// A run that goes on has the configuration it began with.
///
/// # Errors
/// The first setting that differs.
pub(super) fn refuse_changes<C: RunConfig>(now: &C, before: &C) -> Result<(), TrainingError> {
    match now.differences(before).into_iter().next() {
        Some((key, now, before)) => Err(TrainingError::Changed { key, now, before }),
        None => Ok(()),
    }
}
