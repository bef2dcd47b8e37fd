//! NIfTI files for tests, written byte by byte so that a test determines their exact content.

use std::path::Path;

/// Writes a `.nii` file of 16-bit voxels, the first axis fastest, with this `world_from_voxel` affine (as sform).
pub(crate) fn write(path: &Path, shape: [u16; 3], affine: [[f32; 4]; 3], voxels: &[i16]) {
    let mut file = vec![0_u8; 352];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348_i32.to_le_bytes());
    for (i, value) in [3, shape[0], shape[1], shape[2], 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * i, &value.to_le_bytes());
    }
    // Type and bits: signed 16-bit integers.
    put(70, &4_i16.to_le_bytes());
    put(72, &16_i16.to_le_bytes());
    let side = |axis: usize| affine.iter().map(|row| row[axis].powi(2)).sum::<f32>().sqrt();
    for (i, value) in [1.0, side(0), side(1), side(2)].into_iter().enumerate() {
        put(76 + 4 * i, &value.to_le_bytes());
    }
    put(108, &352.0_f32.to_le_bytes());
    // The sform is in scanner coordinates.
    put(254, &1_i16.to_le_bytes());
    for (i, value) in affine.into_iter().flatten().enumerate() {
        put(280 + 4 * i, &value.to_le_bytes());
    }
    put(344, b"n+1\0");
    file.extend(voxels.iter().flat_map(|voxel| voxel.to_le_bytes()));
    std::fs::write(path, file).unwrap();
}
