//! One folder per case: `TotalSegmentator` (`s0001/ct`, `s0001/segmentations/*`), `KiTS` (`case_00001/imaging`,
//! `segmentation`), `PARSE22` (`PA000005/image/PA000005`, `PA000005/label/PA000005`), and others of the kind.
//!
//! A folder is a case if it holds one image and either one label map, a folder of masks, or masks of organs at risk next to the
//! image (`HaN-Seg`: `case_01_OAR_Lips.seg`). Such masks become one label map; their classes are numbered from 1 by the sorted
//! names of all masks of the dataset. Names that differ only in capital letters are those of one class.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::ct_words::RESAMPLED_CT;
use super::description::Description;
use super::modality::Modalities;
use super::other_case::is_of_other_case;
use super::pair::Pair;
use super::roles::{
    case_key, channel, is_generic_image_name, is_image_name, is_label_folder, is_label_name, is_prediction_folder,
    loose_key,
};
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedReason, is_named_like_label, of_prediction, rest_where};
use super::{Dataset, DatasetNote};
use crate::case::{CaseFiles, ImageRole, LabelFiles, Mask, SkippedCase};

/// Word before the name of an organ at risk in the name of its mask.
const ORGAN_AT_RISK: &str = "_OAR_";

/// A case folder by its names.
struct CaseFolder<'a> {
    folder: &'a Folder,
    image: &'a TreeFile,
    label: Option<&'a TreeFile>,
    /// Masks, where there is no label map.
    masks: Option<Masks<'a>>,
    /// True if the names leave no doubt that this is a case, even without labels.
    is_named: bool,
}

/// Masks of a case, one for each class.
struct Masks<'a> {
    /// The folder that holds them.
    place: &'a Folder,
    /// Name of the class and file of each mask.
    files: Vec<(&'a str, &'a TreeFile)>,
}

impl<'a> Masks<'a> {
    /// All volumes of a folder of masks.
    fn of_folder(place: &'a Folder) -> Self {
        Self { place, files: place.volumes().map(|(file, stem)| (stem, file)).collect() }
    }

    /// Masks of organs at risk in the folder of their image: `case_01_OAR_Lips.seg`. `None` if a label map has another name.
    fn of_organs(place: &'a Folder, labels: &[(&'a TreeFile, &'a str)]) -> Option<Self> {
        let of = |&(file, stem): &(&'a TreeFile, &'a str)| {
            let (_, organ) = stem.split_once(ORGAN_AT_RISK)?;
            Some((organ.strip_suffix(".seg").unwrap_or(organ), file))
        };
        let files: Vec<(&'a str, &'a TreeFile)> = labels.iter().map(of).collect::<Option<_>>()?;
        (!files.is_empty()).then_some(Self { place, files })
    }

    /// Name of a class of which there are several masks.
    fn twice(&self) -> Option<&'a str> {
        let mut seen = HashSet::new();
        self.files.iter().map(|(name, _)| *name).find(|name| !seen.insert(name.to_lowercase()))
    }

    /// The masks with the numbers of their classes, which are given by names in small letters, sorted.
    fn numbered(&self, classes: &HashMap<String, u8>) -> Vec<Mask> {
        let numbered = self.files.iter().filter_map(|(name, file)| {
            Some(Mask { class: *classes.get(&name.to_lowercase())?, path: file.path.clone() })
        });
        let mut masks: Vec<Mask> = numbered.collect();
        masks.sort();
        masks
    }
}

impl CaseFolder<'_> {
    fn is_labelled(&self) -> bool {
        self.label.is_some() || self.masks.is_some()
    }

    /// Returns true if the label map is named like the image or like the folder, or a label map and nothing else.
    fn has_corresponding_names(&self) -> bool {
        let key = |file: &TreeFile| file.stem().map(loose_key).unwrap_or_default();
        let (image, label) = (key(self.image), self.label.map(key).unwrap_or_default());
        label.is_empty() || label == image || label == loose_key(&self.folder.name)
    }

    /// Returns true if only this stem in the folder is that of a label map. In a case without labels, it names another case.
    fn is_only_label(&self, stem: &str) -> bool {
        let mut labels = self.folder.volumes().filter(|(_, name)| is_label_name(name));
        labels.next().is_some_and(|(_, name)| name == stem) && labels.next().is_none()
    }

    /// Returns true if more than a label map next to an image says that the folder is a case.
    fn is_sure(&self) -> bool {
        self.is_named || self.masks.is_some()
    }

    /// Returns true for a study of `AutoPET`, whose CT is on the grid of the PET and of the label map.
    fn is_resampled(&self) -> bool {
        self.image.stem().is_some_and(|stem| stem.eq_ignore_ascii_case(RESAMPLED_CT))
    }
}

fn case_folder(folder: &Folder, modalities: Modalities) -> Option<CaseFolder<'_>> {
    let (labels, images): (Vec<_>, Vec<_>) = folder.volumes().partition(|(_, stem)| is_label_name(stem));
    let images: Vec<_> = images.into_iter().filter(|(_, stem)| modalities.foreign_word(stem).is_none()).collect();
    let own_name = |stem: &str| is_generic_image_name(stem) || stem.eq_ignore_ascii_case(&folder.name);
    let (image, stem) = match images.as_slice() {
        [image] => *image,
        several => {
            let mut resampled = several.iter().filter(|(_, stem)| stem.eq_ignore_ascii_case(RESAMPLED_CT));
            let mut named = several.iter().filter(|(_, stem)| own_name(stem) && !is_numbered(stem, several));
            let only_named = || named.next().filter(|_| named.next().is_none());
            *resampled.next().or_else(only_named)?
        }
    };
    let is_named = own_name(stem);
    let (image, stem) = match labels.as_slice() {
        [(_, name)] => of_label(name, stem, &images).unwrap_or((image, stem)),
        _ => (image, stem),
    };
    let label = match labels.as_slice() {
        [(label, name)] => Some(*label).filter(|_| !is_of_other_case(name, stem, &folder.name)),
        several => {
            // A label map named only as a label map, or like the folder.
            let wanted = |stem: &str| case_key(stem).is_empty() || case_key(stem) == case_key(&folder.name);
            let mut named = several.iter().filter(|(_, stem)| wanted(stem));
            named.next().filter(|_| named.next().is_none()).map(|(label, _)| *label)
        }
    };
    let mut masks = folder.folders.iter().filter(|child| is_label_folder(&child.name) && child.volumes().count() > 0);
    let masks = masks.next().filter(|_| labels.is_empty() && masks.next().is_none()).map(Masks::of_folder);
    let masks = masks.or_else(|| Masks::of_organs(folder, &labels));
    let label = label.filter(|_| masks.is_none());
    Some(CaseFolder { folder, image, label, masks, is_named })
}

/// A folder with a folder of images and one of label maps, which hold one file each with its own name, as in `PARSE22`:
/// `PA000005/image/PA000005`, `PA000005/label/PA000005`.
fn nested_case(folder: &Folder, modalities: Modalities) -> Option<CaseFolder<'_>> {
    let pair = Pair::of(folder, modalities)?;
    let (images, labels): (Vec<_>, Vec<_>) = (pair.image_volumes().collect(), pair.label_volumes().collect());
    let ([(image, stem)], [(label, name)]) = (images.as_slice(), labels.as_slice()) else { return None };
    let key = case_key(stem);
    let is_named = !key.is_empty() && key == case_key(&folder.name) && !is_of_other_case(name, stem, &folder.name);
    let is_own = is_named && modalities.foreign_word(stem).is_none() && folder.volumes().next().is_none();
    is_own.then_some(CaseFolder { folder, image, label: Some(*label), masks: None, is_named: false })
}

/// Image of the name of a label map, if that is not the name of the `chosen` one: `contrast` for `contrast_label`, next to `ct`.
fn of_label<'a>(label: &str, chosen: &str, images: &[(&'a TreeFile, &'a str)]) -> Option<(&'a TreeFile, &'a str)> {
    let key = loose_key(label);
    let is_other = !key.is_empty() && key != loose_key(chosen);
    images.iter().find(|(_, stem)| is_other && loose_key(stem) == key).copied()
}

/// Returns true for one of several images whose names differ in a number only: of `scan_0000` and `scan_0001`, neither
/// is the only scan.
fn is_numbered(stem: &str, images: &[(&TreeFile, &str)]) -> bool {
    let Some((name, _)) = channel(stem) else { return false };
    images.iter().filter(|(_, other)| channel(other).is_some_and(|(of, _)| of == name)).count() > 1
}

/// A dataset of case folders, and what lies around them.
pub(super) struct Found<'a> {
    pub dataset: Dataset,
    /// Folders that belong to no case.
    pub others: Vec<&'a Folder>,
    /// Files next to the case folders.
    pub beside: Vec<TreeFile>,
    /// False if every case is only a label map next to an image, as plain folders also have them.
    pub is_sure: bool,
}

/// Content of a folder: its cases, and what lies around them.
#[derive(Default)]
struct Content<'a> {
    cases: Vec<CaseFolder<'a>>,
    others: Vec<&'a Folder>,
    beside: Vec<TreeFile>,
}

impl<'a> Content<'a> {
    /// The case that a folder is, if it is one, and those below it. Only the root is a case of its own.
    fn of(folder: &'a Folder, is_root: bool, modalities: Modalities) -> Self {
        // Without folders around the cases, one image and one label map in a folder may well be of different scans.
        let own = case_folder(folder, modalities)
            .filter(|case| is_root && case.is_labelled() && case.has_corresponding_names());
        match own {
            Some(case) if case.is_sure() => Self { cases: vec![case], ..Self::default() },
            Some(case) => {
                let name = case.image.stem().unwrap_or_default().to_owned();
                let mut found = Self::below(folder, modalities);
                // A subfolder of this name would be a second case with it.
                let same = found.cases.extract_if(.., |other| other.folder.name == name).map(|other| other.folder);
                found.others.extend(same.collect::<Vec<_>>());
                found.others.retain(|other| !is_label_folder(&other.name) && !is_prediction_folder(&other.name));
                found.cases.insert(0, case);
                found
            }
            None => {
                let mut found = Self::below(folder, modalities);
                found.beside.extend(folder.files.iter().cloned());
                found
            }
        }
    }

    /// The direct subfolders of a folder that are cases, and the studies of patients.
    fn below(folder: &'a Folder, modalities: Modalities) -> Self {
        let mut found = Self::default();
        // A single folder of this form may be a dataset.
        let mut nested: Vec<CaseFolder<'a>> =
            folder.folders.iter().filter_map(|child| nested_case(child, modalities)).collect();
        if nested.len() < 2 {
            nested.clear();
        }
        let of_nested: HashSet<&Path> = nested.iter().map(|case| case.folder.path.as_path()).collect();
        for child in folder.folders.iter().filter(|child| !of_nested.contains(child.path.as_path())) {
            if let Some(case) = case_folder(child, modalities).filter(|case| case.is_labelled() || case.is_named) {
                found.cases.push(case);
                continue;
            }
            let studies = child.folders.iter().filter_map(|study| case_folder(study, modalities));
            let studies: Vec<CaseFolder<'a>> =
                studies.filter(|case| case.is_resampled() && case.is_labelled()).collect();
            if studies.is_empty() {
                found.others.push(child);
            } else {
                let is_other = |study: &&'a Folder| studies.iter().all(|case| case.folder.path != study.path);
                found.others.extend(child.folders.iter().filter(is_other));
                found.beside.extend(child.files.iter().cloned());
                found.cases.extend(studies);
            }
        }
        found.cases.extend(nested);
        found
    }
}

/// The dataset that the direct subfolders of `folder` make, or `folder` itself if it is a case. `None` if no labelled case is
/// among them.
pub(super) fn read<'a>(
    folder: &'a Folder,
    description: Option<&Description>,
    is_root: bool,
    modalities: Modalities,
) -> Option<Found<'a>> {
    let modalities = modalities.by_name(description);
    let Content { cases, others, mut beside } = Content::of(folder, is_root, modalities);
    if !cases.iter().any(CaseFolder::is_labelled) {
        return None;
    }
    let is_sure = cases.iter().any(CaseFolder::is_sure);
    let mut dataset = Dataset::described(folder.name.clone(), description);
    let names = class_names(&cases);
    let classes: Option<HashMap<String, u8>> =
        names.iter().enumerate().map(|(at, name)| Some((name.to_lowercase(), u8::try_from(at + 1).ok()?))).collect();
    if classes.is_some() && !names.is_empty() {
        dataset.labels = (1..=u8::MAX).zip(&names).map(|(class, name)| (class, (*name).to_owned())).collect();
        dataset.labels.insert(0, super::BACKGROUND.into());
    }
    let empty = others.iter().filter(|other| other.is_empty());
    dataset.vacant = empty.map(|other| format!("{}/{}", dataset.name, name_below(other, folder))).collect();
    let apart = apart_from(folder, &cases, &others);
    let (mut fewest, mut num_lacking) = (None, 0);
    for case in &cases {
        let &CaseFolder { folder: place, image, label, ref masks, .. } = case;
        let labels = match (label, masks, &classes) {
            (Some(label), _, _) => Some(LabelFiles::Map(label.path.clone())),
            (None, Some(masks), Some(classes)) => {
                Some(LabelFiles::Masks { folder: masks.place.path.clone(), masks: masks.numbered(classes) })
            }
            _ => None,
        };
        // A pair of files without a folder of its own keeps its name when another pair comes next to it.
        let is_own = place.path == folder.path && masks.is_none();
        let case_id = image.stem().filter(|_| is_own).map_or_else(|| name_below(place, folder), str::to_owned);
        let files = CaseFiles {
            dataset: dataset.name.clone(),
            case_id,
            image: image.path.clone(),
            slices: Vec::new(),
            role: ImageRole::Declared,
            label: labels,
        };
        let of_masks = masks.iter().flat_map(|masks| &masks.files).map(|(_, file)| file.path.clone());
        let taken: HashSet<PathBuf> = files.files().map(PathBuf::from).chain(of_masks).collect();
        let is_apart = |path: &Path| {
            let mut below = path.ancestors().take_while(|around| *around != folder.path.as_path());
            place.path == folder.path && below.any(|around| apart.contains(around))
        };
        let is_left = |path: &Path| !taken.contains(path) && !is_apart(path);
        dataset.unused.extend(rest_where(place, is_left, |file| explain(file, case, modalities)));
        if let Some((path, reason)) = reason_to_skip(&files, masks.as_ref(), names.len()) {
            dataset.skipped.push(SkippedCase::new(&files, path, reason));
            continue;
        }
        if let Some(LabelFiles::Masks { masks, .. }) = &files.label
            && masks.len() < names.len()
        {
            num_lacking += 1;
            let fewer = (masks.len(), files.case_id.clone(), missing(masks, &names));
            fewest = fewest.into_iter().chain([fewer]).min();
        }
        dataset.cases.push(files);
    }
    dataset.cases.sort();
    if let Some((_, example, missing)) = fewest {
        dataset.notes.push(DatasetNote::MissingMasks { example, missing, of: names.len(), num_lacking });
    }
    dataset.note_missing_labels(true);
    beside.sort_by(|a, b| a.path.cmp(&b.path));
    Some(Found { dataset, others, beside, is_sure })
}

/// Names of the classes of all masks, sorted. Of names that differ only in capital letters, the first one counts.
fn class_names<'a>(cases: &[CaseFolder<'a>]) -> Vec<&'a str> {
    let files = cases.iter().filter_map(|case| case.masks.as_ref()).flat_map(|masks| &masks.files);
    let all: BTreeSet<&'a str> = files.map(|(name, _)| *name).collect();
    let mut seen = HashSet::new();
    all.into_iter().filter(|name| seen.insert(name.to_lowercase())).collect()
}

/// Names of the classes, numbered from 1, of which a case has no mask.
fn missing(masks: &[Mask], names: &[&str]) -> Vec<String> {
    let lacking = (1..=u8::MAX).zip(names).filter(|(class, _)| masks.iter().all(|mask| mask.class != *class));
    lacking.map(|(_, name)| (*name).to_owned()).collect()
}

/// Reason to skip a case of a dataset whose masks have `num_names` names, and the path that it concerns.
fn reason_to_skip<'a>(
    files: &'a CaseFiles,
    masks: Option<&'a Masks<'_>>,
    num_names: usize,
) -> Option<(&'a Path, String)> {
    if let Some(masks) = masks {
        let reason = if files.label.is_none() {
            format!("{num_names} masks in this dataset; a label map holds at most 255 classes")
        } else {
            format!("two masks named {}; keep one", masks.twice()?)
        };
        return Some((masks.place.path.as_path(), reason));
    }
    match &files.label {
        Some(LabelFiles::Map(path)) if num_names > 0 => {
            let reason = "one label map, where other cases have one mask per class: its classes are unknown";
            Some((path.as_path(), reason.to_owned()))
        }
        _ => None,
    }
}

/// Folders below `folder` whose files are not those of a case in `folder` itself.
fn apart_from<'a>(folder: &Folder, cases: &[CaseFolder<'a>], others: &[&'a Folder]) -> HashSet<&'a Path> {
    let folders = others.iter().copied().chain(cases.iter().map(|case| case.folder));
    folders.map(|other| other.path.as_path()).filter(|path| *path != folder.path.as_path()).collect()
}

/// Name of a case by the names of its folders below that of the dataset.
fn name_below(place: &Folder, folder: &Folder) -> String {
    let below = place.path.strip_prefix(&folder.path).ok().filter(|below| !below.as_os_str().is_empty());
    below.map_or_else(|| place.name.clone(), |below| below.to_string_lossy().replace('\\', "/"))
}

fn explain(file: &TreeFile, case: &CaseFolder<'_>, modalities: Modalities) -> UnusedReason {
    let stem = file.stem().unwrap_or_default();
    let is_direct = file.path.parent() == Some(&case.folder.path);
    if let Some(word) = modalities.foreign_word(stem).filter(|_| is_direct) {
        UnusedReason::OtherModalityOfCase { word }
    } else if is_direct && case.is_resampled() && is_generic_image_name(stem) {
        UnusedReason::OtherGrid { used: case.image.name.clone() }
    } else if let Some(reason) = of_prediction(file, &case.folder.path) {
        reason
    } else if case.label.is_some() && !is_direct && !is_image_name(stem) {
        UnusedReason::PartOfLabel
    } else if is_direct && !case.is_labelled() && case.is_only_label(stem) {
        UnusedReason::LabelWithoutImage
    } else if !case.is_labelled() && is_named_like_label(file, &case.folder.path) {
        UnusedReason::AmbiguousLabel
    } else if is_direct && is_label_name(stem) {
        UnusedReason::PartOfLabel
    } else {
        UnusedReason::OutsideDatasets
    }
}
