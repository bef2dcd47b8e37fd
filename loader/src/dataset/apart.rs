//! Test and validation data of any layout, recognised by their folders, next to the training data that are converted.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use super::roles::Split;
use super::unused::reason::{UnusedFile, UnusedReason};
use super::{CaseFiles, Dataset, DatasetNote, Listing};

/// Takes out the cases in a folder for tests or validation, such as `Testing` or `val`, if the folder next to it, such
/// as `Training` or `train`, has cases: a model would be trained on them. If only cases without such a folder are next to it, they
/// remain, with a note. Folders above `root` do not count, and the folders of images that a `dataset.json` has `listed` say nothing.
pub(super) fn take_out(root: &Path, listed: &HashSet<PathBuf>, listing: &mut Listing) {
    let cases = listing.datasets.iter().flat_map(|dataset| &dataset.cases);
    let parts = |case: &CaseFiles| if listed.contains(&case.image) { Vec::new() } else { parts(root, case) };
    let (training, apart): (Vec<Part>, Vec<Part>) =
        cases.flat_map(parts).partition(|part| part.split == Split::Training);
    let has_training: HashSet<PathBuf> = training.into_iter().map(|part| part.around).collect();
    for dataset in &mut listing.datasets {
        let num_found = dataset.cases.len();
        let unused = &mut dataset.unused;
        dataset.cases.retain(|case| {
            let is_apart = |part: &Part| part.split != Split::Training && has_training.contains(&part.around);
            let Some(Part { split, .. }) = parts(case).into_iter().find(is_apart) else {
                return true;
            };
            let reason = if split == Split::Test { UnusedReason::TestSet } else { UnusedReason::Validation };
            unused.extend(case.files().map(|path| UnusedFile { path: path.to_owned(), reason: reason.clone() }));
            false
        });
        if dataset.cases.len() < num_found {
            dataset.renew_missing_labels(false);
        }
    }
    for dataset in listing.datasets.extract_if(.., |dataset| dataset.num_listed() == 0 && dataset.vacant.is_empty()) {
        listing.unused.extend(dataset.unused);
    }
    if apart.is_empty() {
        return;
    }
    let with_others = folders_with_others(root, listing);
    for dataset in &mut listing.datasets {
        let is_next = |part: &Part| part.split != Split::Training && with_others.contains(&part.around);
        let found = dataset.cases.iter().filter_map(|case| {
            let part = parts(case).into_iter().find(is_next)?;
            Some((part.name, case.case_id.clone()))
        });
        let (mut folders, cases): (Vec<String>, Vec<String>) = found.unzip();
        if !cases.is_empty() {
            dataset.notes.push(DatasetNote::ApartByName { folder: folders.swap_remove(0), cases });
        }
    }
}

impl Dataset {
    /// Renews the note on cases in folders for tests or validation after cases were taken out.
    pub(super) fn renew_apart_by_name(&mut self) {
        let left: HashSet<&str> = self.cases.iter().map(|case| case.case_id.as_str()).collect();
        self.notes.retain_mut(|note| match note {
            DatasetNote::ApartByName { cases, .. } => {
                cases.retain(|case| left.contains(case.as_str()));
                !cases.is_empty()
            }
            _ => true,
        });
    }
}

/// Folders of `root` with cases that are not in a folder for tests or validation directly within them.
fn folders_with_others(root: &Path, listing: &Listing) -> HashSet<PathBuf> {
    let mut found: HashSet<PathBuf> = HashSet::new();
    for case in listing.datasets.iter().flat_map(|dataset| &dataset.cases) {
        let mut within: Option<&Path> = None;
        for around in case.image.ancestors().skip(1).take_while(|around| around.starts_with(root)) {
            let name = within.and_then(Path::file_name).map(OsStr::to_string_lossy);
            let is_other = || name.is_none_or(|name| is_numbered(&name) || !Split::is_apart(&name));
            if !found.contains(around) && is_other() {
                found.insert(around.to_owned());
            }
            within = Some(around);
        }
    }
    found
}

/// Returns true if a folder of the case's image, below `root`, says that the case is kept apart from training: of copies, the other
/// one is used.
pub(super) fn is_apart(root: &Path, case: &CaseFiles) -> bool {
    parts(root, case).iter().any(|part| part.split != Split::Training)
}

/// A folder whose name says which part of a dataset it holds.
struct Part {
    /// The folder around it.
    around: PathBuf,
    name: String,
    split: Split,
}

/// Folders of an image whose names say which part of a dataset they hold.
fn parts(root: &Path, case: &CaseFiles) -> Vec<Part> {
    let Ok(below) = case.image.strip_prefix(root) else { return Vec::new() };
    let mut around = root.to_owned();
    let mut found = Vec::new();
    for component in below.parent().into_iter().flat_map(Path::components) {
        let Component::Normal(name) = component else { continue };
        let name = name.to_string_lossy();
        if !is_numbered(&name)
            && let Some(split) = Split::of(&name)
        {
            found.push(Part { around: around.clone(), name: name.into_owned(), split });
        }
        around.push(component);
    }
    found
}

/// Returns true for names such as `Dataset005_Test` and `Task05_Test`, which name a dataset and no part of one.
fn is_numbered(name: &str) -> bool {
    let number = name.strip_prefix("Dataset").or_else(|| name.strip_prefix("Task"));
    number.is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit()))
}
