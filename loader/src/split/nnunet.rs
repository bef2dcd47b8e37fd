//! `splits_final.json` of nnU-Net: the training and validation cases of each fold.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{FileSplit, Part, SelectError};
use crate::escape::escape_name;
use crate::plural::count;

/// Names of the cases in a fold.
#[derive(Deserialize)]
struct Fold {
    train: BTreeSet<String>,
    val: BTreeSet<String>,
}

/// Reads the names of the selected part of a fold.
///
/// # Errors
/// If the file cannot be read, is not a list of folds, does not have this fold, or trains on a case that it validates
/// on; or if the part names no case.
pub(super) fn read(split: &FileSplit) -> Result<BTreeSet<String>, SelectError> {
    let path = &split.splits;
    let bad = |reason: String| SelectError::BadSplits { splits: path.clone(), reason };
    let text = std::fs::read_to_string(path).map_err(|source| SelectError::ReadList { list: path.clone(), source })?;
    let mut folds: Vec<Fold> = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| bad(format!("not a list of folds as nnU-Net writes it: {error}")))?;
    let num_folds = folds.len();
    if let Some(of) = split.of.filter(|&of| of as usize != num_folds) {
        return Err(bad(format!("{}; expected {of}", count(num_folds, "fold"))));
    }
    let number = split.fold as usize;
    if number >= num_folds {
        return Err(bad(format!("{}; no fold {number}", count(num_folds, "fold"))));
    }
    let Fold { train, val } = folds.swap_remove(number);
    if let Some(both) = train.intersection(&val).next() {
        return Err(bad(format!("fold {number}: {} is in train and in val", escape_name(both))));
    }
    let names = match split.part {
        Part::Train => train,
        Part::Validation => val,
    };
    if names.is_empty() {
        return Err(SelectError::EmptyList { list: path.clone() });
    }
    Ok(names)
}
