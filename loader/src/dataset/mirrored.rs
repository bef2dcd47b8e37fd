//! Folders of images and of label maps with subfolders of the same names: one for each case, as in `VerSe`
//! (`rawdata/sub-verse004`, `derivatives/sub-verse004`), or for each source, as in `CTSpine1K` (`volumes/COLONOG`,
//! `labels/COLONOG`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use super::Dataset;
use super::channels::{ChannelNames, NameRole, several_channels};
use super::description::Description;
use super::modality::{CtCases, Modalities};
use super::pair::by_names;
use super::roles::case_key;
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedReason, rest};
use crate::case::{CaseFiles, ImageRole, LabelFiles, SkippedCase};

/// Names of the folders of images and of label maps by the Brain Imaging Data Structure (BIDS).
const BIDS: [&str; 2] = ["rawdata", "derivatives"];

/// A volume and its name without the ending.
type Named<'a> = (&'a TreeFile, &'a str);

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
    let mut parts = Parts {
        modalities,
        has_one_each: labels.folders.iter().all(|part| part.volumes().count() < 2),
        dataset: Dataset::described(folder.name.clone(), description),
        taken: HashSet::new(),
        reasons: HashMap::new(),
        whole: HashSet::new(),
    };
    for part in &images.folders {
        parts.add(part, labels.folder(&part.name));
    }
    let Parts { mut dataset, taken, reasons, whole, .. } = parts;
    if dataset.cases.iter().all(|case| case.label.is_none()) {
        return None;
    }
    dataset.cases.sort();
    let empty = [images, labels].into_iter().flat_map(|of| &of.folders).filter(|part| part.is_empty());
    dataset.vacant = empty.map(|part| format!("{}/{}", dataset.name, part.name)).collect();
    let explain = |file: &TreeFile| {
        reasons.get(&file.path).cloned().unwrap_or_else(|| {
            // In a folder within that of the label map.
            if file.path.ancestors().skip(2).any(|around| whole.contains(around)) {
                UnusedReason::PartOfLabel
            } else if file.path.starts_with(&labels.path) {
                UnusedReason::LabelWithoutImage
            } else {
                UnusedReason::OutsideDatasets
            }
        })
    };
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

/// The cases of the subfolders read so far.
struct Parts {
    modalities: Modalities,
    /// True if no subfolder of label maps holds several.
    has_one_each: bool,
    dataset: Dataset,
    /// Files of the cases.
    taken: HashSet<PathBuf>,
    /// Reasons for volumes that belong to no case, where their folders do not show it.
    reasons: HashMap<PathBuf, UnusedReason>,
    /// Subfolders of label maps that gave the only image of theirs its label map.
    whole: HashSet<PathBuf>,
}

impl Parts {
    /// Adds the cases of a subfolder of images with label maps from the subfolder of its name.
    fn add(&mut self, part: &Folder, labels: Option<&Folder>) {
        let (own, foreign): (Vec<Named<'_>>, Vec<Named<'_>>) =
            part.volumes().partition(|(_, stem)| self.modalities.foreign_word(stem).is_none());
        let first = self.dataset.cases.len();
        let labels: Vec<Named<'_>> = labels.into_iter().flat_map(Folder::volumes).collect();
        let names = ChannelNames::of(own.iter().map(|(_, stem)| *stem), labels.iter().map(|(_, stem)| *stem));
        let (further, images): (Vec<Named<'_>>, Vec<Named<'_>>) =
            own.iter().copied().partition(|(_, stem)| matches!(names.role(stem), NameRole::Further(_)));
        self.reasons.extend(further.into_iter().map(|(file, _)| (file.path.clone(), UnusedReason::OtherChannel)));
        let (by_image, ambiguous) = by_image(&images, &labels, &names);
        self.reasons.extend(ambiguous.into_iter().map(|label| (label.path.clone(), UnusedReason::AmbiguousLabel)));
        let is_only = images.len() == 1;
        let mut seen: HashSet<String> = HashSet::new();
        for (file, stem) in images {
            let of_image = by_image.get(&case_key(stem)).map_or(&[][..], Vec::as_slice);
            let label = only(of_image).or_else(|| self.by_place(part, stem, &labels).filter(|_| is_only));
            if label.is_none() {
                // Several label maps of the image, or of its case by their place, of which none is named like it.
                let of_case = if is_only && is_of_folder(part, stem) && labels.len() > 1 { &labels[..] } else { &[] };
                let ambiguous = of_image.iter().map(|(label, _)| *label).chain(of_case.iter().map(|(label, _)| *label));
                self.reasons.extend(ambiguous.map(|label| (label.path.clone(), UnusedReason::AmbiguousLabel)));
            }
            self.whole.extend(label.filter(|_| is_only).and_then(|label| Some(label.path.parent()?.to_owned())));
            let case_id = if is_only { part.name.clone() } else { format!("{}/{stem}", part.name) };
            self.taken.extend([file.path.clone()].into_iter().chain(label.map(|label| label.path.clone())));
            let case = CaseFiles {
                dataset: self.dataset.name.clone(),
                case_id,
                image: file.path.clone(),
                slices: Vec::new(),
                role: ImageRole::Declared,
                label: label.map(|label| LabelFiles::Map(label.path.clone())),
            };
            let skipped = &mut self.dataset.skipped;
            if !seen.insert(case.case_id.clone()) {
                skipped.push(SkippedCase::new(&case, &case.image, "next to a file of the same case; keep one"));
            } else if matches!(names.role(stem), NameRole::FirstOfSeveral(_)) {
                skipped.push(SkippedCase::new(&case, &case.image, several_channels(false)));
            } else {
                self.dataset.cases.push(case);
            }
        }
        let cts = CtCases::of(&self.dataset.cases[first..]);
        for (file, stem) in foreign {
            let word = self.modalities.foreign_word(stem);
            self.reasons.extend(word.map(|word| (file.path.clone(), cts.of_image(stem, word))));
        }
    }

    /// The only label map of a subfolder, if it is the image's by its place: named like its folder or only as a label map; or,
    /// where no subfolder holds several label maps, with any name next to an image that is named like this.
    fn by_place<'a>(&self, part: &Folder, image: &str, labels: &[Named<'a>]) -> Option<&'a TreeFile> {
        let [(label, stem)] = labels else { return None };
        let is_any = || self.has_one_each && is_of_folder(part, image);
        let is_its = is_of_folder(part, stem) || is_any();
        is_its.then_some(*label)
    }
}

/// Returns true if a name says nothing but the role of a file, or is that of its folder.
fn is_of_folder(part: &Folder, stem: &str) -> bool {
    let key = case_key(stem);
    key.is_empty() || key == case_key(&part.name)
}

/// Label maps by the case part of an image's name; true for those whose own case part is equal.
type Candidates<'a> = HashMap<String, Vec<(&'a TreeFile, bool)>>;

/// The label maps of each image, by the case part of its name: those whose names differ only in words such as `ct` and `seg`
/// (`true`), or have further words. A label map belongs to the image with the longest such name, and to none if two images
/// have it: these label maps come second.
fn by_image<'a>(
    images: &[Named<'_>],
    labels: &[Named<'a>],
    names: &ChannelNames,
) -> (Candidates<'a>, Vec<&'a TreeFile>) {
    let mut cases: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for &(_, stem) in images {
        let (NameRole::Case(case) | NameRole::FirstOfSeveral(case) | NameRole::Further(case)) = names.role(stem);
        cases.entry(case_key(stem)).or_default().insert(case);
    }
    let mut found = Candidates::new();
    let mut ambiguous = Vec::new();
    for &(file, stem) in labels {
        let key = case_key(stem);
        let mut shorter = std::iter::successors(Some(key.as_str()), |key| key.rsplit_once('_').map(|(head, _)| head));
        let image = shorter.find_map(|name| cases.get_key_value(name));
        match image {
            Some((image, cases)) if cases.len() == 1 => {
                found.entry(image.clone()).or_default().push((file, *image == key));
            }
            Some(_) => ambiguous.push(file),
            None => {}
        }
    }
    (found, ambiguous)
}

/// The only label map of an image that has its name; or the only one that has further words.
fn only<'a>(labels: &[(&'a TreeFile, bool)]) -> Option<&'a TreeFile> {
    let mut same = labels.iter().filter(|(_, is_same)| *is_same);
    match (same.next(), same.next(), labels) {
        (Some((label, _)), None, _) | (None, _, [(label, _)]) => Some(*label),
        _ => None,
    }
}
