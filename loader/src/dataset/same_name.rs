//! Images of one name within a dataset, as `a.nii.gz` next to `a_0000.nii.gz`: their case would be converted from either of
//! them by chance.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;

use super::Dataset;
use crate::case::{CaseFiles, SkippedCase, shown};

/// Keeps the first case of each name, in the order of the layout, and skips the others.
pub(super) fn keep_first(dataset: &mut Dataset) {
    let mut first_of: HashMap<String, PathBuf> = HashMap::new();
    let is_second = |case: &mut CaseFiles| match first_of.entry(case.case_id.clone()) {
        Entry::Occupied(_) => true,
        Entry::Vacant(free) => {
            free.insert(case.image.clone());
            false
        }
    };
    let others: Vec<CaseFiles> = dataset.cases.extract_if(.., is_second).collect();
    for case in others {
        let first = &first_of[&case.case_id];
        let reason = if first.parent() == case.image.parent() {
            "next to a file of the same case; keep one".to_owned()
        } else {
            format!("{} has the same name; rename one of them", shown(first))
        };
        dataset.skipped.push(SkippedCase::new(&case, &case.image, reason));
    }
}
