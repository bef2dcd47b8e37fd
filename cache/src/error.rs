//! Errors of this crate, each with the file, case or chunk it concerns.

use std::io;
use std::path::PathBuf;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A file or folder operation that the operating system refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}", path.display())]
pub struct FileError {
    /// Path of the file or folder.
    pub path: PathBuf,
    /// Operation that failed, as a verb phrase: `write`, `sync this folder`.
    pub action: &'static str,
    /// The system's reason.
    pub source: io::Error,
}

impl FileError {
    /// Adds path and operation to an I/O error: `read(path).map_err(FileError::at(path, "read"))`.
    pub fn at(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { path, action, source }
    }
}

impl From<FileError> for io::Error {
    /// Keeps the kind; the text becomes the one that names the path.
    fn from(error: FileError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

/// Errors from reading and writing a cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The folder is no cache.
    #[error("{}: no cache here (manifest.json is missing); make one with `hiend-shard DATA --out {}`", path.display(), path.display())]
    NoCache {
        /// The folder asked for.
        path: PathBuf,
    },
    /// The manifest is not what a manifest should be.
    #[error("{}: not a readable manifest: {reason}", path.display())]
    BadManifest {
        /// The manifest file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A shard that the manifest lists is gone.
    #[error("{}: listed in manifest.json but missing; restore it, or run hiend-shard again to convert its cases anew", path.display())]
    MissingShard {
        /// Where it should be.
        path: PathBuf,
    },
    /// A shard's frame (header, footer, directory or index) does not hold together.
    #[error("{}: not a whole shard: {reason}", path.display())]
    BadShard {
        /// The shard file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A chunk's bytes are not those that were written.
    #[error("{}: case {case}, {array} chunk {chunk}: {reason}; run `hiend-shard verify` on this cache", path.display())]
    CorruptChunk {
        /// The shard file.
        path: PathBuf,
        /// `DATASET/CASE`.
        case: String,
        /// `image` or `label`.
        array: &'static str,
        /// Position in the case's chunk index.
        chunk: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A case that cannot be stored.
    #[error("case {case}: {reason}")]
    BadCase {
        /// `DATASET/CASE`.
        case: String,
        /// Why not.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let at = FileError::at(path, action);
        move |source| Self::File(at(source))
    }
}
