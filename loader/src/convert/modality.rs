//! Cases of a dataset that declares that its images are not CTs.

use crate::case::SkippedCase;
use crate::dataset::{Dataset, DatasetNote};

/// Moves the cases of a dataset whose `dataset.json` names another modality to the skipped ones and returns them; keeps
/// cases for whose key `is_stored` returns true.
pub(crate) fn refuse(dataset: &mut Dataset, is_stored: impl Fn(&str) -> bool) -> Vec<SkippedCase> {
    let Some(note) = dataset.notes.iter().find(|note| matches!(note, DatasetNote::Modality { .. })) else {
        return Vec::new();
    };
    let refused: Vec<SkippedCase> = (dataset.cases)
        .extract_if(.., |case| !is_stored(&case.key()))
        .map(|case| SkippedCase::new(&case, &case.image, note))
        .collect();
    dataset.skipped.extend(refused.iter().cloned());
    refused
}
