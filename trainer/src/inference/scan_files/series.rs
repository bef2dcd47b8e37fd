//! DICOM series of a folder, and the files next to them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hiend_loader::case::shown;
use hiend_loader::dataset::{UnusedReason, is_without_preamble};
use hiend_loader::preprocess::normalize::Normalize;
use hiend_loader::volume::dicom::{self, Other, OtherFile, Series, Sorted};

use super::{ScanFile, ScanFilesError, SkippedScan, file_name};

/// DICOM files of a folder.
pub(super) struct DicomFiles {
    /// Series, each with its files.
    pub series: Vec<(ScanFile, Vec<PathBuf>)>,
    /// All files that are not slices of a series.
    others: Vec<OtherFile>,
    /// Normalisation of the scans, which decides on the modalities of series.
    normalize: Normalize,
}

/// Reports of files that are not slices of a series, one for each reason.
pub(super) struct Reports {
    /// Files that cannot be used and may be scans, sorted.
    pub unusable: Vec<SkippedScan>,
    /// Parts of a study next to its series that are not scans, sorted by their paths.
    pub passed_over: Vec<SkippedScan>,
}

impl DicomFiles {
    /// Sorts DICOM files of a folder.
    pub(super) fn among(folder: &Path, candidates: &[PathBuf], normalize: Normalize) -> Self {
        let Sorted { series, others } = dicom::sort_of(candidates, normalize.into());
        let is_only = series.len() == 1;
        let named = |series: Series| {
            let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
            let name = if is_only { file_name(&folder) } else { series.name };
            let path = series.files[0].clone();
            (ScanFile { name, path, is_series: true }, series.files)
        };
        Self { series: series.into_iter().map(named).collect(), others, normalize }
    }

    /// Finds and sorts the DICOM files of a folder.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub(super) fn of(folder: &Path, normalize: Normalize) -> Result<Self, ScanFilesError> {
        let candidates = dicom::candidates(folder)
            .map_err(|error| ScanFilesError::Unusable { path: folder.to_owned(), reason: error.reason.to_string() })?;
        Ok(Self::among(folder, &candidates, normalize))
    }

    /// The series that a file of the folder belongs to.
    pub(super) fn series_of(&self, file: &Path) -> Option<&ScanFile> {
        let is_it = |path: &PathBuf| path.file_name() == file.file_name();
        self.series.iter().find(|(_, files)| files.iter().any(is_it)).map(|(scan, _)| scan)
    }

    /// Returns true for a DICOM file that belongs to no series.
    pub(super) fn has_other(&self, file: &Path) -> bool {
        let is_dicom = |other: &OtherFile| other.reason != Other::NotDicom || is_without_preamble(&other.path);
        let is_it = |other: &OtherFile| other.path.file_name() == file.file_name() && is_dicom(other);
        self.others.iter().any(is_it)
    }

    /// Reports of the files that belong to no series: of all of them except those that most studies have, or of those
    /// that were given by name.
    pub(super) fn reports(&self, given: Option<&BTreeSet<OsString>>) -> Reports {
        let (mut unusable, mut passed_over) = (ByReason::new(), ByReason::new());
        for OtherFile { path, reason } in &self.others {
            if given.is_some_and(|given| path.file_name().is_none_or(|name| !given.contains(name))) {
                continue;
            }
            let (is_part_of_study, reason) = match reason {
                // As a conversion names them, whatever their endings are.
                Other::NotDicom | Other::Damaged(_) if is_without_preamble(path) => {
                    (false, UnusedReason::DicomWithoutPreamble.to_string())
                }
                Other::NotDicom => continue,
                Other::Localizer | Other::Class(_) if given.is_none() => continue,
                Other::Localizer | Other::Class(_) => (true, format!("DICOM {reason}")),
                Other::Without("Modality") | Other::Modality(_) => match self.normalize {
                    Normalize::Hu => (true, format!("DICOM {reason}, not a CT")),
                    Normalize::Zscore => (true, format!("DICOM {reason}, not a CT, MR, PET or NM image")),
                },
                // An image of a wanted modality.
                Other::Without(_) => (false, format!("DICOM {reason}")),
                Other::Damaged(reason) => (false, reason.clone()),
            };
            // Without a series, a part of a study may be what was meant. Remarks are not reported by case: the name alone would
            // leave open which of several folders is meant.
            let (files, name) = if is_part_of_study && !self.series.is_empty() {
                (&mut passed_over, shown(path))
            } else {
                (&mut unusable, shown(Path::new(&file_name(path))))
            };
            files.entry(reason).or_insert((name, 0)).1 += 1;
        }
        Reports { unusable: reports(unusable), passed_over: reports(passed_over) }
    }
}

/// Name of the first file and number of files, by common reason.
type ByReason = BTreeMap<String, (String, usize)>;

/// Reports of files, one for each reason, sorted by the first file.
fn reports(files: ByReason) -> Vec<SkippedScan> {
    let skipped = files.into_iter().map(|(reason, (first, count))| {
        let case = if count > 1 { format!("{first} and {} more", count - 1) } else { first };
        SkippedScan { case, reason }
    });
    let mut reports: Vec<SkippedScan> = skipped.collect();
    reports.sort();
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_sorted_by_the_first_file() {
        let of = |reason: &str, first: &str, count| (reason.to_owned(), (first.to_owned(), count));
        let found = reports(ByReason::from([of("a", "z", 1), of("b", "c", 3)]));
        let cases: Vec<&str> = found.iter().map(|skipped| skipped.case.as_str()).collect();
        assert_eq!(cases, ["c and 2 more", "z"]);
    }
}
