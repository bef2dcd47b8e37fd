//! Position of a label map on the grid of its image.

use super::PreprocessError;
use crate::geometry::{largest_shift_mm, spacing};
use crate::volume::VolumeInfo;

/// Largest distance in mm between the corners of two grids whose headers differ only by rounding.
const ROUNDING_MM: f64 = 0.1;

/// Relation between the arrays of an image and a label map that have the same voxels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelPlace {
    /// True if both arrays have the same order of axes; otherwise their voxels correspond in RAS+ order.
    pub is_same_order: bool,
    /// Largest distance in mm between the positions that the two headers assign to a corner voxel.
    pub shift_mm: f64,
}

impl LabelPlace {
    /// Relates two arrays; their headers may place voxels up to the shortest voxel side apart.
    ///
    /// # Errors
    /// If the arrays have different numbers of voxels, or lie further apart than the smallest voxel side of the image.
    pub fn of(image: &VolumeInfo, label: &VolumeInfo) -> Result<Self, PreprocessError> {
        let side = spacing(&image.affine).into_iter().fold(f64::INFINITY, f64::min);
        let stored = (image.shape == label.shape).then(|| largest_shift_mm(&image.affine, &label.affine, image.shape));
        let as_stored = stored.filter(|shift_mm| *shift_mm <= side);
        // Near 45 degrees rounding may make the two orientations differ: the order of the arrays counts.
        if let Some(shift_mm) = as_stored.filter(|shift_mm| *shift_mm <= ROUNDING_MM) {
            return Ok(Self { is_same_order: true, shift_mm });
        }
        let [image_shape, label_shape] = [image, label].map(|info| info.orientation.shape(info.shape));
        let in_ras = (image_shape == label_shape).then(|| {
            let [oriented, own] = [image, label].map(|info| info.orientation.affine(&info.affine, info.shape));
            largest_shift_mm(&oriented, &own, image_shape)
        });
        match (as_stored, in_ras) {
            // A flipped axis of two voxels puts each on the place of the other, one voxel off.
            (Some(stored), Some(shift_mm)) if shift_mm < stored / 2.0 => Ok(Self { is_same_order: false, shift_mm }),
            (Some(shift_mm), _) => Ok(Self { is_same_order: true, shift_mm }),
            (None, Some(shift_mm)) if shift_mm <= side => Ok(Self { is_same_order: false, shift_mm }),
            // Either order may be the intended one, so the smaller distance is reported.
            (None, in_ras) => Err(match stored.into_iter().chain(in_ras).reduce(f64::min) {
                Some(shift_mm) => PreprocessError::LabelPlace { shift_mm },
                None => PreprocessError::LabelShape { label: label_shape, image: image_shape },
            }),
        }
    }

    /// Distance between the two grids in mm; `None` if rounding of the headers explains it.
    #[must_use]
    pub fn notable_shift_mm(&self) -> Option<f64> {
        (self.shift_mm > ROUNDING_MM).then_some(self.shift_mm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Affine;

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
    fn grids_up_to_a_voxel_apart_correspond_voxel_by_voxel() {
        let check = |num_x, shift, is_flipped, notable: Option<f64>| {
            let shape = [num_x, 3, 4];
            let place = LabelPlace::of(&info(shape, 0.0, false), &info(shape, shift, is_flipped)).unwrap();
            assert_eq!(place.is_same_order, !is_flipped, "{num_x} {shift}");
            // Double precision.
            let is_near = |expected: f64| place.notable_shift_mm().is_some_and(|found| (found - expected).abs() < 1e-9);
            assert!(notable.map_or(place.notable_shift_mm().is_none(), is_near), "{place:?}");
        };
        for num_x in [2, 5] {
            for is_flipped in [false, true] {
                check(num_x, 0.0, is_flipped, None);
                check(num_x, 0.05, is_flipped, None);
                check(num_x, 0.35, is_flipped, Some(0.35));
                check(num_x, -0.7, is_flipped, Some(0.7));
            }
        }
        check(5, 1.0, false, Some(1.0));
    }

    #[test]
    fn grids_further_apart_do_not_correspond() {
        let image = info([5, 3, 4], 0.0, false);
        for is_flipped in [false, true] {
            let error = LabelPlace::of(&image, &info([5, 3, 4], 1.25, is_flipped)).unwrap_err();
            assert_eq!(error, PreprocessError::LabelPlace { shift_mm: 1.25 });
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
                Err(PreprocessError::LabelPlace { shift_mm }) => {
                    assert!((shift_mm - 3.0).abs() < 1e-3, "{shape:?}: {shift_mm}");
                }
                other => panic!("{shape:?}: {other:?}"),
            }
        }
        let error = LabelPlace::of(&image, &info([5, 4, 3], 0.0, false)).unwrap_err();
        assert_eq!(error, PreprocessError::LabelShape { label: [5, 4, 3], image: [5, 3, 4] });
    }
}
