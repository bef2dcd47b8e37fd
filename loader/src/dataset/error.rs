//! Reasons why a folder cannot be converted.

use std::path::PathBuf;

use super::{DescriptionFault, UnusedFile, is_volume};
use crate::case::shown;

/// A folder that cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file or folder cannot be examined.
    #[error("{}: cannot access this path", shown(path))]
    Unreadable {
        /// Path that cannot be accessed.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file in place of the folder.
    #[error("{}: a file; expected the folder that contains it", shown(path))]
    NotAFolder {
        /// Path of the file.
        path: PathBuf,
    },
    /// `dataset.json` cannot be used.
    #[error("{}: {reason}", shown(path))]
    BadDescription {
        /// Path of `dataset.json`.
        path: PathBuf,
        /// Reason why `dataset.json` cannot be used.
        reason: Box<DescriptionFault>,
    },
    /// Two datasets have the same name and no folders above them that distinguish them.
    #[error("{}: two datasets named {name}; convert them one at a time", shown(path))]
    SameName {
        /// The folder that was searched.
        path: PathBuf,
        /// Name that both datasets have.
        name: String,
    },
    /// A folder without volumes to convert.
    #[error(
        "{}: no volumes to convert here; expected nnU-Net's DatasetXXX_NAME/imagesTr/CASE_0000.nii.gz, a dataset.json (Medical \
         Segmentation Decathlon), one folder per case (TotalSegmentator, KiTS), img and label folders (BTCV), or .nii, \
         .nii.gz, .nrrd, .nhdr, .mha and .mhd files or DICOM series{}",
        shown(path),
        most_telling(unused).map(|unused| format!("; found only files such as {unused}")).unwrap_or_default()
    )]
    Empty {
        /// Path of the folder without data.
        path: PathBuf,
        /// All files of the folder.
        unused: Vec<UnusedFile>,
    },
}

/// The file of the greatest weight; among those of equal weight, prefers one with the name of a volume, such as a hidden one.
fn most_telling(unused: &[UnusedFile]) -> Option<&UnusedFile> {
    unused.iter().max_by_key(|unused| (unused.reason.weight(), is_volume(&unused.path)))
}
