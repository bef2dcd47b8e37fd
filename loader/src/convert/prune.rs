//! Cases of a cache that are not in the data: the folders they were converted from, and those that pruning removes.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use hiend_cache::CaseRecord;

use super::{folder, origin};
use crate::dataset::Dataset;

/// Records that a conversion removes once everything is converted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prune {
    /// No records.
    #[default]
    Nothing,
    /// Superseded records.
    Superseded,
    /// Superseded records, and cases that were converted from the folder of the data and are no longer in it.
    Gone,
    /// Superseded records, and all cases that are not in the data.
    All,
}

impl Prune {
    /// Returns `true` if cases are removed, and not only superseded records.
    #[must_use]
    pub fn removes_cases(self) -> bool {
        matches!(self, Self::Gone | Self::All)
    }
}

/// Cases of a cache that are not in the data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotInData {
    /// Cases that were converted from the folder of the data, as `DATASET/CASE`; sorted. [`Prune::Gone`] removes them.
    pub gone: Vec<String>,
    /// Cases that were converted from other folders, as `DATASET/CASE`, by the absolute path of the folder; `None` for
    /// records of programs that did not note it. Only [`Prune::All`] removes them.
    pub elsewhere: BTreeMap<Option<String>, Vec<String>>,
}

impl NotInData {
    /// Number of all these cases.
    #[must_use]
    pub fn num_cases(&self) -> usize {
        self.gone.len() + self.elsewhere.values().map(Vec::len).sum::<usize>()
    }

    /// All these cases, as `DATASET/CASE`; sorted.
    #[must_use]
    pub fn all(&self) -> Vec<&str> {
        let mut all: Vec<&str> =
            self.gone.iter().chain(self.elsewhere.values().flatten()).map(String::as_str).collect();
        all.sort_unstable();
        all
    }
}

/// The data of a conversion as seen from the records of a cache.
pub(super) struct Present {
    /// Absolute path of the folder, as records name it.
    pub folder: String,
    /// Keys of all cases of the data, skipped ones included: the record of a case that cannot be read today stays.
    pub listed: HashSet<String>,
}

impl Present {
    /// Data with these datasets, found in `root`.
    pub(super) fn of(root: &Path, datasets: &[Dataset]) -> Self {
        Self { folder: origin::folder_of(root).to_string_lossy().into_owned(), listed: folder::listed(datasets) }
    }

    /// Returns `true` if the case is not in the data and was converted from its folder.
    pub(super) fn is_gone(&self, record: &CaseRecord) -> bool {
        record.source.folder.as_ref() == Some(&self.folder) && !self.listed.contains(&record.key())
    }

    /// Returns `true` if pruning removes the case.
    pub(super) fn is_removed(&self, record: &CaseRecord, prune: Prune) -> bool {
        match prune {
            Prune::Nothing | Prune::Superseded => false,
            Prune::Gone => self.is_gone(record),
            Prune::All => !self.listed.contains(&record.key()),
        }
    }

    /// Finds the cases among `records` that are not in the data.
    pub(super) fn not_in_data<'a>(&self, records: impl Iterator<Item = &'a CaseRecord>) -> NotInData {
        let mut found = NotInData::default();
        for record in records {
            let key = record.key();
            if self.is_gone(record) {
                found.gone.push(key);
            } else if !self.listed.contains(&key) {
                found.elsewhere.entry(record.source.folder.clone()).or_default().push(key);
            }
        }
        found.gone.sort_unstable();
        found.elsewhere.values_mut().for_each(|keys| keys.sort_unstable());
        found
    }
}
