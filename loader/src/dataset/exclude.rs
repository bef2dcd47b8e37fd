//! Datasets and cases selected by name.

use std::collections::BTreeSet;

use wildmatch::WildMatch;

use super::Dataset;
use crate::case::CaseFiles;

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

    /// Keys of the cases that match, and the patterns that matched nothing.
    #[must_use]
    pub fn matches(&self, datasets: &[Dataset]) -> (BTreeSet<String>, Vec<String>) {
        let mut keys = BTreeSet::new();
        let mut unmatched = Vec::new();
        for (text, pattern) in &self.patterns {
            let mut own = BTreeSet::new();
            let meets = |name: &str| pattern.matches(&name.to_lowercase());
            for dataset in datasets {
                let whole = meets(&dataset.name) || meets(short_name(&dataset.name));
                let cases = dataset.cases.iter().filter(|case| whole || meets(&case.case_id) || meets(&case.key()));
                own.extend(cases.map(CaseFiles::key));
            }
            if own.is_empty() {
                unmatched.push(text.clone());
            }
            keys.append(&mut own);
        }
        (keys, unmatched)
    }

    /// Removes the datasets and cases that match; returns the number of cases removed, and the patterns that matched
    /// nothing.
    pub fn apply(&self, datasets: &mut Vec<Dataset>) -> (usize, Vec<String>) {
        let mut matched = vec![false; self.patterns.len()];
        let mut removed = 0;
        let mut is_unwanted = |names: &[&str]| {
            let mut any = false;
            for ((_, pattern), matched) in self.patterns.iter().zip(&mut matched) {
                if names.iter().any(|name| pattern.matches(&name.to_lowercase())) {
                    *matched = true;
                    any = true;
                }
            }
            any
        };
        datasets.retain_mut(|dataset| {
            if is_unwanted(&[&dataset.name, short_name(&dataset.name)]) {
                removed += dataset.num_listed();
                return false;
            }
            let before = dataset.num_listed();
            dataset.cases.retain(|case| !is_unwanted(&[&case.case_id, &case.key()]));
            let prefix = format!("{}/", dataset.name);
            let case_id = |key: &str| key.strip_prefix(&prefix).unwrap_or(key).to_owned();
            dataset.skipped.retain(|skipped| !is_unwanted(&[&case_id(&skipped.case), &skipped.case]));
            removed += before - dataset.num_listed();
            true
        });
        let unmatched = self.patterns.iter().zip(&matched).filter(|(_, matched)| !**matched);
        (removed, unmatched.map(|((pattern, _), _)| pattern.clone()).collect())
    }
}

/// Dataset name without its numbered prefix: `BTCV` for `Dataset001_BTCV`, `Liver` for `Task03_Liver`.
fn short_name(name: &str) -> &str {
    match name.split_once('_') {
        Some((head, tail)) if head.starts_with("Dataset") || head.starts_with("Task") => tail,
        _ => name,
    }
}
