//! Predictions of a model next to the scans that they were made of: `a_pred` for the image `a`.

use std::collections::HashSet;
use std::path::PathBuf;

use super::roles::is_prediction_name;
use super::{Dataset, UnusedFile, UnusedReason};
use crate::case::LabelFiles;
use crate::volume::file_stem;

/// Takes out the label maps that are predictions by their names, unless the name of the image has such a word as well: a model
/// would be trained on its own output. Those that a `dataset.json` has `listed` remain.
pub(super) fn take_out(listed: &HashSet<PathBuf>, dataset: &mut Dataset) {
    let num_unused = dataset.unused.len();
    for case in &mut dataset.cases {
        let is_prediction = |path: &PathBuf| {
            let stem = path.file_name().and_then(|name| file_stem(name.to_str()?));
            stem.is_some_and(is_prediction_name)
        };
        if let Some(LabelFiles::Map(path)) = &case.label
            && is_prediction(path)
            && !is_prediction(&case.image)
            && !listed.contains(path)
        {
            dataset.unused.push(UnusedFile { path: path.clone(), reason: UnusedReason::PredictedLabels });
            case.label = None;
        }
    }
    if dataset.unused.len() > num_unused {
        dataset.renew_missing_labels(false);
    }
}
