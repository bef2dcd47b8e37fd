//! A folder of images next to a folder of label maps, as BTCV (`img`, `label`) and FLARE (`images`, `labels`) have them.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use super::Dataset;
use super::channels::{ChannelNames, NameRole};
use super::description::Description;
use super::roles::{Modalities, case_key, is_image_folder, is_label_folder};
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedReason, rest};
use crate::case::{CaseFiles, ImageRole, LabelFiles, SkippedCase};

/// Reads a folder of this layout; `None` for any other folder.
pub(super) fn read(folder: &Folder, description: Option<&Description>, modalities: Modalities) -> Option<Dataset> {
    let with_volumes = |wanted: fn(&str) -> bool| {
        let mut folders = folder.folders.iter().filter(|child| wanted(&child.name) && child.volumes().next().is_some());
        folders.next().filter(|_| folders.next().is_none())
    };
    let (images, labels) = (with_volumes(is_image_folder)?, with_volumes(is_label_folder)?);
    let modalities = modalities.by_name(description);
    let mut dataset = Dataset::described(folder.name.clone(), description);
    let by_stem: BTreeMap<&str, &TreeFile> = labels.volumes().map(|(file, stem)| (stem, file)).collect();
    let mut by_key: BTreeMap<String, Vec<&TreeFile>> = BTreeMap::new();
    for (file, stem) in labels.volumes() {
        by_key.entry(case_key(stem)).or_default().push(file);
    }
    let mut image_keys: BTreeMap<String, usize> = BTreeMap::new();
    for (_, stem) in images.volumes() {
        *image_keys.entry(case_key(stem)).or_default() += 1;
    }
    let stems: HashSet<&str> = images.volumes().map(|(_, stem)| stem).collect();
    let names = ChannelNames::of(stems.iter().copied(), by_stem.keys().copied());
    let mut taken: HashSet<PathBuf> = HashSet::new();
    let mut seen: HashSet<String> = HashSet::new();
    for (file, stem) in images.volumes() {
        let role = names.role(stem);
        let case_id = match role {
            NameRole::Case(case_id) | NameRole::FirstOfSeveral(case_id) => case_id,
            NameRole::Further(case_id) => {
                let first = format!("{case_id}_0000");
                // Told with the first channel.
                if stems.contains(first.as_str()) && matches!(names.role(&first), NameRole::FirstOfSeveral(_)) {
                    taken.insert(file.path.clone());
                }
                continue;
            }
        };
        if modalities.foreign_word(stem).is_some() {
            continue;
        }
        taken.insert(file.path.clone());
        let key = case_key(stem);
        let label = by_stem.get(case_id).copied().or_else(|| match by_key.get(&key).map(Vec::as_slice) {
            Some(&[label]) if image_keys.get(&key) == Some(&1) => Some(label),
            _ => None,
        });
        taken.extend(label.map(|label| label.path.clone()));
        let case = CaseFiles {
            dataset: dataset.name.clone(),
            case_id: case_id.to_owned(),
            image: file.path.clone(),
            slices: Vec::new(),
            role: ImageRole::Declared,
            label: label.map(|label| LabelFiles::Map(label.path.clone())),
        };
        if !seen.insert(case.case_id.clone()) {
            dataset.skipped.push(SkippedCase::new(&case, &case.image, "next to a file of the same case; keep one"));
        } else if matches!(role, NameRole::FirstOfSeveral(_)) {
            dataset.skipped.push(SkippedCase::new(&case, &case.image, "has more than one channel; one is expected"));
        } else {
            dataset.cases.push(case);
        }
    }
    dataset.unused = rest(folder, &taken, |file| {
        let stem = file.stem().unwrap_or_default();
        if file.path.starts_with(&labels.path) {
            UnusedReason::LabelWithoutImage
        } else if let Some(word) = modalities.foreign_word(stem) {
            UnusedReason::NamedLikeOtherModality { word }
        } else if file.path.starts_with(&images.path) && matches!(names.role(stem), NameRole::Further(_)) {
            UnusedReason::OtherChannel
        } else {
            UnusedReason::OutsideDatasets
        }
    });
    dataset.note_missing_labels(true);
    Some(dataset)
}
