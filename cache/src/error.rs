//! Everything that can go wrong in a cache, each with the file, case or chunk it went wrong in.

use std::io;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
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
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }
}
