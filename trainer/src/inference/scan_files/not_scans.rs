//! Inputs that are not scans and contain none, such as other files that a shell pattern matches together with scans.

use std::path::PathBuf;

use hiend_loader::case::shown;
use hiend_loader::preprocess::normalize::Normalize;

use super::{ScanFilesError, Scans, SkippedScan, modalities};

/// Inputs without a scan.
#[derive(Debug, Default)]
pub(super) struct NotScans {
    /// Files that are neither volumes nor DICOM.
    pub files: Vec<PathBuf>,
    /// Folders, each with its subfolders.
    pub folders: Vec<(PathBuf, Vec<PathBuf>)>,
}

impl NotScans {
    /// The error of the first input, where none is a scan.
    pub(super) fn fault(self, normalize: Normalize) -> Option<ScanFilesError> {
        if let Some((folder, subfolders)) = self.folders.into_iter().next() {
            return Some(ScanFilesError::Empty { folder, normalize, subfolders });
        }
        let path = self.files.into_iter().next()?;
        Some(ScanFilesError::NotAScan { path, normalize })
    }

    /// Adds the inputs to those of `scans` that are passed over or skipped.
    pub(super) fn pass_over(self, scans: &mut Scans, normalize: Normalize) {
        for (folder, subfolders) in self.folders {
            let reason = no_scan(normalize, &subfolders);
            // Scans may lie in subfolders. Without them, the folder is like any other file.
            let others = if subfolders.is_empty() { &mut scans.passed_over } else { &mut scans.skipped };
            others.push(SkippedScan { case: shown(&folder), reason });
        }
        if let [first, further @ ..] = self.files.as_slice() {
            let more = if further.is_empty() { String::new() } else { format!(" and {} more", further.len()) };
            let reason = "not a volume by its name, and not DICOM".to_owned();
            scans.passed_over.push(SkippedScan { case: format!("{}{more}", shown(first)), reason });
        }
    }
}

/// Reason that a folder is not used.
pub(super) fn no_scan(normalize: Normalize, subfolders: &[PathBuf]) -> String {
    let others = match subfolders {
        [] => String::new(),
        [first, ..] => format!("; subfolders such as {} are not searched, name them as inputs", shown(first)),
    };
    let modalities = modalities(normalize);
    format!("no .nii, .nii.gz, .nrrd or .mha file and no {modalities} series of DICOM files in this folder{others}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_and_empty_folders_of_a_pattern_do_not_end_the_search() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.nii", "b.mhd", "b.raw", "notes.txt", "x.mgz"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        for name in ["sub", "deep/p1"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let find = |names: &[&str]| {
            let inputs: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
            Scans::find(&inputs, Normalize::Hu)
        };
        let at = |name: &str| folder.path().join(name).display().to_string();
        let scans = find(&["a.nii", "b.mhd", "b.raw", "deep", "notes.txt", "sub", "x.mgz"]).unwrap();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["a", "b"]);
        let no_scan = "no .nii, .nii.gz, .nrrd or .mha file and no CT series of DICOM files in this folder";
        let remarks = [
            format!("{}: {no_scan}; passed over", at("sub")),
            format!("{} and 1 more: not a volume by its name, and not DICOM; passed over", at("b.raw")),
        ];
        assert_eq!(scans.remarks(), remarks);
        let skipped: Vec<String> =
            scans.skipped.iter().map(|SkippedScan { case, reason }| format!("{case}: {reason}")).collect();
        let format = "x.mgz: FreeSurfer's MGH is not read; convert it to .nii.gz".to_owned();
        let subfolders = format!("subfolders such as {} are not searched, name them as inputs", at("deep/p1"));
        assert_eq!(skipped, [format, format!("{}: {no_scan}; {subfolders}", at("deep"))]);
        // Alone, they are what was meant.
        let error = find(&["notes.txt", "b.raw"]).unwrap_err();
        assert!(matches!(&error, ScanFilesError::NotAScan { path, .. } if path.ends_with("notes.txt")), "{error}");
        assert!(matches!(find(&["notes.txt", "sub"]), Err(ScanFilesError::Empty { .. })));
        assert_eq!(find(&["x.mgz"]).unwrap().skipped.len(), 1);
    }
}
