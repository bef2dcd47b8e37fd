//! Scans that several paths lead to, by links.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::apart::is_apart;
use super::tree::{FileId, Folder, TreeFile};
use super::{CaseFiles, Listing, UnusedFile, UnusedReason};

/// Keeps each scan once. Links to one image with different label maps are different cases; of equal ones, those in folders for
/// tests or validation come last, and links after files; the first of them counts in the order of datasets and cases.
pub(super) fn keep_once(tree: &Folder, listing: &mut Listing) {
    let files: HashMap<&Path, &TreeFile> = tree.all_files().map(|file| (file.path.as_path(), file)).collect();
    let id = |path: &Path| files.get(path).and_then(|file| file.id);
    let is_linked = |case: &CaseFiles| files.get(case.image.as_path()).is_some_and(|file| file.is_linked);
    let key = |case: &CaseFiles| case.files().map(id).collect::<Option<Vec<FileId>>>();
    let mut first_of: HashMap<Vec<FileId>, PathBuf> = HashMap::new();
    // Images, label maps and masks of cases.
    let mut used: HashMap<FileId, PathBuf> = HashMap::new();
    let mut cases: Vec<&CaseFiles> = listing.datasets.iter().flat_map(|dataset| &dataset.cases).collect();
    cases.sort_by_cached_key(|case| (is_apart(&tree.path, case), is_linked(case)));
    for case in cases {
        if let Some(key) = key(case) {
            for (id, path) in key.iter().zip(case.files()) {
                used.entry(*id).or_insert_with(|| path.to_owned());
            }
            first_of.entry(key).or_insert_with(|| case.image.clone());
        }
    }
    for dataset in &mut listing.datasets {
        let unused = &mut dataset.unused;
        dataset.cases.retain(|case| {
            let first = key(case).and_then(|key| first_of.get(&key)).filter(|first| **first != case.image);
            if let Some(first) = first {
                let reason = UnusedReason::SameFile { first: first.clone() };
                unused.extend(case.files().map(|path| UnusedFile { path: path.to_owned(), reason: reason.clone() }));
            }
            first.is_none()
        });
    }
    // An unused path to a file that is used under another one is not a loss.
    let all = listing.datasets.iter_mut().flat_map(|dataset| &mut dataset.unused).chain(&mut listing.unused);
    for unused in all {
        let first = id(&unused.path).and_then(|id| used.get(&id));
        if let Some(first) = first.filter(|first| **first != unused.path) {
            unused.reason = UnusedReason::SameFile { first: first.clone() };
        }
    }
}
