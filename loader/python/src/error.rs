//! Errors of the workspace's crates, raised in Python as exceptions with the same text.

use std::io;

use hiend_loader::convert::ConvertError;
use hiend_loader::dataset::DatasetError;
use hiend_loader::phantom::{PhantomError, PhantomFault};
use hiend_loader::pipeline;
use hiend_loader::remote::RemoteError;
use hiend_loader::split::SelectError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::names::in_python;

/// Class of the Python exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `hiend.ConfigError`, which is a `ValueError`.
    Config,
    /// `hiend.NotFoundError`, which is a `FileNotFoundError`.
    NotFound,
    /// `hiend.HiendError`.
    Other,
}

/// An error to be raised in Python.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    text: String,
}

impl Failure {
    /// Creates a `hiend.ConfigError`.
    pub(crate) fn config(text: impl Into<String>) -> Self {
        Self { kind: Kind::Config, text: text.into() }
    }

    /// Creates a `hiend.HiendError`.
    pub(crate) fn other(text: impl Into<String>) -> Self {
        Self { kind: Kind::Other, text: text.into() }
    }

    fn of(kind: Kind, error: &dyn std::error::Error) -> Self {
        Self { kind, text: in_python(&hiend_cache::with_sources(error)) }
    }
}

/// Returns [`Kind::NotFound`] if the system found no file, [`Kind::Other`] otherwise.
fn kind_of(source: &io::Error) -> Kind {
    if source.kind() == io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Other }
}

fn cache_kind(error: &hiend_cache::Error) -> Kind {
    match error {
        hiend_cache::Error::NoCache { .. } | hiend_cache::Error::MissingShard { .. } => Kind::NotFound,
        hiend_cache::Error::File(error) => kind_of(&error.source),
        hiend_cache::Error::Location(_) | hiend_cache::Error::DiskCache(_) => Kind::Config,
        _ => Kind::Other,
    }
}

impl From<hiend_cache::Error> for Failure {
    fn from(error: hiend_cache::Error) -> Self {
        Self::of(cache_kind(&error), &error)
    }
}

impl From<pipeline::Error> for Failure {
    fn from(error: pipeline::Error) -> Self {
        let kind = match &error {
            pipeline::Error::Select(SelectError::ReadList { source, .. }) => kind_of(source),
            pipeline::Error::BadConfig { .. }
            | pipeline::Error::Share { .. }
            | pipeline::Error::NoCache
            | pipeline::Error::Mix(_)
            | pipeline::Error::Select(_)
            | pipeline::Error::Unsuitable { .. }
            | pipeline::Error::TooLittleMemory { .. } => Kind::Config,
            pipeline::Error::Read(error) => cache_kind(error),
            _ => Kind::Other,
        };
        Self::of(kind, &error)
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        let kind = match &error {
            RemoteError::Select(SelectError::ReadList { source, .. }) | RemoteError::ReadCa { source, .. } => {
                kind_of(source)
            }
            RemoteError::NoServer
            | RemoteError::Chunks
            | RemoteError::SkipOfSeveral
            | RemoteError::Refused { is_invalid: true, .. }
            | RemoteError::Address(_)
            | RemoteError::InvalidCa { .. }
            | RemoteError::Select(_)
            | RemoteError::TooLittleMemory { .. } => Kind::Config,
            _ => Kind::Other,
        };
        Self::of(kind, &error)
    }
}

impl From<DatasetError> for Failure {
    fn from(error: DatasetError) -> Self {
        let kind = match &error {
            DatasetError::Unreadable { source, .. } => kind_of(source),
            _ => Kind::Other,
        };
        Self::of(kind, &error)
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Self {
        let kind = match &error {
            ConvertError::Cache(error) => cache_kind(error),
            // A URL that can only be read.
            ConvertError::Folder { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => Kind::Config,
            _ => Kind::Other,
        };
        Self::of(kind, &error)
    }
}

impl From<PhantomError> for Failure {
    fn from(error: PhantomError) -> Self {
        let kind = if matches!(error.reason, PhantomFault::OtherDataset) { Kind::Config } else { Kind::Other };
        Self::of(kind, &error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        static CONFIG: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static NOT_FOUND: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static OTHER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let (class, name) = match failure.kind {
            Kind::Config => (&CONFIG, "ConfigError"),
            Kind::NotFound => (&NOT_FOUND, "NotFoundError"),
            Kind::Other => (&OTHER, "HiendError"),
        };
        Python::attach(|py| match class.import(py, "hiend._errors", name) {
            Ok(class) => Self::from_type(class.clone(), (failure.text,)),
            Err(error) => error,
        })
    }
}
