//! Medical Segmentation Decathlon: `dataset.json` lists the training cases.

use std::path::Path;

use serde_json::Value;

use super::{Dataset, DatasetError, labels, name_of, nifti_stem, read_description};
use crate::case::{CaseFiles, SkippedCase};

/// `None` if the folder is not of this layout.
pub(super) fn read(root: &Path) -> Result<Option<Dataset>, DatasetError> {
    let json = root.join("dataset.json");
    let Some(description) = read_description(&json)? else { return Ok(None) };
    let Some(training) = description.get("training").and_then(Value::as_array) else { return Ok(None) };
    let mut dataset = Dataset { name: name_of(root), labels: labels(&description), ..Dataset::default() };
    for (at, entry) in training.iter().enumerate() {
        let file =
            |key: &str| entry.get(key).and_then(Value::as_str).map(|path| root.join(path.trim_start_matches("./")));
        let image = file("image").or_else(|| entry.as_str().map(|path| root.join(path.trim_start_matches("./"))));
        let Some((image, case_id)) =
            image.and_then(|image| nifti_stem(&image).map(str::to_owned).map(|case_id| (image.clone(), case_id)))
        else {
            let reason = format!("entry {at} of \"training\" names no .nii or .nii.gz image");
            return Err(DatasetError::BadDescription { path: json, reason });
        };
        let case = CaseFiles { dataset: dataset.name.clone(), case_id, image, label: file("label") };
        match std::iter::once(&case.image).chain(&case.label).find(|path| !path.is_file()) {
            Some(missing) => {
                dataset.left_out.push(SkippedCase::new(&case, missing, "listed in dataset.json but missing"));
            }
            None => dataset.cases.push(case),
        }
    }
    dataset.cases.sort();
    dataset.cases.dedup_by(|a, b| a.case_id == b.case_id);
    Ok(Some(dataset))
}
