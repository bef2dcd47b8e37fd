//! nnU-Net raw data by its folders: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`; files of other
//! formats (`file_ending`) alike.
//!
//! A folder with `imagesTs` and no `imagesTr` is converted from `imagesTs` and `labelsTs`. Names without channel numbers
//! are read where no file of the folder has one and `dataset.json` does not demand them. The folder of label maps may have words
//! before its name, as in `TopCoW` (`cow_seg_labelsTr`), which a note tells.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::channels::{ChannelNames, NameRole, several_channels};
use super::description::Description;
use super::modality::{CtCases, Modalities};
use super::pair::is_earlier_version;
use super::roles::{case_key, channel, is_prediction_folder};
use super::tree::{Folder, TreeFile};
use super::unused::{UnusedReason, apart, is_named_like_label, lies_in, of_earlier_labels, rest};
use super::{Dataset, DatasetNote};
use crate::case::{CaseFiles, ImageRole, LabelFiles, SkippedCase};

/// The dataset of a folder; `None` if the folder is not of this layout.
pub(super) fn read(folder: &Folder, description: Option<&Description>, modalities: Modalities) -> Option<Dataset> {
    let modalities = modalities.by_name(description);
    let (images, labels) = [("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")]
        .into_iter()
        .find_map(|(images, labels)| Some((folder.folder(images)?, labels)))?;
    let label_folder = folder.folder(labels).or_else(|| longer_named(folder, images, labels));
    let mut dataset = Dataset::described(folder.name.clone(), description);
    dataset.notes.extend(label_folder.and_then(|used| note_on_name(used, labels)));
    let labels = label_folder.map_or(labels, |folder| folder.name.as_str());
    let ending = description.and_then(|description| description.file_ending.as_deref());
    // Of several files of one name, nnU-Net reads the one with this ending.
    let is_preferred = |file: &TreeFile| ending.is_some_and(|ending| file.name.to_lowercase().ends_with(ending));
    let label_files = by_stem(label_folder.into_iter().flat_map(Folder::volumes), is_preferred);
    let stems = by_stem(images.volumes(), is_preferred);
    let names = ChannelNames::described(stems.keys().copied(), label_files.keys().copied(), description);
    let is_strict = ending.is_some() || names.has_channels();
    let image_stems: Vec<&str> = stems.keys().copied().filter(|stem| modalities.foreign_word(stem).is_none()).collect();
    let label_stems: Vec<&str> = label_files.keys().copied().collect();

    let mut taken: HashSet<PathBuf> = HashSet::new();
    // Of `a` and `a_0000`, nnU-Net reads the file with the number: the other one comes last.
    let is_copy = |stem: &str| stems.contains_key(format!("{stem}_0000").as_str());
    let (copies, others): (Vec<_>, Vec<_>) = stems.iter().partition(|(stem, _)| is_copy(stem));
    for (&stem, files) in others.into_iter().chain(copies) {
        let role = names.role(stem);
        let case_id = match role {
            NameRole::Further(_) => continue,
            // The number is missing, and the name is not a label map's either.
            NameRole::Case(_) if is_strict && channel(stem).is_none() && !label_files.contains_key(stem) => continue,
            NameRole::Case(case_id) | NameRole::FirstOfSeveral(case_id) => case_id,
        };
        if modalities.foreign_word(stem).is_some() {
            continue;
        }
        let maps =
            label_files.get(case_id).or_else(|| label_files.get(corresponding(stem, &image_stems, &label_stems)?));
        let maps = maps.map(Vec::as_slice).unwrap_or_default();
        let label = maps.first().map(|file| file.path.clone());
        taken.extend(maps.iter().map(|file| file.path.clone()));
        taken.extend(files.iter().map(|file| file.path.clone()));
        let case = CaseFiles {
            dataset: dataset.name.clone(),
            case_id: case_id.to_owned(),
            image: files[0].path.clone(),
            slices: Vec::new(),
            role: ImageRole::Declared,
            label: label.map(LabelFiles::Map),
        };
        if let [first, second, ..] = maps
            && !is_preferred(first)
        {
            let reason = format!("two label maps, {} and {}; keep one", first.name, second.name);
            dataset.skipped.push(SkippedCase::new(&case, &first.path, reason));
        } else if matches!(role, NameRole::Case(_)) {
            let others = files[1..].iter().map(|file| {
                let reason = "next to a file of the same case; keep one";
                SkippedCase::new(&case, &file.path, reason)
            });
            dataset.skipped.extend(others);
            dataset.cases.push(case);
        } else {
            let further = stems.iter().filter(|(stem, _)| names.role(stem) == NameRole::Further(case_id));
            taken.extend(further.flat_map(|(_, files)| files).map(|file| file.path.clone()));
            let are_demanded = description.is_some_and(Description::demands_channels);
            dataset.skipped.push(SkippedCase::new(&case, &case.image, several_channels(are_demanded)));
        }
    }
    let cts = CtCases::of(&dataset.cases);
    let layout = Layout { folder, images, label_folder, labels };
    dataset.unused = rest(folder, &taken, |file| layout.explain(file, modalities, &cts));
    if dataset.num_listed() == 0 {
        dataset.vacant.push(format!("{}/", dataset.name));
    }
    dataset.note_missing_labels(label_folder.is_some());
    if let Some(claimed) =
        description.and_then(|description| description.num_training).filter(|_| images.name == "imagesTr")
    {
        dataset.note_count(claimed);
    }
    Some(dataset)
}

/// Folders of a dataset in this layout.
struct Layout<'a> {
    folder: &'a Folder,
    images: &'a Folder,
    /// Folder of the label maps, if there is one.
    label_folder: Option<&'a Folder>,
    /// Name of the folder of label maps; the expected one if there is none.
    labels: &'a str,
}

impl Layout<'_> {
    /// Reason not to convert a file that belongs to no case.
    fn explain(&self, file: &TreeFile, modalities: Modalities, cts: &CtCases) -> UnusedReason {
        let Self { folder, images, label_folder, labels } = *self;
        let stem = file.stem().unwrap_or_default();
        let word = modalities.foreign_word(stem);
        let (in_images, in_labels) = (lies_in(file, &folder.path, &images.name), lies_in(file, &folder.path, labels));
        let is_direct = file.path.parent().and_then(Path::parent) == Some(folder.path.as_path());
        if let Some(word) = word.clone().filter(|_| in_images && is_direct) {
            return cts.of_image(stem, word);
        }
        if let Some(reason) = of_earlier_labels(file, &folder.path, label_folder.into_iter()) {
            return reason;
        }
        match apart(file, &folder.path) {
            _ if (in_images || in_labels) && !is_direct => {
                UnusedReason::InSubfolder { of: if in_images { images.name.clone() } else { labels.to_owned() } }
            }
            _ if in_labels => cts.of_label(stem, word).unwrap_or(UnusedReason::LabelWithoutImage),
            _ if in_images && channel(stem).is_some() => UnusedReason::OtherChannel,
            _ if in_images => UnusedReason::NoChannel,
            UnusedReason::OutsideDatasets if is_named_like_label(file, &folder.path) => {
                UnusedReason::MisplacedLabel { expected: labels.to_owned() }
            }
            reason => reason,
        }
    }
}

/// Files by the stems of their names, of each stem the preferred ones first.
fn by_stem<'a>(
    volumes: impl Iterator<Item = (&'a TreeFile, &'a str)>,
    is_preferred: impl Fn(&TreeFile) -> bool,
) -> BTreeMap<&'a str, Vec<&'a TreeFile>> {
    let mut stems: BTreeMap<&str, Vec<&TreeFile>> = BTreeMap::new();
    for (file, stem) in volumes {
        stems.entry(stem).or_default().push(file);
    }
    for files in stems.values_mut() {
        files.sort_by_key(|file| !is_preferred(file));
    }
    stems
}

/// Note on a folder of label maps with another name than the `expected` one.
fn note_on_name(used: &Folder, expected: &'static str) -> Option<DatasetNote> {
    (used.name != expected).then(|| DatasetNote::LabelFolder { used: used.name.clone(), expected })
}

/// The only folder with volumes whose name ends in `labels` behind other words, as `cow_seg_labelsTr`, if at least half of its
/// label maps have the names of images. A folder named like an earlier version is none.
fn longer_named<'a>(folder: &'a Folder, images: &Folder, labels: &str) -> Option<&'a Folder> {
    let is_longer = |child: &&Folder| {
        let words = child.name.strip_suffix(labels);
        words.is_some_and(|words| words.ends_with(['_', '-']))
            && !is_prediction_folder(&child.name)
            && !is_earlier_version(&child.name)
            && child.volumes().next().is_some()
    };
    let mut longer = folder.folders.iter().filter(is_longer);
    let only = longer.next().filter(|_| longer.next().is_none())?;
    let names_of = |stem| [stem, channel(stem).map_or(stem, |(case_id, _)| case_id)];
    let names: HashSet<&str> = images.volumes().flat_map(|(_, stem)| names_of(stem)).collect();
    let num_known = only.volumes().filter(|(_, stem)| names.contains(stem)).count();
    (2 * num_known >= only.volumes().count()).then_some(only)
}

/// The only label map whose name differs from an image's in words such as `img` and `label` alone; `None` where another
/// image has such a name too.
fn corresponding<'a>(image: &str, images: &[&str], labels: &[&'a str]) -> Option<&'a str> {
    let key = case_key(image);
    let mut own = labels.iter().copied().filter(|label| case_key(label) == key);
    let label = own.next().filter(|_| own.next().is_none())?;
    (images.iter().filter(|other| case_key(other) == key).count() == 1).then_some(label)
}
