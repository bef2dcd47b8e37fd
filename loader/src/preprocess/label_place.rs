//! Position of a label map on the grid of its image.

use std::fmt;

use super::PreprocessError;
use crate::geometry::{Affine, largest_shift_mm, largest_shift_voxels, spacing};
use crate::volume::VolumeInfo;

/// Largest distance in mm between the corners of two grids whose headers differ only by rounding.
const ROUNDING_MM: f64 = 0.1;
/// Largest distance in voxels, along each axis, between grids that correspond voxel by voxel although they lie further
/// apart than the shortest voxel side. Headers that give the position of a voxel's corner instead of its centre, or the
/// reverse, are half a voxel off. Slices are often much thicker than pixels are wide.
const MOST_VOXELS: f64 = 0.5;
/// Error of a distance in voxels that is due to the single precision of headers.
const PRECISION: f64 = 1e-3;

/// Relation between the arrays of an image and a label map that have the same voxels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelPlace {
    /// True if both arrays have the same order of axes; otherwise their voxels correspond in RAS+ order.
    pub is_same_order: bool,
    /// Distance between the places of a voxel according to the two headers.
    pub shift: Shift,
}

/// Largest distance between the places of a corner voxel according to two headers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shift {
    /// Distance in mm.
    pub mm: f64,
    /// Largest component of the distance along an axis, in voxels of that axis.
    pub voxels: f64,
    /// True if the distance is at most half a voxel along each axis, or at most the shortest voxel side.
    is_within: bool,
}

impl Shift {
    /// Distance of two grids of the same shape, in voxels of the first one.
    #[must_use]
    pub fn between(image: &Affine, label: &Affine, shape: [usize; 3]) -> Self {
        let shortest = spacing(image).into_iter().fold(f64::INFINITY, f64::min);
        let mm = largest_shift_mm(image, label, shape);
        let parts = largest_shift_voxels(image, label, shape).unwrap_or([f64::INFINITY; 3]);
        let voxels = parts.into_iter().fold(0.0, f64::max);
        let is_within = voxels <= MOST_VOXELS + PRECISION || mm <= shortest * (1.0 + PRECISION);
        Self { mm, voxels, is_within }
    }
}

/// Writes the distance, such as `2.50 mm (0.50 voxels)`.
impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} mm ({:.2} voxels)", self.mm, self.voxels)
    }
}

impl LabelPlace {
    /// Relates two arrays. Their headers may place voxels apart, by up to half a voxel along each axis or up to the
    /// shortest voxel side.
    ///
    /// # Errors
    /// If the arrays have different numbers of voxels, or lie further apart.
    pub fn of(image: &VolumeInfo, label: &VolumeInfo) -> Result<Self, PreprocessError> {
        let stored = (image.shape == label.shape).then(|| Shift::between(&image.affine, &label.affine, image.shape));
        let as_stored = stored.filter(|shift| shift.is_within);
        // Near 45 degrees rounding may make the two orientations differ: the order of the arrays counts.
        if let Some(shift) = as_stored.filter(|shift| shift.mm <= ROUNDING_MM) {
            return Ok(Self { is_same_order: true, shift });
        }
        let [image_shape, label_shape] = [image, label].map(|info| info.orientation.shape(info.shape));
        let in_ras = (image_shape == label_shape).then(|| {
            let [oriented, own] = [image, label].map(|info| info.orientation.affine(&info.affine, info.shape));
            Shift::between(&oriented, &own, image_shape)
        });
        match (as_stored, in_ras) {
            // A flipped axis of two voxels puts each on the place of the other, one voxel off.
            (Some(stored), Some(shift)) if shift.is_within && shift.mm < stored.mm - ROUNDING_MM => {
                Ok(Self { is_same_order: false, shift })
            }
            (Some(shift), _) => Ok(Self { is_same_order: true, shift }),
            (None, Some(shift)) if shift.is_within => Ok(Self { is_same_order: false, shift }),
            // Either order may be the one that was meant, so the nearer one gives the distance.
            (None, in_ras) => {
                let nearer = |a: Shift, b: Shift| if b.mm < a.mm { b } else { a };
                Err(match stored.into_iter().chain(in_ras).reduce(nearer) {
                    Some(shift) => PreprocessError::LabelPlace { shift },
                    None => PreprocessError::LabelShape { label: label_shape, image: image_shape },
                })
            }
        }
    }

    /// Distance between the two grids, if it is more than headers differ by rounding.
    #[must_use]
    pub fn notable_shift(&self) -> Option<Shift> {
        (self.shift.mm > ROUNDING_MM).then_some(self.shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFFINE: Affine = [[-1.0, 0.0, 0.0, 9.0], [0.0, -1.5, 0.0, 7.0], [0.0, 0.0, 4.0, -5.0], [0.0, 0.0, 0.0, 1.0]];

    /// Header of a grid shifted by `shift` along z, with x reversed if `is_flipped`.
    fn info(shape: [usize; 3], shift: f64, is_flipped: bool) -> VolumeInfo {
        let mut affine = AFFINE;
        affine[2][3] += shift;
        if is_flipped {
            affine[0] = [1.0, 0.0, 0.0, 9.0 - (shape[0] as f64 - 1.0)];
        }
        VolumeInfo::new(shape, affine).unwrap()
    }

    #[test]
    fn grids_up_to_half_a_voxel_apart_correspond_voxel_by_voxel() {
        let check = |num_x, shift, is_flipped, notable: Option<f64>| {
            let shape = [num_x, 3, 4];
            let place = LabelPlace::of(&info(shape, 0.0, false), &info(shape, shift, is_flipped)).unwrap();
            assert_eq!(place.is_same_order, !is_flipped, "{num_x} {shift}");
            // Double precision.
            let is_near = |expected: f64| place.notable_shift().is_some_and(|found| (found.mm - expected).abs() < 1e-9);
            assert!(notable.map_or(place.notable_shift().is_none(), is_near), "{place:?}");
        };
        for num_x in [2, 5] {
            for is_flipped in [false, true] {
                check(num_x, 0.0, is_flipped, None);
                check(num_x, 0.05, is_flipped, None);
                check(num_x, 0.35, is_flipped, Some(0.35));
                check(num_x, -0.7, is_flipped, Some(0.7));
            }
        }
        // Half a slice of 4 mm.
        check(5, 2.0, false, Some(2.0));
        check(5, -2.0, true, Some(2.0));
    }

    #[test]
    fn distances_are_judged_along_each_axis() {
        let image = info([5, 3, 4], 0.0, false);
        let of = |axis: usize, shift: f64| {
            let mut affine = AFFINE;
            affine[axis][3] += shift;
            LabelPlace::of(&image, &VolumeInfo::new([5, 3, 4], affine).unwrap())
        };
        // Voxels of 1, 1.5 and 4 mm: up to the shortest side, or half of the own one.
        for (axis, most) in [(0, 1.0), (1, 1.0), (2, 2.0)] {
            for sign in [1.0, -1.0] {
                assert!(of(axis, sign * most).is_ok(), "{axis}");
                assert!(of(axis, sign * (most + 0.02)).is_err(), "{axis}");
            }
        }
        let text = of(2, 2.0).unwrap().notable_shift().unwrap().to_string();
        assert_eq!(text, "2.00 mm (0.50 voxels)");
        // One voxel of 1 mm along each axis is more than the side of one; half of one is not.
        let cubes = |shift: f64| {
            let affine = [[1.0, 0.0, 0.0, shift], [0.0, 1.0, 0.0, shift], [0.0, 0.0, 1.0, shift], [0.0, 0.0, 0.0, 1.0]];
            VolumeInfo::new([5, 3, 4], affine).unwrap()
        };
        assert!(LabelPlace::of(&cubes(0.0), &cubes(0.5)).is_ok());
        let error = LabelPlace::of(&cubes(0.0), &cubes(1.0)).unwrap_err().to_string();
        assert!(error.starts_with("label lies 1.73 mm (1.00 voxels) off its image"), "{error}");
        // Two pixels off in the plane of thick slices.
        let error = of(0, 2.0).unwrap_err().to_string();
        assert!(error.starts_with("label lies 2.00 mm (2.00 voxels) off its image"), "{error}");
    }

    #[test]
    fn grids_further_apart_do_not_correspond() {
        let image = info([5, 3, 4], 0.0, false);
        for is_flipped in [false, true] {
            let error = LabelPlace::of(&image, &info([5, 3, 4], 2.5, is_flipped)).unwrap_err();
            let PreprocessError::LabelPlace { shift } = error else { panic!("{error:?}") };
            assert!((shift.mm - 2.5).abs() < 1e-9 && (shift.voxels - 0.625).abs() < 1e-9, "{shift:?}");
        }
        // Turned by a little less and a little more than 45 degrees: axes of other names, 3 mm apart in the same order.
        for shape in [[5, 5, 4], [5, 6, 4]] {
            let turned = |degrees: f64, z_mm| {
                let (sin, cos) = degrees.to_radians().sin_cos();
                let affine = [[cos, -sin, 0.0, 0.0], [sin, cos, 0.0, 0.0], [0.0, 0.0, 1.0, z_mm], [0.0, 0.0, 0.0, 1.0]];
                VolumeInfo::new(shape, affine).unwrap()
            };
            match LabelPlace::of(&turned(44.9, 0.0), &turned(45.1, 3.0)) {
                // The turn moves the furthest corner by 0.02 mm, across the shift.
                Err(PreprocessError::LabelPlace { shift }) => {
                    assert!((shift.mm - 3.0).abs() < 1e-3, "{shape:?}: {shift:?}");
                }
                other => panic!("{shape:?}: {other:?}"),
            }
        }
        let error = LabelPlace::of(&image, &info([5, 4, 3], 0.0, false)).unwrap_err();
        assert_eq!(error, PreprocessError::LabelShape { label: [5, 4, 3], image: [5, 3, 4] });
    }
}
