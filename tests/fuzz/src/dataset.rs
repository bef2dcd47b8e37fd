//! Targets that read descriptions of datasets.

use std::path::Path;

use hiend_loader::dataset::{names_in, survey};

use crate::{check_error, write};

/// Reads a `dataset.json` next to one scan.
pub(crate) fn description(scratch: &Path, bytes: &[u8]) {
    let dataset = scratch.join("data/Dataset001_Scans");
    let images = dataset.join("imagesTr");
    if !images.exists() {
        std::fs::create_dir_all(&images).expect("the scratch folder is writable");
        write(&images.join("a_0000.nii"), include_bytes!("../corpus/nifti/int16"));
    }
    write(&dataset.join("dataset.json"), bytes);
    if let Err(err) = names_in(&dataset) {
        check_error(&err);
    }
    match survey(&scratch.join("data")) {
        // Whatever a description lists, its cases lie in the dataset's folder.
        Ok(listing) => listing.datasets.iter().flat_map(|dataset| &dataset.cases).for_each(|case| {
            assert!(case.image.starts_with(&dataset), "{} is not in the dataset", case.image.display());
        }),
        Err(err) => check_error(&err),
    }
}
