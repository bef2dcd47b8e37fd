//! Damage: file content that differs from what was written or contradicts itself.

use crate::codec::{CodecError, DecodeError};
use crate::grid::GridError;
use crate::index::IndexError;
use crate::occupancy::OccupancyError;

/// Damage or contradiction in a shard outside its chunks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// A file too short for a header and a footer.
    #[error("{0} bytes are too few for a shard")]
    TooShort(u64),
    /// A file that does not begin with the magic number.
    #[error("no magic number at its start")]
    Magic,
    /// A format version that this crate does not read.
    #[error("format version {found}; expected {expected}")]
    Version {
        /// Version of the shard.
        found: u32,
        /// Version that this crate reads.
        expected: u32,
    },
    /// A header whose checksum does not match.
    #[error("checksum of the header does not match")]
    Header,
    /// A file that does not end with a footer.
    #[error("no footer at its end: truncated or not completely written")]
    Footer,
    /// A directory that does not lie between the cases and the footer.
    #[error("directory at {offset}+{len} does not end at {end}")]
    DirectoryRange {
        /// Offset of the directory.
        offset: u64,
        /// Length of the directory in bytes.
        len: u64,
        /// Offset of the footer.
        end: u64,
    },
    /// A directory whose checksum does not match.
    #[error("checksum of the directory does not match")]
    DirectoryChecksum,
    /// A directory that is not valid JSON of the expected form.
    #[error("directory: {0}")]
    Directory(#[from] JsonError),
    /// A case whose bytes do not follow the previous case, or run past the directory.
    #[error("case {}: byte range overlaps another case or runs past the directory", escaped(case))]
    Span {
        /// `DATASET/CASE`.
        case: String,
    },
    /// Bytes that belong to no case.
    #[error("bytes {start} to {end} belong to no case")]
    Gap {
        /// Offset of the first such byte.
        start: u64,
        /// Offset of the directory.
        end: u64,
    },
    /// An error in one case's index.
    #[error("case {}: {error}", escaped(case))]
    Case {
        /// `DATASET/CASE`.
        case: String,
        /// Damage found in the case's index.
        error: CaseIndexError,
    },
}

/// Damage or contradiction in the index of a case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaseIndexError {
    /// A volume or chunk shape that no grid can have.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// Codec parameters that no codec accepts.
    #[error("{array} codec: {error}")]
    Codec {
        /// `image` or `label`.
        array: &'static str,
        /// Invalid parameter.
        error: CodecError,
    },
    /// An index whose checksum does not match.
    #[error("checksum of the index does not match")]
    Checksum,
    /// An index in object storage that was fetched twice and did not match its checksum either time.
    #[error("index, bytes {start} to {end}, does not match its checksum; fetched twice")]
    Fetched {
        /// Offset of the first byte.
        start: u64,
        /// Offset of the end.
        end: u64,
    },
    /// An index shorter than its entries.
    #[error("index ends early")]
    Truncated,
    /// Entries that do not describe the chunks of an array.
    #[error("{array} index: {error}")]
    Index {
        /// `image` or `label`.
        array: &'static str,
        /// Invalid entry or length.
        error: IndexError,
    },
    /// Counts that contradict the grid.
    #[error(transparent)]
    Occupancy(#[from] OccupancyError),
    /// Chunks before the first byte of the case.
    #[error("chunks lie before the case")]
    BeforeCase,
}

/// Damage of a chunk.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// Bytes whose checksum does not match.
    #[error("checksum does not match")]
    Checksum,
    /// Bytes in object storage that were fetched twice and did not match their checksum either time.
    #[error("bytes {start} to {end} do not match their checksum; fetched twice")]
    Fetched {
        /// Offset of the first byte.
        start: u64,
        /// Offset of the end.
        end: u64,
    },
    /// Bytes that the codec cannot decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Fewer voxels of a kind than the occupancy states.
    #[error("has fewer {kind} voxels than its occupancy states")]
    Occupancy {
        /// Kind of voxel, as an adjective phrase: `foreground`, `class 3`.
        kind: String,
    },
}

/// Text that is not the expected JSON. Displayed in one line: control characters of quoted keys and values are escaped.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(String);

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self(escaped(&error.to_string()))
    }
}

/// Text with its control characters escaped, as `\n`.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

/// Damage in a manifest, or a manifest of another format or version.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Text that is not valid JSON of a manifest.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A manifest of another format or version.
    #[error("format {format} version {version}; expected hiend-cache version {expected}")]
    Format {
        /// Format of the manifest.
        format: String,
        /// Version of the manifest.
        version: u32,
        /// Version that this crate reads.
        expected: u32,
    },
    /// Content that does not match the checksum.
    #[error(
        "content does not match its checksum: damaged, or edited by hand (then delete the line \"checksum\" and the comma \
         before it)"
    )]
    Checksum,
}
