//! Cases that a compiled selection takes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use wildmatch::WildMatch;

use super::{All, CaseSplit, FileSplit, FoldRule, FoldSplit, ListSplit, SelectError, Split, nnunet};
use crate::nearest::{hint, nearest_case, nearest_dataset};

/// Names by which a case is selected.
#[derive(Clone, Copy, Debug)]
pub struct CaseName<'a> {
    /// Name of the dataset.
    pub dataset: &'a str,
    /// `DATASET/CASE`.
    pub key: &'a str,
    /// False for a case without labels, if labels are needed: it is left out, and an error if a list names it.
    pub is_usable: bool,
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
    /// If a dataset to include does not exist, or a name of the list is not that of exactly one usable case of the selected
    /// datasets, because a run on fewer or more cases than intended would go unnoticed. A dataset to exclude may be absent, so
    /// that one list of those serves many caches. Also if no case of the selected datasets is usable, or if there are too few
    /// for the split.
    pub fn select(&self, cases: &[CaseName<'_>]) -> Result<Vec<usize>, SelectError> {
        for (name, pattern) in &self.include {
            if !cases.iter().any(|case| names_dataset(pattern, case.dataset)) {
                let datasets: BTreeSet<&str> = cases.iter().map(|case| case.dataset).collect();
                let nearest = nearest_dataset(name, datasets).map(str::to_owned);
                return Err(SelectError::UnknownDataset { name: name.clone(), nearest });
            }
        }
        self.check_listed(cases)?;
        let (usable, all) = self.num_of_datasets(cases);
        if usable == 0 && all > 0 {
            let others = cases.iter().filter(|case| case.is_usable).count();
            return Err(SelectError::NoLabels { cases: all, others });
        }
        let folds = match &self.split {
            Split::Fold(split) => split.folds_of(cases)?,
            _ => Vec::new(),
        };
        let taken = |(idx, case): (usize, &CaseName<'_>)| {
            self.is_of_selected_dataset(case)
                && match &self.split {
                    Split::All(All::All) | Split::Shots(_) => case.is_usable,
                    Split::Fold(split) => case.is_usable && split.takes(folds[idx]),
                    Split::List(_) | Split::File(_) | Split::Cases(_) => {
                        self.listed.contains(case.key) || self.listed.contains(short_key(case.key))
                    }
                }
        };
        let mut taken: Vec<(usize, &str)> =
            cases.iter().enumerate().filter(|place| taken(*place)).map(|(idx, case)| (idx, case.key)).collect();
        if let Some((_, named)) = taken.iter().find(|(idx, _)| !cases[*idx].is_usable) {
            return Err(SelectError::Unlabelled { list: self.list(), case: (*named).to_owned() });
        }
        // Not refused if the part has cases: earlier runs with few labelled cases next to unlabelled datasets began with it.
        if let Split::Fold(FoldSplit { of, rule: FoldRule::Dealt, .. }) = self.split
            && taken.is_empty()
            && usable > 0
        {
            let all = cases.len();
            let cases = cases.iter().filter(|case| case.is_usable).count();
            if cases < of as usize {
                return Err(SelectError::TooManyFolds { of, cases, all });
            }
        }
        if let Split::Shots(shots) = &self.split {
            shots.keep(&mut taken, all)?;
        }
        Ok(taken.into_iter().map(|(idx, _)| idx).collect())
    }

    /// Numbers of usable cases and of all cases in the datasets that are included and not excluded.
    #[must_use]
    pub fn num_of_datasets(&self, cases: &[CaseName<'_>]) -> (usize, usize) {
        let of_datasets = || cases.iter().filter(|case| self.is_of_selected_dataset(case));
        (of_datasets().filter(|case| case.is_usable).count(), of_datasets().count())
    }

    /// Returns whether a case's dataset is included and not excluded.
    fn is_of_selected_dataset(&self, case: &CaseName<'_>) -> bool {
        let meets =
            |patterns: &[(String, WildMatch)]| patterns.iter().any(|(_, pattern)| names_dataset(pattern, case.dataset));
        (self.include.is_empty() || meets(&self.include)) && !meets(&self.exclude)
    }

    /// Checks that every listed name matches exactly one case of the selected datasets.
    ///
    /// # Errors
    /// The first name that is not.
    fn check_listed(&self, cases: &[CaseName<'_>]) -> Result<(), SelectError> {
        if self.listed.is_empty() {
            return Ok(());
        }
        let mut named: BTreeMap<&str, Vec<&CaseName<'_>>> = BTreeMap::new();
        for case in cases {
            for name in BTreeSet::from([case.key, short_key(case.key)]) {
                named.entry(name).or_default().push(case);
            }
        }
        for name in &self.listed {
            let all = named.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let mut selected = all.iter().filter(|case| self.is_of_selected_dataset(case));
            let (first, second) = match (selected.next(), selected.next()) {
                (Some(_), None) => continue,
                (first, second) => (first, second),
            };
            let (list, name, key) = (self.list(), name.clone(), |case: &CaseName<'_>| case.key.to_owned());
            let nearest = || nearest_case(&name, cases.iter().map(|case| case.key)).map(str::to_owned);
            return Err(match (first, second, all.first(), list) {
                (Some(first), Some(second), _, list) => {
                    SelectError::Ambiguous { list, name, first: key(first), second: key(second) }
                }
                (_, _, Some(case), list) => SelectError::Excluded { list, name, case: key(case) },
                (_, _, None, Some(list)) => SelectError::UnknownCase { list, nearest: nearest(), name },
                (_, _, None, None) => SelectError::NoCase { nearest: nearest(), name },
            });
        }
        Ok(())
    }

    /// File that names the cases; `None` if there is no such file.
    fn list(&self) -> Option<PathBuf> {
        match &self.split {
            Split::List(ListSplit { list }) | Split::File(FileSplit { splits: list, .. }) => Some(list.clone()),
            Split::All(_) | Split::Fold(_) | Split::Shots(_) | Split::Cases(_) => None,
        }
    }
}

/// Remarks on the entries of `exclude` that match no dataset of `cases`, which may come from several caches: one line
/// each, with the dataset that was probably meant. Such entries are allowed, so that one list serves many caches; but a
/// misspelt name looks the same.
#[must_use]
pub fn remarks_on_exclude(exclude: &[String], cases: &[CaseName<'_>]) -> Vec<String> {
    let datasets: BTreeSet<&str> = cases.iter().map(|case| case.dataset).collect();
    let remark = |name: &String| {
        let pattern = WildMatch::new(&name.to_lowercase());
        if datasets.iter().any(|dataset| names_dataset(&pattern, dataset)) {
            return None;
        }
        let is_case = cases.iter().any(|case| case.key == name || short_key(case.key) == name);
        let hint = if is_case {
            "; it names a case, and exclude takes datasets: select cases by split".to_owned()
        } else {
            hint(nearest_dataset(name, datasets.iter().copied()))
        };
        Some(format!("exclude: no dataset matches {name:?}, which excludes nothing{hint}"))
    };
    exclude.iter().filter_map(remark).collect()
}

/// Returns true if a pattern matches a dataset. As for `hiend-shard --exclude`, `WORD` also matches `Dataset009_WORD`.
fn names_dataset(pattern: &WildMatch, dataset: &str) -> bool {
    let dataset = dataset.to_lowercase();
    let short = match dataset.split_once('_') {
        Some((head, tail)) if head.starts_with("dataset") || head.starts_with("task") => tail,
        _ => &dataset,
    };
    pattern.matches(&dataset) || pattern.matches(short)
}

/// Name of the case without its dataset: `CASE` for `DATASET/CASE`.
pub(super) fn short_key(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, case)| case)
}

/// Reads the names of a list.
pub(super) fn read_list(path: &Path) -> Result<BTreeSet<String>, SelectError> {
    let list = || path.to_owned();
    let text = std::fs::read_to_string(path).map_err(|source| SelectError::ReadList { list: list(), source })?;
    // Some editors put a byte order mark first.
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    // Within a line, the sign may be a part of a name: `scan#2`.
    let names = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    if names.is_empty() {
        return Err(SelectError::EmptyList { list: list() });
    }
    Ok(names)
}
