//! A plain folder of volumes: every `.nii` and `.nii.gz` file in it, at any depth.

use std::path::Path;

use super::{Dataset, DatasetError, list, name_of, nifti_stem};
use crate::case::{CaseFiles, SkippedCase};

pub(super) fn read(root: &Path) -> Result<Dataset, DatasetError> {
    let mut dataset = Dataset { name: name_of(root), ..Dataset::default() };
    let mut cases = Vec::new();
    visit(root, root, &dataset.name, &mut cases)?;
    cases.sort();
    for case in cases {
        if dataset.cases.last().is_some_and(|last: &CaseFiles| last.case_id == case.case_id) {
            let reason = "stands beside a file of the same name; keep one";
            dataset.left_out.push(SkippedCase::new(&case, &case.image, reason));
        } else {
            dataset.cases.push(case);
        }
    }
    Ok(dataset)
}

fn visit(root: &Path, dir: &Path, dataset: &str, cases: &mut Vec<CaseFiles>) -> Result<(), DatasetError> {
    for path in list(dir)? {
        if path.is_dir() {
            visit(root, &path, dataset, cases)?;
        } else if let Some(stem) = nifti_stem(&path) {
            let parent = dir.strip_prefix(root).unwrap_or(dir);
            let case_id = parent.join(stem).to_string_lossy().replace('\\', "/");
            cases.push(CaseFiles { dataset: dataset.into(), case_id, image: path, label: None });
        }
    }
    Ok(())
}
