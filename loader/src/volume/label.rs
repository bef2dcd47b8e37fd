//! Label maps: volumes whose voxels are whole numbers from 0 to 255.

use std::path::Path;

use super::{Volume, VolumeError, VolumeFault, VolumeInfo, Wanted, read_any};

/// Largest distance of an unscaled value from a whole number that still counts as rounding.
const TOLERANCE: f64 = 1e-3;
/// Largest tolerance for values with a coarse slope.
const MAX_TOLERANCE: f64 = 0.1;

/// A label map in memory.
#[derive(Clone, Debug)]
pub struct LabelVolume {
    /// The validated header.
    pub info: VolumeInfo,
    /// Label values in file order.
    pub voxels: Vec<u8>,
    /// BLAKE3 hash of the file's bytes, in hex.
    pub blake3: String,
    /// Size of the file in bytes.
    pub file_bytes: u64,
}

/// Reads a label map. Values are rounded to whole numbers: a float map that a program stored as scaled integers may
/// read 7.999954 instead of 8.
///
/// # Errors
/// If the file cannot be read, or a voxel is NaN, not a whole number within the file's precision, or outside 0 to 255.
pub fn read_labels(path: &Path) -> Result<LabelVolume, VolumeError> {
    let volume = read_any(path, Wanted::Ct)?;
    let voxels = to_labels(&volume).map_err(|reason| VolumeError { path: path.to_owned(), reason })?;
    let Volume { info, blake3, file_bytes, .. } = volume;
    Ok(LabelVolume { info, voxels, blake3, file_bytes })
}

fn to_labels(volume: &Volume) -> Result<Vec<u8>, VolumeFault> {
    // Values stored as scaled integers are as precise as half a stored increment.
    let tolerance = if volume.info.stored.dtype.is_float() { TOLERANCE } else { volume.slope.abs() * 0.5 };
    let tolerance = tolerance.clamp(TOLERANCE, MAX_TOLERANCE);
    let mut labels = Vec::with_capacity(volume.info.shape.iter().product());
    let mut not_finite = 0usize;
    let mut bad = None;
    volume.for_each_row(|row| {
        for &value in row {
            let nearest = value.round();
            not_finite += usize::from(!value.is_finite());
            let off = f64::from((value - nearest).abs());
            if bad.is_none() && value.is_finite() && !(off <= tolerance && (0.0..=255.0).contains(&nearest)) {
                bad = Some((value, labels.len()));
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
            labels.push(nearest as u8);
        }
    });
    if not_finite > 0 {
        return Err(VolumeFault::LabelNotFinite { count: not_finite, all: labels.len() });
    }
    if let Some((value, at)) = bad {
        let [nx, ny, _] = volume.info.shape;
        return Err(VolumeFault::Label { value, voxel: [at % nx, at / nx % ny, at / nx / ny] });
    }
    Ok(labels)
}
