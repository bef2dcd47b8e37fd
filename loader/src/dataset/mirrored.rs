//! Folders of images and of label maps with subfolders of the same names: one for each case, as in `VerSe`
//! (`rawdata/sub-verse004`, `derivatives/sub-verse004`), or for each source, as in `CTSpine1K` (`volumes/COLONOG`,
//! `labels/COLONOG`).

use std::collections::HashSet;
use std::path::PathBuf;

use super::Dataset;
use super::channels::{ChannelNames, NameRole, several_channels};
use super::description::Description;
use super::modality::Modalities;
use super::pair::by_names;
use super::roles::case_key;
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedReason, rest};
use crate::case::{CaseFiles, ImageRole, LabelFiles, SkippedCase};

/// Names of the folders of images and of label maps by the Brain Imaging Data Structure (BIDS).
const BIDS: [&str; 2] = ["rawdata", "derivatives"];

/// A dataset of this layout, and the folders that hold it.
pub(super) struct Mirrored<'a> {
    pub dataset: Dataset,
    /// The folder of images and that of label maps.
    pub around: [&'a Folder; 2],
}

/// Reads a folder of this layout; `None` for any other folder.
pub(super) fn read<'a>(
    folder: &'a Folder,
    description: Option<&Description>,
    modalities: Modalities,
) -> Option<Mirrored<'a>> {
    let modalities = modalities.by_name(description);
    let is_filled = |child: &Folder| child.folders.iter().any(|part| part.volumes().next().is_some());
    let [images, labels] = by_names(folder, is_filled).or_else(|| bids(folder))?;
    let mut dataset = Dataset::described(folder.name.clone(), description);
    let mut taken: HashSet<PathBuf> = HashSet::new();
    for part in &images.folders {
        add_part(part, labels.folder(&part.name), modalities, &mut dataset, &mut taken);
    }
    if dataset.cases.iter().all(|case| case.label.is_none()) {
        return None;
    }
    dataset.cases.sort();
    let explain = |file: &TreeFile| explain(file, [images, labels], modalities);
    dataset.unused = [images, labels].into_iter().flat_map(|of| rest(of, &taken, explain)).collect();
    dataset.note_missing_labels(true);
    Some(Mirrored { dataset, around: [images, labels] })
}

/// The folders of images and of label maps by the names of BIDS.
fn bids(folder: &Folder) -> Option<[&Folder; 2]> {
    let named = |wanted: &str| folder.folders.iter().find(|child| child.name.eq_ignore_ascii_case(wanted));
    let [images, labels] = BIDS.map(named);
    Some([images?, labels?])
}

/// Adds the cases of a subfolder of images with label maps from the subfolder of its name.
fn add_part(
    part: &Folder,
    labels: Option<&Folder>,
    modalities: Modalities,
    dataset: &mut Dataset,
    taken: &mut HashSet<PathBuf>,
) {
    let own: Vec<(&TreeFile, &str)> =
        part.volumes().filter(|(_, stem)| modalities.foreign_word(stem).is_none()).collect();
    let labels: Vec<(&TreeFile, &str)> = labels.into_iter().flat_map(Folder::volumes).collect();
    let names = ChannelNames::of(own.iter().map(|(_, stem)| *stem), labels.iter().map(|(_, stem)| *stem));
    let is_image = |stem: &str| !matches!(names.role(stem), NameRole::Further(_));
    let is_only = own.iter().filter(|(_, stem)| is_image(stem)).count() == 1;
    let mut seen: HashSet<String> = HashSet::new();
    for &(file, stem) in own.iter().filter(|(_, stem)| is_image(stem)) {
        let label = match labels.as_slice() {
            [(label, _)] if is_only => Some(*label),
            several => corresponding(stem, several),
        };
        let case_id = if is_only { part.name.clone() } else { format!("{}/{stem}", part.name) };
        taken.extend([file.path.clone()].into_iter().chain(label.map(|label| label.path.clone())));
        let case = CaseFiles {
            dataset: dataset.name.clone(),
            case_id,
            image: file.path.clone(),
            slices: Vec::new(),
            role: ImageRole::Declared,
            label: label.map(|label| LabelFiles::Map(label.path.clone())),
        };
        if !seen.insert(case.case_id.clone()) {
            dataset.skipped.push(SkippedCase::new(&case, &case.image, "next to a file of the same case; keep one"));
        } else if matches!(names.role(stem), NameRole::FirstOfSeveral(_)) {
            dataset.skipped.push(SkippedCase::new(&case, &case.image, several_channels(false)));
        } else {
            dataset.cases.push(case);
        }
    }
}

/// Finds the only label map of an image: one whose name differs only in words such as `ct` and `seg`, or has further
/// words.
fn corresponding<'a>(stem: &str, labels: &[(&'a TreeFile, &str)]) -> Option<&'a TreeFile> {
    let (key, longer) = (case_key(stem), format!("{}_", case_key(stem)));
    let only = |meets: &dyn Fn(&str) -> bool| {
        let mut found = labels.iter().filter(|(_, label)| meets(&case_key(label)));
        found.next().filter(|_| found.next().is_none()).map(|(file, _)| *file)
    };
    only(&|label| label == key).or_else(|| only(&|label| label.starts_with(&longer)))
}

/// The reason why a volume belongs to no case.
fn explain(file: &TreeFile, [images, labels]: [&Folder; 2], modalities: Modalities) -> UnusedReason {
    let part = file.path.parent().and_then(|part| part.parent());
    if file.path.starts_with(&labels.path) {
        UnusedReason::LabelWithoutImage
    } else if part != Some(images.path.as_path()) {
        UnusedReason::OutsideDatasets
    } else if let Some(word) = file.stem().and_then(|stem| modalities.foreign_word(stem)) {
        UnusedReason::NamedLikeOtherModality { word }
    } else {
        UnusedReason::OtherChannel
    }
}
