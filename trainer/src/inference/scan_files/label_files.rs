//! Label maps in a folder, by case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::volume::file_stem;

use super::{Listing, ScanFilesError, SkippedScan, insert};

/// Finds the label maps of a folder by case.
///
/// # Errors
/// If the folder cannot be listed or holds no label map, two files are of one case, or a file may be a label map but cannot
/// be used, unless its case has another one.
pub fn label_maps(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ScanFilesError> {
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
        // Label maps are no DICOM files.
        let (folder, normalize) = (folder.to_owned(), Normalize::Hu);
        return Err(ScanFilesError::Empty { folder, normalize, subfolders: listing.subfolders });
    }
    Ok(files)
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
