//! Where a run keeps what: the checkpoint that a path given on the command line means.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::checkpoint::{self, CheckpointError};

/// Why a path means no checkpoint.
#[derive(Debug, Error)]
pub enum RunFolderError {
    /// There is none.
    #[error("{}: no run and no checkpoint; expected a folder that hiend-train wrote", path.display())]
    NoRun {
        /// The path.
        path: PathBuf,
    },
    /// A run that was stopped before its first checkpoint.
    #[error("{}: this run has no checkpoint yet", path.display())]
    NoCheckpoint {
        /// The run's folder.
        path: PathBuf,
    },
    /// One that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// The checkpoint that `path` means: itself, or the best of the run in this folder, or the newest of a run that was
/// never validated.
///
/// # Errors
/// If there is none, or it cannot be read.
pub fn checkpoint_of(path: &Path) -> Result<PathBuf, RunFolderError> {
    if path.join("state.json").exists() {
        return Ok(path.to_owned());
    }
    let checkpoints = path.join("checkpoints");
    if !checkpoints.is_dir() {
        return Err(RunFolderError::NoRun { path: path.to_owned() });
    }
    checkpoint::best(&checkpoints)?.ok_or_else(|| RunFolderError::NoCheckpoint { path: path.to_owned() })
}
