//! Agreement of two files' grids.

use hiend_loader::geometry::largest_shift_mm;
use hiend_loader::volume::VolumeInfo;
use thiserror::Error;

/// Largest distance in mm between the corners of two grids that count as one: more than the rounding of headers, less
/// than half a voxel.
const MAX_SHIFT_MM: f64 = 0.1;

/// A difference between the grid of a label map and that of its scan.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum GridMismatch {
    /// Other numbers of voxels.
    #[error("has {found:?} voxels, the scan {scan:?}")]
    Shape {
        /// Voxels of the label map along its axes.
        found: [usize; 3],
        /// Voxels of the scan along its axes.
        scan: [usize; 3],
    },
    /// Corners at other places.
    #[error("lies {shift_mm:.2} mm from the scan")]
    Place {
        /// Largest distance between equal corners, mm.
        shift_mm: f64,
    },
}

/// Checks that `found` has as many voxels as `scan`, at the same places to a tenth of a millimetre.
///
/// # Errors
/// The difference.
pub fn check_same_grid(scan: &VolumeInfo, found: &VolumeInfo) -> Result<(), GridMismatch> {
    if found.shape != scan.shape {
        return Err(GridMismatch::Shape { found: found.shape, scan: scan.shape });
    }
    let shift_mm = largest_shift_mm(&scan.affine, &found.affine, scan.shape);
    if shift_mm <= MAX_SHIFT_MM { Ok(()) } else { Err(GridMismatch::Place { shift_mm }) }
}
