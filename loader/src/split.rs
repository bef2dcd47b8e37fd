//! Selection of a cache's cases: datasets by name, and training or validation by list, fold or number of shots.
//!
//! # Law
//! The cases of a cache, sorted by dataset and within it by a hash of the split's seed and the case's key, are dealt to
//! the folds in turn ([`FoldRule::Dealt`]). Folds differ by one case at most, over the cache and within every dataset.
//! Which datasets a stream includes changes no case's fold; cases added to the cache may change it.
//!
//! [`FoldRule::Hashed`] is the rule of configurations that name none: a case's fold is the hash modulo the number of
//! folds. It depends on nothing else, so a case stays in its fold when others are added, but of a few cases a fold may
//! get none.
//!
//! For learning from few cases, the shots are the cases with the smallest such hashes among the selected datasets.
//! Their number is exact; adding cases to the cache may change the choice.

mod nnunet;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::plural::count;
use crate::rng::case_key;

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
    /// Cases of one fold, or of all others.
    Fold(FoldSplit),
    /// Cases of one fold of nnU-Net's file.
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
    /// `"all"`.
    #[default]
    All,
}

/// One fold of several, or all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldSplit {
    /// Number of the fold that is held out, from 0.
    pub fold: u32,
    /// Number of folds.
    pub of: u32,
    /// Folds that are not held out (`train`), or the one that is (`validation`).
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
    /// In turn, in an order shuffled by the seed: folds of equal size.
    Dealt,
}

impl FoldRule {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_hashed(&self) -> bool {
        *self == Self::Hashed
    }
}

/// One fold of nnU-Net's `splits_final.json`: a list with the names of the cases to train and to validate on, per fold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSplit {
    /// Path of the file.
    pub splits: PathBuf,
    /// Number of the fold, from 0.
    pub fold: u32,
    /// Number of folds that the file must have; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u32>,
    /// The fold's cases to train on, or to validate on.
    pub part: Part,
}

/// A given number of cases to learn from, or all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShotSplit {
    /// Number of cases to learn from.
    pub shots: usize,
    /// Cases to learn from (`train`), or the others (`validation`).
    pub part: Part,
    /// Seed of the choice.
    #[serde(default)]
    pub seed: u64,
}

/// Purpose of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Training.
    Train,
    /// Validation, on cases that training does not see.
    Validation,
}

/// Cases named in a file, one per line, as `DATASET/CASE` or `CASE`; `#` begins a comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSplit {
    /// Path of the file.
    pub list: PathBuf,
}

/// Cases by name, as `DATASET/CASE` or `CASE`.
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
    /// Reason why the numbers are out of range, if they are.
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

    /// The split with the names of a list in place of its file, for other machines.
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

impl FoldSplit {
    /// Fold of each case of a cache.
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
            return Err(SelectError::TooManyFolds { of: self.of, cases: cases.len() });
        }
        let mut order: Vec<(&str, u64, &str, usize)> = cases
            .iter()
            .enumerate()
            .map(|(at, case)| (case.dataset, hash(self.seed, case.key), case.key, at))
            .collect();
        order.sort_unstable();
        let mut folds = vec![0; cases.len()];
        for ((_, _, _, at), number) in order.into_iter().zip(0..) {
            folds[at] = modulo(number);
        }
        Ok(folds)
    }

    /// True if a case of this fold belongs to the part.
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
    /// Keeps the cases of this part, in their order.
    fn keep(&self, cases: &mut Vec<(usize, &str)>) -> Result<(), SelectError> {
        let shots = self.shots;
        if cases.len() <= shots {
            return Err(SelectError::TooManyShots { shots, cases: cases.len() });
        }
        let mut hashes: Vec<(u64, &str)> = cases.iter().map(|(_, key)| (hash(self.seed, key), *key)).collect();
        hashes.sort_unstable();
        let chosen: BTreeSet<&str> = hashes[..shots].iter().map(|(_, key)| *key).collect();
        cases.retain(|(_, key)| chosen.contains(key) == (self.part == Part::Train));
        Ok(())
    }
}

/// Names by which a case is selected.
#[derive(Clone, Copy, Debug)]
pub struct CaseName<'a> {
    /// Dataset.
    pub dataset: &'a str,
    /// `DATASET/CASE`.
    pub key: &'a str,
}

/// Compiled selection: dataset names and a split.
#[derive(Debug)]
pub struct Selector {
    include: Vec<(String, WildMatch)>,
    exclude: Vec<(String, WildMatch)>,
    split: Split,
    listed: BTreeSet<String>,
}

impl Selector {
    /// Compiles dataset names and reads the list, if the split has one.
    ///
    /// # Errors
    /// If the list cannot be read or names no case.
    pub fn new(include: &[String], exclude: &[String], split: &Split) -> Result<Self, SelectError> {
        let compile = |names: &[String]| {
            names.iter().map(|name| (name.clone(), WildMatch::new(&name.to_lowercase()))).collect::<Vec<_>>()
        };
        let listed = match split {
            Split::List(ListSplit { list }) => read_list(list)?,
            Split::Cases(CaseSplit { cases }) => cases.iter().cloned().collect(),
            Split::File(file) => nnunet::read(file)?,
            Split::All(_) | Split::Fold(_) | Split::Shots(_) => BTreeSet::new(),
        };
        Ok(Self { include: compile(include), exclude: compile(exclude), split: split.clone(), listed })
    }

    /// Indices of the selected cases, in increasing order.
    ///
    /// # Errors
    /// If a dataset to include or a case of the list does not exist, because a run on fewer cases than intended would go
    /// unnoticed. A dataset to exclude may be absent, so that one list serves many caches.
    pub fn select(&self, cases: &[CaseName<'_>]) -> Result<Vec<usize>, SelectError> {
        let meets = |patterns: &[(String, WildMatch)], case: &CaseName<'_>| {
            patterns.iter().any(|(_, pattern)| names_dataset(pattern, case.dataset))
        };
        for (name, pattern) in &self.include {
            if !cases.iter().any(|case| names_dataset(pattern, case.dataset)) {
                return Err(SelectError::UnknownDataset { name: name.clone() });
            }
        }
        let names: BTreeSet<&str> = cases.iter().flat_map(|case| [case.key, short_key(case.key)]).collect();
        if let Some(name) = self.listed.iter().find(|name| !names.contains(name.as_str())).cloned() {
            return Err(match &self.split {
                Split::List(ListSplit { list }) | Split::File(FileSplit { splits: list, .. }) => {
                    SelectError::UnknownCase { list: list.clone(), name }
                }
                _ => SelectError::NoCase { name },
            });
        }
        let folds = match &self.split {
            Split::Fold(split) => split.folds_of(cases)?,
            _ => Vec::new(),
        };
        let taken = |(idx, case): (usize, &CaseName<'_>)| {
            let by_name = (self.include.is_empty() || meets(&self.include, case)) && !meets(&self.exclude, case);
            by_name
                && match &self.split {
                    Split::All(All::All) | Split::Shots(_) => true,
                    Split::Fold(split) => split.takes(folds[idx]),
                    Split::List(_) | Split::File(_) | Split::Cases(_) => {
                        self.listed.contains(case.key) || self.listed.contains(short_key(case.key))
                    }
                }
        };
        let mut taken: Vec<(usize, &str)> =
            cases.iter().enumerate().filter(|place| taken(*place)).map(|(idx, case)| (idx, case.key)).collect();
        if let Split::Shots(shots) = &self.split {
            shots.keep(&mut taken)?;
        }
        Ok(taken.into_iter().map(|(idx, _)| idx).collect())
    }
}

/// True if a pattern matches a dataset. As for `hiend-shard --exclude`, `WORD` also matches `Dataset009_WORD`.
fn names_dataset(pattern: &WildMatch, dataset: &str) -> bool {
    let dataset = dataset.to_lowercase();
    let short = match dataset.split_once('_') {
        Some((head, tail)) if head.starts_with("dataset") || head.starts_with("task") => tail,
        _ => &dataset,
    };
    pattern.matches(&dataset) || pattern.matches(short)
}

/// Case of `DATASET/CASE`.
fn short_key(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, case)| case)
}

/// Reads the names of a list.
fn read_list(path: &Path) -> Result<BTreeSet<String>, SelectError> {
    let list = || path.to_owned();
    let text = std::fs::read_to_string(path).map_err(|source| SelectError::ReadList { list: list(), source })?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let names: BTreeSet<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(SelectError::EmptyList { list: list() });
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(keys: &[String]) -> Vec<CaseName<'_>> {
        keys.iter().map(|key| CaseName { dataset: key.split('/').next().unwrap(), key }).collect()
    }

    fn select(split: &Split, include: &[&str], exclude: &[&str], keys: &[String]) -> Result<Vec<usize>, SelectError> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        Selector::new(&owned(include), &owned(exclude), split)?.select(&names(keys))
    }

    /// Folds of [`keys`] of 12 cases.
    const HASHED_FOLDS: [u32; 12] = [3, 2, 3, 1, 0, 4, 0, 0, 4, 2, 3, 3];
    const DEALT_FOLDS: [u32; 12] = [1, 0, 4, 0, 2, 0, 2, 1, 1, 3, 4, 3];

    fn keys(n: usize) -> Vec<String> {
        (0..n).map(|case| format!("Dataset{:03}_SET{}/case{case}", case % 3, case % 3)).collect()
    }

    proptest! {
        #[test]
        fn hashed_cases_are_held_out_in_one_fold_and_stay_in_it(n in 1usize..60, of in 2u32..8, seed: u64) {
            let split = |fold, part| Split::Fold(FoldSplit { fold, of, part, seed, rule: FoldRule::Hashed });
            let (keys, more) = (keys(n), keys(n + 30));
            let mut held_out = Vec::new();
            for fold in 0..of {
                let validation = select(&split(fold, Part::Validation), &[], &[], &keys).unwrap();
                let train = select(&split(fold, Part::Train), &[], &[], &keys).unwrap();
                let mut all: Vec<usize> = validation.iter().chain(&train).copied().collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..n).collect::<Vec<_>>());
                let later = select(&split(fold, Part::Validation), &[], &[], &more).unwrap();
                let before: Vec<usize> = later.into_iter().filter(|&idx| idx < n).collect();
                prop_assert_eq!(&before, &validation);
                held_out.extend(validation);
            }
            held_out.sort_unstable();
            prop_assert_eq!(held_out, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn dealt_folds_are_equal_over_all_cases_and_within_datasets(n in 8usize..60, of in 2u32..8, seed: u64) {
            let split = |fold, part| Split::Fold(FoldSplit { fold, of, part, seed, rule: FoldRule::Dealt });
            let keys = keys(n);
            for include in [&[][..], &["SET1"], &["SET0", "SET2"]] {
                let mut held_out = Vec::new();
                let mut sizes = Vec::new();
                for fold in 0..of {
                    let validation = select(&split(fold, Part::Validation), include, &[], &keys).unwrap();
                    let train = select(&split(fold, Part::Train), include, &[], &keys).unwrap();
                    prop_assert!(train.iter().all(|case| !validation.contains(case)));
                    sizes.push(validation.len());
                    held_out.extend(validation);
                    // Which datasets are included changes no case's fold.
                    let all = select(&split(fold, Part::Train), &[], &[], &keys).unwrap();
                    prop_assert!(train.iter().all(|case| all.contains(case)));
                }
                held_out.sort_unstable();
                let expected = select(&Split::default(), include, &[], &keys).unwrap();
                prop_assert_eq!(held_out, expected);
                let datasets = if include.is_empty() { 1 } else { include.len() };
                let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
                prop_assert!(most - least <= datasets, "{:?}", sizes);
            }
        }
    }

    /// Folds of the program that introduced each rule: a change would mix training and validation cases of existing runs.
    #[test]
    fn the_rules_of_folds_are_frozen() {
        let keys = keys(12);
        let folds =
            |rule| FoldSplit { fold: 0, of: 5, part: Part::Train, seed: 0, rule }.folds_of(&names(&keys)).unwrap();
        assert_eq!(folds(FoldRule::Hashed), HASHED_FOLDS);
        assert_eq!(folds(FoldRule::Dealt), DEALT_FOLDS);
    }

    #[test]
    fn every_fold_of_few_cases_gets_one() {
        let keys = keys(4);
        let split = |fold, part| Split::Fold(FoldSplit { fold, of: 4, part, seed: 0, rule: FoldRule::Dealt });
        for fold in 0..4 {
            assert_eq!(select(&split(fold, Part::Validation), &[], &[], &keys).unwrap().len(), 1);
            assert_eq!(select(&split(fold, Part::Train), &[], &[], &keys).unwrap().len(), 3);
        }
        let error = select(&split(0, Part::Train), &[], &[], &keys[..3]).unwrap_err().to_string();
        assert_eq!(error, "split: 4 folds of 3 cases; expected at most as many folds as cases");
    }

    #[test]
    fn hashed_folds_are_nearly_equal() {
        let split = FoldSplit { fold: 0, of: 5, part: Part::Train, seed: 3, rule: FoldRule::Hashed };
        let mut counts = [0u32; 5];
        for fold in split.folds_of(&names(&keys(10_000))).unwrap() {
            counts[fold as usize] += 1;
        }
        // The expectation is 2000 with a standard deviation of 40; the bounds are four of those.
        assert!(counts.iter().all(|&n| (1840..2160).contains(&n)), "{counts:?}");
    }

    #[test]
    fn datasets_are_included_and_excluded_by_name() {
        let keys = keys(6);
        let all = Split::default();
        assert_eq!(select(&all, &["set1"], &[], &keys).unwrap(), [1, 4]);
        assert_eq!(select(&all, &[], &["Dataset000_*", "WORD"], &keys).unwrap(), [1, 2, 4, 5]);
        assert_eq!(select(&all, &["SET?"], &["SET2"], &keys).unwrap(), [0, 1, 3, 4]);
        let error = select(&all, &["SET1", "AMOS"], &[], &keys).unwrap_err();
        assert!(matches!(&error, SelectError::UnknownDataset { name } if name == "AMOS"), "{error}");
    }

    #[test]
    fn list_selects_exactly_its_cases() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let split = Split::List(ListSplit { list: file.path().to_owned() });
        std::fs::write(file.path(), "# two\nDataset000_SET0/case3\n case4 # short\n\n").unwrap();
        assert_eq!(select(&split, &[], &[], &keys(6)).unwrap(), [3, 4]);
        let error = select(&split, &[], &[], &keys(4)).unwrap_err();
        assert!(matches!(&error, SelectError::UnknownCase { name, .. } if name == "case4"), "{error}");
        std::fs::write(file.path(), "#\n").unwrap();
        assert!(matches!(select(&split, &[], &[], &keys(4)), Err(SelectError::EmptyList { .. })));
        std::fs::write(file.path(), "case9\nDataset000_SET0/case3").unwrap();
        let resolved = Split::Cases(CaseSplit { cases: vec!["Dataset000_SET0/case3".into(), "case9".into()] });
        assert_eq!(split.resolved().unwrap(), resolved);
        assert_eq!(select(&resolved, &[], &[], &keys(12)).unwrap(), [3, 9]);
        let error = select(&resolved, &[], &[], &keys(6)).unwrap_err();
        assert!(matches!(&error, SelectError::NoCase { name } if name == "case9"), "{error}");
        let missing = Split::List(ListSplit { list: file.path().join("missing") });
        assert!(matches!(select(&missing, &[], &[], &keys(4)), Err(SelectError::ReadList { .. })));
    }

    #[test]
    fn folds_of_nnunet_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let split = |fold, of, part| Split::File(FileSplit { splits: file.path().to_owned(), fold, of, part });
        let write = |text: &str| std::fs::write(file.path(), text).unwrap();
        write(
            r#"[{"train": ["case0", "case2"], "val": ["case1"]}, {"train": ["case1"], "val": ["Dataset000_SET0/case0"]}]"#,
        );
        let keys = keys(4);
        assert_eq!(select(&split(0, None, Part::Train), &[], &[], &keys).unwrap(), [0, 2]);
        assert_eq!(select(&split(0, Some(2), Part::Validation), &[], &[], &keys).unwrap(), [1]);
        assert_eq!(select(&split(1, None, Part::Validation), &[], &[], &keys).unwrap(), [0]);
        let error = |split| select(&split, &[], &[], &keys).unwrap_err().to_string();
        assert!(error(split(2, None, Part::Train)).ends_with(": 2 folds; no fold 2"));
        assert!(error(split(0, Some(5), Part::Train)).ends_with(": 2 folds; expected 5"));
        write(r#"[{"train": ["case9"], "val": ["case1"]}]"#);
        assert!(error(split(0, None, Part::Train)).ends_with("no case is named \"case9\""));
        write(r#"[{"train": ["case1"], "val": ["case2", "case1"]}]"#);
        assert!(error(split(0, None, Part::Train)).ends_with(": fold 0: case1 is in train and in val"));
        write(r#"[{"train": ["case1"], "val": []}]"#);
        assert!(error(split(0, None, Part::Validation)).ends_with(": the list names no case"));
        write(r#"{"train": []}"#);
        assert!(error(split(0, None, Part::Train)).contains(": not a list of folds as nnU-Net writes it: "));
    }

    #[test]
    fn shots_train_and_the_other_cases_validate() {
        let keys = keys(9);
        let split = |shots, part, seed| Split::Shots(ShotSplit { shots, part, seed });
        let train = select(&split(2, Part::Train, 1), &["SET1", "SET2"], &[], &keys).unwrap();
        let mut both = select(&split(2, Part::Validation, 1), &["SET1", "SET2"], &[], &keys).unwrap();
        assert_eq!((train.len(), both.len()), (2, 4));
        both.extend(&train);
        both.sort_unstable();
        assert_eq!(both, [1, 2, 4, 5, 7, 8]);
        let differs =
            (2..40).any(|seed| select(&split(2, Part::Train, seed), &["SET1", "SET2"], &[], &keys).unwrap() != train);
        assert!(differs, "no seed changes the choice");
        let error = select(&split(9, Part::Train, 1), &[], &[], &keys).unwrap_err();
        assert!(matches!(error, SelectError::TooManyShots { shots: 9, cases: 9 }), "{error}");
        assert!(split(0, Part::Train, 1).fault().is_some());
    }

    #[test]
    fn splits_parse_as_documented() {
        let parse = |text: &str| serde_json::from_str::<Split>(text);
        assert_eq!(parse(r#""all""#).unwrap(), Split::default());
        let fold = parse(r#"{"fold": 1, "of": 5, "part": "validation"}"#).unwrap();
        let hashed = FoldSplit { fold: 1, of: 5, part: Part::Validation, seed: 0, rule: FoldRule::Hashed };
        assert_eq!(fold, Split::Fold(hashed));
        assert_eq!(fold.fault(), None);
        // Saved configurations that name no rule are compared by their text when a run is resumed.
        assert!(!serde_json::to_string(&fold).unwrap().contains("rule"));
        let dealt = parse(r#"{"fold": 1, "of": 5, "part": "validation", "rule": "dealt"}"#).unwrap();
        assert_eq!(dealt, Split::Fold(FoldSplit { rule: FoldRule::Dealt, ..hashed }));
        let file = parse(r#"{"splits": "a.json", "fold": 1, "part": "train"}"#).unwrap();
        assert_eq!(file, Split::File(FileSplit { splits: "a.json".into(), fold: 1, of: None, part: Part::Train }));
        assert!(parse(r#"{"fold": 5, "of": 5, "part": "train"}"#).unwrap().fault().is_some());
        assert_eq!(parse(r#"{"list": "a.txt"}"#).unwrap(), Split::List(ListSplit { list: "a.txt".into() }));
        assert!(parse(r#"{"fold": 1}"#).unwrap_err().to_string().starts_with("expected \"all\""));
    }
}
