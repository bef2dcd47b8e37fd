//! Tests that write one grid in every format.

use super::super::{read_info, read_labels, read_volume};
use super::*;
use crate::geometry::{Affine, largest_shift_mm};
use crate::phantom::{PhantomConfig, write_dataset};

#[test]
fn label_maps_lie_where_the_scan_lies_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    write_dataset(dir.path(), &PhantomConfig { cases: 1, seed: 3, spacing_mm: [6.0, 8.0] }).unwrap();
    let scan = read_info(&dir.path().join("imagesTr/phantom_000_0000.nii.gz")).unwrap();
    let voxels: Vec<u8> = (0..=250).cycle().take(scan.shape.iter().product()).collect();
    std::fs::write(dir.path().join(".hiend-killed.nii.gz"), b"half a label map").unwrap();
    for name in ["label.nii.gz", "label.nii", "label.1.2.nii", "label.1.2.nii.gz", "label.nrrd", "label.1.2.mha"] {
        let path = dir.path().join(name);
        write_like(&path, &scan, &voxels).unwrap();
        let read = read_labels(&path).unwrap();
        assert_eq!(read.info.shape, scan.shape, "{name}");
        assert!(largest_shift_mm(&read.info.affine, &scan.affine, scan.shape) < 1e-9, "{name}");
        assert_eq!(read.info.orientation, scan.orientation, "{name}");
        assert_eq!(read.voxels, voxels, "{name}");
        assert!(read.info.notes.is_empty(), "{name}: {:?}", read.info.notes);
    }
    assert!(write_like(&dir.path().join("short.nii"), &scan, &voxels[1..]).is_err());
    assert!(write_like(&dir.path().join("short.mha"), &scan, &voxels[1..]).is_err());
    assert!(write_like(&dir.path().join("nowhere/label.nii"), &scan, &voxels).is_err());
    assert!(write_like(&dir.path().join("nowhere/label.nrrd"), &scan, &voxels).is_err());
    let hidden = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0, "no temporary file is left");
}

/// Grids that would change if a sign, an axis or an order were mistaken: oblique, anisotropic, mirrored, permuted.
fn grids() -> Vec<Affine> {
    let (c, s) = (0.3f64.cos(), 0.3f64.sin());
    let last = [0.0, 0.0, 0.0, 1.0];
    vec![
        [[0.7, 0.0, 0.0, -31.5], [0.0, 0.9, 0.0, 12.25], [0.0, 0.0, 2.5, 900.125], last],
        [[-0.7, 0.0, 0.0, 31.5], [0.0, -0.9, 0.0, 12.25], [0.0, 0.0, -2.5, -7.0], last],
        [[0.0, 0.0, 3.0, 1.0], [-1.5, 0.0, 0.0, 2.0], [0.0, 0.5, 0.0, 3.0], last],
        [[0.7 * c, -0.9 * s, 0.0, -10.0], [0.7 * s, 0.9 * c, 0.0, 20.0], [0.0, 0.0, 2.5, -30.0], last],
        [[-0.7 * c, 0.0, 2.5 * s, 1.0], [0.0, -0.9, 0.0, 2.0], [0.7 * s, 0.0, 2.5 * c, 3.0], last],
    ]
}

#[test]
fn every_grid_is_the_same_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let shape = [4, 3, 2];
    let voxels: Vec<i16> = (0..24).map(|at| at * 100 - 1000).collect();
    let expected: Vec<f32> = voxels.iter().copied().map(f32::from).collect();
    for affine in grids() {
        let scan = VolumeInfo::new(shape, affine).unwrap();
        for name in ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"] {
            let path = dir.path().join(name);
            write_like(&path, &scan, &voxels).unwrap();
            let volume = read_volume(&path).unwrap();
            assert_eq!(volume.info.shape, shape, "{name}");
            assert_eq!(volume.info.orientation, scan.orientation, "{name}");
            // NIfTI holds 24 bits of each number, and the grids lie within 2 m.
            let shift = largest_shift_mm(&volume.info.affine, &affine, shape);
            assert!(shift < 1e-3, "{name}: {shift} mm off {affine:?}");
            assert!(volume.info.notes.is_empty(), "{name}: {:?}", volume.info.notes);
            let mut values = vec![0.0; 24];
            volume.read_f32(0, &mut values);
            assert_eq!(values, expected, "{name}");
        }
    }
}

#[test]
fn a_sheared_grid_has_no_qform() {
    let dir = tempfile::tempdir().unwrap();
    let affine = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    let path = dir.path().join("a.nii");
    write_like(&path, &VolumeInfo::new([2, 2, 2], affine).unwrap(), &[0u8; 8]).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((bytes[252], bytes[254]), (0, 1), "qform_code and sform_code");
    assert!(largest_shift_mm(&read_info(&path).unwrap().affine, &affine, [2, 2, 2]) < 1e-6);
}
