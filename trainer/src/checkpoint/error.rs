//! Errors of checkpoints.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use burn::store::RecordError;
use hiend_cache::{FileError, JsonError};

use super::state::{FORMAT, Kind};

/// An error of reading or writing a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file system error.
    #[error(transparent)]
    File(#[from] FileError),
    /// Tensors that cannot be written or read, or that belong to another model.
    #[error("{}: {message}", path.display())]
    Record {
        /// Path of the file.
        path: PathBuf,
        /// Burn's message, on one line and without the name of the file.
        message: String,
    },
    /// Weights that are not finite, or too large to compute with. They are not saved.
    #[error("{}: {tensor} holds {value:e}", path.display())]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Name of the tensor in the file.
        tensor: String,
        /// First unusable value.
        value: f32,
    },
    /// An optimizer moment that belongs to no parameter.
    #[error("{}: moment {moment} belongs to no parameter of the model", path.display())]
    StrayMoment {
        /// Path of the file.
        path: PathBuf,
        /// Name of the moment in the file.
        moment: String,
    },
    /// An optimizer moment whose shape differs from that of its parameter.
    #[error("{}: {mismatch}", path.display())]
    MomentShape {
        /// Path of the file.
        path: PathBuf,
        /// Shapes of the moment and the parameter.
        mismatch: Box<MomentMismatch>,
    },
    /// A `state.json` that cannot be parsed.
    #[error("{}", path.display())]
    State {
        /// Path of the file.
        path: PathBuf,
        /// The parser's error.
        #[source]
        source: JsonError,
    },
    /// A checkpoint in the folder of another step.
    #[error("{}: holds the checkpoint of step {step}; rename the folder to step-{step:08}, or move it away if that exists", path.display())]
    Renamed {
        /// Path of the checkpoint.
        path: PathBuf,
        /// Step of its state.
        step: u64,
    },
    /// A file whose content changed after it was written.
    #[error("{} is damaged: {damage}", path.display())]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Difference that was found.
        damage: Damage,
    },
    /// A checkpoint of another kind of run.
    #[error("{} is a {found} checkpoint; expected a {expected} one", path.display())]
    Kind {
        /// The checkpoint's folder.
        path: PathBuf,
        /// Kind of the run that wrote the checkpoint.
        found: Kind,
        /// Kind of run that was expected.
        expected: Kind,
    },
    /// A checkpoint whose layout this version does not read.
    #[error("{} has format {found}; this version reads format {FORMAT}", path.display())]
    Format {
        /// Path of the file.
        path: PathBuf,
        /// Format number of the checkpoint.
        found: u32,
    },
}

/// A moment whose shape differs from that of its parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("moment {moment} has shape {found:?}; expected {expected:?} as parameter {parameter}")]
pub struct MomentMismatch {
    /// Name of the moment in the file.
    pub moment: String,
    /// Path of the parameter in the model.
    pub parameter: String,
    /// Shape of the moment.
    pub found: Vec<usize>,
    /// Shape of the parameter.
    pub expected: Vec<usize>,
}

/// A difference between a file and the digest recorded for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The length differs.
    Length {
        /// Length recorded when the file was written, in bytes.
        expected: u64,
        /// Length of the file, in bytes.
        found: u64,
    },
    /// The contents differ.
    Digest,
    /// `state.json` has no entry for the file.
    Unlisted,
    /// The digest at the end of `state.json` is missing or does not match.
    Seal,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { expected, found } => write!(f, "expected {expected} bytes, found {found}"),
            Self::Digest => f.write_str("its contents do not match the BLAKE3 digest in state.json"),
            Self::Unlisted => f.write_str("state.json has no digest of it"),
            Self::Seal => f.write_str("its contents do not match the BLAKE3 digest in its last line"),
        }
    }
}

impl CheckpointError {
    pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File(FileError { path, action, source })
    }

    pub(super) fn record(path: &Path) -> impl FnOnce(RecordError) -> Self {
        let path = path.to_owned();
        move |error| Self::Record { path, message: in_short(&error.to_string()) }
    }

    pub(super) fn damaged(path: &Path, damage: Damage) -> Self {
        Self::Damaged { path: path.to_owned(), damage }
    }

    /// Returns whether another checkpoint of the same run may still be readable.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::File(_)
            | Self::Record { .. }
            | Self::Unusable { .. }
            | Self::StrayMoment { .. }
            | Self::MomentShape { .. }
            | Self::State { .. }
            | Self::Renamed { .. }
            | Self::Damaged { .. } => true,
            Self::Kind { .. } | Self::Format { .. } => false,
        }
    }
}

/// Shortens a message of Burn to one line, without its prefixes and without the path, which the error already names.
fn in_short(message: &str) -> String {
    let message = message.replace('\n', " ");
    let prefixes = ["Record I/O error: ", "I/O error: "];
    let rest = prefixes.iter().fold(message.as_str(), |rest, prefix| rest.strip_prefix(prefix).unwrap_or(rest));
    match (rest.split_once(" '"), rest.rsplit_once("': ")) {
        (Some((action, _)), Some((_, reason))) if action.starts_with("cannot ") => {
            format!("{}: {reason}", action.trim_end_matches(" to"))
        }
        _ => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_full_disk_is_named_once() {
        for (message, expected) in [
            (
                "Record I/O error: I/O error: cannot write to 'run/step-1/model.bpk.17-0.tmp': No space left (os error 28)",
                "cannot write: No space left (os error 28)",
            ),
            ("I/O error: cannot open 'it's.bpk': Permission denied", "cannot open: Permission denied"),
            ("Tensor 'a.weight' has\nanother shape", "Tensor 'a.weight' has another shape"),
        ] {
            assert_eq!(in_short(message), expected);
        }
    }
}
