//! Selection of a cache's cases: datasets by name, and training or validation by list, fold or number of shots.
//!
//! # Guarantee
//! The cases of a cache, sorted by dataset and within it by a hash of the split's seed and the case's key, are dealt to
//! the folds in turn ([`FoldRule::Dealt`]). Folds differ by one case at most, over the cache and within every dataset.
//! Which datasets a stream includes changes no case's fold; cases added to the cache may change it.
//!
//! A stream with labels takes labelled cases only. Within a dataset they are dealt before the others, so that its folds
//! differ by one labelled case at most. A dataset whose cases all have labels has the same folds in streams with and
//! without labels; unlabelled cases of other datasets do not change them.
//!
//! [`FoldRule::Hashed`] is the rule of configurations that name none: a case's fold is the hash modulo the number of
//! folds. It depends on nothing else, so a case stays in its fold when others are added, but of a few cases a fold may
//! get none.
//!
//! For learning from few cases, the shots are the cases with the smallest such hashes among the selected datasets, in a
//! stream with labels among their labelled cases.
//! Their number is exact; adding cases to the cache may change the choice.

mod error;
mod nnunet;
mod select;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::rng::case_key;
pub use error::SelectError;
use select::read_list;
pub use select::{CaseName, Selector, remarks_on_exclude};

/// Part of the cases that a stream takes: `"all"`, `{ fold = 0, of = 5, part = "train", rule = "dealt" }`,
/// `{ splits = "splits_final.json", fold = 0, part = "train" }`, `{ shots = 1, part = "train" }`,
/// `{ list = "train.txt" }` or `{ cases = ["A/case1"] }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"all\", { fold = 0, of = 5, part = \"train\", rule = \"dealt\" } with part \"train\" or \
                 \"validation\" and rule \"dealt\" or \"hashed\", { splits = \"FILE\", fold = 0, part = \"train\" }, \
                 { shots = 1, part = \"train\" }, { list = \"FILE\" }, or { cases = [\"CASE\"] }"
)]
pub enum Split {
    /// Every case.
    All(All),
    /// Cases of one fold, or of all other folds.
    Fold(FoldSplit),
    /// Cases of one fold in nnU-Net's file of folds.
    File(FileSplit),
    /// A given number of cases, or all others.
    Shots(ShotSplit),
    /// Cases of a list.
    List(ListSplit),
    /// Cases by name.
    Cases(CaseSplit),
}

/// The word `"all"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// The word itself.
    #[default]
    All,
}

/// One fold of several, or all other folds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldSplit {
    /// Number of the fold that is held out, from 0.
    pub fold: u32,
    /// Number of folds.
    pub of: u32,
    /// Part to select: the folds that are not held out (`train`), or the one that is (`validation`).
    pub part: Part,
    /// Seed of the assignment of cases to folds.
    #[serde(default)]
    pub seed: u64,
    /// Assignment of cases to folds.
    #[serde(default, skip_serializing_if = "FoldRule::is_hashed")]
    pub rule: FoldRule,
}

/// Assignment of cases to folds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FoldRule {
    /// Hash modulo the number of folds: the rule of configurations that name none, so that existing runs keep their
    /// folds.
    #[default]
    Hashed,
    /// Cases dealt to the folds in turn, in an order shuffled by the seed: within a dataset, folds differ
    /// by one case at most.
    Dealt,
}

impl FoldRule {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_hashed(&self) -> bool {
        *self == Self::Hashed
    }
}

/// One fold of nnU-Net's `splits_final.json`: for each fold, the names of the training and of the validation cases.
/// Names have the form of a [`ListSplit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSplit {
    /// Path of the file.
    pub splits: PathBuf,
    /// Number of the fold, from 0.
    pub fold: u32,
    /// Number of folds that the file must have; any number if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// Part to select: the fold's training or validation cases.
    pub part: Part,
}

/// A given number of training cases, or all other cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShotSplit {
    /// Number of training cases.
    pub shots: usize,
    /// Part to select: the training cases (`train`), or the others (`validation`).
    pub part: Part,
    /// Seed of the selection.
    #[serde(default)]
    pub seed: u64,
}

/// Purpose of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Cases from which crops are drawn for training.
    Train,
    /// Cases for validation, which training does not see.
    Validation,
}

impl Part {
    /// The other part.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Train => Self::Validation,
            Self::Validation => Self::Train,
        }
    }
}

/// Cases named in a file, one per line, as `DATASET/CASE`, or as `CASE` if only one selected dataset has a case of that
/// name; a line that begins with `#` is a comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSplit {
    /// Path of the file.
    pub list: PathBuf,
}

/// Cases by name, as in a [`ListSplit`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseSplit {
    /// Names of the cases, at least one.
    pub cases: Vec<String>,
}

impl Default for Split {
    fn default() -> Self {
        Self::All(All::All)
    }
}

impl Split {
    /// Returns the reason why numbers are out of range; `None` if they are valid.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Fold(FoldSplit { fold, of, .. }) if *of < 2 || fold >= of => {
                Some(format!("fold {fold} of {of}; expected at least 2 folds, and a fold below their number"))
            }
            Self::Shots(ShotSplit { shots: 0, .. }) => Some("shots = 0; expected at least 1".into()),
            Self::Cases(CaseSplit { cases }) if cases.is_empty() => Some("cases = []; expected at least one".into()),
            Self::All(_) | Self::Fold(_) | Self::File(_) | Self::Shots(_) | Self::List(_) | Self::Cases(_) => None,
        }
    }

    /// The split that takes the other part of the cases; `None` for a split without parts.
    #[must_use]
    pub fn other_part(&self) -> Option<Self> {
        match self {
            Self::Fold(split) => Some(Self::Fold(FoldSplit { part: split.part.other(), ..*split })),
            Self::File(split) => Some(Self::File(FileSplit { part: split.part.other(), ..split.clone() })),
            Self::Shots(split) => Some(Self::Shots(ShotSplit { part: split.part.other(), ..*split })),
            Self::All(_) | Self::List(_) | Self::Cases(_) => None,
        }
    }

    /// Returns true if the split names its cases, in a file or in the configuration.
    #[must_use]
    pub fn names_cases(&self) -> bool {
        matches!(self, Self::List(_) | Self::File(_) | Self::Cases(_))
    }

    /// Returns the split with the names from a list in place of its file, for other machines.
    ///
    /// # Errors
    /// If the list cannot be read or names no case.
    pub fn resolved(&self) -> Result<Self, SelectError> {
        match self {
            Self::List(ListSplit { list }) => {
                Ok(Self::Cases(CaseSplit { cases: read_list(list)?.into_iter().collect() }))
            }
            Self::File(file) => Ok(Self::Cases(CaseSplit { cases: nnunet::read(file)?.into_iter().collect() })),
            other => Ok(other.clone()),
        }
    }
}

impl FoldSplit {
    /// Fold of each case of a cache. Within a dataset, usable cases are dealt before the others.
    ///
    /// # Errors
    /// If cases are dealt, and there are fewer of them than folds.
    ///
    /// # Panics
    /// If the number of folds is 0.
    pub fn folds_of(&self, cases: &[CaseName<'_>]) -> Result<Vec<u32>, SelectError> {
        let modulo = |number: u64| u32::try_from(number % u64::from(self.of)).expect("less than a u32");
        if self.rule == FoldRule::Hashed {
            return Ok(cases.iter().map(|case| modulo(hash(self.seed, case.key))).collect());
        }
        if cases.len() < self.of as usize {
            let usable = cases.iter().filter(|case| case.is_usable).count();
            return Err(SelectError::TooManyFolds { of: self.of, cases: usable, all: cases.len() });
        }
        let mut order: Vec<(&str, bool, u64, &str, usize)> = cases
            .iter()
            .enumerate()
            .map(|(at, case)| (case.dataset, !case.is_usable, hash(self.seed, case.key), case.key, at))
            .collect();
        order.sort_unstable();
        let mut folds = vec![0; cases.len()];
        for ((.., at), number) in order.into_iter().zip(0..) {
            folds[at] = modulo(number);
        }
        Ok(folds)
    }

    /// Returns true if a case of this fold belongs to the part.
    fn takes(&self, fold: u32) -> bool {
        (fold == self.fold) == (self.part == Part::Validation)
    }
}

/// Hash of a seed and a case's key.
fn hash(seed: u64, key: &str) -> u64 {
    let mut bytes = seed.to_le_bytes().to_vec();
    bytes.extend(case_key(key).to_le_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

impl ShotSplit {
    /// Keeps the cases of this part, in their order. `all` is the number of cases in their datasets, for errors.
    fn keep(&self, cases: &mut Vec<(usize, &str)>, all: usize) -> Result<(), SelectError> {
        let shots = self.shots;
        if cases.len() <= shots {
            return Err(SelectError::TooManyShots { shots, cases: cases.len(), all });
        }
        let mut hashes: Vec<(u64, &str)> = cases.iter().map(|(_, key)| (hash(self.seed, key), *key)).collect();
        hashes.sort_unstable();
        let chosen: BTreeSet<&str> = hashes[..shots].iter().map(|(_, key)| *key).collect();
        cases.retain(|(_, key)| chosen.contains(key) == (self.part == Part::Train));
        Ok(())
    }
}
