//! `splits_final.json` of nnU-Net: the training and validation cases of each fold.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::select::short_key;
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
    if let Some([own, other]) = in_both(&train, &val) {
        let (own, other) = (escape_name(own), escape_name(other));
        return Err(bad(if own == other {
            format!("fold {number}: {own} is in train and in val")
        } else {
            format!(
                "fold {number}: {own} is in train and {other} in val, two names of one case; remove one of them, or write both \
                 as DATASET/CASE if they are two cases"
            )
        }));
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

/// The first name of `train` that may be that of a case in `val`, and its name there. A case has two names: `DATASET/CASE`, and
/// `CASE` alone.
fn in_both<'a>(train: &'a BTreeSet<String>, val: &'a BTreeSet<String>) -> Option<[&'a String; 2]> {
    let same = |name: &'a String| Some([name, val.get(name).or_else(|| val.get(short_key(name)))?]);
    let longer = |name: &'a String| Some([train.get(short_key(name))?, name]);
    train.iter().find_map(same).or_else(|| val.iter().find_map(longer))
}
