//! Errors of a selection.

use std::path::PathBuf;

use crate::plural::count;

/// Error for a selection that does not fit the cases.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A dataset to include is not in the cache.
    #[error("include: no dataset matches {name:?}")]
    UnknownDataset {
        /// Name or pattern, as configured.
        name: String,
    },
    /// A case of the list is not in the cache.
    #[error("{}: no case is named {name:?}", list.display())]
    UnknownCase {
        /// File of the list.
        list: PathBuf,
        /// Name, as listed.
        name: String,
    },
    /// A named case is not in the cache.
    #[error("split: no case is named {name:?}")]
    NoCase {
        /// Name, as configured.
        name: String,
    },
    /// The list cannot be read.
    #[error("{}: cannot read the list of cases", list.display())]
    ReadList {
        /// File of the list.
        list: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The list names no case.
    #[error("{}: the list names no case", list.display())]
    EmptyList {
        /// File of the list.
        list: PathBuf,
    },
    /// The file of folds is not nnU-Net's.
    #[error("{}: {reason}", splits.display())]
    BadSplits {
        /// The file.
        splits: PathBuf,
        /// The fault.
        reason: String,
    },
    /// A fold would have no case.
    #[error("split: {} of {}; expected at most as many folds as cases", count(of, "fold"), count(cases, "case"))]
    TooManyFolds {
        /// Number of folds, as configured.
        of: u32,
        /// Number of cases in the cache.
        cases: usize,
    },
    /// No case would be left to validate on.
    #[error(
        "split: shots = {shots} of {}; expected fewer shots than cases, so that some validate",
        count(cases, "case")
    )]
    TooManyShots {
        /// Cases to learn from, as configured.
        shots: usize,
        /// Selected cases.
        cases: usize,
    },
}
