//! A folder of images next to a folder of label maps, as BTCV (`img`, `label`) and FLARE (`images`, `labels`) have them. Each
//! may be in numbered parts, as in `RibFrac` (`train-images-1`, `train-images-2`). Of several sets of label maps for the same
//! images, none is chosen.
//!
//! If both are divided alike (`images/train`, `labels/train`), the training part is the dataset; if there is no such
//! part, each part with label maps is a dataset.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use super::channels::{ChannelNames, NameRole, several_channels};
use super::description::Description;
use super::modality::{CtCases, Modalities};
use super::pair::{Pair, by_names};
use super::roles::{Split, case_key, loose_key};
use super::tree::{Folder, TreeFile, name_of};
use super::unused::{UnusedReason, apart, of_earlier_labels, rest};
use super::{Dataset, DatasetNote};
use crate::case::{CaseFiles, LabelFiles, SkippedCase};

/// A folder whose images and label maps are divided into training, validation and test data.
pub(super) struct Divided<'a> {
    /// The folders around the parts of images and of label maps.
    pub around: [&'a Folder; 2],
    /// Names of the datasets to read, with the folders of images and of label maps: the training data, or all parts where there
    /// are none of training.
    pub parts: Vec<(String, [&'a Folder; 2])>,
    /// Names of the datasets whose images or label maps are not there.
    pub lacking: Vec<String>,
    /// Empty folders of parts, as mount points are when nothing is mounted.
    pub empty: Vec<String>,
}

impl<'a> Divided<'a> {
    /// The parts of a folder; `None` if it is not divided. The only training data have the folder's name, other parts their
    /// own as well.
    pub(super) fn of(folder: &'a Folder) -> Option<Self> {
        let has_volumes = |child: &Folder| Split::of(&child.name).is_some() && child.volumes().next().is_some();
        let is_empty_part = |child: &Folder| Split::of(&child.name).is_some() && child.is_empty();
        let is_divided = |child: &Folder| child.folders.iter().any(has_volumes);
        let may_be_divided =
            |child: &Folder| child.is_empty() || is_divided(child) || child.folders.iter().any(is_empty_part);
        let both = by_names(folder, is_divided).or_else(|| by_names(folder, may_be_divided))?;
        let mut names: BTreeSet<&'a str> = BTreeSet::new();
        let mut empty = Vec::new();
        for of in both {
            if of.is_empty() {
                empty.push(of.name.clone());
            }
            for child in &of.folders {
                if is_empty_part(child) && !of.is_empty() {
                    empty.push(format!("{}/{}", of.name, child.name));
                }
                if is_empty_part(child) || has_volumes(child) {
                    names.insert(&child.name);
                }
            }
        }
        let is_training = |part: &str| Split::of(part) == Some(Split::Training);
        let is_only = names.iter().filter(|part| is_training(part)).count() == 1;
        let name_of = |part: &str| {
            if is_only && is_training(part) { folder.name.clone() } else { format!("{}-{part}", folder.name) }
        };
        let mut pairs: Vec<(&'a str, [&'a Folder; 2])> = Vec::new();
        let mut lacking = Vec::new();
        for part in names {
            let [images, labels] = both.map(|of| of.folder(part).filter(|child| has_volumes(child)));
            match (images, labels) {
                (Some(images), Some(labels)) => pairs.push((part, [images, labels])),
                _ => lacking.push(name_of(part)),
            }
        }
        if !both.into_iter().any(is_divided) || (pairs.is_empty() && empty.is_empty()) {
            return None;
        }
        let has_training = pairs.iter().any(|(part, _)| is_training(part));
        pairs.retain(|(part, _)| !has_training || is_training(part));
        let parts = pairs.into_iter().map(|(part, pair)| (name_of(part), pair)).collect();
        Some(Self { around: both, parts, lacking, empty })
    }
}

/// Reads a folder of this layout; `None` for any other folder.
pub(super) fn read(folder: &Folder, description: Option<&Description>, modalities: Modalities) -> Option<Dataset> {
    let pair = Pair::of(folder, modalities.by_name(description))?;
    Some(join(folder.name.clone(), &pair, &[folder], description, modalities))
}

/// Reads a part of a divided folder as a dataset of this name.
pub(super) fn read_part(
    name: String,
    [images, labels]: [&Folder; 2],
    description: Option<&Description>,
    modalities: Modalities,
) -> Dataset {
    join(name, &Pair::new(images, labels), &[images, labels], description, modalities)
}

/// Joins images and label maps by their names. Unused files are those of the folders `all`.
fn join(
    name: String,
    pair: &Pair<'_>,
    all: &[&Folder],
    description: Option<&Description>,
    modalities: Modalities,
) -> Dataset {
    let modalities = modalities.by_name(description);
    let mut dataset = Dataset::described(name, description);
    let by_stem: BTreeMap<&str, &TreeFile> = pair.label_volumes().map(|(file, stem)| (stem, file)).collect();
    let (by_key, by_loose_key) = (ByKey::of(pair, case_key), ByKey::of(pair, loose_key));
    let stems: HashSet<&str> = pair.image_volumes().map(|(_, stem)| stem).collect();
    let names = ChannelNames::of(stems.iter().copied(), by_stem.keys().copied());
    let mut taken: HashSet<PathBuf> = HashSet::new();
    let mut seen: HashSet<String> = HashSet::new();
    for (file, stem) in pair.image_volumes() {
        let role = names.role(stem);
        let case_id = match role {
            NameRole::Case(case_id) | NameRole::FirstOfSeveral(case_id) => case_id,
            NameRole::Further(case_id) => {
                let first = format!("{case_id}_0000");
                // Reported with the first channel.
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
        let label = by_stem.get(case_id).copied();
        let label = label.or_else(|| by_key.only(&case_key(stem))).or_else(|| by_loose_key.only(&loose_key(stem)));
        taken.extend(label.map(|label| label.path.clone()));
        let case = CaseFiles {
            dataset: dataset.name.clone(),
            case_id: case_id.to_owned(),
            image: file.path.clone(),
            slices: Vec::new(),
            role: pair.role,
            label: label.map(|label| LabelFiles::Map(label.path.clone())),
        };
        if !seen.insert(case.case_id.clone()) {
            dataset.skipped.push(SkippedCase::new(&case, &case.image, "next to a file of the same case; keep one"));
        } else if matches!(role, NameRole::FirstOfSeveral(_)) {
            let are_demanded = description.is_some_and(Description::demands_channels);
            dataset.skipped.push(SkippedCase::new(&case, &case.image, several_channels(are_demanded)));
        } else {
            dataset.cases.push(case);
        }
    }
    let places = [&pair.images, &pair.labels, &pair.competing].map(|folders| paths(folders));
    let cts = CtCases::of(&dataset.cases);
    let reason = |file: &TreeFile| explain(file, pair, &places, &names, (&cts, modalities));
    dataset.unused = all.iter().flat_map(|folder| rest(folder, &taken, reason)).collect();
    dataset.note_missing_labels(!pair.labels.is_empty());
    if !pair.competing.is_empty() {
        dataset.notes.push(DatasetNote::CompetingLabels { folders: names_of(&pair.competing) });
    }
    dataset
}

/// Paths of folders.
fn paths<'a>(folders: &[&'a Folder]) -> HashSet<&'a Path> {
    folders.iter().map(|folder| folder.path.as_path()).collect()
}

/// Names of folders, as messages list them.
fn names_of(folders: &[&Folder]) -> String {
    folders.iter().map(|folder| folder.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Label maps by a key of their names, and the number of images of each key.
struct ByKey<'a>(BTreeMap<String, (Vec<&'a TreeFile>, usize)>);

impl<'a> ByKey<'a> {
    fn of(pair: &Pair<'a>, key: fn(&str) -> String) -> Self {
        let mut by_key: BTreeMap<String, (Vec<&'a TreeFile>, usize)> = BTreeMap::new();
        for (file, stem) in pair.label_volumes() {
            by_key.entry(key(stem)).or_default().0.push(file);
        }
        for (_, stem) in pair.image_volumes() {
            by_key.entry(key(stem)).or_default().1 += 1;
        }
        Self(by_key)
    }

    /// The only label map of a key that only one image has.
    fn only(&self, key: &str) -> Option<&'a TreeFile> {
        match self.0.get(key)? {
            (labels, 1) if labels.len() == 1 => Some(labels[0]),
            _ => None,
        }
    }
}

/// The reason why a volume belongs to no case. `places` are the folders of images, those of label maps, and competing ones.
fn explain(
    file: &TreeFile,
    pair: &Pair<'_>,
    places: &[HashSet<&Path>; 3],
    names: &ChannelNames,
    (cts, modalities): (&CtCases, Modalities),
) -> UnusedReason {
    let [images, labels, competing] = places;
    let stem = file.stem().unwrap_or_default();
    let first = &pair.images[0].path;
    let base = first.parent().unwrap_or(first);
    let around = || file.path.ancestors().skip(1);
    if let Some(folder) = around().skip(1).find(|folder| images.contains(*folder) || labels.contains(*folder)) {
        return UnusedReason::InSubfolder { of: name_of(folder) };
    }
    let lies_in = |folders: &HashSet<&Path>| around().any(|folder| folders.contains(folder));
    if lies_in(competing) {
        UnusedReason::CompetingLabels { folders: names_of(&pair.competing) }
    } else if lies_in(labels) {
        cts.of_label(stem, modalities.foreign_word(stem)).unwrap_or(UnusedReason::LabelWithoutImage)
    } else if let Some(reason) = of_earlier_labels(file, base, pair.labels.iter().copied()) {
        reason
    } else if let Some(word) = modalities.foreign_word(stem) {
        if lies_in(images) { cts.of_image(stem, word) } else { UnusedReason::NamedLikeOtherModality { word } }
    } else if lies_in(images) && matches!(names.role(stem), NameRole::Further(_)) {
        UnusedReason::OtherChannel
    } else {
        apart(file, base)
    }
}
