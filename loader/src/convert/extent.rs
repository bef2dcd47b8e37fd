//! Rejection of scans with sizes that no body scan has, judged by their headers, and reports of rare sizes.

use crate::geometry::{Affine, spacing};
use crate::preprocess::PreprocessConfig;
use crate::volume::{HeaderNote, VolumeInfo};

/// Largest number of voxels of a resampled scan: at 1.5 mm a cube of 2.4 m.
const MAX_RESAMPLED: f64 = 4_294_967_296.0;
/// Smallest length of a scan's longest side in mm: a header whose lengths are in metres but declared as mm shrinks a
/// body to half a millimetre.
const MIN_EXTENT_MM: f64 = 3.0;
/// Length in mm of a scan's second longest side below which its units may be centimetres: a field of view of 780 mm,
/// the widest of any scanner, falls below it if lengths in centimetres are declared as mm. Small fields of view of
/// dental cone-beam scans, 40 or 50 mm wide with voxels of 0.08 to 0.2 mm, are reported too.
const SMALL_MM: f64 = 80.0;
/// Largest voxel side of such scans in mm: that of a coarse scan in centimetres. Small parts cut out of scans mostly
/// have larger voxels.
const FINE_MM: f64 = 0.5;
/// Length in mm of a scan's longest side above which its units may be micrometres: no scanner table moves that far.
const LARGE_MM: f64 = 3000.0;

/// Voxel side in mm above which the spacing may be wrong: slices of CTs are at most 10 mm apart, in old scans 20 mm.
const COARSE_MM: f64 = 20.0;

/// A size that no scan has.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExtentError {
    /// The resampled volume would not fit into any memory.
    #[error(
        "with voxel sides of {} mm the resampled scan would have {voxels:.1e} voxels; correct the spacing in the header",
        sides(*spacing)
    )]
    TooLarge {
        /// Voxel side lengths from the header, in mm.
        spacing: [f64; 3],
        /// Number of voxels after resampling.
        voxels: f64,
    },
    /// The whole scan is a few millimetres large.
    #[error(
        "the whole scan measures {} mm with voxels of {} mm; correct the spacing in the header (is it in metres?)",
        sides(*extent),
        sides(*spacing)
    )]
    TooSmall {
        /// Voxel side lengths from the header, in mm.
        spacing: [f64; 3],
        /// Side lengths of the scan, in mm.
        extent: [f64; 3],
    },
}

/// Side lengths of the voxels and of the scan, in mm.
fn lengths(info: &VolumeInfo) -> ([f64; 3], [f64; 3]) {
    let spacing = spacing(&info.affine);
    (spacing, std::array::from_fn(|axis| info.shape[axis] as f64 * spacing[axis]))
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
    let (spacing, extent) = lengths(info);
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

/// Returns true for the affines of programs that were given none: the identity in RAS+, as nibabel writes it, or in LPS+, as
/// ITK does.
fn is_default(affine: &Affine) -> bool {
    let is_identity = |in_plane: f64| {
        let diagonal = [in_plane, in_plane, 1.0, 1.0];
        (0..4).all(|row| {
            (0..4).all(|column| {
                let expected = if row == column { diagonal[row] } else { 0.0 };
                (affine[row][column] - expected).abs() < 1e-6
            })
        })
    };
    is_identity(1.0) || is_identity(-1.0)
}

/// Unusual features of a scan's size, each in one line.
pub(crate) fn extent_findings(info: &VolumeInfo) -> Vec<String> {
    let (spacing, extent) = lengths(info);
    let mut findings = Vec::new();
    if info.shape.contains(&1) {
        let [x, y, z] = info.shape;
        findings.push(format!(
            "a single slice of {x} x {y} x {z} voxels, not a volume; join the slices of a scan in one file, or exclude the case"
        ));
    }
    let is_assumed = |note: &HeaderNote| {
        matches!(note, HeaderNote::NoTransform | HeaderNote::NoSpacing | HeaderNote::SpaceAssumed { .. })
    };
    if is_default(&info.affine) && !info.notes.iter().any(is_assumed) {
        let text = "the affine is the identity, as programs write it that lost the header; check spacing, orientation and \
                    origin";
        findings.push(text.to_owned());
    }
    let mut sorted = extent;
    sorted.sort_by(f64::total_cmp);
    let unit = if sorted[1] < SMALL_MM && spacing.into_iter().fold(f64::INFINITY, f64::min) <= FINE_MM {
        "cm"
    } else if sorted[2] > LARGE_MM {
        "micrometres"
    } else {
        if spacing.into_iter().any(|side| side > COARSE_MM) {
            let voxel = sides(spacing);
            findings.push(format!("voxels of {voxel} mm, coarser than those of CTs; check the spacing in the header"));
        }
        return findings;
    };
    let (extent, voxel) = (sides(extent), sides(spacing));
    findings.push(format!(
        "the whole scan measures {extent} mm with voxels of {voxel} mm; check the units of the header ({unit} in place of mm?)"
    ));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(shape: [usize; 3], sides: [f32; 3]) -> VolumeInfo {
        info_at(shape, sides, 5.0)
    }

    fn info_at(shape: [usize; 3], sides: [f32; 3], origin: f32) -> VolumeInfo {
        let [x, y, z] = sides.map(f64::from);
        let rows = [[x, 0.0, 0.0, f64::from(origin)], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0], [0.0, 0.0, 0.0, 1.0]];
        VolumeInfo::new(shape, rows).unwrap()
    }

    fn check(side: f32) -> Result<(), ExtentError> {
        check_extent(&info([8; 3], [side; 3]), &PreprocessConfig::default())
    }

    #[test]
    fn extents_of_no_body_are_refused() {
        assert_eq!(check(0.7), Ok(()));
        assert_eq!(check(5.0), Ok(()));
        let error = check(0.0015).unwrap_err().to_string();
        assert!(error.starts_with("the whole scan measures 0.01 x 0.01 x 0.01 mm with voxels of 1.5e-3 x"), "{error}");
        assert!(matches!(check(1500.0), Err(ExtentError::TooLarge { .. })));
    }

    #[test]
    fn sizes_that_few_scans_have_are_reported() {
        let check = |shape, sides, expected: &[&str]| {
            let found = extent_findings(&info(shape, sides));
            let is_expected = found.iter().zip(expected).all(|(text, part)| text.contains(*part));
            assert!(found.len() == expected.len() && is_expected, "{found:?}");
        };
        let in_cm = "mm; check the units of the header (cm in place of mm?)";
        // A coarse torso, a fine one, and a whole body, in cm.
        check(
            [100, 100, 60],
            [0.42, 0.42, 0.5],
            &["the whole scan measures 42.00 x 42.00 x 30.00 mm with voxels of 0.42 x 0.42 x 0.50 "],
        );
        check([512, 512, 100], [0.078, 0.078, 0.5], &[in_cm]);
        check([512, 512, 600], [0.097, 0.097, 0.3], &[in_cm]);
        check(
            [512, 512, 300],
            [700.0, 700.0, 2500.0],
            &["check the units of the header (micrometres in place of mm?)"],
        );
        // The same in mm, an ear, and a part of 32 mm that was cut out.
        check([512, 512, 100], [0.78, 0.78, 5.0], &[]);
        check([512, 512, 300], [0.18, 0.18, 0.2], &[]);
        check([32; 3], [1.0; 3], &[]);
        // A dental cone-beam scan, whose units are mm.
        check([500, 500, 500], [0.08, 0.08, 0.08], &[in_cm]);
        check([512, 512, 20], [0.78, 0.78, 60.0], &["voxels of 0.78 x 0.78 x 60.00 mm, coarser than those of CTs"]);
        let arrays = extent_findings(&info_at([32; 3], [1.0; 3], 0.0));
        assert!(arrays.len() == 1 && arrays[0].starts_with("the affine is the identity"), "{arrays:?}");
        check([512, 512, 1], [0.78, 0.78, 5.0], &["a single slice of 512 x 512 x 1 voxels"]);
        check([512, 1, 300], [0.78, 0.78, 1.5], &["a single slice of 512 x 1 x 300 voxels"]);
    }
}
