//! Selection of a cache's cases: datasets by name, and training or validation by list, fold or number of shots.
//!
//! # Law
//! A case's fold is a hash of the split's seed and the case's key, modulo the number of folds. It depends on nothing
//! else, so a case stays in its fold when others are added to the cache, and two caches agree about a case that both
//! hold. Folds are therefore of nearly equal size, not of equal size.
//!
//! For learning from few cases, the shots are the cases with the smallest such hashes among the selected datasets.
//! Their number is exact; adding cases to the cache may change the choice.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::rng::case_key;

/// Part of the cases that a stream takes: `"all"`, `{ fold = 0, of = 5, part = "train" }`,
/// `{ shots = 1, part = "train" }`, `{ list = "train.txt" }` or `{ cases = ["A/case1"] }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"all\", { fold = 0, of = 5, part = \"train\" } with part \"train\" or \"validation\", \
                 { shots = 1, part = \"train\" }, { list = \"FILE\" }, or { cases = [\"CASE\"] }"
)]
pub enum Split {
    /// Every case.
    All(All),
    /// Cases of one fold, or of all others.
    Fold(FoldSplit),
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
            Self::All(_) | Self::Fold(_) | Self::Shots(_) | Self::List(_) | Self::Cases(_) => None,
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
    /// No case would be left to validate on.
    #[error("split: shots = {shots} of {cases} cases; expected fewer shots than cases, so that some validate")]
    TooManyShots {
        /// Cases to learn from, as configured.
        shots: usize,
        /// Selected cases.
        cases: usize,
    },
}

impl FoldSplit {
    /// Fold of a case.
    ///
    /// # Panics
    /// If the number of folds is 0.
    #[must_use]
    pub fn fold_of(&self, key: &str) -> u32 {
        u32::try_from(hash(self.seed, key) % u64::from(self.of)).expect("less than a u32")
    }

    /// True if a case belongs to the part.
    fn takes(&self, key: &str) -> bool {
        (self.fold_of(key) == self.fold) == (self.part == Part::Validation)
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
        let listed = |name: &str| cases.iter().any(|case| name == case.key || name == short_key(case.key));
        if let Some(name) = self.listed.iter().find(|name| !listed(name)).cloned() {
            return Err(match &self.split {
                Split::List(ListSplit { list }) => SelectError::UnknownCase { list: list.clone(), name },
                _ => SelectError::NoCase { name },
            });
        }
        let taken = |case: &CaseName<'_>| {
            let by_name = (self.include.is_empty() || meets(&self.include, case)) && !meets(&self.exclude, case);
            by_name
                && match &self.split {
                    Split::All(All::All) | Split::Shots(_) => true,
                    Split::Fold(split) => split.takes(case.key),
                    Split::List(_) | Split::Cases(_) => {
                        self.listed.contains(case.key) || self.listed.contains(short_key(case.key))
                    }
                }
        };
        let mut taken: Vec<(usize, &str)> =
            cases.iter().enumerate().filter(|(_, case)| taken(case)).map(|(idx, case)| (idx, case.key)).collect();
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

    fn keys(n: usize) -> Vec<String> {
        (0..n).map(|case| format!("Dataset{:03}_SET{}/case{case}", case % 3, case % 3)).collect()
    }

    proptest! {
        #[test]
        fn every_case_is_held_out_in_one_fold_and_stays_in_it(n in 1usize..60, of in 2u32..8, seed: u64) {
            let split = |fold, part| Split::Fold(FoldSplit { fold, of, part, seed });
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
    }

    #[test]
    fn folds_are_nearly_equal() {
        let split = FoldSplit { fold: 0, of: 5, part: Part::Train, seed: 3 };
        let mut counts = [0u32; 5];
        for key in keys(10_000) {
            counts[split.fold_of(&key) as usize] += 1;
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
        assert_eq!(fold, Split::Fold(FoldSplit { fold: 1, of: 5, part: Part::Validation, seed: 0 }));
        assert_eq!(fold.fault(), None);
        assert!(parse(r#"{"fold": 5, "of": 5, "part": "train"}"#).unwrap().fault().is_some());
        assert_eq!(parse(r#"{"list": "a.txt"}"#).unwrap(), Split::List(ListSplit { list: "a.txt".into() }));
        assert!(parse(r#"{"fold": 1}"#).unwrap_err().to_string().starts_with("expected \"all\""));
    }
}
