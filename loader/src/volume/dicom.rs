//! Series of DICOM files, of CT or another modality: one file per slice, all slices of a series in one folder.
//!
//! Elements are read with `dicom-parser`, token by token, and JPEG with `jpeg-decoder`. `dicom-object` and
//! `dicom-pixeldata` are not used to read files: they reserve whatever length an element claims, follow nested
//! sequences by recursion, and index beyond the end of damaged pixel data.
//!
//! | trouble | answer |
//! |---|---|
//! | localizers, modalities that are not wanted, secondary captures, labels | not part of a series; listed as unused |
//! | duplicate slices with the same pixels | read once, with a note |
//! | several images at one position, missing slices, varying distances | refused |
//! | images of several sizes or orientations in one series | refused |
//! | gantry tilt | kept as a sheared grid, with a note; resampling makes it upright |
//! | enhanced multi-frame files, transfer syntaxes without a decoder | refused by name |

mod elements;
mod fault;
mod pixels;
mod rle;
mod series;
mod slice;
mod stack;

use std::path::{Path, PathBuf};

use hiend_cache::lookup;

use super::{Loaded, VolumeError, VolumeFault, VolumeInfo};
use slice::Slice;
use stack::Stack;

pub use super::Wanted;
pub use fault::DicomFault;
pub use series::{Other, OtherFile, Series, Sorted, is_candidate, is_cross_section, sort, sort_of};

/// Reads the headers of a series.
///
/// # Errors
/// If a file cannot be read, or the slices make no regular grid.
pub fn read_series_info(files: &[PathBuf]) -> Result<VolumeInfo, VolumeError> {
    Ok(stack_of(files)?.info)
}

fn stack_of(files: &[PathBuf]) -> Result<Stack, VolumeError> {
    let slices: Vec<Slice> = files.iter().map(|path| Slice::read(path)).collect::<Result<_, _>>()?;
    let folder = files.first().and_then(|file| file.parent()).unwrap_or(Path::new("")).to_owned();
    Stack::new(slices).map_err(|fault| fault.at(&folder))
}

/// Reads the voxels of a series.
pub(super) fn load_series(files: &[PathBuf]) -> Result<Loaded, VolumeError> {
    stack_of(files)?.load()
}

/// Files of the series that a path names: for a file, the files of the same series in its folder; for a folder, its
/// only series. Series of unwanted images count as absent.
pub(super) fn files_of(path: &Path, wanted: Wanted) -> Result<Vec<PathBuf>, VolumeError> {
    let at = |reason: VolumeFault| VolumeError { path: path.to_owned(), reason };
    let data = std::fs::metadata(path).map_err(|err| at(VolumeFault::open(&err)))?;
    let folder = if data.is_dir() { path } else { lookup::parent(path) };
    let sorted = sort_of(&candidates(folder)?, wanted);
    if data.is_dir() {
        return match <[Series; 1]>::try_from(sorted.series) {
            Ok([series]) => Ok(series.files),
            Err(found) => {
                let series = if wanted == Wanted::Ct { "CT series" } else { "series" };
                Err(at(DicomFault::SeriesInFolder { count: found.len(), series }.into()))
            }
        };
    }
    let is_it = |file: &PathBuf| file.file_name() == path.file_name();
    if let Some(series) = sorted.series.into_iter().find(|series| series.files.iter().any(is_it)) {
        return Ok(series.files);
    }
    let other = sorted.others.into_iter().find(|other| is_it(&other.path));
    let what = other.map_or_else(|| "file without an image".to_owned(), |other| other.reason.to_string());
    Err(at(match wanted {
        Wanted::Ct => DicomFault::NotCt { what }.into(),
        Wanted::CrossSections => DicomFault::NotCrossSection { what }.into(),
    }))
}

/// Files of a folder that may be DICOM, sorted.
///
/// # Errors
/// If the folder cannot be listed.
pub fn candidates(folder: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let at = |err: std::io::Error| VolumeError { path: folder.to_owned(), reason: VolumeFault::read(&err) };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(at)? {
        let path = entry.map_err(at)?.path();
        let is_candidate = path.file_name().and_then(|name| name.to_str()).is_some_and(is_candidate);
        if is_candidate && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
