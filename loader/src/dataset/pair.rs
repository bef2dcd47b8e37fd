//! A folder of images and one of label maps next to it, found by their names or those of their files.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::modality::Modalities;
use super::roles::{
    Split, has_image_word, is_image_folder, is_label_folder, is_like_image_folder, is_prediction_folder, loose_key,
    may_name_cts, without_numbers,
};
use super::tree::{Folder, TreeFile};
use super::words::words;
use crate::case::ImageRole;

/// Conditions on the names of folders of images. The first condition that any folder meets is the one that counts.
const IMAGE_RANKS: [fn(&str) -> bool; 5] = [
    is_image_folder,
    |name| is_like_image_folder(name) && !Split::is_apart(name),
    |name| has_image_word(name) && !Split::is_apart(name),
    is_like_image_folder,
    has_image_word,
];
/// Conditions on the names of folders of label maps.
const LABEL_RANKS: [fn(&str) -> bool; 2] = [|name| is_label_folder(name) && !Split::is_apart(name), is_label_folder];

/// Words for earlier versions of a folder: `labels_old` next to `labels`.
const EARLIER_WORDS: [&str; 4] = ["old", "backup", "bak", "v1"];

/// Largest number of sets of folders among which one of images is looked for by the names of its files.
const MOST_SETS: usize = 32;

/// Folders of images and the folders of their label maps.
pub(super) struct Pair<'a> {
    /// The folder of images, or the numbered parts of one.
    pub images: Vec<&'a Folder>,
    /// The folder of label maps, or the numbered parts of one; empty if several sets compete.
    pub labels: Vec<&'a Folder>,
    /// Folders of several sets of label maps for the same images, of which none is chosen.
    pub competing: Vec<&'a Folder>,
    /// Evidence that the images are images: their folder's name, or names like those of label maps.
    pub role: ImageRole,
}

impl<'a> Pair<'a> {
    /// The pair of two folders.
    pub(super) fn new(images: &'a Folder, labels: &'a Folder) -> Self {
        Self { images: vec![images], labels: vec![labels], competing: Vec::new(), role: ImageRole::Declared }
    }

    /// Finds the only pair among the direct subfolders. Folders of test and validation data count only if there are no
    /// others; names with further words, only if there are none without; and names of files, only if no folder is named
    /// like images.
    pub(super) fn of(folder: &'a Folder, modalities: Modalities) -> Option<Self> {
        let filled: Vec<&'a Folder> = folder.folders.iter().filter(|child| child.volumes().next().is_some()).collect();
        let labels = of_rank(&filled, &LABEL_RANKS);
        if labels.is_empty() {
            return None;
        }
        let images = of_rank(&filled, &IMAGE_RANKS);
        if !images.is_empty() {
            let [images] = <[Vec<&'a Folder>; 1]>::try_from(sets(&images)).ok()?;
            return Self::joined(images, &labels, ImageRole::Declared);
        }
        // Next to files, the folders may be parts of a case.
        if folder.volumes().next().is_some() { None } else { Self::by_file_names(&filled, &labels, modalities) }
    }

    /// Finds the only pair of a set of folders that are not named like images and a set of folders of label maps, in
    /// which at least half of the label maps correspond to images by name.
    fn by_file_names(filled: &[&'a Folder], labels: &[&'a Folder], modalities: Modalities) -> Option<Self> {
        let may_hold_images = |folder: &&&'a Folder| {
            let name = folder.name.as_str();
            let is_other =
                is_prediction_folder(name) || Split::is_apart(name) || (is_label_folder(name) && !may_name_cts(name));
            !is_other && modalities.foreign_word(name).is_none()
        };
        let candidates: Vec<&'a Folder> = filled.iter().filter(may_hold_images).copied().collect();
        let candidates = sets(&candidates);
        if candidates.len() > MOST_SETS {
            return None;
        }
        let mut pairs = candidates.into_iter().filter_map(|images| {
            let is_other = |label: &&&'a Folder| !images.iter().any(|image| image.path == label.path);
            let others: Vec<&'a Folder> = labels.iter().filter(is_other).copied().collect();
            let is_most = |set: &Vec<&'a Folder>| {
                2 * corresponding(&images, set) >= set.iter().copied().flat_map(Folder::volumes).count()
            };
            let has_most = sets(&others).iter().any(is_most);
            Self::joined(images, &others, ImageRole::Assumed).filter(|_| has_most)
        });
        let pair = pairs.next()?;
        pairs.next().is_none().then_some(pair)
    }

    /// Joins images with folders of label maps. If there are several sets of label maps, only the sets count in which a
    /// name is that of an image, without earlier versions of others (`labels_old` next to `labels`).
    fn joined(images: Vec<&'a Folder>, labels: &[&'a Folder], role: ImageRole) -> Option<Self> {
        let mut sets = sets(labels);
        if sets.len() > 1 {
            sets.retain(|set| corresponding(&images, set) > 0);
            drop_earlier(&mut sets);
        }
        match sets.len() {
            0 => None,
            1 => Some(Self { images, labels: sets.remove(0), competing: Vec::new(), role }),
            _ => Some(Self { images, labels: Vec::new(), competing: sets.concat(), role }),
        }
    }

    /// The volumes of the folders of images, with their stems.
    pub(super) fn image_volumes(&self) -> impl Iterator<Item = (&'a TreeFile, &'a str)> + use<'a> {
        let images = self.images.clone();
        images.into_iter().flat_map(Folder::volumes)
    }

    /// The volumes of the folders of label maps, with their stems.
    pub(super) fn label_volumes(&self) -> impl Iterator<Item = (&'a TreeFile, &'a str)> + use<'a> {
        let labels = self.labels.clone();
        labels.into_iter().flat_map(Folder::volumes)
    }
}

/// All folders that meet the first condition which any of them meets.
pub(super) fn of_rank<'a>(folders: &[&'a Folder], ranks: &[fn(&str) -> bool]) -> Vec<&'a Folder> {
    let of = |meets: &fn(&str) -> bool| -> Vec<&'a Folder> {
        folders.iter().copied().filter(|folder| meets(&folder.name)).collect()
    };
    ranks.iter().map(of).find(|found| !found.is_empty()).unwrap_or_default()
}

/// Drops the sets of folders that are earlier versions of others by their names.
fn drop_earlier(sets: &mut Vec<Vec<&Folder>>) {
    let names: HashSet<String> = sets.iter().flatten().map(|folder| folder.name.clone()).collect();
    let is_earlier = |name: &str| later_version(name).is_some_and(|later| names.contains(later));
    sets.retain(|set| !set.iter().all(|folder| is_earlier(&folder.name)));
}

/// Name of the folder of which a folder is an earlier version by its name: `labels` for `labels_old`.
pub(super) fn later_version(name: &str) -> Option<&str> {
    let (later, word) = name.rsplit_once(['_', '-', ' ', '.'])?;
    EARLIER_WORDS.contains(&word.to_lowercase().as_str()).then_some(later)
}

/// Returns true if a word of a folder's name, wherever it is, says that it is an earlier version of another one: `old_labelsTr`.
pub(super) fn is_earlier_version(name: &str) -> bool {
    words(name).any(|word| EARLIER_WORDS.contains(&word.as_str()))
}

/// The only folders of images and of label maps by their names among folders that meet a condition.
pub(super) fn by_names<'a>(folder: &'a Folder, meets: impl Fn(&Folder) -> bool) -> Option<[&'a Folder; 2]> {
    let candidates: Vec<&'a Folder> = folder.folders.iter().filter(|child| meets(child)).collect();
    let only = |ranks: &[fn(&str) -> bool]| -> Option<&'a Folder> {
        let found = of_rank(&candidates, ranks);
        <[&'a Folder; 1]>::try_from(found).ok().map(|[folder]| folder)
    };
    Some([only(&IMAGE_RANKS)?, only(&LABEL_RANKS)?])
}

/// Joins folders whose names differ in numbers only and whose files are of different cases: `images-1`, `images-2`.
fn sets<'a>(folders: &[&'a Folder]) -> Vec<Vec<&'a Folder>> {
    let mut by_name: BTreeMap<String, Vec<&'a Folder>> = BTreeMap::new();
    for &folder in folders {
        by_name.entry(without_numbers(&folder.name)).or_default().push(folder);
    }
    let mut sets = Vec::new();
    for parts in by_name.into_values() {
        if parts.len() == 1 || are_apart(&parts) {
            sets.push(parts);
        } else {
            sets.extend(parts.into_iter().map(|part| vec![part]));
        }
    }
    sets
}

/// Returns true if no two folders have files of one case.
fn are_apart(folders: &[&Folder]) -> bool {
    let mut seen: HashSet<String> = HashSet::new();
    folders.iter().all(|folder| {
        let keys: BTreeSet<String> = folder.volumes().map(|(_, stem)| loose_key(stem)).collect();
        keys.into_iter().all(|key| seen.insert(key))
    })
}

/// Number of label maps whose names are those of images, apart from words such as `img` and `label`.
fn corresponding(images: &[&Folder], labels: &[&Folder]) -> usize {
    let keys = |folders: &[&Folder]| -> Vec<String> {
        folders.iter().flat_map(|folder| folder.volumes()).map(|(_, stem)| loose_key(stem)).collect()
    };
    let images: HashSet<String> = keys(images).into_iter().collect();
    keys(labels).iter().filter(|key| images.contains(*key)).count()
}
