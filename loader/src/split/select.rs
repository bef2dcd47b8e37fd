//! The cases that a compiled selection takes.

use std::collections::BTreeSet;
use std::path::Path;

use wildmatch::WildMatch;

use super::{All, CaseSplit, FileSplit, ListSplit, SelectError, Split, nnunet};

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
pub(super) fn read_list(path: &Path) -> Result<BTreeSet<String>, SelectError> {
    let list = || path.to_owned();
    let text = std::fs::read_to_string(path).map_err(|source| SelectError::ReadList { list: list(), source })?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let names: BTreeSet<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(SelectError::EmptyList { list: list() });
    }
    Ok(names)
}
