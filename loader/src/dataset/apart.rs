//! Test and validation data of any layout, recognised by their folders, next to the training data that are converted.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use super::roles::Split;
use super::unused::reason::{UnusedFile, UnusedReason};
use super::{CaseFiles, Listing};

/// Takes out the cases in a folder for tests or validation, such as `Testing` or `val`, if the folder next to it, such
/// as `Training` or `train`, has cases: a model would be trained on them. Folders above `root` do not count, and the
/// folders of images that a `dataset.json` has `listed` say nothing.
pub(super) fn take_out(root: &Path, listed: &HashSet<PathBuf>, listing: &mut Listing) {
    let cases = listing.datasets.iter().flat_map(|dataset| &dataset.cases);
    let parts = |case: &CaseFiles| if listed.contains(&case.image) { Vec::new() } else { parts(root, case) };
    let has_training: HashSet<PathBuf> =
        cases.flat_map(parts).filter(|part| part.1 == Split::Training).map(|part| part.0).collect();
    for dataset in &mut listing.datasets {
        let num_found = dataset.cases.len();
        let unused = &mut dataset.unused;
        dataset.cases.retain(|case| {
            let is_apart =
                |(around, split): &(PathBuf, Split)| *split != Split::Training && has_training.contains(around);
            let Some((_, split)) = parts(case).into_iter().find(is_apart) else {
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
}

/// Returns true if a folder of the case's image, below `root`, says that the case is kept apart from training: of copies, the other
/// one is used.
pub(super) fn is_apart(root: &Path, case: &CaseFiles) -> bool {
    parts(root, case).iter().any(|(_, split)| *split != Split::Training)
}

/// Folders of an image whose names say which part of a dataset they hold: the folder around each of them, and the part.
fn parts(root: &Path, case: &CaseFiles) -> Vec<(PathBuf, Split)> {
    let Ok(below) = case.image.strip_prefix(root) else { return Vec::new() };
    let mut around = root.to_owned();
    let mut found = Vec::new();
    for component in below.parent().into_iter().flat_map(Path::components) {
        let Component::Normal(name) = component else { continue };
        let name = name.to_string_lossy();
        if !is_numbered(&name)
            && let Some(split) = Split::of(&name)
        {
            found.push((around.clone(), split));
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
