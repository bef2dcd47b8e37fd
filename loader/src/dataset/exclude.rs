//! Datasets and cases selected by name.

use std::collections::BTreeSet;

use wildmatch::WildMatch;

use super::Dataset;
use crate::case::CaseFiles;
use crate::nearest::nearest_dataset_or_case;

/// Patterns of datasets and cases: those to exclude, or those to convert again.
///
/// A pattern is a dataset's folder name, that name without its `DatasetXXX_` or `TaskXX_`, or a case's name; `*` and
/// `?` stand for any text and any character. Upper and lower case are the same.
#[derive(Clone, Debug, Default)]
pub struct Exclude {
    patterns: Vec<(String, WildMatch)>,
}

impl Exclude {
    /// Compiles patterns.
    #[must_use]
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Self {
        let compile = |pattern: &S| (pattern.as_ref().to_owned(), WildMatch::new(&pattern.as_ref().to_lowercase()));
        Self { patterns: patterns.iter().map(compile).collect() }
    }

    /// Keys of the cases that match, and the patterns that match nothing.
    #[must_use]
    pub fn matches(&self, datasets: &[Dataset]) -> (BTreeSet<String>, Vec<Unmatched>) {
        let mut keys = BTreeSet::new();
        for dataset in datasets {
            let is_whole = self.meets_any(names_of(dataset));
            let cases = dataset.cases.iter().map(CaseFiles::key);
            keys.extend(cases.filter(|key| is_whole || self.meets_any(names_of_case(dataset, key))));
        }
        (keys, self.unmatched(datasets))
    }

    /// Removes the datasets and cases that match; returns the number of cases removed, and the patterns that match nothing.
    pub fn apply(&self, datasets: &mut Vec<Dataset>) -> (usize, Vec<Unmatched>) {
        let unmatched = self.unmatched(datasets);
        let mut removed = 0;
        datasets.retain_mut(|dataset| {
            let before = dataset.num_listed();
            if self.meets_any(names_of(dataset)) {
                removed += before;
                return false;
            }
            let mut cases = std::mem::take(&mut dataset.cases);
            let mut skipped = std::mem::take(&mut dataset.skipped);
            cases.retain(|case| !self.meets_any(names_of_case(dataset, &case.key())));
            skipped.retain(|skipped| !self.meets_any(names_of_case(dataset, &skipped.case)));
            (dataset.cases, dataset.skipped) = (cases, skipped);
            removed += before - dataset.num_listed();
            dataset.renew_label_kinds();
            dataset.renew_apart_by_name();
            true
        });
        (removed, unmatched)
    }

    /// Returns true if a pattern matches one of the names of a dataset or case.
    fn meets_any(&self, names: [&str; 2]) -> bool {
        self.patterns.iter().any(|(_, pattern)| meets(pattern, names))
    }

    /// The patterns that match no dataset and no case, whether it can be converted or not.
    fn unmatched(&self, datasets: &[Dataset]) -> Vec<Unmatched> {
        let keys = |dataset: &Dataset| -> Vec<String> {
            let skipped = dataset.skipped.iter().map(|skipped| skipped.case.clone());
            dataset.cases.iter().map(CaseFiles::key).chain(skipped).collect()
        };
        let known: Vec<(&Dataset, Vec<String>)> = datasets.iter().map(|dataset| (dataset, keys(dataset))).collect();
        let is_known = |pattern: &WildMatch| {
            known.iter().any(|(dataset, keys)| {
                meets(pattern, names_of(dataset)) || keys.iter().any(|key| meets(pattern, names_of_case(dataset, key)))
            })
        };
        let unmatched = self.patterns.iter().filter(|(_, pattern)| !is_known(pattern));
        let with_nearest = |(text, _): &(String, WildMatch)| {
            let names = datasets.iter().map(|dataset| dataset.name.as_str());
            let keys = known.iter().flat_map(|(_, keys)| keys.iter().map(String::as_str));
            let nearest = nearest_dataset_or_case(text, names, keys).map(str::to_owned);
            Unmatched { pattern: text.clone(), nearest }
        };
        unmatched.map(with_nearest).collect()
    }
}

/// A pattern that matches no dataset and no case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmatched {
    /// The pattern as given.
    pub pattern: String,
    /// Name of the dataset, or key of the case, that was probably meant.
    pub nearest: Option<String>,
}

fn meets(pattern: &WildMatch, names: [&str; 2]) -> bool {
    names.iter().any(|name| pattern.matches(&name.to_lowercase()))
}

/// Names of a dataset.
fn names_of(dataset: &Dataset) -> [&str; 2] {
    [&dataset.name, short_name(&dataset.name)]
}

/// Names of a case of a dataset: its key, and its name alone.
fn names_of_case<'a>(dataset: &Dataset, key: &'a str) -> [&'a str; 2] {
    let case_id = key.strip_prefix(&dataset.name).and_then(|rest| rest.strip_prefix('/'));
    [key, case_id.unwrap_or(key)]
}

/// Dataset name without its numbered prefix: `BTCV` for `Dataset001_BTCV`, `Liver` for `Task03_Liver`.
fn short_name(name: &str) -> &str {
    match name.split_once('_') {
        Some((head, tail)) if head.starts_with("Dataset") || head.starts_with("Task") => tail,
        _ => name,
    }
}
