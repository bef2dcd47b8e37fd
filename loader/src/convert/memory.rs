//! Estimate of the memory that a case takes while it is converted.

use crate::nifti::NiftiInfo;
use crate::preprocess::{PreprocessConfig, resampled_shape};

/// Memory in bytes that converting a case takes: its files, their content in the files' own data types, the result
/// (2 bytes a voxel, 1 for labels) and its coded form, which is smaller.
#[must_use]
pub fn memory_needed(file_bytes: u64, image: &NiftiInfo, label: Option<&NiftiInfo>, config: &PreprocessConfig) -> u64 {
    let inflated = image.data_bytes + label.map_or(0, |info| 2 * info.data_bytes);
    let voxels: u64 = resampled_shape(image, config).iter().map(|&n| n as u64).product();
    file_bytes + inflated + voxels * if label.is_some() { 4 } else { 3 }
}
