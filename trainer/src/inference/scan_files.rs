//! Scans and label maps on disk, found by the rules of `hiend-shard`.
//!
//! A scan is a `.nii` or `.nii.gz` file, in upper or lower case. Hidden files are passed over: `._x.nii.gz` is what
//! macOS leaves in archives. `CASE_0000` is the first channel of CASE, as in nnU-Net; a case with further channels is
//! skipped with the reason, because a CT has one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use hiend_cache::{FileError, lookup};
use thiserror::Error;

/// Errors from looking for scans.
#[derive(Debug, Error)]
pub enum ScanFilesError {
    /// A path that does not exist.
    #[error("{}: no such file or folder", path.display())]
    Absent {
        /// The path.
        path: PathBuf,
    },
    /// A file or folder that cannot be accessed.
    #[error(transparent)]
    Unreadable(#[from] FileError),
    /// A file given by name that has another ending.
    #[error("{}: neither .nii nor .nii.gz", path.display())]
    NotNifti {
        /// The file.
        path: PathBuf,
    },
    /// A folder without scans.
    #[error("{}: no .nii or .nii.gz file in this folder", folder.display())]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// Two files of one case.
    #[error("{} and {} are both case {case}; remove one", first.display(), second.display())]
    Twice {
        /// The case.
        case: String,
        /// One file.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
}

/// A scan that was found and cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedScan {
    /// Name of its case.
    pub case: String,
    /// Reason, in one line.
    pub reason: String,
}

/// Scans to predict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scans {
    /// Files by case.
    pub files: BTreeMap<String, PathBuf>,
    /// Cases that cannot be used.
    pub skipped: Vec<SkippedScan>,
}

impl Scans {
    /// Finds the scans among files and in folders (not in their subfolders).
    ///
    /// # Errors
    /// If a path does not exist or cannot be accessed, a file is not a scan, a folder holds none, or two files are of
    /// one case.
    pub fn find(inputs: &[PathBuf]) -> Result<Self, ScanFilesError> {
        let mut scans = Self::default();
        let mut seen = BTreeSet::new();
        for input in inputs {
            let Some(metadata) = lookup::metadata(input)? else {
                return Err(ScanFilesError::Absent { path: input.clone() });
            };
            let found = if metadata.is_dir() {
                list(input)?
            } else {
                let name = file_name(input);
                let stem = nifti_stem(&name).ok_or_else(|| ScanFilesError::NotNifti { path: input.clone() })?;
                vec![(stem.to_owned(), input.clone())]
            };
            if found.is_empty() {
                return Err(ScanFilesError::Empty { folder: input.clone() });
            }
            for (stem, path) in found {
                if seen.insert(path.canonicalize().map_err(FileError::at(&path, "look up"))?) {
                    scans.add(&stem, path)?;
                }
            }
        }
        Ok(scans)
    }

    fn add(&mut self, stem: &str, path: PathBuf) -> Result<(), ScanFilesError> {
        let case = match split_channel(stem) {
            Some((case, channel)) => {
                let other = u16::from(channel == 0);
                if has_channel(&path, case, other)? {
                    if !self.skipped.iter().any(|skipped| skipped.case == case) {
                        let reason = "has more than one channel; a CT has one".to_owned();
                        self.skipped.push(SkippedScan { case: case.to_owned(), reason });
                    }
                    return Ok(());
                }
                // Without a first channel the number belongs to the case's name.
                if channel == 0 { case } else { stem }
            }
            None => stem,
        };
        insert(&mut self.files, case, path)
    }
}

/// Finds the label maps of a folder by case.
///
/// # Errors
/// If the folder cannot be listed or holds no label map, or two files are of one case.
pub fn label_maps(folder: &Path) -> Result<BTreeMap<String, PathBuf>, ScanFilesError> {
    let mut files = BTreeMap::new();
    for (case, path) in list(folder)? {
        insert(&mut files, &case, path)?;
    }
    if files.is_empty() { Err(ScanFilesError::Empty { folder: folder.to_owned() }) } else { Ok(files) }
}

fn insert(files: &mut BTreeMap<String, PathBuf>, case: &str, path: PathBuf) -> Result<(), ScanFilesError> {
    match files.insert(case.to_owned(), path.clone()) {
        Some(first) => Err(ScanFilesError::Twice { case: case.to_owned(), first, second: path }),
        None => Ok(()),
    }
}

/// NIfTI files of a folder with their stems, sorted by path.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, ScanFilesError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(FileError::at(folder, "list"))? {
        let path = entry.map_err(FileError::at(folder, "list"))?.path();
        let name = file_name(&path);
        if let Some(stem) = nifti_stem(&name)
            && lookup::is_file(&path)?
        {
            found.push((stem.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Name of a NIfTI file without its ending; `None` for other files and hidden ones.
fn nifti_stem(name: &str) -> Option<&str> {
    let strip = |ending: &str| {
        let (stem, end) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
        (end.eq_ignore_ascii_case(ending) && !stem.is_empty()).then_some(stem)
    };
    strip(".nii.gz").or_else(|| strip(".nii")).filter(|_| !name.starts_with('.'))
}

/// Case and channel of `CASE_0000`.
fn split_channel(stem: &str) -> Option<(&str, u16)> {
    let (case, digits) = stem.rsplit_once('_')?;
    let is_channel = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_digit()) && !case.is_empty();
    is_channel.then_some(())?;
    Some((case, digits.parse().ok()?))
}

/// True if a channel of a case lies next to `path`.
fn has_channel(path: &Path, case: &str, channel: u16) -> Result<bool, ScanFilesError> {
    for ending in [".nii.gz", ".nii", ".NII.GZ", ".NII"] {
        if lookup::exists(&path.with_file_name(format!("{case}_{channel:04}{ending}")))? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), b"").unwrap();
        }
        folder
    }

    fn find(files: &[&str]) -> Result<Scans, ScanFilesError> {
        Scans::find(&[folder(files).path().to_owned()])
    }

    #[test]
    fn hidden_files_and_other_files_are_passed_over() {
        let scans = find(&["a_0000.nii.gz", "._a_0000.nii.gz", "B.NII.GZ", "c.nii", "notes.txt", ".nii"]).unwrap();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["B", "a", "c"]);
        assert!(scans.skipped.is_empty());
        assert!(matches!(find(&["._a.nii.gz"]), Err(ScanFilesError::Empty { .. })));
    }

    #[test]
    fn cases_with_a_second_channel_are_skipped() {
        let scans = find(&["c_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz"]).unwrap();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["d"]);
        let reason = "has more than one channel; a CT has one".to_owned();
        assert_eq!(scans.skipped, [SkippedScan { case: "c".to_owned(), reason }]);

        // A file that is given by name is a channel of the same case.
        let folder = folder(&["c_0000.nii.gz", "c_0001.nii.gz"]);
        for name in ["c_0000.nii.gz", "c_0001.nii.gz"] {
            let scans = Scans::find(&[folder.path().join(name)]).unwrap();
            assert_eq!((scans.files.len(), scans.skipped.len()), (0, 1));
        }
    }

    #[test]
    fn four_digits_without_a_first_channel_belong_to_the_name() {
        let scans = find(&["patient_0001.nii.gz", "patient_0002.nii.gz"]).unwrap();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["patient_0001", "patient_0002"]);
    }

    #[test]
    fn two_files_of_one_case_are_refused_and_one_file_given_twice_is_one() {
        let error = find(&["a.nii", "a_0000.nii.gz"]).unwrap_err().to_string();
        assert!(error.ends_with("a_0000.nii.gz are both case a; remove one"), "{error}");
        let folder = folder(&["a.nii"]);
        let inputs = [folder.path().to_owned(), folder.path().join("a.nii")];
        assert_eq!(Scans::find(&inputs).unwrap().files.len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_nowhere_is_an_error() {
        let folder = folder(&["a.nii"]);
        let link = folder.path().join("b.nii.gz");
        std::os::unix::fs::symlink(folder.path().join("gone"), &link).unwrap();
        let error = Scans::find(&[folder.path().to_owned()]).unwrap_err();
        assert!(matches!(&error, ScanFilesError::Unreadable(error) if error.path == link), "{error}");
        assert!(matches!(Scans::find(&[folder.path().join("c.nii")]), Err(ScanFilesError::Absent { .. })));
    }
}
