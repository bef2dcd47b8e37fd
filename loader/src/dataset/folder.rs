//! Plain volumes: every volume of a folder, at any depth, that is not named like a label map, and every series of DICOM
//! files of a wanted modality.
//!
//! A label map is joined to its image where both lie in one folder and their names differ only in words such as `ct`,
//! `volume`, `seg` and `mask` (`LiTS`: `volume-7`, `segmentation-7`). Images are assumed to be images: conversion refuses
//! those whose values are a label map's.
//!
//! In a folder with names such as `CASE_0000`, the number is a channel, as in nnU-Net ([`ChannelNames`]): further
//! channels are not scans of their own, and a case that has them is skipped.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::Dataset;
use super::channels::{ChannelNames, NameRole, several_channels};
use super::description::{Description, FILE_NAME};
#[cfg(feature = "dicom")]
use super::dicom_series::FoundSeries;
#[cfg(feature = "dicom")]
use super::hub::HubLinks;
use super::modality::{CtCases, Modalities};
use super::other_file::of_other_file;
use super::roles::{
    case_key, is_generic_image_name, is_image_name, is_label_folder, is_label_name, loose_key, may_name_cts,
    may_name_dataset,
};
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedFile, UnusedReason, prediction_folder};
use crate::case::{CaseFiles, ImageRole, LabelFiles, SkippedCase};

pub(super) fn read(root: &Folder, description: Option<&Description>, modalities: Modalities) -> Dataset {
    let mut dataset = Dataset::described(root.name.clone(), description);
    #[cfg(feature = "dicom")]
    let mut series = FoundSeries::new(modalities, HubLinks::of(root));
    let modalities = modalities.by_name(description);
    #[cfg(feature = "dicom")]
    {
        let mut take = |folder: &Folder, dataset: &mut Dataset| series.take(folder, &root.path, dataset);
        visit(root, &root.path, (None, modalities), &mut dataset, &mut take);
        series.add_to(&mut dataset);
    }
    #[cfg(not(feature = "dicom"))]
    visit(root, &root.path, (None, modalities), &mut dataset, &mut |_, _| HashSet::new());
    let mut cases = std::mem::take(&mut dataset.cases);
    cases.sort();
    for case in cases {
        if dataset.cases.last().is_some_and(|last| last.case_id == case.case_id) {
            let reason = "next to a file of the same name; keep one";
            dataset.skipped.push(SkippedCase::new(&case, &case.image, reason));
        } else {
            dataset.cases.push(case);
        }
    }
    dataset.note_missing_labels(false);
    if description.is_some() {
        let used = root.path.join(FILE_NAME);
        dataset.unused.retain(|unused| unused.path != used);
    }
    dataset
}

/// Takes files of a folder that make volumes together; returns their paths.
type TakeSeries<'a> = &'a mut dyn FnMut(&Folder, &mut Dataset) -> HashSet<PathBuf>;

/// Adds the volumes of a folder and its subfolders to the dataset. In a folder named like one of label maps or of
/// predictions, and below it, they are unused for the reason `of_labels`.
fn visit(
    folder: &Folder,
    root: &Path,
    (of_labels, modalities): (Option<&UnusedReason>, Modalities),
    dataset: &mut Dataset,
    series: TakeSeries<'_>,
) {
    let taken = if of_labels.is_some() { HashSet::new() } else { series(folder, dataset) };
    let mut labels: BTreeMap<String, Vec<&TreeFile>> = BTreeMap::new();
    let mut images: BTreeMap<String, Vec<(&TreeFile, &str)>> = BTreeMap::new();
    let (label_stems, image_stems): (Vec<&str>, Vec<&str>) =
        folder.volumes().map(|(_, stem)| stem).partition(|stem| is_label_name(stem));
    let names = ChannelNames::of(image_stems.iter().copied(), label_stems.into_iter());
    let mut foreign: Vec<(&TreeFile, &str, String)> = Vec::new();
    for file in folder.files.iter().filter(|file| !taken.contains(&file.path)) {
        let mut unused = |reason| dataset.unused.push(UnusedFile { path: file.path.clone(), reason });
        match (file.stem(), of_labels) {
            (None, of_labels) => unused(other_reason(file, of_labels)),
            (Some(_), Some(reason)) => unused(reason.clone()),
            (Some(stem), _) if is_label_name(stem) => labels.entry(case_key(stem)).or_default().push(file),
            (Some(stem), _) if matches!(names.role(stem), NameRole::Further(_)) => unused(UnusedReason::OtherChannel),
            (Some(stem), _) => match modalities.foreign_word(stem) {
                Some(word) => foreign.push((file, stem, word)),
                None => images.entry(case_key(stem)).or_default().push((file, stem)),
            },
        }
    }
    join_originals(&images, &mut labels);
    let first = dataset.cases.len();
    let ambiguous = ambiguous_labels(folder, &images, &labels);
    let reason = |is_ambiguous| if is_ambiguous { UnusedReason::AmbiguousLabel } else { UnusedReason::NamedLikeLabel };
    add_cases((folder, root), &images, &mut labels, &names, dataset);
    let cts = CtCases::of(&dataset.cases[first..]);
    let of_foreign = |(file, stem, word): (&TreeFile, &str, String)| UnusedFile {
        path: file.path.clone(),
        reason: cts.of_image(stem, word),
    };
    dataset.unused.extend(foreign.into_iter().map(of_foreign));
    for (key, files) in labels {
        let reason = reason(ambiguous.keys.contains(&key));
        let unused = files.into_iter().map(|file| {
            let stem = file.stem().unwrap_or_default();
            let of_other = cts.of_label(stem, modalities.foreign_word(stem));
            UnusedFile { path: file.path.clone(), reason: of_other.unwrap_or_else(|| reason.clone()) }
        });
        dataset.unused.extend(unused);
    }
    let of_folders = reason(ambiguous.is_folders);
    for child in &folder.folders {
        if child.is_empty() {
            let path = child.path.strip_prefix(root).unwrap_or(&child.path);
            dataset.vacant.push(format!("{}/{}/", dataset.name, path.to_string_lossy().replace('\\', "/")));
        }
        let is_labels = is_label_folder(&child.name) && !is_dataset(child);
        let own = prediction_folder(&child.name).or_else(|| is_labels.then(|| of_folders.clone()));
        let of_labels = of_labels.or(own.as_ref());
        visit(child, root, (of_labels, modalities), dataset, series);
    }
}

/// Reason not to convert a file that is not named like a volume; `of_labels` is as for [`visit`].
fn other_reason(file: &TreeFile, of_labels: Option<&UnusedReason>) -> UnusedReason {
    match (of_other_file(file).unwrap_or(UnusedReason::NotAVolume), of_labels) {
        (
            UnusedReason::DicomInDataset,
            Some(UnusedReason::NamedLikeLabel | UnusedReason::AmbiguousLabel | UnusedReason::InPredictionFolder { .. }),
        ) => UnusedReason::DicomLabels,
        // Arrays are probabilities next to the predictions of a model.
        (UnusedReason::DicomInDataset, Some(reason))
        | (UnusedReason::Arrays { .. }, Some(reason @ UnusedReason::Prediction)) => reason.clone(),
        (reason, _) => reason,
    }
}

/// Adds the cases of a folder's images, each with the only label map of its key, which is taken out of `labels`.
fn add_cases(
    (folder, root): (&Folder, &Path),
    images: &BTreeMap<String, Vec<(&TreeFile, &str)>>,
    labels: &mut BTreeMap<String, Vec<&TreeFile>>,
    names: &ChannelNames,
    dataset: &mut Dataset,
) {
    for (key, files) in images {
        let own_labels = labels.remove(key).unwrap_or_default();
        let label = match (files.as_slice(), own_labels.as_slice()) {
            ([_], [label]) => Some(*label),
            (_, several) => {
                dataset.unused.extend(
                    several
                        .iter()
                        .map(|file| UnusedFile { path: file.path.clone(), reason: UnusedReason::AmbiguousLabel }),
                );
                None
            }
        };
        for (file, stem) in files {
            let parent = folder.path.strip_prefix(root).unwrap_or(&folder.path);
            let case = CaseFiles {
                dataset: dataset.name.clone(),
                case_id: parent.join(stem).to_string_lossy().replace('\\', "/"),
                image: file.path.clone(),
                slices: Vec::new(),
                role: if label.is_some() { ImageRole::Declared } else { ImageRole::Assumed },
                label: label.map(|label| LabelFiles::Map(label.path.clone())),
            };
            if matches!(names.role(stem), NameRole::FirstOfSeveral(_)) {
                dataset.skipped.push(SkippedCase::new(&case, &case.image, several_channels(false)));
            } else {
                dataset.cases.push(case);
            }
        }
    }
}

/// Joins label maps without an image of the same key to the only image whose name differs from theirs only in a word
/// for originals: `liver-orig001` and `liver-seg001`, as in SLIVER07.
fn join_originals(images: &BTreeMap<String, Vec<(&TreeFile, &str)>>, labels: &mut BTreeMap<String, Vec<&TreeFile>>) {
    let mut by_loose_key: BTreeMap<String, Vec<&String>> = BTreeMap::new();
    for (key, files) in images {
        for (_, stem) in files {
            by_loose_key.entry(loose_key(stem)).or_default().push(key);
        }
    }
    let unmatched: Vec<String> = labels.keys().filter(|key| !images.contains_key(*key)).cloned().collect();
    for key in unmatched {
        if let Some(&[image]) = by_loose_key.get(&key).map(Vec::as_slice)
            && !labels.contains_key(image)
            && let Some(files) = labels.remove(&key)
        {
            labels.insert(image.clone(), files);
        }
    }
}

/// Returns true if a folder that is named like label maps, among further words, is a dataset: of CTs by its name, such as
/// `COVID-19-CT-Seg_20cases`, or with images and label maps by the names of its files, such as `OrganSegmentations` of CT-ORG.
fn is_dataset(folder: &Folder) -> bool {
    may_name_cts(&folder.name) || (may_name_dataset(&folder.name) && holds_both(folder))
}

/// Returns true if a folder, or one within it, holds files that are named like label maps, and files that are named like images
/// or like the images of these label maps.
fn holds_both(folder: &Folder) -> bool {
    let (labels, images): (Vec<&str>, Vec<&str>) =
        folder.volumes().map(|(_, stem)| stem).partition(|stem| is_label_name(stem));
    let keys: HashSet<String> = labels.iter().map(|stem| loose_key(stem)).collect();
    let is_image = |stem: &&str| is_image_name(stem) || keys.contains(&loose_key(stem));
    (!labels.is_empty() && images.iter().any(is_image)) || folder.folders.iter().any(holds_both)
}

/// Label maps of an image of which none is the image's own by its name.
#[derive(Default)]
struct Ambiguous {
    /// Keys of the names of label maps.
    keys: HashSet<String>,
    /// True if folders of label maps are among them.
    is_folders: bool,
}

/// The label maps of the only image of a folder, where there are several: those whose names add words to the image's, or
/// all where the image is named like its folder or an image and nothing else.
fn ambiguous_labels(
    folder: &Folder,
    images: &BTreeMap<String, Vec<(&TreeFile, &str)>>,
    labels: &BTreeMap<String, Vec<&TreeFile>>,
) -> Ambiguous {
    let mut all = images.iter().flat_map(|(key, files)| files.iter().map(move |(_, stem)| (key, *stem)));
    let (Some((key, stem)), None) = (all.next(), all.next()) else { return Ambiguous::default() };
    if labels.get(key).is_some_and(|own| own.len() == 1) {
        return Ambiguous::default();
    }
    let is_case_folder = is_generic_image_name(stem) || stem.eq_ignore_ascii_case(&folder.name);
    let is_its = |label: &str| {
        is_case_folder || label.strip_prefix(key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let is_labels = |child: &&Folder| is_label_folder(&child.name) && child.volumes().next().is_some();
    let num_folders = if is_case_folder { folder.folders.iter().filter(is_labels).count() } else { 0 };
    let own: Vec<_> = labels.iter().filter(|(label, _)| is_its(label)).collect();
    if own.iter().map(|(_, files)| files.len()).sum::<usize>() + num_folders < 2 {
        return Ambiguous::default();
    }
    Ambiguous { keys: own.into_iter().map(|(label, _)| label.clone()).collect(), is_folders: num_folders > 0 }
}
