//! A folder of images next to a folder of label maps, as BTCV (`img`, `label`) and FLARE (`images`, `labels`) have them.
//!
//! Where both are divided alike (`images/train`, `labels/train`), the training data are the dataset; without any, each part
//! with label maps is one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;

use super::Dataset;
use super::channels::{ChannelNames, NameRole, several_channels};
use super::description::Description;
use super::roles::{Modalities, Split, case_key, is_image_folder, is_label_folder, is_like_image_folder};
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedReason, apart, rest};
use crate::case::{CaseFiles, ImageRole, LabelFiles, SkippedCase};

/// A folder of images and the folder of their label maps.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub images: &'a Folder,
    pub labels: &'a Folder,
}

impl<'a> Pair<'a> {
    /// The only pair among the direct subfolders that meet a condition. Folders of test and validation data count where
    /// there are no others, and names with further words where there are none without.
    fn within(folder: &'a Folder, meets: impl Fn(&Folder) -> bool) -> Option<Self> {
        let candidates: Vec<&Folder> = folder.folders.iter().filter(|child| meets(child)).collect();
        let images = only(
            &candidates,
            &[is_image_folder, |name: &str| is_like_image_folder(name) && !Split::is_apart(name), is_like_image_folder],
        )?;
        let is_label_map = |name: &str| is_label_folder(name) && !Split::is_apart(name);
        let labels = only(&candidates, &[is_label_map, is_label_folder])?;
        Some(Self { images, labels })
    }

    /// The folders of images and label maps of a folder.
    pub(super) fn of(folder: &'a Folder) -> Option<Self> {
        Self::within(folder, |child| child.volumes().next().is_some())
    }
}

/// A folder whose images and label maps are divided into training, validation and test data.
pub(super) struct Divided<'a> {
    /// The folders around the parts.
    pub around: Pair<'a>,
    /// Names and folders of the datasets to read: the training data, or all parts where there are none of training.
    pub parts: Vec<(String, Pair<'a>)>,
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
        let around = Pair::within(folder, is_divided).or_else(|| Pair::within(folder, may_be_divided))?;
        let both: [&'a Folder; 2] = [around.images, around.labels];
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
        let mut pairs: Vec<(&'a str, Pair<'a>)> = Vec::new();
        let mut lacking = Vec::new();
        for part in names {
            let [images, labels] = both.map(|of| of.folder(part).filter(|child| has_volumes(child)));
            match (images, labels) {
                (Some(images), Some(labels)) => pairs.push((part, Pair { images, labels })),
                _ => lacking.push(name_of(part)),
            }
        }
        if !both.into_iter().any(is_divided) || (pairs.is_empty() && empty.is_empty()) {
            return None;
        }
        let has_training = pairs.iter().any(|(part, _)| is_training(part));
        pairs.retain(|(part, _)| !has_training || is_training(part));
        let parts = pairs.into_iter().map(|(part, pair)| (name_of(part), pair)).collect();
        Some(Self { around, parts, lacking, empty })
    }
}

/// The only folder whose name is wanted by the first rank that any name meets.
fn only<'a>(candidates: &[&'a Folder], ranks: &[fn(&str) -> bool]) -> Option<&'a Folder> {
    let of_rank = |wanted: &fn(&str) -> bool| -> Vec<&'a Folder> {
        candidates.iter().copied().filter(|child| wanted(&child.name)).collect()
    };
    let found = ranks.iter().map(of_rank).find(|found| !found.is_empty())?;
    <[&Folder; 1]>::try_from(found).ok().map(|[folder]| folder)
}

/// Reads a folder of this layout; `None` for any other folder.
pub(super) fn read(folder: &Folder, description: Option<&Description>, modalities: Modalities) -> Option<Dataset> {
    let pair = Pair::of(folder)?;
    Some(join(folder.name.clone(), pair, &[folder], description, modalities))
}

/// Reads a part of a divided folder as a dataset of this name.
pub(super) fn read_part(
    name: String,
    pair: Pair<'_>,
    description: Option<&Description>,
    modalities: Modalities,
) -> Dataset {
    join(name, pair, &[pair.images, pair.labels], description, modalities)
}

/// Joins images and label maps by their names. Unused files are those of the folders `all`.
fn join(
    name: String,
    Pair { images, labels }: Pair<'_>,
    all: &[&Folder],
    description: Option<&Description>,
    modalities: Modalities,
) -> Dataset {
    let modalities = modalities.by_name(description);
    let mut dataset = Dataset::described(name, description);
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
            let are_demanded = description.is_some_and(Description::demands_channels);
            dataset.skipped.push(SkippedCase::new(&case, &case.image, several_channels(are_demanded)));
        } else {
            dataset.cases.push(case);
        }
    }
    let reason = |file: &TreeFile| explain(file, Pair { images, labels }, &names, modalities);
    dataset.unused = all.iter().flat_map(|folder| rest(folder, &taken, reason)).collect();
    dataset.note_missing_labels(true);
    dataset
}

/// The reason why a volume belongs to no case.
fn explain(file: &TreeFile, pair: Pair<'_>, names: &ChannelNames, modalities: Modalities) -> UnusedReason {
    let Pair { images, labels } = pair;
    let stem = file.stem().unwrap_or_default();
    let parent = file.path.parent();
    let base = images.path.parent().unwrap_or(&images.path);
    for folder in [images, labels] {
        if file.path.starts_with(&folder.path) && parent != Some(folder.path.as_path()) {
            return UnusedReason::InSubfolder { of: folder.name.clone() };
        }
    }
    if file.path.starts_with(&labels.path) {
        UnusedReason::LabelWithoutImage
    } else if let Some(word) = modalities.foreign_word(stem) {
        UnusedReason::NamedLikeOtherModality { word }
    } else if file.path.starts_with(&images.path) && matches!(names.role(stem), NameRole::Further(_)) {
        UnusedReason::OtherChannel
    } else {
        apart(file, base)
    }
}
