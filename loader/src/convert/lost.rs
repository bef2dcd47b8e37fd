//! Findings on label values that preprocessing removed from a case.

use super::labels::mask_name;
use crate::case::LabelFiles;
use crate::plural::count;
use crate::preprocess::lost_labels::{LosingStage, LostLabel};

/// Largest number of label values that a finding names.
const MOST_LISTED: usize = 5;

/// Findings on the lost labels of a case with these label files, resampled to a spacing in mm: one line for each stage. The
/// `ignore` label is left out, because its voxels are not used.
pub(super) fn findings(
    lost: &[LostLabel],
    files: &LabelFiles,
    ignore: Option<u8>,
    spacing: Option<[f64; 3]>,
) -> Vec<String> {
    let lost: Vec<&LostLabel> = lost.iter().filter(|lost| Some(lost.value) != ignore).collect();
    let resampled = of_stage(&lost, LosingStage::Resampling, files).map(|labels| {
        let to = spacing.map(|[x, y, z]| format!(" to {x} x {y} x {z} mm")).unwrap_or_default();
        format!("{labels} left after resampling{to}; a smaller --spacing keeps more")
    });
    let cropped = of_stage(&lost, LosingStage::Crop, files).map(|labels| {
        format!(
            "{labels} left within the foreground, to which the volume is cropped; check whether the label map is that of \
             this image"
        )
    });
    resampled.into_iter().chain(cropped).collect()
}

/// Beginning of a finding, `label 1 (3 voxels) has no voxel`; `None` if the stage removed no label.
fn of_stage(lost: &[&LostLabel], stage: LosingStage, files: &LabelFiles) -> Option<String> {
    let lost: Vec<&LostLabel> = lost.iter().copied().filter(|lost| lost.stage == stage).collect();
    let listed = lost.iter().take(MOST_LISTED).map(|LostLabel { value, num_voxels, .. }| {
        let name = mask_name(files, *value).map(|name| format!("{name}, ")).unwrap_or_default();
        let voxels = usize::try_from(*num_voxels).unwrap_or(usize::MAX);
        format!("{value} ({name}{})", count(voxels, "voxel"))
    });
    let listed = listed.collect::<Vec<_>>().join(", ");
    match lost.len() {
        0 => None,
        1 => Some(format!("label {listed} has no voxel")),
        num if num > MOST_LISTED => Some(format!("labels {listed} and {} more have no voxel", num - MOST_LISTED)),
        _ => Some(format!("labels {listed} have no voxel")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Mask;

    fn lost(value: u8, num_voxels: u64, stage: LosingStage) -> LostLabel {
        LostLabel { value, num_voxels, stage }
    }

    #[test]
    fn lost_labels_are_listed_by_stage() {
        let map = LabelFiles::Map("a.nii".into());
        let both =
            [lost(1, 3, LosingStage::Resampling), lost(2, 1, LosingStage::Crop), lost(4, 7, LosingStage::Resampling)];
        let expected = [
            "labels 1 (3 voxels), 4 (7 voxels) have no voxel left after resampling to 1.5 x 1.5 x 2 mm; a smaller --spacing keeps \
             more",
            "label 2 (1 voxel) has no voxel left within the foreground, to which the volume is cropped; check whether the label \
             map is that of this image",
        ];
        assert_eq!(findings(&both, &map, None, Some([1.5, 1.5, 2.0])), expected);
        assert!(findings(&[], &map, None, None).is_empty());
        let many: Vec<LostLabel> = (1..=7).map(|value| lost(value, 2, LosingStage::Crop)).collect();
        let text = findings(&many, &map, None, None).concat();
        assert!(text.contains("5 (2 voxels) and 2 more have no voxel left"), "{text}");
    }

    #[test]
    fn the_ignore_label_is_no_loss() {
        let map = LabelFiles::Map("a.nii".into());
        let both = [lost(5, 8, LosingStage::Crop), lost(5, 8, LosingStage::Resampling), lost(1, 2, LosingStage::Crop)];
        let texts = findings(&both, &map, Some(5), None);
        assert!(texts.len() == 1 && texts[0].starts_with("label 1 (2 voxels) has no voxel left within"), "{texts:?}");
    }

    #[test]
    fn masks_are_named() {
        let masks = vec![Mask { class: 2, path: "masks/liver.nii.gz".into() }];
        let masks = LabelFiles::Masks { folder: "masks".into(), masks };
        let text = findings(&[lost(2, 3, LosingStage::Crop)], &masks, None, None).concat();
        assert!(text.starts_with("label 2 (liver, 3 voxels) has no voxel left within"), "{text}");
    }
}
