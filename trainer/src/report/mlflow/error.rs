//! Errors of tracking a run.

use std::io;
use std::path::PathBuf;

use hiend_cache::{FileError, JsonError};

use crate::journal::JournalError;

/// An error of tracking a run by MLflow.
#[derive(Debug, thiserror::Error)]
pub enum MlflowError {
    /// The server cannot be reached, or the connection broke.
    #[error("MLflow server {server} does not answer ({reason})")]
    NoAnswer {
        /// URL of the MLflow server.
        server: String,
        /// Reasons, in one line.
        reason: String,
    },
    /// The server refused a request, or failed.
    #[error("MLflow server {server} answered {request} with {status}{message}{}", hint(*status))]
    Refused {
        /// URL of the MLflow server.
        server: String,
        /// Method of the API.
        request: &'static str,
        /// HTTP status of the response.
        status: u16,
        /// MLflow's error code; may be empty.
        code: String,
        /// Message of the server in one line, preceded by a colon; may be empty.
        message: String,
    },
    /// A response that is not from an MLflow server.
    #[error("{server} does not answer like an MLflow server ({found}); check the address and its path")]
    NotMlflow {
        /// URL of the MLflow server.
        server: String,
        /// Description of the response.
        found: String,
    },
    /// The experiment was deleted.
    #[error(
        "experiment `{experiment}` is deleted on {server}; restore it there, or name another one with --mlflow-experiment"
    )]
    DeletedExperiment {
        /// URL of the MLflow server.
        server: String,
        /// Name of the experiment.
        experiment: String,
    },
    /// The MLflow run named in a run's folder was deleted, or is on another server.
    #[error("{server} has no MLflow run {run_id}; remove {} to send everything as a new one", link.display())]
    NoRun {
        /// URL of the MLflow server.
        server: String,
        /// Id of the MLflow run.
        run_id: String,
        /// File that names the MLflow run.
        link: PathBuf,
    },
    /// The run is tracked in another experiment.
    #[error("{} is tracked in experiment `{tracked}`, not `{wanted}`; leave out --mlflow-experiment", run_dir.display())]
    OtherExperiment {
        /// Folder of the run.
        run_dir: PathBuf,
        /// Name of the run's experiment.
        tracked: String,
        /// Experiment given by the user.
        wanted: String,
    },
    /// Another process sends the same run.
    #[error("{} is being sent to MLflow by another process", run_dir.display())]
    InUse {
        /// Folder of the run.
        run_dir: PathBuf,
    },
    /// The file that names the MLflow run cannot be parsed.
    #[error("{}: not a file of hiend-train; remove it to send everything as a new run", path.display())]
    BadLink {
        /// Path of the file that names the MLflow run.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: JsonError,
    },
    /// The address contains a user name or password.
    #[error(
        "--mlflow {server}: user and password do not belong in the address; set MLFLOW_TRACKING_USERNAME and \
         MLFLOW_TRACKING_PASSWORD"
    )]
    CredentialsInUrl {
        /// URL of the MLflow server, without the credentials.
        server: String,
    },
    /// Credentials that HTTP cannot carry.
    #[error("the MLFLOW_TRACKING variables have characters that no HTTP header may have")]
    BadCredentials,
    /// The configuration of the run cannot be parsed.
    #[error("{}: {reason}", path.display())]
    BadConfig {
        /// Path of the run's configuration.
        path: PathBuf,
        /// The parser's message, in one line.
        reason: String,
    },
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The system refused a thread or a socket.
    #[error("cannot track the run")]
    System(#[source] io::Error),
}

impl MlflowError {
    /// Returns true if the same request may succeed later: the server is away, busy or failing, or a disk is full.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::NoAnswer { .. } | Self::File(_) => true,
            Self::Refused { status, .. } => matches!(*status, 408 | 429 | 500..),
            _ => false,
        }
    }

    /// Returns true if the server understood the request and refused its content.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { status: 400, .. })
    }

    /// Returns true if MLflow answered with the error `wanted`.
    pub(super) fn has_code(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "; credentials are taken from MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN",
        _ => "",
    }
}
