//! Targets that list folders of data: files whose names do not tell what they are, and trees of any names.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use hiend_loader::dataset::{Listing, Modalities, other_file, survey_of};

use crate::{check_error, check_line, write};

/// Largest number of files in a tree.
const MOST_FILES: usize = 24;
/// Largest number of folders above a file of a tree.
const MOST_FOLDERS: usize = 6;
/// Longest name of a file or folder, in bytes; file systems allow 255.
const MOST_NAME: usize = 120;
/// A scan.
const SCAN: &[u8] = include_bytes!("../corpus/nifti/int16");
/// Description of a dataset with one class.
const DESCRIPTION: &[u8] = br#"{"channel_names":{"0":"CT"},"labels":{"background":0,"liver":1},"file_ending":".nii"}"#;

/// Lists a file whose name is the first line and whose content is the rest: within a dataset, and next to DICOM slices in a
/// plain folder.
pub(crate) fn unnamed(scratch: &Path, bytes: &[u8]) {
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (name, content) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let name = if is_name(name) { OsStr::from_bytes(name) } else { OsStr::new("scan") };
    let intact = [
        ("data/Dataset001_Scans/imagesTr/a_0000.nii", SCAN),
        ("data/Dataset001_Scans/imagesTr/lost.raw", &[0; 24]),
        ("plain/series/IM_0000", include_bytes!("../corpus/dicom/slice-0")),
        ("plain/series/IM_0001", include_bytes!("../corpus/dicom/slice-1")),
        ("plain/series/IM_0002", include_bytes!("../corpus/dicom/slice-2")),
    ];
    for root in ["data", "plain"].map(|name| scratch.join(name)) {
        let mut files = BTreeSet::new();
        for (path, content) in intact.iter().map(|(path, content)| (scratch.join(path), content)) {
            if path.starts_with(&root) {
                if !path.exists() {
                    put(&path, content);
                }
                files.insert(path);
            }
        }
        let folder = files.first().and_then(|path| path.parent()).expect("a file in each folder").to_owned();
        remove_others(&folder, &files);
        let path = folder.join(name);
        // A name may be that of a file that is there.
        if files.insert(path.clone()) {
            put(&path, content);
            check_line(&other_file(&name.to_string_lossy(), &path).to_string());
        }
        check(&root, &files);
    }
}

/// Removes the files of a folder that earlier inputs left there.
fn remove_others(folder: &Path, files: &BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the scratch folder is readable") {
        let path = entry.expect("the scratch folder is readable").path();
        if !files.contains(&path) {
            std::fs::remove_file(path).expect("the scratch folder is writable");
        }
    }
}

/// Lists a tree of scans with these paths, one on each line; `dataset.json` is that of a dataset with one class.
pub(crate) fn tree(scratch: &Path, bytes: &[u8]) {
    let root = emptied(scratch, "tree");
    let mut files = BTreeSet::new();
    for line in bytes.split(|&byte| byte == b'\n').take(MOST_FILES) {
        let names: Vec<&[u8]> = line.split(|&byte| byte == b'/').collect();
        if names.len() > MOST_FOLDERS + 1 || !names.iter().all(|name| is_name(name)) {
            continue;
        }
        let path = names.iter().fold(root.clone(), |path, name| path.join(OsStr::from_bytes(name)));
        let is_description = path.file_name().is_some_and(|name| name == "dataset.json");
        let folder = path.parent().expect("the tree has a root");
        // An earlier line may have a file in place of a folder, or a folder of this name.
        if std::fs::create_dir_all(folder).is_ok() && !path.exists() {
            put(&path, if is_description { DESCRIPTION } else { SCAN });
            files.insert(path);
        }
    }
    check(&root, &files);
}

/// Checks the listings of a folder that holds these files.
fn check(root: &Path, files: &BTreeSet<PathBuf>) {
    for modalities in [Modalities::Ct, Modalities::All] {
        match survey_of(root, modalities) {
            Ok(listing) => check_listing(&listing, files),
            Err(err) => check_error(&err),
        }
    }
}

/// Checks that a listing has each of the files in one place, names every case once, and says everything in one line.
fn check_listing(listing: &Listing, files: &BTreeSet<PathBuf>) {
    let (mut keys, mut images, mut used) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for dataset in &listing.datasets {
        for case in &dataset.cases {
            assert!(keys.insert(case.key()), "two cases {:?}", case.key());
            for image in case.image_files() {
                assert!(images.insert(image.to_owned()), "{} belongs to two cases", image.display());
            }
            used.extend(case.files().map(Path::to_owned));
        }
        dataset.notes.iter().for_each(|note| check_line(&note.to_string()));
        dataset.skipped.iter().for_each(|skipped| check_line(&skipped.to_string()));
    }
    for unused in listing.all_unused() {
        check_line(&unused.to_string());
        assert!(!used.contains(&unused.path), "{} is used and unused: {}", unused.path.display(), unused.reason);
    }
    // A skipped case names the file at fault only.
    if listing.datasets.iter().any(|dataset| !dataset.skipped.is_empty()) {
        return;
    }
    for file in files {
        let is_listed = used.contains(file)
            || listing.all_unused().any(|unused| file.starts_with(&unused.path))
            || file.file_name().is_some_and(|name| name == "dataset.json");
        assert!(is_listed, "{} is neither used nor listed", file.display());
    }
}

/// Returns true for a name that a file can have, and that leads to no other folder.
fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MOST_NAME
        && !name.contains(&0)
        && !name.contains(&b'/')
        && name != b"."
        && name != b".."
}

/// An empty folder in `scratch`.
fn emptied(scratch: &Path, name: &str) -> PathBuf {
    let folder = scratch.join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("the scratch folder is writable");
    }
    std::fs::create_dir_all(&folder).expect("the scratch folder is writable");
    folder
}

/// Writes a file, and the folders above it.
fn put(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a file in a folder")).expect("the scratch folder is writable");
    write(path, content);
}
