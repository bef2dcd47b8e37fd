//! Targets that read descriptions of datasets.

use std::path::Path;

use hiend_loader::dataset::{names_in, survey};

use crate::{check_error, check_line, write};

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
        Ok(listing) => {
            for case in listing.datasets.iter().flat_map(|dataset| &dataset.cases) {
                assert!(case.image.starts_with(&dataset), "{} is not in the dataset", case.image.display());
            }
            listing.datasets.iter().flat_map(|dataset| &dataset.notes).for_each(|note| check_line(&note.to_string()));
            listing
                .datasets
                .iter()
                .flat_map(|dataset| &dataset.skipped)
                .for_each(|skipped| check_line(&skipped.to_string()));
            listing.all_unused().for_each(|unused| check_line(&unused.to_string()));
        }
        Err(err) => check_error(&err),
    }
}
