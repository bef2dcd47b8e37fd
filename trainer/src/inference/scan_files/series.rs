//! DICOM series of a folder, and the files next to them.

use std::collections::BTreeMap;
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
    /// Files that cannot be used and may be scans, sorted.
    pub unusable: Vec<SkippedScan>,
    /// Parts of a study next to its series that are not scans, sorted by their paths.
    pub passed_over: Vec<SkippedScan>,
}

impl DicomFiles {
    /// Sorts DICOM files of a folder.
    pub(super) fn among(folder: &Path, candidates: &[PathBuf], normalize: Normalize) -> Self {
        let Sorted { series, others } = dicom::sort_of(candidates, normalize.into());
        let (is_only, has_series) = (series.len() == 1, !series.is_empty());
        let named = |series: Series| {
            let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
            let name = if is_only { file_name(&folder) } else { series.name };
            let path = series.files[0].clone();
            (ScanFile { name, path, is_series: true }, series.files)
        };
        let series = series.into_iter().map(named).collect();
        let (mut unusable, mut passed_over) = (ByReason::new(), ByReason::new());
        for OtherFile { path, reason } in others {
            let name = shown(Path::new(&file_name(&path)));
            let (files, name, reason) = match reason {
                // As a conversion names them, whatever their endings are.
                Other::NotDicom | Other::Damaged(_) if is_without_preamble(&path) => {
                    (&mut unusable, name, UnusedReason::DicomWithoutPreamble.to_string())
                }
                // Parts of most studies, and no scans; or no DICOM.
                Other::Localizer | Other::Class(_) | Other::NotDicom => continue,
                Other::Without("Modality") | Other::Modality(_) => {
                    let reason = match normalize {
                        Normalize::Hu => format!("DICOM {reason}, not a CT"),
                        Normalize::Zscore => format!("DICOM {reason}, not a CT, MR, PET or NM image"),
                    };
                    // Remarks are not told by case: the name alone would leave open which of several folders is meant.
                    if has_series { (&mut passed_over, shown(&path), reason) } else { (&mut unusable, name, reason) }
                }
                // An image of a wanted modality.
                Other::Without(_) => (&mut unusable, name, format!("DICOM {reason}")),
                Other::Damaged(reason) => (&mut unusable, name, reason),
            };
            files.entry(reason).or_insert((name, 0)).1 += 1;
        }
        Self { series, unusable: reports(unusable), passed_over: reports(passed_over) }
    }
}

/// Name of the first file and number of all by the reason that they have in common.
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

/// The series of a folder, with their files.
pub(super) fn series_in_folder(
    folder: &Path,
    normalize: Normalize,
) -> Result<Vec<(ScanFile, Vec<PathBuf>)>, ScanFilesError> {
    let candidates = dicom::candidates(folder)
        .map_err(|error| ScanFilesError::Unusable { path: folder.to_owned(), reason: error.reason.to_string() })?;
    Ok(DicomFiles::among(folder, &candidates, normalize).series)
}

/// The series that a DICOM file belongs to, among those of its folder.
pub(super) fn series_of(
    file: &Path,
    series: &[(ScanFile, Vec<PathBuf>)],
    normalize: Normalize,
) -> Result<ScanFile, ScanFilesError> {
    let is_it = |path: &PathBuf| path.file_name() == file.file_name();
    let found = series.iter().find(|(_, files)| files.iter().any(is_it));
    found.map(|(scan, _)| scan.clone()).ok_or_else(|| {
        let path = file.to_owned();
        if is_without_preamble(file) {
            return ScanFilesError::Unusable { path, reason: UnusedReason::DicomWithoutPreamble.to_string() };
        }
        ScanFilesError::NotAScan { path, normalize }
    })
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
