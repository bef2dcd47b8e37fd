//! nnU-Net raw data: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`.

use std::collections::HashSet;
use std::path::Path;

use super::{Dataset, DatasetError, labels, list, name_of, nifti_stem, read_description};
use crate::case::{CaseFiles, SkippedCase};

pub(super) fn read(root: &Path) -> Result<Dataset, DatasetError> {
    let mut dataset = Dataset { name: name_of(root), ..Dataset::default() };
    if let Some(description) = read_description(&root.join("dataset.json"))? {
        dataset.labels = labels(&description);
    }
    let images = list(&root.join("imagesTr"))?;
    let stems: HashSet<&str> = images.iter().filter_map(|path| nifti_stem(path)).collect();
    let label_dir = root.join("labelsTr");
    for image in &images {
        let Some((case_id, channel)) = nifti_stem(image).and_then(|stem| stem.rsplit_once('_')) else { continue };
        if channel != "0000" {
            continue;
        }
        let stem = |suffix: &str| format!("{case_id}{suffix}");
        let label = [".nii.gz", ".nii"].map(|end| label_dir.join(stem(end))).into_iter().find(|path| path.is_file());
        let case = CaseFiles { dataset: dataset.name.clone(), case_id: case_id.into(), image: image.clone(), label };
        if stems.contains(stem("_0001").as_str()) {
            let reason = "has more than one channel; a CT has one";
            dataset.left_out.push(SkippedCase::new(&case, image, reason));
        } else if dataset.cases.last().is_some_and(|last: &CaseFiles| last.case_id == case_id) {
            dataset.left_out.push(SkippedCase::new(&case, image, "stands beside a file of the same case; keep one"));
        } else {
            dataset.cases.push(case);
        }
    }
    Ok(dataset)
}
