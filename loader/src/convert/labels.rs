//! The label map of a case, read from one file or merged from one mask per class.

use super::label_texture;
use crate::case::{LabelFiles, Mask};
use crate::plural::count;
use crate::preprocess::label_place::{LabelPlace, Shift};
use crate::volume::{LabelVolume, VolumeError, VolumeFault, file_stem, read_labels};

/// Largest number of overlaps that a finding names.
const MAX_TOLD: usize = 3;

/// The label map of a case.
#[derive(Debug)]
pub(super) struct CaseLabel {
    pub volume: LabelVolume,
    /// Voxels that lie in two masks.
    pub overlaps: Vec<Overlap>,
    /// Name of the mask that is shifted furthest from the first mask, and the shift, if it exceeds rounding.
    pub shifted: Option<(String, Shift)>,
}

/// Voxels that lie in two masks; the later mask keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overlap {
    /// File name, without its ending, of the mask that loses the voxels.
    pub from: String,
    /// File name, without its ending, of the mask that keeps the voxels.
    pub to: String,
    /// Number of the voxels.
    pub voxels: usize,
}

/// Reads a case's label map.
///
/// # Errors
/// If a file cannot be read as a label map, a mask has several values, or masks lie on different grids.
pub(super) fn read(label: &LabelFiles) -> Result<CaseLabel, VolumeError> {
    match label {
        LabelFiles::Map(path) => Ok(CaseLabel { volume: read_labels(path)?, overlaps: Vec::new(), shifted: None }),
        LabelFiles::Masks { folder, masks } => {
            let no_masks = || VolumeError { path: folder.clone(), reason: VolumeFault::NoMasks };
            merge(masks)?.ok_or_else(no_masks)
        }
    }
}

/// Unusual features of a case's masks or label map, each in one line.
pub(super) fn findings(label: &CaseLabel) -> Vec<String> {
    let shifted = label.shifted.as_ref().map(|(name, shift)| {
        format!("mask {name} lies {shift} off the first one by their headers; taken voxel by voxel")
    });
    shifted.into_iter().chain(finding(&label.overlaps)).chain(label_texture::finding(&label.volume)).collect()
}

/// Describes overlaps of masks in one line, the largest first; `None` without any.
fn finding(overlaps: &[Overlap]) -> Option<String> {
    let mut largest: Vec<&Overlap> = overlaps.iter().collect();
    // The sort is stable: equal overlaps stay in the order of the classes.
    largest.sort_by_key(|overlap| std::cmp::Reverse(overlap.voxels));
    let told = largest
        .iter()
        .take(MAX_TOLD)
        .map(|Overlap { from, to, voxels }| format!("{} of {from} also in {to}", count(*voxels, "voxel")));
    let told = told.collect::<Vec<_>>().join(", ");
    let more = match largest.len().saturating_sub(MAX_TOLD) {
        0 => String::new(),
        more => format!(", and {}", count(more, "further pair")),
    };
    (!largest.is_empty()).then(|| {
        format!(
            "masks overlap: {told}{more}; the name that sorts later has the shared voxels, the other class loses them"
        )
    })
}

/// Masks by ascending class, so that the higher class wins where two overlap; `None` if there are none.
fn merge(masks: &[Mask]) -> Result<Option<CaseLabel>, VolumeError> {
    let mut merged: Option<LabelVolume> = None;
    let mut hasher = blake3::Hasher::new();
    let mut overlaps = Vec::new();
    let mut shifted: Option<(String, Shift)> = None;
    for (at, mask) in masks.iter().enumerate() {
        let volume = read_labels(&mask.path)?;
        let fault = |reason| VolumeError { path: mask.path.clone(), reason };
        hasher.update(&[mask.class]);
        hasher.update(volume.blake3.as_bytes());
        let inside = volume.voxels.iter().copied().filter(|&value| value > 0).min().unwrap_or(1);
        if let Some(other) = volume.voxels.iter().find(|&&value| value > 0 && value != inside) {
            return Err(fault(VolumeFault::MaskValues { first: inside, other: *other }));
        }
        let merged = merged.get_or_insert_with(|| LabelVolume {
            info: volume.info.clone(),
            voxels: vec![0; volume.voxels.len()],
            blake3: String::new(),
            file_bytes: 0,
        });
        let place = LabelPlace::of(&merged.info, &volume.info).ok().filter(|place| place.is_same_order);
        let place = place.ok_or_else(|| fault(VolumeFault::MaskGrid))?;
        if let Some(shift) = place.notable_shift()
            && shifted.as_ref().is_none_or(|(_, largest)| shift.mm > largest.mm)
        {
            shifted = Some((name_of(mask), shift));
        }
        merged.file_bytes += volume.file_bytes;
        // Voxels that the mask takes from each class; those of class 0 are the background's.
        let mut taken = [0usize; 256];
        for (label, value) in merged.voxels.iter_mut().zip(&volume.voxels) {
            if *value > 0 {
                taken[usize::from(*label)] += 1;
                *label = mask.class;
            }
        }
        for other in &masks[..at] {
            let voxels = taken[usize::from(other.class)];
            if voxels > 0 {
                overlaps.push(Overlap { from: name_of(other), to: name_of(mask), voxels });
            }
        }
    }
    if let Some(merged) = &mut merged {
        merged.blake3 = hasher.finalize().to_hex().to_string();
    }
    Ok(merged.map(|volume| CaseLabel { volume, overlaps, shifted }))
}

/// Name of the mask of a class; `None` for a label map in one file.
pub(super) fn mask_name(label: &LabelFiles, class: u8) -> Option<String> {
    let LabelFiles::Masks { masks, .. } = label else { return None };
    masks.iter().find(|mask| mask.class == class).map(name_of)
}

/// Name of a mask's file without its ending.
fn name_of(mask: &Mask) -> String {
    let name = mask.path.file_name().unwrap_or_default().to_string_lossy();
    file_stem(&name).unwrap_or(&name).to_owned()
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
        assert_eq!(merged.volume.voxels, [1, 2, 2, 0]);
        assert_eq!(merged.overlaps, [Overlap { from: "1".to_owned(), to: "2".to_owned(), voxels: 1 }]);
        let other = read(&LabelFiles::Masks { folder: dir.path().into(), masks: masks[..1].to_vec() }).unwrap();
        assert_eq!(other.volume.voxels, [1, 1, 0, 0]);
        assert!(other.overlaps.is_empty());
        assert_ne!(merged.volume.blake3, other.volume.blake3);
    }

    #[test]
    fn masks_off_the_first_one_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let mut masks = Vec::new();
        for (class, x_mm) in [(1, 9.0), (2, 9.05), (3, 9.5), (4, 8.7)] {
            let rows = [[-2.0, 0.0, 0.0, x_mm], [0.0, -2.0, 0.0, 7.0], [0.0, 0.0, 2.0, -5.0]];
            let file = TestFile::new([4, 1, 1], &[]).with_u8(&[0, 1, 0, 0]).sform(1, &rows);
            masks.push(Mask { class, path: file.write(&dir.path().join(format!("{class}.nii"))) });
        }
        let told = |masks: &[Mask]| {
            let label = read(&LabelFiles::Masks { folder: dir.path().into(), masks: masks.to_vec() }).unwrap();
            findings(&CaseLabel { overlaps: Vec::new(), ..label })
        };
        assert_eq!(
            told(&masks),
            ["mask 3 lies 0.50 mm (0.25 voxels) off the first one by their headers; taken voxel by voxel"]
        );
        assert!(told(&masks[..2]).is_empty());
    }

    #[test]
    fn overlaps_are_named_the_largest_first() {
        let overlap = |from: &str, to: &str, voxels| Overlap { from: from.to_owned(), to: to.to_owned(), voxels };
        assert_eq!(finding(&[]), None);
        let some = [overlap("aorta", "liver", 1), overlap("liver", "spleen", 12)];
        let text = "masks overlap: 12 voxels of liver also in spleen, 1 voxel of aorta also in liver; the name that sorts \
                    later has the shared voxels, the other class loses them";
        assert_eq!(finding(&some).as_deref(), Some(text));
        let many = ["b", "c", "d", "e", "f"].map(|to| overlap("a", to, 2));
        let text = finding(&many).unwrap();
        assert!(text.contains("2 voxels of a also in d, and 2 further pairs;"), "{text}");
    }

    #[test]
    fn masks_of_several_classes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let several = [mask(dir.path(), 1, &[1, 2, 0, 0])];
        assert_eq!(merge(&several).unwrap_err().reason, VolumeFault::MaskValues { first: 1, other: 2 });
        let good = mask(dir.path(), 1, &[1, 0, 0, 0]);
        let path = TestFile::new([2, 2, 1], &[]).with_u8(&[0; 4]).write(&dir.path().join("2.nii"));
        let error = merge(&[good, Mask { class: 2, path: path.clone() }]).unwrap_err();
        assert!(error.reason == VolumeFault::MaskGrid && error.path == path);
    }
}
