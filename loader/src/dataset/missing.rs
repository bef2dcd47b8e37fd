//! Notes on what a dataset lacks: label maps of its cases, or cases that `dataset.json` counts.

use std::collections::BTreeSet;

use super::{Dataset, DatasetNote};
use crate::case::CaseFiles;

impl Dataset {
    /// Adds a note if cases have no label maps: where the description names classes and no case has one, or where some cases
    /// have one, or a folder for them is there.
    pub(super) fn note_missing_labels(&mut self, has_folder: bool) {
        let mut unlabelled = self.cases.iter().filter(|case| case.label.is_none());
        let Some(example) = unlabelled.next() else { return };
        let (count, of) = (1 + unlabelled.count(), self.cases.len());
        let is_class = |label: &&u8| **label != 0 && Some(**label) != self.ignore;
        let classes = self.labels.keys().filter(is_class).count().max(self.regions.len());
        let note = if count == of && classes > 0 {
            DatasetNote::NoLabels { classes }
        } else if has_folder {
            DatasetNote::Unlabelled { count, of, example: example.case_id.clone() }
        } else {
            return;
        };
        self.notes.push(note);
    }

    /// Renews the note on missing label maps after cases were added or taken out. `has_labels` is true for a dataset in which
    /// each case is expected to have one.
    pub(super) fn renew_missing_labels(&mut self, has_labels: bool) {
        let is_unlabelled = |note: &DatasetNote| matches!(note, DatasetNote::Unlabelled { .. });
        let was_told = self.notes.iter().any(is_unlabelled);
        self.notes.retain(|note| !is_unlabelled(note) && !matches!(note, DatasetNote::NoLabels { .. }));
        self.note_missing_labels(was_told || has_labels);
    }

    /// Adds a note if there are more or fewer cases than `dataset.json` claims.
    pub(super) fn note_count(&mut self, claimed: u64) {
        let mut keys: BTreeSet<String> = self.cases.iter().map(CaseFiles::key).collect();
        keys.extend(self.skipped.iter().map(|skipped| skipped.case.clone()));
        if claimed != keys.len() as u64 {
            self.notes.push(DatasetNote::Count { claimed, found: keys.len() });
        }
    }
}
