//! Label maps of plain folders that lie apart from their images.
//!
//! A label map goes to a case that has none where the names of files and folders leave no choice:
//!
//! - In or around the folder of the only DICOM series, the only label map, if it is named like a folder or a label map and nothing
//!   else: `p1/label` for `p1/dicom`.
//! - In a folder without images, the label map with the name of one image (`dataset6_CLINIC_0001_mask_4label` for
//!   `dataset6_CLINIC_0001_data`, as in `CTPelvic1K`), or of one folder around a series (`p1` for `p1/dicom`). A number takes the
//!   words of its folder with it: `TCIA_pancreas_labels/label0001` is that of `PANCREAS_0001`, as in NIH Pancreas-CT.
//!
//! Two label maps of one case, and one of two scans, are not used. The names of the cases remain.
//!
//! The value 1 is one class in all label maps of a dataset. Therefore they are joined only where no case has one in its place, and
//! where all that can be joined are of one kind by their names ([`Kind`]): label maps in `masks/liver` and `masks/lung` are not used.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::modality::Modalities;
use super::roles::{case_key, is_label_folder, label_key, loose_key, without_numbers};
use super::tree::name_of;
use super::words::parts;
use super::{Dataset, UnusedReason};
use crate::case::LabelFiles;
use crate::volume::file_stem;

/// Last word of the name of an image whose label map has none in its place.
const DATA: &str = "_data";

/// Joins label maps to the cases of a plain dataset in `root`.
pub(super) fn join(root: &Path, dataset: &mut Dataset, modalities: Modalities) {
    let mut by_folder: BTreeMap<PathBuf, Vec<Label>> = BTreeMap::new();
    for unused in dataset.unused.iter().filter(|unused| unused.reason == UnusedReason::NamedLikeLabel) {
        if let (Some(folder), Some(label)) = (unused.path.parent(), Label::of(&unused.path)) {
            by_folder.entry(folder.to_owned()).or_default().push(label);
        }
    }
    if by_folder.is_empty() || dataset.cases.iter().any(|case| case.label.is_some()) {
        return;
    }
    let scans = scans(root, dataset, modalities);
    let scans = Scans::of(&scans);
    let mut kinds: HashSet<Kind> = HashSet::new();
    let mut labels_of: BTreeMap<usize, Vec<PathBuf>> = BTreeMap::new();
    for (folder, labels) in &by_folder {
        // Folders within this one come next.
        let is_innermost = by_folder.range(folder.clone()..).nth(1).is_none_or(|(next, _)| !next.starts_with(folder));
        let of_series = match labels.as_slice() {
            [label] if is_innermost => of_only_series(folder, label, &scans).map(|case| (case, label)),
            _ => None,
        };
        let (kind, found) = match of_series {
            Some(found) => {
                let around = unnumbered(root, folder.parent().unwrap_or(root));
                (Kind::OfSeries { around }, vec![found])
            }
            None => of_names(root, folder, labels, &scans),
        };
        if !found.is_empty() {
            kinds.insert(kind);
        }
        for (case, label) in found {
            labels_of.entry(case).or_default().push(label.path.clone());
        }
    }
    if kinds.len() > 1 {
        return;
    }
    let mut taken: HashSet<PathBuf> = HashSet::new();
    for (case, labels) in labels_of {
        if let [label] = labels.as_slice() {
            dataset.cases[case].label = Some(LabelFiles::Map(label.clone()));
            taken.insert(label.clone());
        }
    }
    if !taken.is_empty() {
        dataset.unused.retain(|unused| !taken.contains(&unused.path));
        dataset.renew_missing_labels(false);
    }
}

/// Label maps of one kind, as far as names tell. Names of folders around them are without numbers, because those are of cases and of
/// parts of a dataset.
#[derive(PartialEq, Eq, Hash)]
enum Kind {
    /// Label maps next to the only series of their folders, which lie in the folder `around`.
    OfSeries { around: String },
    /// Label maps joined by their names.
    OfNames {
        /// Names of the folders around those of label maps.
        around: String,
        /// Names of the folders of label maps, from the outermost to the innermost one.
        folders: Vec<String>,
        /// Parts of the files' names behind those of the cases.
        behind: Vec<String>,
    },
}

/// A label map that no case has.
struct Label {
    path: PathBuf,
    /// Name without its ending.
    stem: String,
    /// Case part of the name.
    key: String,
    /// Parts of the name behind that of the case.
    behind: Vec<String>,
}

impl Label {
    fn of(path: &Path) -> Option<Self> {
        let stem = file_stem(path.file_name()?.to_str()?)?.to_owned();
        let (key, behind) = label_key(&stem);
        Some(Self { path: path.to_owned(), stem, key, behind })
    }

    /// Case parts of the names that the image may have: that of the label map or, where that is a number, each word of the folder
    /// with it.
    fn names(&self, folder_words: &[String]) -> Vec<String> {
        let is_word = |word: &&String| word.chars().all(char::is_alphabetic);
        if self.key.chars().any(char::is_alphabetic) {
            vec![self.key.clone()]
        } else if self.key.is_empty() {
            Vec::new()
        } else {
            folder_words.iter().filter(is_word).map(|word| format!("{word}_{}", self.key)).collect()
        }
    }
}

/// A scan that a label map may belong to.
struct Scan {
    /// The folder of its files.
    place: PathBuf,
    /// Case parts of its names: of an image, by its file, and of a series, by the folders around it.
    keys: BTreeSet<String>,
    /// True for a series of DICOM files.
    is_series: bool,
    /// Position of its case in the dataset, if a label map can be joined to it.
    case: Option<usize>,
}

impl Scan {
    /// The scan of an image file, or of the first file of a series.
    fn of(root: &Path, image: &Path, case: Option<usize>) -> Self {
        let place = image.parent().unwrap_or(root).to_owned();
        let stem = image.file_name().and_then(|name| file_stem(name.to_str()?));
        let keys: BTreeSet<String> = match stem.map(loose_key) {
            Some(key) => key.strip_suffix(DATA).map(str::to_owned).into_iter().chain([key.clone()]).collect(),
            None if place == root => BTreeSet::from([loose_key(&name_of(root))]),
            None => folders_below(root, &place).map(|name| loose_key(&name)).collect(),
        };
        Self { place, keys, is_series: stem.is_none(), case }
    }
}

/// Scans in the order of their places, and by each of their names.
struct Scans<'a> {
    all: Vec<&'a Scan>,
    by_key: HashMap<&'a str, Vec<&'a Scan>>,
}

impl<'a> Scans<'a> {
    fn of(scans: &'a [Scan]) -> Self {
        let mut all: Vec<&Scan> = scans.iter().collect();
        all.sort_by_key(|scan| &scan.place);
        let mut by_key: HashMap<&str, Vec<&Scan>> = HashMap::new();
        for &scan in &all {
            for key in &scan.keys {
                by_key.entry(key).or_default().push(scan);
            }
        }
        Self { all, by_key }
    }

    /// Scans in a folder and those within it.
    fn within(&self, folder: &Path) -> impl Iterator<Item = &'a Scan> {
        within(&self.all, folder)
    }

    /// Scans of a name in a folder and those within it.
    fn named(&self, key: &str, folder: &Path) -> impl Iterator<Item = &'a Scan> {
        within(self.by_key.get(key).map(Vec::as_slice).unwrap_or_default(), folder)
    }
}

/// Scans in a folder and those within it, of scans in the order of their places, in which they follow each other.
fn within<'a>(scans: &[&'a Scan], folder: &Path) -> impl Iterator<Item = &'a Scan> {
    let first = scans.partition_point(|scan| scan.place.as_path() < folder);
    scans[first..].iter().copied().take_while(move |scan| scan.place.starts_with(folder))
}

/// All scans of a dataset: its cases, those skipped, and scans of other modalities, to which label maps may belong as well.
fn scans(root: &Path, dataset: &Dataset, modalities: Modalities) -> Vec<Scan> {
    let is_other = |image: &Path| {
        folders_below(root, image.parent().unwrap_or(root)).any(|name| modalities.foreign_word(&name).is_some())
    };
    let cases = dataset.cases.iter().enumerate().map(|(at, case)| {
        let mut scan = Scan::of(root, &case.image, Some(at));
        // The modality of a series is known.
        if !scan.is_series && is_other(&case.image) {
            scan.case = None;
        }
        scan
    });
    let skipped = dataset.skipped.iter().map(|skipped| skipped.path.as_path());
    let of_others = dataset.unused.iter().filter(|unused| {
        matches!(
            unused.reason,
            UnusedReason::NotCtSeries { .. }
                | UnusedReason::NamedLikeOtherModality { .. }
                | UnusedReason::OtherModalityOfCase { .. }
        )
    });
    let others = skipped.chain(of_others.map(|unused| unused.path.as_path()));
    cases.chain(others.map(|image| Scan::of(root, image, None))).collect()
}

/// The case of the only scan in a folder and those within it, if that is a series which the names of folders or nothing but words
/// for label maps join to the only label map there.
fn of_only_series(folder: &Path, label: &Label, scans: &Scans<'_>) -> Option<usize> {
    let mut within = scans.within(folder);
    let only = within.next().filter(|scan| scan.is_series && within.next().is_none())?;
    let key = case_key(&label.stem);
    let mut around = only.place.ancestors().take_while(|around| around.starts_with(folder));
    let is_its = key.is_empty() || around.any(|around| case_key(&name_of(around)) == key);
    only.case.filter(|_| is_its)
}

/// Cases with the label maps of their names, from a folder without images whose label maps have the same words behind the names of
/// their cases, and the kind of these label maps. Images lie next to the folder of label maps, or deeper.
fn of_names<'a>(root: &Path, folder: &Path, labels: &'a [Label], scans: &Scans<'_>) -> (Kind, Vec<(usize, &'a Label)>) {
    let mut outermost = folder;
    for around in folder.ancestors().take_while(|around| around.starts_with(root)) {
        if is_label_folder(&name_of(around)) {
            outermost = around;
        }
    }
    let base = outermost.parent().filter(|base| base.starts_with(root)).unwrap_or(root);
    let behind = labels[0].behind.clone();
    let is_usable = scans.within(folder).next().is_none_or(|first| first.place != folder)
        && labels.iter().all(|label| label.behind == behind);
    let kind = Kind::OfNames { around: unnumbered(root, base), folders: folders_below(base, folder).collect(), behind };
    if !is_usable {
        return (kind, Vec::new());
    }
    let words = parts(&name_of(folder));
    let of_label = |label: &'a Label| {
        let names = label.names(&words);
        let mut found = names.iter().flat_map(|name| scans.named(name, base));
        let only = found.next().filter(|_| found.next().is_none())?;
        Some((only.case?, label))
    };
    let found = labels.iter().filter_map(of_label).collect();
    (kind, found)
}

/// Path from below `root` to `place` without numbers.
fn unnumbered(root: &Path, place: &Path) -> String {
    without_numbers(&folders_below(root, place).collect::<Vec<_>>().join("/"))
}

/// Names of the folders from below `root` to `place`.
fn folders_below(root: &Path, place: &Path) -> impl Iterator<Item = String> {
    let below = place.strip_prefix(root).unwrap_or(Path::new(""));
    below.iter().map(|name| name.to_string_lossy().into_owned())
}
