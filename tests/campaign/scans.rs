//! Tiny CT scans as NIfTI files, with content determined by a seed.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hiend_loader::preprocess::PreprocessConfig;

/// Voxels of a scan along x, y, z.
pub(crate) const SHAPE: [usize; 3] = [18, 16, 14];

/// Preprocessing without resampling.
pub(crate) fn preprocessing() -> PreprocessConfig {
    PreprocessConfig { spacing: None, ..PreprocessConfig::default() }
}

/// Writes a scan, and its label map if `labelled`, in nnU-Net's layout. The files are an hour old, so that their
/// modification times are trusted.
pub(crate) fn write_case(dataset: &Path, name: &str, seed: u64, labelled: bool) {
    write_old(&dataset.join(format!("imagesTr/{name}_0000.nii")), &nifti(4, 16, &le_bytes(&image(seed))));
    if labelled {
        write_old(&dataset.join(format!("labelsTr/{name}.nii")), &nifti(2, 8, &label(seed)));
    }
}

fn write_old(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
}

/// Image of a noisy body in air.
fn image(seed: u64) -> Vec<i16> {
    let [nx, ny, nz] = SHAPE;
    let voxel = |at: usize| {
        let (x, y) = (at % nx, at / nx % ny);
        let mixed =
            (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed.wrapping_mul(0xd134_2543_de82_ef95));
        let noise = i16::try_from((mixed >> 33) % 61).unwrap() - 30;
        noise + if (1..nx - 1).contains(&x) && (1..ny - 1).contains(&y) { 40 } else { -1000 }
    };
    (0..nx * ny * nz).map(voxel).collect()
}

/// Label map with one plane of class 1, at a position determined by the seed.
fn label(seed: u64) -> Vec<u8> {
    let plane = SHAPE[0] * SHAPE[1];
    let chosen = 2 + usize::try_from(seed % 9).unwrap();
    (0..plane * SHAPE[2]).map(|at| u8::from(at / plane == chosen)).collect()
}

fn le_bytes(values: &[i16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Bytes of a single-file NIfTI-1 image with 2 mm voxels and this data type.
pub(crate) fn nifti(datatype: i16, bits: i16, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0u8; 352];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &348i32.to_le_bytes());
    put(40, &3i16.to_le_bytes());
    for (axis, &length) in SHAPE.iter().enumerate() {
        put(42 + 2 * axis, &i16::try_from(length).unwrap().to_le_bytes());
    }
    put(70, &datatype.to_le_bytes());
    put(72, &bits.to_le_bytes());
    for (at, value) in [(76, 1.0f32), (80, 2.0), (84, 2.0), (88, 2.0), (108, 352.0)] {
        put(at, &value.to_le_bytes());
    }
    put(123, &[2]);
    put(254, &1i16.to_le_bytes());
    let sform: [f32; 12] = [-2.0, 0.0, 0.0, 9.0, 0.0, -2.0, 0.0, 7.0, 0.0, 0.0, 2.0, -5.0];
    for (idx, value) in sform.iter().enumerate() {
        put(280 + 4 * idx, &value.to_le_bytes());
    }
    put(344, b"n+1\0");
    bytes.extend_from_slice(data);
    bytes
}
