//! Volumes of plain folders next to case folders. By its layout, a folder with one image and its label map is a case,
//! and a folder with two of each is not, although it holds the same kind of data.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::modality::Modalities;
use super::tree::{Folder, TreeFile};
use super::{Dataset, folder};
use crate::case::{CaseFiles, SkippedCase};
use crate::volume::file_stem;

/// Adds scans among the `stray` files to the datasets in `found` around them, or as datasets of their own folders.
/// Takes the scans of folders that hold an image and its label map or, with `all`, every scan. Nothing is added next to
/// datasets whose classes have names, because the classes of other label maps are unknown.
pub(super) fn take(
    tree: &Folder,
    stray: &mut Vec<TreeFile>,
    found: &mut Vec<(PathBuf, Dataset)>,
    all: bool,
    modalities: Modalities,
) {
    if found.iter().any(|(_, dataset)| !dataset.labels.is_empty() || !dataset.regions.is_empty()) {
        return;
    }
    let volumes: HashSet<&Path> =
        stray.iter().filter(|file| file.stem().is_some()).map(|file| file.path.as_path()).collect();
    if volumes.is_empty() {
        return;
    }
    let plain = folder::read(&only(tree, &volumes), None, modalities);
    let labelled = plain.cases.iter().filter(|case| case.label.is_some());
    let with_pairs: HashSet<PathBuf> = labelled.filter_map(|case| Some(case.image.parent()?.to_owned())).collect();
    let is_wanted = |path: &Path| all || path.parent().is_some_and(|place| with_pairs.contains(place));
    let mut taken: HashSet<PathBuf> = HashSet::new();
    let mut places: HashMap<PathBuf, usize> =
        found.iter().enumerate().map(|(at, (folder, _))| (folder.clone(), at)).collect();
    // By folder, because datasets of one name get other names later.
    let mut ids: HashSet<(PathBuf, String)> = found
        .iter()
        .flat_map(|(folder, dataset)| dataset.cases.iter().map(move |case| (folder.clone(), case.case_id.clone())))
        .collect();
    // Folders come before those within them.
    let mut cases: Vec<CaseFiles> = plain.cases.into_iter().filter(|case| is_wanted(&case.image)).collect();
    cases.sort_by_key(|case| case.image.components().count());
    for mut case in cases {
        let dataset = dataset_around(&case.image, found, &mut places);
        taken.extend(case.files().map(Path::to_owned));
        case.case_id = case_id(&case.image, &dataset.0);
        case.dataset.clone_from(&dataset.1.name);
        if ids.insert((dataset.0.clone(), case.case_id.clone())) {
            dataset.1.cases.push(case);
        } else {
            let reason = "another case of the dataset has this name, by its folder; rename one of them";
            dataset.1.skipped.push(SkippedCase::new(&case, &case.image, reason));
        }
    }
    for unused in plain.unused.into_iter().filter(|unused| is_wanted(&unused.path)) {
        taken.insert(unused.path.clone());
        dataset_around(&unused.path, found, &mut places).1.unused.push(unused);
    }
    for (_, dataset) in found {
        dataset.cases.sort();
        dataset.renew_missing_labels(dataset.cases.iter().any(|case| case.label.is_some()));
    }
    stray.retain(|file| !taken.contains(&file.path));
}

/// The innermost dataset whose folder holds a file; made for the file's own folder if there is none. `places` are the positions
/// of the datasets by their folders.
fn dataset_around<'a>(
    file: &Path,
    found: &'a mut Vec<(PathBuf, Dataset)>,
    places: &mut HashMap<PathBuf, usize>,
) -> &'a mut (PathBuf, Dataset) {
    let at = file.ancestors().find_map(|folder| places.get(folder).copied()).unwrap_or_else(|| {
        let place = file.parent().unwrap_or(file).to_owned();
        let dataset = Dataset { name: super::tree::name_of(&place), ..Dataset::default() };
        places.insert(place.clone(), found.len());
        found.push((place, dataset));
        found.len() - 1
    });
    &mut found[at]
}

/// Name of a case in the dataset of a folder: the path of its image from there, without its ending.
fn case_id(image: &Path, folder: &Path) -> String {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let stem = file_stem(&name).unwrap_or(&name);
    let place = image.parent().and_then(|place| place.strip_prefix(folder).ok()).unwrap_or(Path::new(""));
    place.join(stem).to_string_lossy().replace('\\', "/")
}

/// A folder with the wanted files only.
fn only(folder: &Folder, wanted: &HashSet<&Path>) -> Folder {
    Folder {
        path: folder.path.clone(),
        name: folder.name.clone(),
        folders: folder.folders.iter().map(|child| only(child, wanted)).filter(|child| !child.is_empty()).collect(),
        files: folder.files.iter().filter(|file| wanted.contains(file.path.as_path())).cloned().collect(),
        has_cache: false,
    }
}
