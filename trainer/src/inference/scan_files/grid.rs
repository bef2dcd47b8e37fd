//! Comparison of the grids of two files.

use hiend_loader::preprocess::PreprocessError;
use hiend_loader::preprocess::label_place::{LabelPlace, Shift};
use hiend_loader::volume::VolumeInfo;
use thiserror::Error;

/// Largest distance in mm between the corners of two grids that count as equal: more than the rounding of headers, less
/// than half a voxel.
const MAX_SHIFT_MM: f64 = 0.1;

/// A difference between the grid of a label map and that of its scan.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum GridMismatch {
    /// The numbers of voxels differ.
    #[error("has {found:?} voxels, the scan {scan:?}")]
    Shape {
        /// Voxels of the label map along its axes.
        found: [usize; 3],
        /// Voxels of the scan along its axes.
        scan: [usize; 3],
    },
    /// The corners lie at different positions.
    #[error("lies {shift} from the scan")]
    Place {
        /// Largest distance between corresponding corners.
        shift: Shift,
    },
}

/// Checks that `found` has as many voxels as `scan`, and at the same positions to within a tenth of a millimetre.
///
/// # Errors
/// If the shapes differ, or the places differ by more; the error has both shapes or the distance.
pub fn check_same_grid(scan: &VolumeInfo, found: &VolumeInfo) -> Result<(), GridMismatch> {
    if found.shape != scan.shape {
        return Err(GridMismatch::Shape { found: found.shape, scan: scan.shape });
    }
    let shift = Shift::between(&scan.affine, &found.affine, scan.shape);
    if shift.mm <= MAX_SHIFT_MM { Ok(()) } else { Err(GridMismatch::Place { shift }) }
}

/// Map from the voxels of a grid to those of another with the same voxels, whose array may have its axes in another order
/// and direction and lie up to half a voxel or the shortest side of one off, as `hiend-shard` accepts between image and label map.
#[derive(Clone, Debug, PartialEq)]
pub struct SameVoxels {
    /// Relation between the two arrays.
    pub place: LabelPlace,
    /// For each axis of the first array, the contribution of each index to the position in the other array; the three
    /// contributions add up. `None` if the order is the same.
    offsets: Option<[Vec<usize>; 3]>,
}

impl SameVoxels {
    /// Relates the voxels of `scan` to those of `found`.
    ///
    /// # Errors
    /// The difference, if the voxels lie further apart than [`LabelPlace::of`] accepts.
    pub fn between(scan: &VolumeInfo, found: &VolumeInfo) -> Result<Self, GridMismatch> {
        let place = LabelPlace::of(scan, found).map_err(|error| match error {
            PreprocessError::LabelPlace { shift } => GridMismatch::Place { shift },
            // The only other error is that of the shapes.
            _ => GridMismatch::Shape { found: found.shape, scan: scan.shape },
        })?;
        if place.is_same_order {
            return Ok(Self { place, offsets: None });
        }
        let strides = [1, found.shape[0], found.shape[0] * found.shape[1]];
        let mut offsets: [Vec<usize>; 3] = Default::default();
        for (axis, &len) in scan.orientation.shape(scan.shape).iter().enumerate() {
            let (own, other) = (scan.orientation.source_axis[axis], found.orientation.source_axis[axis]);
            let is_reversed = scan.orientation.flipped[axis] != found.orientation.flipped[axis];
            let place = |at: usize| if is_reversed { len - 1 - at } else { at };
            offsets[own] = (0..len).map(|at| place(at) * strides[other]).collect();
        }
        Ok(Self { place, offsets: Some(offsets) })
    }

    /// Reorders values of the other array to the order of the first array; x is fastest in both.
    ///
    /// # Panics
    /// If there are not as many values as the grid has voxels.
    #[must_use]
    pub fn in_order(&self, values: Vec<u8>) -> Vec<u8> {
        let Some([along_x, along_y, along_z]) = &self.offsets else { return values };
        let mut ordered = Vec::with_capacity(values.len());
        for z in along_z {
            for y in along_y {
                ordered.extend(along_x.iter().map(|x| values[x + y + z]));
            }
        }
        ordered
    }
}

#[cfg(test)]
mod tests {
    use hiend_loader::geometry::Affine;

    use super::*;

    const SHAPE: [usize; 3] = [2, 3, 4];
    const AFFINE: Affine = [[1.5, 0.0, 0.0, -5.0], [0.0, 1.0, 0.0, 7.0], [0.0, 0.0, 2.0, 30.0], [0.0, 0.0, 0.0, 1.0]];

    fn info(shape: [usize; 3], affine: Affine) -> VolumeInfo {
        VolumeInfo::new(shape, affine).unwrap()
    }

    #[test]
    fn voxels_are_found_in_any_order_of_axes() {
        // The array of the other file has the axes -z, x and -y of this one.
        let other_affine: Affine =
            [[0.0, 1.5, 0.0, -5.0], [0.0, 0.0, -1.0, 9.0], [-2.0, 0.0, 0.0, 36.0], [0.0, 0.0, 0.0, 1.0]];
        let value = |[x, y, z]: [usize; 3]| (x + 10 * y + 50 * z) as u8;
        let mut other = Vec::new();
        for (y, x, z) in (0..3).rev().flat_map(|y| (0..2).flat_map(move |x| (0..4).rev().map(move |z| (y, x, z)))) {
            other.push(value([x, y, z]));
        }
        let mut expected = Vec::new();
        for (z, y, x) in (0..4).flat_map(|z| (0..3).flat_map(move |y| (0..2).map(move |x| (z, y, x)))) {
            expected.push(value([x, y, z]));
        }
        let same = SameVoxels::between(&info(SHAPE, AFFINE), &info([4, 2, 3], other_affine)).unwrap();
        assert!(!same.place.is_same_order && same.place.notable_shift().is_none(), "{same:?}");
        assert_eq!(same.in_order(other), expected);
        let same = SameVoxels::between(&info(SHAPE, AFFINE), &info(SHAPE, AFFINE)).unwrap();
        assert_eq!(same.in_order(expected.clone()), expected);
    }

    #[test]
    fn voxels_at_other_places_are_not_the_same() {
        let scan = info(SHAPE, AFFINE);
        let mut shifted = AFFINE;
        shifted[0][3] += 3.0;
        // Flipped along x, and 3 mm off.
        let mut flipped = shifted;
        flipped[0] = [-1.5, 0.0, 0.0, -0.5];
        for affine in [shifted, flipped] {
            let Err(GridMismatch::Place { shift }) = SameVoxels::between(&scan, &info(SHAPE, affine)) else {
                panic!("{affine:?}")
            };
            assert!((shift.mm - 3.0).abs() < 1e-9 && (shift.voxels - 2.0).abs() < 1e-9, "{shift:?}");
        }
        let other = SameVoxels::between(&scan, &info([2, 4, 3], AFFINE)).unwrap_err();
        assert_eq!(other, GridMismatch::Shape { found: [2, 4, 3], scan: SHAPE });
    }
}
