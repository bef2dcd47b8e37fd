//! Refusal of scans whose header gives them a size that no scan of a body has.

use crate::geometry::spacing;
use crate::preprocess::PreprocessConfig;
use crate::volume::VolumeInfo;

/// Largest number of voxels of a resampled scan: at 1.5 mm a cube of 2.4 m.
const MAX_RESAMPLED: f64 = 4_294_967_296.0;
/// Smallest length of a scan's longest side in mm: a header in metres that says mm makes half a millimetre of a body.
const MIN_EXTENT_MM: f64 = 3.0;

/// A size that no scan has.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExtentError {
    /// The resampled volume would fit no memory.
    #[error("voxels of {} mm would make it {voxels:.1e} voxels large at the new spacing; mend the header", sides(*spacing))]
    TooLarge {
        /// Voxel side lengths by the header, in mm.
        spacing: [f64; 3],
        /// Number of voxels after resampling.
        voxels: f64,
    },
    /// The whole scan is a few millimetres large.
    #[error("scan of {} mm in all, with voxels of {} mm; mend the header (are its units metres?)", sides(*extent), sides(*spacing))]
    TooSmall {
        /// Voxel side lengths by the header, in mm.
        spacing: [f64; 3],
        /// Side lengths of the scan, in mm.
        extent: [f64; 3],
    },
}

fn sides(mm: [f64; 3]) -> String {
    let [x, y, z] = mm.map(|side| if side >= 0.01 { format!("{side:.2}") } else { format!("{side:.1e}") });
    format!("{x} x {y} x {z}")
}

/// Checks that a scan is between a few millimetres and a few metres large.
///
/// # Errors
/// If it is not; the message has the sizes.
pub fn check_extent(info: &VolumeInfo, config: &PreprocessConfig) -> Result<(), ExtentError> {
    let spacing = spacing(&info.affine);
    let extent: [f64; 3] = std::array::from_fn(|axis| info.shape[axis] as f64 * spacing[axis]);
    if extent.iter().all(|length| *length < MIN_EXTENT_MM) {
        return Err(ExtentError::TooSmall { spacing, extent });
    }
    let Some(target) = config.spacing else { return Ok(()) };
    // The target's axes may be in another order; its smallest side bounds every length.
    let finest = target.into_iter().fold(f64::INFINITY, f64::min);
    let voxels: f64 = extent.iter().product::<f64>() / target.iter().product::<f64>();
    if voxels <= MAX_RESAMPLED && extent.iter().all(|length| length / finest <= MAX_RESAMPLED / 1024.0) {
        return Ok(());
    }
    Err(ExtentError::TooLarge { spacing, voxels })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::nifti::testing::TestFile;
    use crate::volume::read_info;

    fn check(side: f32) -> Result<(), ExtentError> {
        let dir = tempfile::tempdir().unwrap();
        let rows = [[side, 0.0, 0.0, 0.0], [0.0, side, 0.0, 0.0], [0.0, 0.0, side, 0.0]];
        let file = TestFile::new([8, 8, 8], &[0; 512]).units(0).sform(1, &rows);
        let info = read_info(&file.write(&dir.path().join("a.nii"))).unwrap();
        check_extent(&info, &PreprocessConfig::default())
    }

    #[test]
    fn extents_of_no_body_are_refused() {
        assert_eq!(check(0.7), Ok(()));
        assert_eq!(check(5.0), Ok(()));
        let error = check(0.0015).unwrap_err().to_string();
        assert!(error.starts_with("scan of 0.01 x 0.01 x 0.01 mm in all, with voxels of 1.5e-3 x"), "{error}");
        assert!(matches!(check(1500.0), Err(ExtentError::TooLarge { .. })));
    }
}
