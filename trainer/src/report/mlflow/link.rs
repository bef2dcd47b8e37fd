//! `RUN_DIR/mlflow.json`: identifies the MLflow run to which a run is sent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hiend_cache::{FileError, durable, regular};
use serde::{Deserialize, Serialize};

use super::MlflowError;

/// File name of the link in a run's folder.
pub const LINK: &str = "mlflow.json";

/// Identity of the MLflow run to which a run is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Value of the tag `hiend.key`, by which the MLflow run is found if the response to its creation was lost.
    pub key: String,
    /// Name of the experiment.
    pub experiment: String,
    /// Start of the run, in milliseconds since 1970.
    pub start_ms: i64,
    /// Id of the experiment, once known.
    pub experiment_id: Option<String>,
    /// Id of the MLflow run, once known.
    pub run_id: Option<String>,
    /// True once the parameters and tags were sent.
    pub described: bool,
}

impl Link {
    /// Creates a link from the run in `run_dir` to an MLflow run that does not exist yet.
    pub(super) fn new(run_dir: &Path, experiment: &str, start_ms: i64) -> Self {
        // No other run begins in this folder, in this process, at this moment.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let origin = format!("{} {} {now}", run_dir.display(), std::process::id());
        let key = blake3::hash(origin.as_bytes()).to_hex()[..16].to_owned();
        let experiment = experiment.to_owned();
        Self { key, experiment, start_ms, experiment_id: None, run_id: None, described: false }
    }

    fn path(run_dir: &Path) -> PathBuf {
        run_dir.join(LINK)
    }

    /// Reads the link of a run; `None` if it has none.
    ///
    /// # Errors
    /// If the file cannot be read or parsed.
    pub fn read(run_dir: &Path) -> Result<Option<Self>, MlflowError> {
        let path = Self::path(run_dir);
        match regular::read(&path) {
            Ok(bytes) => {
                let link = serde_json::from_slice(&bytes).map(Some);
                link.map_err(|error| MlflowError::BadLink { path, source: error.into() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::at(&path, "read")(error).into()),
        }
    }

    /// Writes the link of a run. The file appears complete or not at all.
    ///
    /// Removes temporary files that killed processes left in the run's folder.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, run_dir: &Path) -> Result<(), MlflowError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(io::Error::from).map_err(MlflowError::System)?;
        text.push(b'\n');
        let path = Self::path(run_dir);
        durable::remove_stale_beside(&path);
        Ok(durable::write(&path, &text)?)
    }
}
