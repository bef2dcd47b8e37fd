//! Images of one name within a dataset, as `a.nii.gz` next to `a_0000.nii.gz`: their case would be converted from either of
//! them by chance.

use std::collections::HashSet;

use super::Dataset;
use crate::case::SkippedCase;

/// Keeps the first case of each name, in the order of the layout, and skips the others.
pub(super) fn keep_first(dataset: &mut Dataset) {
    let mut seen: HashSet<String> = HashSet::new();
    let others = dataset.cases.extract_if(.., |case| !seen.insert(case.case_id.clone()));
    let skipped = others.map(|case| SkippedCase::new(&case, &case.image, "next to a file of the same case; keep one"));
    dataset.skipped.extend(skipped);
}
