//! Errors of this crate, each with the file, case or chunk it concerns.
//!
//! The texts say what happened and where. What to do depends on the program: its commands add that.

#[cfg(feature = "object-store")]
mod disk_cache;
mod location;

use std::io;
use std::path::PathBuf;

use crate::codec::CodecError;
use crate::damage::{ChunkError, ManifestError, ShardError, escaped};
use crate::grid::{Box3, GridError};
#[cfg(feature = "object-store")]
pub use disk_cache::DiskCacheError;
pub use location::LocationError;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A file or folder operation that the operating system or an object store refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}", path.display())]
pub struct FileError {
    /// Path of the file or folder, or URL of the object.
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
    /// Converts to an I/O error of the same kind whose text names the path.
    fn from(error: FileError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

/// Text of an error, followed by the texts of its sources, each after a colon.
#[must_use]
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let texts = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    texts.collect::<Vec<_>>().join(": ")
}

/// Errors from reading and writing a cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A URL that cannot be the location of a cache.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// A disk cache that cannot be used.
    #[cfg(feature = "object-store")]
    #[error(transparent)]
    DiskCache(#[from] DiskCacheError),
    /// A folder that is not a cache.
    #[error("{}: no cache here (manifest.json is missing)", path.display())]
    NoCache {
        /// Path of the folder.
        path: PathBuf,
    },
    /// A file where the folder of a cache is expected.
    #[error("{}: not a folder; expected the folder of a cache", path.display())]
    NotAFolder {
        /// Path of the file.
        path: PathBuf,
    },
    /// A damaged manifest, or one of another format.
    #[error("{}: not a valid manifest: {reason}", path.display())]
    BadManifest {
        /// Path of the manifest.
        path: PathBuf,
        /// Damage, or the format or version found.
        reason: ManifestError,
    },
    /// A shard that the manifest lists and that does not exist.
    #[error("{}: listed in manifest.json but missing", path.display())]
    MissingShard {
        /// Path of the shard.
        path: PathBuf,
    },
    /// A shard whose frame (header, footer, directory) or index is damaged.
    #[error("{}: not a valid shard: {reason}", path.display())]
    BadShard {
        /// Path of the shard.
        path: PathBuf,
        /// Damage found in the shard.
        reason: ShardError,
    },
    /// A chunk whose bytes are not those that were written.
    #[error("{}: case {}, {array} chunk {chunk}: {reason}", path.display(), escaped(case))]
    CorruptChunk {
        /// Path of the shard.
        path: PathBuf,
        /// `DATASET/CASE`.
        case: String,
        /// `image` or `label`.
        array: &'static str,
        /// Number of the chunk in grid order.
        chunk: usize,
        /// Damage of the chunk.
        reason: ChunkError,
    },
    /// A case that cannot be stored, or a request that the case cannot serve.
    #[error("case {}: {reason}", escaped(case))]
    BadCase {
        /// `DATASET/CASE`.
        case: String,
        /// Fault of the case or of the request.
        reason: CaseError,
    },
}

/// Contradiction within a case to be stored, or between a case and a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaseError {
    /// A volume or chunk shape that no grid can have.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// A number of bits that no codec supports.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Arrays whose lengths do not match the shape.
    #[error("{image} image and {label} label voxels for shape {shape:?}")]
    Lengths {
        /// Number of image voxels.
        image: usize,
        /// Number of label voxels; that of the shape for a case without labels.
        label: usize,
        /// Shape of the case.
        shape: [usize; 3],
    },
    /// An image value that needs more bits than declared.
    #[error("image value {value} exceeds {bits} bits")]
    Value {
        /// Largest value.
        value: u16,
        /// Declared number of significant bits.
        bits: u8,
    },
    /// A failure of zstd, which happens only when memory runs out.
    #[error("zstd: {0}")]
    Zstd(io::Error),
    /// A chunk shape that differs from the shard's.
    #[error("chunk shape {chunk:?} differs from the shard's {expected:?}")]
    ChunkShape {
        /// Chunk shape of the case.
        chunk: [usize; 3],
        /// Chunk shape of the shard.
        expected: [usize; 3],
    },
    /// A request for labels that the case does not have.
    #[error("has no labels")]
    NoLabels,
    /// A request for packed bytes of an image that is stored with another codec.
    #[error("is stored with a codec other than \"fast\"")]
    NotPacked,
    /// A box that is empty or reaches beyond the volume.
    #[error("{region:?} is empty or reaches beyond shape {shape:?}")]
    Region {
        /// Requested box.
        region: Box3,
        /// Shape of the case.
        shape: [usize; 3],
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_follow_the_error_that_they_caused() {
        let error = FileError::at("a", "write")(io::Error::other("disk full"));
        assert_eq!(with_sources(&error), "a: cannot write: disk full");
    }

    #[test]
    fn the_name_of_a_case_adds_no_line() {
        let case = "D\nx/a".to_owned();
        let reason = CaseError::Region { region: Box3 { start: [0; 3], end: [9; 3] }, shape: [4; 3] };
        let text = Error::BadCase { case: case.clone(), reason }.to_string();
        assert!(text.starts_with("case D\\nx/a: ") && !text.contains('\n'), "{text}");
        assert!(!ShardError::Span { case }.to_string().contains('\n'));
    }
}
