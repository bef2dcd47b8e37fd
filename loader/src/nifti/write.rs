//! Writing what was computed for a scan, on the scan's own grid.

use std::path::Path;

use ndarray::{ArrayView3, ShapeBuilder as _};
use nifti::writer::WriterOptions;
use nifti::{DataElement, NiftiError as WriteError, NiftiHeader};

use super::{NiftiError, NiftiInfo};

/// Writes voxels `[x, y, z]`, the first axis fastest, as `.nii` or `.nii.gz` with the header of the scan they belong to:
/// its grid, orientation, units and codes. Under another name first, then renamed.
///
/// # Errors
/// If there are not as many voxels as the scan has, or the file cannot be written.
pub fn write_like<T>(path: &Path, scan: &NiftiInfo, voxels: &[T]) -> Result<(), NiftiError>
where
    T: DataElement + bytemuck::Pod,
{
    let at = |reason| NiftiError { path: path.to_owned(), reason };
    let [nx, ny, nz] = scan.shape;
    let array = ArrayView3::from_shape((nx, ny, nz).f(), voxels).map_err(|error| at(format!("{error}")))?;
    // What a viewer would scale the picture by was the scan's, not ours.
    let header = NiftiHeader { cal_min: 0.0, cal_max: 0.0, ..scan.header.clone() };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let partial = path.with_file_name(format!(".partial-{name}"));
    let written = WriterOptions::new(&partial)
        .reference_header(&header)
        .write_nifti(&array)
        .map_err(|error| {
            // The crate shows what the system said in the form of a program's value.
            let reason = if let WriteError::Io(error) = &error { error.to_string() } else { error.to_string() };
            at(format!("cannot write: {reason}"))
        })
        .and_then(|()| std::fs::rename(&partial, path).map_err(|error| at(format!("cannot write: {error}"))));
    if written.is_err() {
        // What matters is the first failure.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::{read_info, read_labels};
    use super::*;
    use crate::phantom::{PhantomConfig, write_dataset};

    #[test]
    fn what_is_written_lies_where_the_scan_lies() {
        let dir = tempfile::tempdir().unwrap();
        write_dataset(dir.path(), &PhantomConfig { cases: 1, seed: 3, spacing_mm: [6.0, 8.0] }).unwrap();
        let scan = read_info(&dir.path().join("imagesTr/phantom_000_0000.nii.gz")).unwrap();
        let voxels: Vec<u8> = (0..=250).cycle().take(scan.shape.iter().product()).collect();
        for name in ["label.nii.gz", "label.nii"] {
            let path = dir.path().join(name);
            write_like(&path, &scan, &voxels).unwrap();
            let read = read_labels(&path).unwrap();
            assert_eq!(read.info.shape, scan.shape);
            assert_eq!(read.info.affine, scan.affine);
            assert_eq!(read.voxels, voxels);
        }
        assert!(write_like(&dir.path().join("short.nii"), &scan, &voxels[1..]).is_err());
        assert!(write_like(&dir.path().join("nowhere/label.nii"), &scan, &voxels).is_err());
        assert!(!dir.path().join(".partial-short.nii").exists());
    }
}
