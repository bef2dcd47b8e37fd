//! Checks of a header's geometry, common to all formats.

use super::VolumeFault;
use super::note::HeaderNote;
use crate::geometry::{Affine, Orientation, spacing};

/// Largest number of voxels that is read (16 Gi), more than any scanner produces.
const MAX_VOXELS: u64 = 1 << 34;
/// Voxel side lengths in mm that a scan of a patient may have.
const CREDIBLE_SIDES_MM: std::ops::RangeInclusive<f64> = 0.02..=50.0;

/// Last row of every affine.
pub(super) const LAST_ROW: [f64; 4] = [0.0, 0.0, 0.0, 1.0];

/// Shape and number of voxels of an array with these lengths; trailing lengths of 1 are dropped.
pub(super) fn shape(lengths: Vec<usize>) -> Result<([usize; 3], u64), VolumeFault> {
    if lengths.iter().skip(3).any(|&length| length != 1) {
        return Err(VolumeFault::NotThreeD { rank: lengths.len(), lengths });
    }
    let shape = match lengths.get(..3) {
        Some(&[x, y, z]) if x > 0 && y > 0 && z > 0 && x.max(y).max(z) <= 32_767 => [x, y, z],
        _ => return Err(VolumeFault::Lengths { lengths }),
    };
    let num_voxels = shape.iter().try_fold(1u64, |n, &length| n.checked_mul(length as u64));
    match num_voxels.filter(|&n| n <= MAX_VOXELS) {
        Some(num_voxels) => Ok((shape, num_voxels)),
        None => Err(VolumeFault::TooLarge { shape }),
    }
}

/// Orientation of an affine that places voxels of positive size in the world.
pub(super) fn orientation(affine: &Affine) -> Result<Orientation, VolumeFault> {
    if let Some(side) = spacing(affine).into_iter().find(|side| !(side.is_finite() && *side > 1e-4)) {
        return Err(VolumeFault::Spacing { side });
    }
    if affine.iter().flatten().any(|value| !value.is_finite()) {
        return Err(VolumeFault::AffineNotFinite);
    }
    Orientation::closest(affine).ok_or(VolumeFault::AffineFlat)
}

/// Affine from the position of the first voxel and the offsets to its neighbour along each axis.
pub(super) fn affine(columns: [[f64; 3]; 3], origin: [f64; 3]) -> Affine {
    let row = |r: usize| [columns[0][r], columns[1][r], columns[2][r], origin[r]];
    [row(0), row(1), row(2), LAST_ROW]
}

/// Affine in coordinates whose selected axes run the other way: converts LPS to RAS for `[true, true, false]`, and
/// back.
pub(super) fn mirrored(mut affine: Affine, axes: [bool; 3]) -> Affine {
    for (row, _) in affine.iter_mut().zip(axes).filter(|(_, is_mirrored)| *is_mirrored) {
        for value in row {
            // Not -value, which would make -0 of 0.
            *value = 0.0 - *value;
        }
    }
    affine
}

/// Axes that differ between RAS and LPS, which most formats use.
pub(super) const LPS: [bool; 3] = [true, true, false];

/// Converts an affine from another unit of length to mm if that gives voxels of a credible size.
pub(super) fn in_mm(affine: Affine, unit: &'static str, mm: f64, notes: &mut Vec<HeaderNote>) -> Affine {
    let credible = |factor: f64| spacing(&affine).iter().all(|side| CREDIBLE_SIDES_MM.contains(&(side * factor)));
    if !credible(mm) && credible(1.0) {
        let side = spacing(&affine).into_iter().fold(f64::INFINITY, f64::min);
        notes.push(HeaderNote::UnitIgnored { unit, side_mm: side * mm });
        return affine;
    }
    notes.push(HeaderNote::Converted { unit });
    let mut scaled = affine;
    for value in scaled.iter_mut().take(3).flatten() {
        *value *= mm;
    }
    scaled
}
