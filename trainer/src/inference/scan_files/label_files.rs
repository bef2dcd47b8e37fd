//! Label maps in a folder, by case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hiend_cache::lookup;
use hiend_loader::case::shown;
use hiend_loader::volume::file_stem;

use super::{Listing, ScanFilesError, SkippedScan, insert};

/// Finds the label maps of a folder by case.
///
/// # Errors
/// If the folder cannot be listed or holds no label map, two files are of one case, or a file may be a label map but cannot
/// be used, unless its case has another one.
pub fn label_maps(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ScanFilesError> {
    if lookup::is_file(folder)? {
        let reason = "a file; expected the folder that contains it".to_owned();
        return Err(ScanFilesError::Unusable { path: folder.to_owned(), reason });
    }
    let mut files = BTreeMap::new();
    let listing = Listing::of(folder)?;
    for file in listing.files {
        insert(&mut files, &file.name, file.path)?;
    }
    for SkippedScan { case: name, reason } in listing.unusable {
        // The label map itself is there.
        if !files.keys().any(|case| is_copy(&name, case)) {
            let reason = format!("{reason}; if it is not a label map, move it to another folder");
            return Err(ScanFilesError::Unusable { path: folder.join(name), reason });
        }
    }
    if files.is_empty() {
        return Err(ScanFilesError::NoLabelMap { folder: folder.to_owned(), subfolders: listing.subfolders });
    }
    Ok(files)
}

/// Second part of the message on a folder without label maps: the first of its subfolders named like one of label maps, or else
/// its first subfolder.
pub(super) fn meant(subfolders: &[PathBuf]) -> String {
    let is_of_labels = |folder: &&PathBuf| {
        folder.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().starts_with("label"))
    };
    match (subfolders.iter().find(is_of_labels), subfolders.first()) {
        (Some(folder), _) => format!("; did you mean {}?", shown(folder)),
        (None, Some(folder)) => format!("; subfolders such as {} are not searched", shown(folder)),
        (None, None) => String::new(),
    }
}

/// Returns whether a file is named like that of a case with more behind its ending: `a.nii.gz.bak`, `a.nii.gz~`.
fn is_copy(name: &str, case: &str) -> bool {
    let rest = name.strip_prefix(case).unwrap_or_default().to_lowercase();
    file_stem(name).is_none()
        && [".nii", ".nrrd", ".nhdr", ".mha", ".mhd"].iter().any(|ending| rest.starts_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_around_label_maps_or_one_of_them_is_told() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["imagesTr", "labelsTr"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let (dataset, labels) = (folder.path().display(), folder.path().join("labelsTr"));
        let error = |path: &Path| label_maps(path).unwrap_err().to_string();
        let expected = format!("{dataset}: no label map in this folder; did you mean {dataset}/labelsTr?");
        assert_eq!(error(folder.path()), expected);
        assert_eq!(error(&labels), format!("{dataset}/labelsTr: no label map in this folder"));
        let map = labels.join("a.nii.gz");
        std::fs::write(&map, b"").unwrap();
        assert_eq!(error(&map), format!("{dataset}/labelsTr/a.nii.gz: a file; expected the folder that contains it"));
        std::fs::remove_dir_all(&labels).unwrap();
        assert!(error(folder.path()).ends_with(&format!("; subfolders such as {dataset}/imagesTr are not searched")));
    }

    #[test]
    fn copies_of_label_maps_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| std::fs::write(folder.path().join(name), b"").unwrap();
        for name in ["a.nii.gz", "a.nii.gz.bak", "a.nii.gz~", "b.mha", "B.MHA.part"] {
            write(name);
        }
        // Of another case by its spelling.
        let error = label_maps(folder.path()).unwrap_err().to_string();
        assert!(error.contains("B.MHA.part: more behind .mha"), "{error}");
        std::fs::remove_file(folder.path().join("B.MHA.part")).unwrap();
        assert_eq!(label_maps(folder.path()).unwrap().into_keys().collect::<Vec<_>>(), ["a", "b"]);
        // Without a label map of its case, an evaluation would leave the case out.
        write("a1.nii.gz.part");
        let error = label_maps(folder.path()).unwrap_err().to_string();
        assert!(error.contains("a1.nii.gz.part: ") && error.ends_with("move it to another folder"), "{error}");
    }
}
