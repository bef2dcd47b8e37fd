//! Writing of `NIfTI` files.

use std::io;
use std::path::Path;

use hiend_cache::durable;
use nalgebra::{Matrix3, Rotation3, UnitQuaternion};
use ndarray::{ArrayView3, ShapeBuilder as _};
use nifti::writer::WriterOptions;
use nifti::{DataElement, NiftiError, NiftiHeader};

use super::super::{VolumeFault, VolumeInfo};
use crate::geometry::{Affine, spacing};

/// Offset of the first voxel in a file without extensions.
const DATA_OFFSET: usize = 352;
/// Largest cosine of the angle between two axes at which an affine still counts as a rotation.
const MAX_COSINE: f64 = 1e-4;

/// Writes voxels as `.nii` or `.nii.gz` with the header of the scan, or, if it has none, with a new header for its
/// grid.
pub(in super::super) fn write<T>(path: &Path, scan: &VolumeInfo, voxels: &[T]) -> Result<(), VolumeFault>
where
    T: DataElement + bytemuck::Pod,
{
    let [nx, ny, nz] = scan.shape;
    let array = ArrayView3::from_shape((nx, ny, nz).f(), voxels)
        .map_err(|error| VolumeFault::VoxelCount { message: error.to_string() })?;
    let own = scan.nifti.as_deref().cloned().unwrap_or_else(|| header_of(&scan.affine));
    // The display range of the scan does not suit other voxels.
    let header = NiftiHeader { cal_min: 0.0, cal_max: 0.0, ..own };
    let is_gzip = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    durable::write_path(path, |temporary| {
        let written = WriterOptions::new(temporary).reference_header(&header).write_nifti(&array);
        written.map_err(|error| if let NiftiError::Io(error) = error { error } else { io::Error::other(error) })?;
        // The writer ignores an error of its last write without compression, such as that of a full disk.
        if is_gzip { Ok(()) } else { check_len(temporary, (DATA_OFFSET + size_of_val(voxels)) as u64) }
    })
    .map_err(|error| VolumeFault::Write { action: error.action, message: error.source.to_string() })
}

/// Header of a grid in mm: the affine as sform, and as qform too if it is a rotation.
fn header_of(affine: &Affine) -> NiftiHeader {
    #[expect(clippy::cast_possible_truncation, reason = "NIfTI stores affines as f32")]
    let rows = affine.map(|row| row.map(|value| value as f32));
    let sides = spacing(affine);
    let mut axes = Matrix3::from_fn(|row, axis| affine[row][axis] / sides[axis]);
    let is_rotation = (0..3).all(|axis| axes.column(axis).dot(&axes.column((axis + 1) % 3)).abs() < MAX_COSINE);
    // A mirrored grid is a rotated one whose third axis is reversed.
    let turned = if axes.determinant() < 0.0 { -1.0 } else { 1.0 };
    axes.column_mut(2).scale_mut(turned);
    let rotation = UnitQuaternion::from_rotation_matrix(&Rotation3::from_matrix_unchecked(axes));
    // The header stores three components, which stand for a quaternion with a first one that is not negative.
    let sign = if rotation.w < 0.0 { -1.0 } else { 1.0 };
    #[expect(clippy::cast_possible_truncation, reason = "NIfTI stores sides and quaternions as f32")]
    let ([sx, sy, sz], [b, c, d]) =
        (sides.map(|side| side as f32), [rotation.i, rotation.j, rotation.k].map(|part| (part * sign) as f32));
    let mut pixdim = [1.0; 8];
    #[expect(clippy::cast_possible_truncation, reason = "1 or -1")]
    let turned = turned as f32;
    pixdim[..4].copy_from_slice(&[turned, sx, sy, sz]);
    NiftiHeader {
        pixdim,
        // Unit: millimetres.
        xyzt_units: 2,
        sform_code: 1,
        qform_code: i16::from(is_rotation),
        quatern_b: b,
        quatern_c: c,
        quatern_d: d,
        quatern_x: rows[0][3],
        quatern_y: rows[1][3],
        quatern_z: rows[2][3],
        srow_x: rows[0],
        srow_y: rows[1],
        srow_z: rows[2],
        ..NiftiHeader::default()
    }
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
    use super::*;

    #[test]
    fn a_file_that_was_cut_short_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("label.nii");
        std::fs::write(&path, b"label map").unwrap();
        check_len(&path, 9).unwrap();
        let error = check_len(&path, 10).unwrap_err();
        assert!(error.to_string().starts_with("9 of 10 bytes"), "{error}");
    }
}
