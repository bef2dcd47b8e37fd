//! Which cases of a cache a stream takes: datasets by name, and training or validation by list or by fold.
//!
//! # Law
//! A case's fold is a hash of the split's seed and the case's key, modulo the number of folds. It depends on nothing
//! else, so a case stays in its fold when others are added to the cache, and two caches agree about a case that both
//! hold. Folds are therefore of nearly equal size, not of equal size.
//!
//! For learning from few cases, the shots are the cases with the smallest such hashes among those that the dataset
//! names leave. Their number is exact; adding cases to the cache may change which ones they are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::rng::case_key;

/// The part of the cases that a stream takes: `"all"`, `{ fold = 0, of = 5, part = "train" }`,
/// `{ shots = 1, part = "train" }` or `{ list = "train.txt" }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"all\", { fold = 0, of = 5, part = \"train\" } with part \"train\" or \"validation\", \
                 { shots = 1, part = \"train\" }, or { list = \"FILE\" }"
)]
pub enum Split {
    /// Every case.
    All(All),
    /// By fold.
    Fold(FoldSplit),
    /// A few.
    Shots(ShotSplit),
    /// By list.
    List(ListSplit),
}

/// The word `all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum All {
    /// As it is written.
    #[default]
    All,
}

/// One fold of several, or all the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoldSplit {
    /// The fold that is held out, from 0.
    pub fold: u32,
    /// How many folds there are.
    pub of: u32,
    /// The others, or the one held out.
    pub part: Part,
    /// Another seed makes other folds.
    #[serde(default)]
    pub seed: u64,
}

/// A few cases to learn from, or all the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShotSplit {
    /// Cases to learn from.
    pub shots: usize,
    /// Those, or the others.
    pub part: Part,
    /// Another seed takes other cases.
    #[serde(default)]
    pub seed: u64,
}

/// What a case is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// To learn from: every fold but the one held out.
    Train,
    /// To measure on: the fold held out.
    Validation,
}

/// The cases that a file names, one a line, as `DATASET/CASE` or `CASE`; `#` begins a comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSplit {
    /// The file.
    pub list: PathBuf,
}

impl Default for Split {
    fn default() -> Self {
        Self::All(All::All)
    }
}

impl Split {
    /// What is out of range, if anything is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Fold(FoldSplit { fold, of, .. }) if *of < 2 || fold >= of => {
                Some(format!("fold {fold} of {of}; expected at least 2 folds, and a fold from 0 to one less"))
            }
            Self::Shots(ShotSplit { shots: 0, .. }) => {
                Some("shots = 0; expected at least one case to learn from".into())
            }
            _ => None,
        }
    }
}

impl FoldSplit {
    /// The fold that a case belongs to.
    ///
    /// # Panics
    /// If there are no folds.
    #[must_use]
    pub fn fold_of(&self, key: &str) -> u32 {
        u32::try_from(hash(self.seed, key) % u64::from(self.of)).expect("less than a u32")
    }

    fn takes(&self, key: &str) -> bool {
        (self.fold_of(key) == self.fold) == (self.part == Part::Validation)
    }
}

/// A number that looks random, of a seed and a case's key.
fn hash(seed: u64, key: &str) -> u64 {
    let mut bytes = seed.to_le_bytes().to_vec();
    bytes.extend(case_key(key).to_le_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..8]);
    u64::from_le_bytes(first)
}

impl ShotSplit {
    /// The cases of this part among `cases`, which stay in their order.
    fn keep(&self, cases: &mut Vec<(usize, &str)>) -> Result<(), String> {
        let (shots, found) = (self.shots, cases.len());
        if found <= shots {
            return Err(format!("shots = {shots}, and there are {found} cases; some must be left to validate on"));
        }
        let mut hashes: Vec<(u64, &str)> = cases.iter().map(|(_, key)| (hash(self.seed, key), *key)).collect();
        hashes.sort_unstable();
        let chosen: BTreeSet<&str> = hashes[..shots].iter().map(|(_, key)| *key).collect();
        cases.retain(|(_, key)| chosen.contains(key) == (self.part == Part::Train));
        Ok(())
    }
}

/// A case's two names.
#[derive(Clone, Copy, Debug)]
pub struct CaseName<'a> {
    /// The dataset.
    pub dataset: &'a str,
    /// `DATASET/CASE`.
    pub key: &'a str,
}

/// A split and dataset names, ready to be asked about cases.
#[derive(Debug)]
pub struct Selector {
    include: Vec<(String, WildMatch)>,
    exclude: Vec<(String, WildMatch)>,
    split: Split,
    listed: BTreeSet<String>,
}

impl Selector {
    /// Compiles the names and reads the list, if there is one.
    ///
    /// # Errors
    /// If the list cannot be read.
    pub fn new(include: &[String], exclude: &[String], split: &Split) -> Result<Self, String> {
        let compile = |names: &[String]| {
            names.iter().map(|name| (name.clone(), WildMatch::new(&name.to_lowercase()))).collect::<Vec<_>>()
        };
        let listed = if let Split::List(ListSplit { list }) = split { read_list(list)? } else { BTreeSet::new() };
        Ok(Self { include: compile(include), exclude: compile(exclude), split: split.clone(), listed })
    }

    /// Positions of the cases that are taken, in increasing order.
    ///
    /// # Errors
    /// If a dataset to include, or a case of the list, is not there: a run on fewer cases than meant would not be
    /// noticed. A dataset to exclude may well be absent; one list serves many caches.
    pub fn select(&self, cases: &[CaseName<'_>]) -> Result<Vec<usize>, String> {
        let meets = |patterns: &[(String, WildMatch)], case: &CaseName<'_>| {
            patterns.iter().any(|(_, pattern)| names_dataset(pattern, case.dataset))
        };
        for (name, pattern) in &self.include {
            if !cases.iter().any(|case| names_dataset(pattern, case.dataset)) {
                return Err(format!("include: there is no dataset {name}"));
            }
        }
        let listed = |name: &str| cases.iter().any(|case| name == case.key || name == short_key(case.key));
        if let (Split::List(ListSplit { list }), Some(name)) = (&self.split, self.listed.iter().find(|n| !listed(n))) {
            return Err(format!("{}: there is no case {name}", list.display()));
        }
        let taken = |case: &CaseName<'_>| {
            let by_name = (self.include.is_empty() || meets(&self.include, case)) && !meets(&self.exclude, case);
            by_name
                && match &self.split {
                    Split::All(All::All) | Split::Shots(_) => true,
                    Split::Fold(split) => split.takes(case.key),
                    Split::List(_) => self.listed.contains(case.key) || self.listed.contains(short_key(case.key)),
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

/// `WORD` names `Dataset009_WORD`, as `hiend-shard --exclude` has it.
fn names_dataset(pattern: &WildMatch, dataset: &str) -> bool {
    let dataset = dataset.to_lowercase();
    let short = match dataset.split_once('_') {
        Some((head, tail)) if head.starts_with("dataset") || head.starts_with("task") => tail,
        _ => &dataset,
    };
    pattern.matches(&dataset) || pattern.matches(short)
}

fn short_key(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, case)| case)
}

fn read_list(path: &Path) -> Result<BTreeSet<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|err| format!("{}: cannot read: {err}", path.display()))?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let names: BTreeSet<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(format!("{}: names no case", path.display()));
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

    fn select(split: &Split, include: &[&str], exclude: &[&str], keys: &[String]) -> Result<Vec<usize>, String> {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        Selector::new(&owned(include), &owned(exclude), split)?.select(&names(keys))
    }

    fn keys(n: usize) -> Vec<String> {
        (0..n).map(|case| format!("Dataset{:03}_SET{}/case{case}", case % 3, case % 3)).collect()
    }

    proptest! {
        #[test]
        fn every_case_is_held_out_in_one_fold_and_stays_there(n in 1usize..60, of in 2u32..8, seed: u64) {
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
        // 2000 expected; the standard deviation is 40.
        assert!(counts.iter().all(|&n| (1840..2160).contains(&n)), "{counts:?}");
    }

    #[test]
    fn datasets_are_taken_and_left_by_name() {
        let keys = keys(6);
        let all = Split::default();
        assert_eq!(select(&all, &["set1"], &[], &keys), Ok(vec![1, 4]));
        assert_eq!(select(&all, &[], &["Dataset000_*", "WORD"], &keys), Ok(vec![1, 2, 4, 5]));
        assert_eq!(select(&all, &["SET?"], &["SET2"], &keys), Ok(vec![0, 1, 3, 4]));
        assert_eq!(select(&all, &["AMOS"], &[], &keys), Err("include: there is no dataset AMOS".into()));
    }

    #[test]
    fn a_list_names_its_cases_and_no_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let split = Split::List(ListSplit { list: file.path().to_owned() });
        std::fs::write(file.path(), "# two\nDataset000_SET0/case3\n case4 # short\n\n").unwrap();
        assert_eq!(select(&split, &[], &[], &keys(6)), Ok(vec![3, 4]));
        assert!(select(&split, &[], &[], &keys(4)).unwrap_err().ends_with("there is no case case4"));
        std::fs::write(file.path(), "#\n").unwrap();
        assert!(select(&split, &[], &[], &keys(4)).unwrap_err().ends_with("names no case"));
    }

    #[test]
    fn shots_are_few_and_the_others_validate() {
        let keys = keys(9);
        let split = |shots, part, seed| Split::Shots(ShotSplit { shots, part, seed });
        let train = select(&split(2, Part::Train, 1), &["SET1", "SET2"], &[], &keys).unwrap();
        let mut both = select(&split(2, Part::Validation, 1), &["SET1", "SET2"], &[], &keys).unwrap();
        assert_eq!((train.len(), both.len()), (2, 4));
        both.extend(&train);
        both.sort_unstable();
        assert_eq!(both, [1, 2, 4, 5, 7, 8]);
        let others =
            (2..40).any(|seed| select(&split(2, Part::Train, seed), &["SET1", "SET2"], &[], &keys).unwrap() != train);
        assert!(others, "the seed changes nothing");
        assert!(select(&split(9, Part::Train, 1), &[], &[], &keys).unwrap_err().contains("there are 9 cases"));
        assert!(split(0, Part::Train, 1).fault().is_some());
    }

    #[test]
    fn splits_are_written_as_the_docs_say() {
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
