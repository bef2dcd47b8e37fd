//! Errors of a selection.

use std::path::{Path, PathBuf};

use crate::escape::escape_name;
use crate::nearest::hint;
use crate::plural::count;

/// Error of a selection that does not match the cases.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// A dataset to include is not in the cache.
    #[error("include: no dataset matches {name:?}{}", hint(nearest.as_deref()))]
    UnknownDataset {
        /// Name or pattern, as configured.
        name: String,
        /// The most similar dataset of the cache, if one is similar.
        nearest: Option<String>,
    },
    /// A case of the list is not in the cache.
    #[error("{}: no case is named {name:?}{}", list.display(), hint(nearest.as_deref()))]
    UnknownCase {
        /// File of the list.
        list: PathBuf,
        /// Name in the list.
        name: String,
        /// Key of the most similar case of the cache, if one is similar.
        nearest: Option<String>,
    },
    /// A named case is not in the cache.
    #[error("split: no case is named {name:?}{}", hint(nearest.as_deref()))]
    NoCase {
        /// Name, as configured.
        name: String,
        /// Key of the most similar case of the cache, if one is similar.
        nearest: Option<String>,
    },
    /// A name without its dataset matches cases in several of the selected datasets.
    #[error(
        "{}: {name:?} is the name of {first} and of {second}; write DATASET/CASE, or select one dataset with stream.include",
        origin(list.as_deref())
    )]
    Ambiguous {
        /// File of the list; `None` if the configuration names the cases.
        list: Option<PathBuf>,
        /// Name in the list.
        name: String,
        /// Key of the first case with this name.
        first: String,
        /// Key of another case with this name.
        second: String,
    },
    /// A named case is in the cache, but in a dataset that is not selected.
    #[error(
        "{}: case {name:?} is {case}, which stream.include and stream.exclude leave out; remove the name, or select its dataset",
        origin(list.as_deref())
    )]
    Excluded {
        /// File of the list; `None` if the configuration names the cases.
        list: Option<PathBuf>,
        /// Name in the list.
        name: String,
        /// Key of the case with this name.
        case: String,
    },
    /// The list cannot be read.
    #[error("{}: cannot read the list of cases", list.display())]
    ReadList {
        /// File of the list.
        list: PathBuf,
        /// Error from reading the list.
        source: std::io::Error,
    },
    /// The list names no case.
    #[error("{}: the list names no case", list.display())]
    EmptyList {
        /// File of the list.
        list: PathBuf,
    },
    /// The file of folds is not in nnU-Net's format.
    #[error("{}: {reason}", splits.display())]
    BadSplits {
        /// Path of the file of folds.
        splits: PathBuf,
        /// Reason why the file of folds cannot be used.
        reason: String,
    },
    /// A named case has no labels, which the stream carries.
    #[error(
        "{}: case {} has no labels; remove its name, or convert it again with its label map",
        origin(list.as_deref()),
        escape_name(case)
    )]
    Unlabelled {
        /// File of the list; `None` if the configuration names the cases.
        list: Option<PathBuf>,
        /// Key of the case.
        case: String,
    },
    /// No case of the selected datasets has labels, which the stream carries.
    #[error("{}", none_labelled(*cases, *others))]
    NoLabels {
        /// Number of cases in the selected datasets.
        cases: usize,
        /// Number of labelled cases in the other datasets.
        others: usize,
    },
    /// A fold would have no case.
    #[error("split: {} of {}; expected at most as many folds as cases", count(of, "fold"), usable(*cases, *all))]
    TooManyFolds {
        /// Number of folds, as configured.
        of: u32,
        /// Number of cases in the cache; only labelled ones if the stream carries labels.
        cases: usize,
        /// Number of cases in the cache.
        all: usize,
    },
    /// No case would be left for validation.
    #[error(
        "split: shots = {shots} of {}; expected fewer shots than cases, so that some validate",
        usable(*cases, *all)
    )]
    TooManyShots {
        /// Number of training cases, as configured.
        shots: usize,
        /// Number of selected cases; only labelled ones if the stream carries labels.
        cases: usize,
        /// Number of cases in the selected datasets.
        all: usize,
    },
}

/// Source of the names, for messages: the file of a list, or the configuration.
fn origin(list: Option<&Path>) -> String {
    list.map_or_else(|| "split".to_owned(), |list| list.display().to_string())
}

/// Number of usable cases among `all`: they are called labelled where others are not.
fn usable(cases: usize, all: usize) -> String {
    count(cases, if cases < all { "labelled case" } else { "case" })
}

/// Message about `cases` without any label, where `others` of the datasets that are not selected have labels.
fn none_labelled(cases: usize, others: usize) -> String {
    let cases = count(cases, "case");
    if others == 0 {
        return format!("none of {cases} has labels; convert a dataset with labelsTr");
    }
    let others = count(others, "case");
    format!("none of {cases} in the selected datasets has labels; include and exclude leave out {others} with labels")
}
