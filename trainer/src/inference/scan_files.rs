//! Scans and label maps on disk, found by the rules of `hiend-shard`.
//!
//! A scan is a `.nii`, `.nii.gz`, `.nrrd`, `.nhdr`, `.mha` or `.mhd` file, in upper or lower case, or a series of DICOM
//! files in a folder of their own: of CT, and for z-scores also of MR, PET or NM. The only series of a folder is named
//! like the folder; of several, each has its number and description as its name. `CASE_0000` is the first channel of
//! CASE, as in nnU-Net ([`ChannelNames`]).
//!
//! | found | answer |
//! |---|---|
//! | hidden files, such as `._x.nii.gz`, which macOS leaves in archives | ignored |
//! | localizers and screen shots next to a CT | ignored; if given by name, passed over with a remark |
//! | reports, segmentations and a DICOMDIR next to a series | passed over with a remark |
//! | other files, and folders without any scan or subfolder, next to scans | passed over with a remark |
//! | subfolders | not searched, with a remark; a folder that has only subfolders is skipped with the reason |
//! | cases with further channels, because one is expected | skipped with the reason |
//! | volumes of another format, files that cannot be accessed | skipped with the reason |

pub mod grid;
mod label_files;
mod not_scans;
mod search;
mod series;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hiend_cache::{FileError, lookup};
use hiend_loader::case::{escape_name, shown};
use hiend_loader::dataset::{ChannelNames, NameRole, UnusedReason, other_file, several_channels};
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::volume::dicom::is_candidate;
use hiend_loader::volume::file_stem;
use thiserror::Error;

pub use label_files::label_maps;
use not_scans::no_scan;
use search::Search;
use series::{DicomFiles, Reports};

/// Errors from searching for scans.
#[derive(Debug, Error)]
pub enum ScanFilesError {
    /// A path that does not exist.
    #[error("{}: no such file or folder", path.display())]
    Absent {
        /// Path as given on the command line.
        path: PathBuf,
    },
    /// A file or folder that cannot be accessed.
    #[error(transparent)]
    Unreadable(#[from] FileError),
    /// A file given by name that is not a scan, without a scan among the other inputs.
    #[error("{}: neither named .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd nor a slice of a DICOM series of {} images", path.display(), modalities(*normalize))]
    NotAScan {
        /// Path of the file.
        path: PathBuf,
        /// Normalisation of the scans, which determines the accepted modalities of DICOM series.
        normalize: Normalize,
    },
    /// A folder without scans.
    #[error("{}: {}", shown(folder), no_scan(*normalize, subfolders))]
    Empty {
        /// Path of the folder without scans.
        folder: PathBuf,
        /// Normalisation of the scans, which determines the accepted modalities of DICOM series.
        normalize: Normalize,
        /// Subfolders, which are not searched.
        subfolders: Vec<PathBuf>,
    },
    /// A folder without label maps.
    #[error("{}: no label map in this folder{}", shown(folder), label_files::meant(subfolders))]
    NoLabelMap {
        /// Path of the folder.
        folder: PathBuf,
        /// Subfolders, which are not searched.
        subfolders: Vec<PathBuf>,
    },
    /// A file that cannot be used: a file in a folder of label maps, or a DICOM file without its preamble.
    #[error("{}: {reason}", shown(path))]
    Unusable {
        /// Path of the file.
        path: PathBuf,
        /// Reason, in one line.
        reason: String,
    },
    /// Two files of one case.
    #[error(
        "{} and {} are both case {}; move one of them to another folder",
        shown(first),
        shown(second),
        escape_name(case)
    )]
    Twice {
        /// Name of the case.
        case: String,
        /// Path of the first file of the case.
        first: PathBuf,
        /// Path of the second file of the case.
        second: PathBuf,
    },
}

/// Modalities of DICOM series that are accepted, for messages.
fn modalities(normalize: Normalize) -> &'static str {
    match normalize {
        Normalize::Hu => "CT",
        Normalize::Zscore => "CT, MR, PET or NM",
    }
}

/// A scan that was found but cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SkippedScan {
    /// Name of the case or, failing that, of the file.
    pub case: String,
    /// Reason, in one line.
    pub reason: String,
}

/// Scans to predict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scans {
    /// Files by case.
    pub files: BTreeMap<String, PathBuf>,
    /// Scans that cannot be used.
    pub skipped: Vec<SkippedScan>,
    /// Files that are not scans of the model, with the first path of each reason: DICOM files next to a series, sorted, and
    /// other files and folders that were given by name.
    pub passed_over: Vec<SkippedScan>,
    /// Subfolders of the inputs, which are not searched.
    pub subfolders: Vec<PathBuf>,
}

impl Scans {
    /// Remarks on other contents of the inputs, one line each.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let subfolder = |folder: &PathBuf| format!("{}: a subfolder, not searched; name it as an input", shown(folder));
        let file = |SkippedScan { case, reason }: &SkippedScan| format!("{case}: {reason}; passed over");
        self.subfolders.iter().map(subfolder).chain(self.passed_over.iter().map(file)).collect()
    }

    /// Finds the scans among files and in folders (not in their subfolders). `normalize` is the model's normalisation:
    /// DICOM series of modalities other than CT are accepted only for z-scores.
    ///
    /// # Errors
    /// If an input does not exist or cannot be accessed, none of them is a scan or holds one, or two files are of one case.
    pub fn find(inputs: &[PathBuf], normalize: Normalize) -> Result<Self, ScanFilesError> {
        let mut search = Search::new(normalize);
        for input in inputs {
            search.add(input)?;
        }
        search.finish(inputs)
    }

    fn add(&mut self, role: NameRole<'_>, path: PathBuf) -> Result<(), ScanFilesError> {
        match role {
            NameRole::Case(case) => return insert(&mut self.files, case, path),
            NameRole::FirstOfSeveral(case) => self.skip(case.to_owned(), several_channels(false).to_owned()),
            NameRole::Further(case) => {
                self.skip(format!("{case} ({})", file_name(&path)), UnusedReason::OtherChannel.to_string());
            }
        }
        Ok(())
    }

    fn skip(&mut self, case: String, reason: String) {
        self.skipped.push(SkippedScan { case, reason });
    }
}

fn unseen(error: &FileError) -> String {
    format!("cannot {}: {}", error.action, error.source)
}

/// Reads the names in a folder to decide which numbers are channels.
fn channel_names(folder: &Path) -> Result<ChannelNames, ScanFilesError> {
    let mut stems = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(FileError::at(folder, "list"))? {
        let name = file_name(&entry.map_err(FileError::at(folder, "list"))?.path());
        stems.extend(file_stem(&name).map(str::to_owned));
    }
    Ok(ChannelNames::of(stems.iter().map(String::as_str), std::iter::empty()))
}

fn insert(files: &mut BTreeMap<String, PathBuf>, case: &str, path: PathBuf) -> Result<(), ScanFilesError> {
    match files.insert(case.to_owned(), path.clone()) {
        Some(first) => Err(ScanFilesError::Twice { case: case.to_owned(), first, second: path }),
        None => Ok(()),
    }
}

/// A scan, with the name of its file or series.
#[derive(Clone, Debug)]
struct ScanFile {
    /// File name without the extension, or name of the series.
    name: String,
    /// Path of the file; for a series, of its first file.
    path: PathBuf,
    /// True for a series of DICOM files.
    is_series: bool,
}

/// Content of a folder, without that of its subfolders.
#[derive(Debug, Default)]
struct Listing {
    /// Volumes, sorted by path.
    files: Vec<ScanFile>,
    /// Volumes that cannot be read, sorted.
    unusable: Vec<SkippedScan>,
    /// DICOM files next to a series that are not scans.
    passed_over: Vec<SkippedScan>,
    /// Files that may be DICOM, sorted.
    candidates: Vec<PathBuf>,
    /// Subfolders, sorted.
    subfolders: Vec<PathBuf>,
}

impl Listing {
    fn of(folder: &Path) -> Result<Self, ScanFilesError> {
        let mut listing = Self::default();
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(FileError::at(folder, "list"))? {
            paths.push(entry.map_err(FileError::at(folder, "list"))?.path());
        }
        paths.sort();
        for path in paths {
            let name = file_name(&path);
            if name.starts_with('.') {
                continue;
            }
            let stem = file_stem(&name).map(str::to_owned);
            let mut unusable = |reason| listing.unusable.push(SkippedScan { case: shown(Path::new(&name)), reason });
            match (lookup::metadata(&path), stem) {
                (Err(error), Some(_)) => unusable(unseen(&error)),
                (Ok(Some(data)), Some(name)) if data.is_file() => {
                    listing.files.push(ScanFile { name, path, is_series: false });
                }
                (Ok(Some(data)), None) if data.is_file() && is_candidate(&name) => listing.candidates.push(path),
                (Ok(Some(data)), None) if data.is_dir() => listing.subfolders.push(path),
                (Ok(_), Some(_)) => unusable("not a regular file".to_owned()),
                (Ok(Some(data)), None) if data.is_file() => unread(&name, &path).into_iter().for_each(unusable),
                // Not opened: a FIFO would block.
                (_, None) => unread(&name, Path::new("")).into_iter().for_each(unusable),
            }
        }
        Ok(listing)
    }

    /// Adds the DICOM series to the files.
    fn with_series(mut self, folder: &Path, normalize: Normalize) -> Self {
        let dicom = DicomFiles::among(folder, &self.candidates, normalize);
        let Reports { unusable, passed_over } = dicom.reports(None);
        self.files.extend(dicom.series.into_iter().map(|(scan, _)| scan));
        self.unusable.extend(unusable);
        self.unusable.sort();
        self.passed_over.extend(passed_over);
        self
    }
}

/// The reason not to read a file that is not named like a volume but is one, or was; `None` for all others.
fn unread(name: &str, path: &Path) -> Option<String> {
    let reason = other_file(name, path);
    let is_volume = matches!(
        reason,
        UnusedReason::Format { .. }
            | UnusedReason::BehindEnding { .. }
            | UnusedReason::DicomByContent
            | UnusedReason::VolumeByContent(_)
    );
    is_volume.then(|| reason.to_string())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
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
        Scans::find(&[folder(files).path().to_owned()], Normalize::Hu)
    }

    #[test]
    fn hidden_files_and_other_files_are_passed_over() {
        let scans = find(&["a_0000.nii.gz", "._a_0000.nii.gz", "B.NII.GZ", "c.nii", "notes.txt", ".nii"]).unwrap();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["B", "a", "c"]);
        assert!(scans.skipped.is_empty());
        assert!(matches!(find(&["._a.nii.gz"]), Err(ScanFilesError::Empty { .. })));
    }

    #[test]
    fn scans_are_found_in_every_format() {
        let scans = find(&["a_0000.nrrd", "b.MHA", "c.mhd", "c.raw", "d.nhdr", "e.nii"]).unwrap();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
        assert!(scans.skipped.is_empty(), "{:?}", scans.skipped);
        let error = find(&["a.nii.gz", "a.mha"]).unwrap_err().to_string();
        assert!(error.ends_with("are both case a; move one of them to another folder"), "{error}");
        let folder = folder(&["a.txt", "b.dcm"]);
        let error = Scans::find(&[folder.path().join("a.txt")], Normalize::Hu).unwrap_err();
        assert!(matches!(error, ScanFilesError::NotAScan { .. }), "{error}");
        // With the reason, as among the files of a folder.
        let scans = Scans::find(&[folder.path().join("b.dcm")], Normalize::Hu).unwrap();
        assert_eq!(scans.skipped[0].reason, "the file is empty (0 bytes)");
    }

    #[test]
    fn cases_with_a_second_channel_are_skipped() {
        let scans = find(&["c_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz", "e_0001.nii.gz"]).unwrap();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["d"]);
        let further = "further channel of a case, not its first one (_0000); rename it if its number counts scans";
        let expected = [("c", several_channels(false)), ("c (c_0001.nii.gz)", further), ("e (e_0001.nii.gz)", further)];
        let skipped = |(case, reason): (&str, &str)| SkippedScan { case: case.to_owned(), reason: reason.to_owned() };
        assert_eq!(scans.skipped, expected.map(skipped));

        // A file that is given by name is a channel of the same case.
        let folder = folder(&["c_0000.nii.gz", "c_0001.nii.gz", "d_0000.nii.gz"]);
        for name in ["c_0000.nii.gz", "c_0001.nii.gz"] {
            let scans = Scans::find(&[folder.path().join(name)], Normalize::Hu).unwrap();
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
        assert!(error.ends_with("a_0000.nii.gz are both case a; move one of them to another folder"), "{error}");
        let folder = folder(&["a.nii"]);
        let inputs = [folder.path().to_owned(), folder.path().join("a.nii")];
        assert_eq!(Scans::find(&inputs, Normalize::Hu).unwrap().files.len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn unreadable_files_are_skipped_and_named() {
        let folder = folder(&["a.nii", "x.mgz", "y.TIF", "z.dcm", "table.csv", "old.zip", "b.nii.part", "a.nii.md5"]);
        let dicom = [[0; 128].as_slice(), b"DICM"].concat();
        std::fs::write(folder.path().join("c.dc3"), dicom).unwrap();
        for name in ["sub", "folder.nii.gz"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let link = folder.path().join("b.nii.gz");
        std::os::unix::fs::symlink(folder.path().join("gone"), &link).unwrap();
        let scans = Scans::find(&[folder.path().to_owned()], Normalize::Hu).unwrap();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["a"]);
        let skipped: Vec<(&str, &str)> =
            scans.skipped.iter().map(|skipped| (skipped.case.as_str(), skipped.reason.as_str())).collect();
        assert_eq!(skipped[0].0, "b.nii.gz");
        assert!(skipped[0].1.starts_with("cannot follow this symbolic link: "), "{skipped:?}");
        let format = |name: &str| format!("{name} is not read; convert it to .nii.gz");
        let (mgh, tiff) = (format("FreeSurfer's MGH"), format("TIFF"));
        let by_content = UnusedReason::DicomByContent.to_string();
        let behind = UnusedReason::BehindEnding { ending: ".nii" }.to_string();
        let expected = [
            ("b.nii.part", behind.as_str()),
            ("c.dc3", by_content.as_str()),
            ("folder.nii.gz", "not a regular file"),
            ("x.mgz", mgh.as_str()),
            ("y.TIF", tiff.as_str()),
            ("z.dcm", "the file is empty (0 bytes)"),
        ];
        assert_eq!(skipped[1..], expected);
        assert_eq!(scans.subfolders, [folder.path().join("sub")]);
        // Given by name, it does not end the others either.
        let scans = Scans::find(&[link, folder.path().join("a.nii")], Normalize::Hu).unwrap();
        assert_eq!((scans.files.len(), scans.skipped.len()), (1, 1));
        assert!(matches!(
            Scans::find(&[folder.path().join("c.nii")], Normalize::Hu),
            Err(ScanFilesError::Absent { .. })
        ));
        // A label map that cannot be seen is not a reason to leave its case out of an evaluation.
        let error = label_maps(folder.path()).unwrap_err().to_string();
        assert!(error.contains("b.nii.gz: cannot follow"), "{error}");
    }

    #[test]
    fn dicom_without_a_preamble_is_named_as_in_a_conversion() {
        let folder = folder(&["a.nii"]);
        let bare = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100\x08\x00\x08\x00CS\x08\x00ORIGINAL";
        for name in ["IM0002", "IM0001", "z.dcm"] {
            std::fs::write(folder.path().join(name), bare).unwrap();
        }
        let scans = Scans::find(&[folder.path().to_owned()], Normalize::Hu).unwrap();
        let reason = UnusedReason::DicomWithoutPreamble.to_string();
        assert_eq!(scans.files.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(scans.skipped, [SkippedScan { case: "IM0001 and 2 more".to_owned(), reason: reason.clone() }]);
        // Given by name.
        let scans = Scans::find(&[folder.path().join("IM0001")], Normalize::Hu).unwrap();
        assert_eq!(scans.skipped, [SkippedScan { case: "IM0001".to_owned(), reason }]);
    }

    #[test]
    fn subfolders_of_an_empty_folder_are_named() {
        let folder = folder(&["notes.txt"]);
        std::fs::create_dir(folder.path().join("imagesTs")).unwrap();
        let error = Scans::find(&[folder.path().to_owned()], Normalize::Hu).unwrap_err().to_string();
        assert!(error.ends_with("imagesTs are not searched, name them as inputs"), "{error}");
    }
}
