//! The label map of a case, read from one file or merged from a mask a class.

use crate::case::{LabelFiles, Mask};
use crate::geometry::{largest_shift_mm, spacing};
use crate::volume::{LabelVolume, VolumeError, VolumeFault, read_labels};

/// Reads a case's label map.
///
/// # Errors
/// If a file cannot be read as a label map, a mask has several values, or masks lie on different grids.
pub(super) fn read(label: &LabelFiles) -> Result<LabelVolume, VolumeError> {
    match label {
        LabelFiles::Map(path) => read_labels(path),
        LabelFiles::Masks { folder, masks } => {
            let no_masks = || VolumeError { path: folder.clone(), reason: VolumeFault::NoMasks };
            merge(masks)?.ok_or_else(no_masks)
        }
    }
}

/// Masks by ascending class, so that the higher class wins where two overlap; `None` if there are none.
fn merge(masks: &[Mask]) -> Result<Option<LabelVolume>, VolumeError> {
    let mut merged: Option<LabelVolume> = None;
    let mut hasher = blake3::Hasher::new();
    for mask in masks {
        let volume = read_labels(&mask.path)?;
        let at = |reason| VolumeError { path: mask.path.clone(), reason };
        hasher.update(&[mask.class]);
        hasher.update(volume.blake3.as_bytes());
        let inside = volume.voxels.iter().copied().filter(|&value| value > 0).min().unwrap_or(1);
        if let Some(other) = volume.voxels.iter().find(|&&value| value > 0 && value != inside) {
            return Err(at(VolumeFault::MaskValues { first: inside, other: *other }));
        }
        let merged = merged.get_or_insert_with(|| LabelVolume {
            info: volume.info.clone(),
            voxels: vec![0; volume.voxels.len()],
            blake3: String::new(),
            file_bytes: 0,
        });
        let (first, own) = (&merged.info, &volume.info);
        let side = spacing(&first.affine).into_iter().fold(f64::INFINITY, f64::min);
        if first.shape != own.shape || largest_shift_mm(&first.affine, &own.affine, first.shape) > side {
            return Err(at(VolumeFault::MaskGrid));
        }
        merged.file_bytes += volume.file_bytes;
        for (label, value) in merged.voxels.iter_mut().zip(&volume.voxels) {
            if *value > 0 {
                *label = mask.class;
            }
        }
    }
    if let Some(merged) = &mut merged {
        merged.blake3 = hasher.finalize().to_hex().to_string();
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::volume::nifti::testing::TestFile;

    fn mask(dir: &Path, class: u8, voxels: &[u8; 4]) -> Mask {
        let file = TestFile::new([4, 1, 1], &[]).with_u8(voxels);
        Mask { class, path: file.write(&dir.join(format!("{class}.nii"))) }
    }

    #[test]
    fn masks_become_classes_and_the_higher_class_wins() {
        let dir = tempfile::tempdir().unwrap();
        let masks = [mask(dir.path(), 1, &[1, 1, 0, 0]), mask(dir.path(), 2, &[0, 255, 255, 0])];
        let merged = read(&LabelFiles::Masks { folder: dir.path().into(), masks: masks.to_vec() }).unwrap();
        assert_eq!(merged.voxels, [1, 2, 2, 0]);
        let other = read(&LabelFiles::Masks { folder: dir.path().into(), masks: masks[..1].to_vec() }).unwrap();
        assert_eq!(other.voxels, [1, 1, 0, 0]);
        assert_ne!(merged.blake3, other.blake3);
    }

    #[test]
    fn what_is_not_a_mask_of_one_class_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let several = [mask(dir.path(), 1, &[1, 2, 0, 0])];
        assert_eq!(merge(&several).unwrap_err().reason, VolumeFault::MaskValues { first: 1, other: 2 });
        let good = mask(dir.path(), 1, &[1, 0, 0, 0]);
        let path = TestFile::new([2, 2, 1], &[]).with_u8(&[0; 4]).write(&dir.path().join("2.nii"));
        let error = merge(&[good, Mask { class: 2, path: path.clone() }]).unwrap_err();
        assert!(error.reason == VolumeFault::MaskGrid && error.path == path);
    }
}
