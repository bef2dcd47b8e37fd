//! Writing of label maps and other results of a scan on the scan's own grid.

use std::io;
use std::path::Path;

use hiend_cache::durable;
use ndarray::{ArrayView3, ShapeBuilder as _};
use nifti::writer::WriterOptions;
use nifti::{DataElement, NiftiError as WriteError, NiftiHeader};

use super::{NiftiError, NiftiFault, NiftiInfo};

/// First byte of the voxels in a file without extensions.
const DATA_OFFSET: usize = 352;

/// Writes voxels `[x, y, z]`, the first axis fastest, as `.nii` or `.nii.gz` with the header of the scan they belong to:
/// its grid, orientation, units and codes. The file appears under its name once it is complete and on disk.
///
/// Removes temporary files that killed processes left in its folder.
///
/// # Errors
/// If there are not as many voxels as the scan has, or the file cannot be written.
pub fn write_like<T>(path: &Path, scan: &NiftiInfo, voxels: &[T]) -> Result<(), NiftiError>
where
    T: DataElement + bytemuck::Pod,
{
    let at = |reason| NiftiError { path: path.to_owned(), reason };
    let [nx, ny, nz] = scan.shape;
    let array = ArrayView3::from_shape((nx, ny, nz).f(), voxels)
        .map_err(|error| at(NiftiFault::VoxelCount { message: error.to_string() }))?;
    // What a viewer would scale the picture by was the scan's, not ours.
    let header = NiftiHeader { cal_min: 0.0, cal_max: 0.0, ..scan.header.clone() };
    // Stale files are only clutter, so an error here is ignored. A folder that cannot be written fails below.
    let _ = path.parent().map(durable::remove_stale);
    let is_gzip = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    durable::write_path(path, |temporary| {
        let written = WriterOptions::new(temporary).reference_header(&header).write_nifti(&array);
        written.map_err(|error| if let WriteError::Io(error) = error { error } else { io::Error::other(error) })?;
        // The writer ignores an error of its last write without compression, such as that of a full disk.
        if is_gzip { Ok(()) } else { check_len(temporary, (DATA_OFFSET + size_of_val(voxels)) as u64) }
    })
    .map_err(|error| at(NiftiFault::Write { action: error.action, message: error.source.to_string() }))
}

/// Checks that all bytes of a file were written.
fn check_len(path: &Path, expected: u64) -> io::Result<()> {
    let found = std::fs::metadata(path)?.len();
    if found == expected {
        return Ok(());
    }
    let reason = format!("{found} of {expected} bytes were written; the disk may be full");
    Err(io::Error::new(io::ErrorKind::StorageFull, reason))
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
        std::fs::write(dir.path().join(".hiend-killed.nii.gz"), b"half a label map").unwrap();
        for name in ["label.nii.gz", "label.nii", "label.1.2.nii", "label.1.2.nii.gz"] {
            let path = dir.path().join(name);
            write_like(&path, &scan, &voxels).unwrap();
            let read = read_labels(&path).unwrap();
            assert_eq!(read.info.shape, scan.shape);
            assert_eq!(read.info.affine, scan.affine);
            assert_eq!(read.voxels, voxels);
        }
        let len = std::fs::metadata(dir.path().join("label.nii")).unwrap().len();
        check_len(&dir.path().join("label.nii"), len).unwrap();
        let error = check_len(&dir.path().join("label.nii"), len + 1).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{len} of {} bytes", len + 1)), "{error}");
        assert!(write_like(&dir.path().join("short.nii"), &scan, &voxels[1..]).is_err());
        assert!(write_like(&dir.path().join("nowhere/label.nii"), &scan, &voxels).is_err());
        let hidden = std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
        assert_eq!(hidden.count(), 0, "no temporary file is left");
    }
}
