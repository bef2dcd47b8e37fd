//! Affines, spacings and orientations: the position of voxels in the world.
//!
//! World coordinates are RAS+ millimetres, as in `NIfTI`. An affine is `world_from_voxel`, a row-major 4 x 4 matrix.

mod extended;

use extended::Extended;
use nalgebra::{Matrix3, Matrix4};

/// `world_from_voxel`, a row-major matrix.
pub type Affine = [[f64; 4]; 4];

/// Assignment of the source's axes to the axes of RAS+, and their directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orientation {
    /// Axis of the source array, for each axis of RAS+.
    pub source_axis: [usize; 3],
    /// True if the source axis runs in the opposite direction, for each axis of RAS+.
    pub flipped: [bool; 3],
}

impl Orientation {
    /// Finds the orientation closest to an affine. Like nibabel's `io_orientation`, it assigns each array axis, in
    /// order, to the world axis still free that has the largest component in the closest rotation.
    ///
    /// Returns `None` if the affine is singular or not finite.
    #[must_use]
    pub fn closest(affine: &Affine) -> Option<Self> {
        let mut rotation = linear(affine);
        for mut column in rotation.column_iter_mut() {
            let norm = column.norm();
            if norm.is_nan() || norm <= 0.0 || norm.is_infinite() {
                return None;
            }
            column /= norm;
        }
        let svd = rotation.svd(true, true);
        if svd.singular_values.min() < 1e-6 {
            return None;
        }
        let mut polar = svd.u? * svd.v_t?;
        let mut orientation = Self { source_axis: [0; 3], flipped: [false; 3] };
        for source in 0..3 {
            let world = polar.column(source).iamax();
            orientation.source_axis[world] = source;
            orientation.flipped[world] = polar[(world, source)] < 0.0;
            polar.row_mut(world).fill(0.0);
        }
        Some(orientation)
    }

    /// Shape of the oriented array.
    #[must_use]
    pub fn shape(&self, source: [usize; 3]) -> [usize; 3] {
        self.source_axis.map(|axis| source[axis])
    }

    /// Affine of the oriented array, with MONAI's rounding.
    #[must_use]
    pub fn affine(&self, affine: &Affine, source_shape: [usize; 3]) -> Affine {
        let mut oriented = *affine;
        // The source voxel that becomes the first voxel.
        let mut first = [0.0; 3];
        for (axis, &source) in self.source_axis.iter().enumerate() {
            if self.flipped[axis] {
                first[source] = source_shape[source] as f64 - 1.0;
            }
            for row in 0..3 {
                let column = affine[row][source];
                oriented[row][axis] = if self.flipped[axis] { -column } else { column };
            }
        }
        for row in 0..3 {
            let [x, y, z, shift] = affine[row];
            oriented[row][3] = x * first[0] + y * first[1] + z * first[2] + shift;
        }
        oriented
    }

    /// The affine of a source array whose oriented array, of shape `oriented_shape`, has the affine `oriented`: the
    /// inverse of [`Orientation::affine`], except for rounding.
    #[must_use]
    pub fn source_affine(&self, oriented: &Affine, oriented_shape: [usize; 3]) -> Affine {
        let mut affine = *oriented;
        for row in 0..3 {
            for (axis, &source) in self.source_axis.iter().enumerate() {
                let column = oriented[row][axis];
                affine[row][source] = if self.flipped[axis] { -column } else { column };
                // The first voxel of the source is the last one of a flipped axis.
                affine[row][3] += if self.flipped[axis] { column * (oriented_shape[axis] as f64 - 1.0) } else { 0.0 };
            }
        }
        affine
    }
}

/// Matrix whose columns are the axes of a quaternion's rotation, scaled to `lengths`; equal to nibabel's to the last
/// bit.
///
/// The quaternion has length 1, and a `NIfTI` header stores only its last three components. Like nibabel, this treats
/// the first component as 0 where rounding alone could explain it.
#[must_use]
pub fn quaternion_axes([b, c, d]: [f32; 3], lengths: [f64; 3]) -> [[f64; 3]; 3] {
    let [b, c, d] = [b, c, d].map(|value| Extended::new(value.into()));
    let one = Extended::new(1.0);
    let squared = one.sub(b.mul(b).add(c.mul(c)).add(d.mul(d)));
    let rounding = 3.0 * f64::from(f32::EPSILON);
    let a = if squared.to_f64() < rounding { Extended::new(0.0) } else { squared.sqrt() };
    let norm = a.mul(a).add(b.mul(b)).add(c.mul(c)).add(d.mul(d));
    let twice = Extended::new(2.0).div(norm);
    let [to_b, to_c, to_d] = [b, c, d].map(|value| value.mul(twice));
    let (ab, ac, ad) = (a.mul(to_b), a.mul(to_c), a.mul(to_d));
    let (bb, bc, bd) = (b.mul(to_b), b.mul(to_c), b.mul(to_d));
    let (cc, cd, dd) = (c.mul(to_c), c.mul(to_d), d.mul(to_d));
    let rotation = [
        [one.sub(cc.add(dd)), bc.sub(ad), bd.add(ac)],
        [bc.add(ad), one.sub(bb.add(dd)), cd.sub(ab)],
        [bd.sub(ac), cd.add(ab), one.sub(bb.add(cc))],
    ];
    rotation.map(|row| std::array::from_fn(|axis| row[axis].mul(Extended::new(lengths[axis])).to_f64()))
}

/// Voxel side lengths in mm: the lengths of the affine's columns.
#[must_use]
pub fn spacing(affine: &Affine) -> [f64; 3] {
    std::array::from_fn(|axis| (0..3).map(|row| affine[row][axis].powi(2)).sum::<f64>().sqrt())
}

/// Volume of a voxel in ml: less than the product of its sides where the axes are not perpendicular.
#[must_use]
pub fn voxel_ml(affine: &Affine) -> f64 {
    linear(affine).determinant().abs() / 1000.0
}

/// Largest deviation, in degrees, of the angle between two axes from a right one, as a gantry tilt causes it; not a number for
/// axes without a length.
#[must_use]
pub fn skew_degrees(affine: &Affine) -> f64 {
    let axes = linear(affine);
    let deviation = |first: usize, second: usize| {
        let (first, second) = (axes.column(first), axes.column(second));
        (first.dot(&second) / (first.norm() * second.norm())).clamp(-1.0, 1.0).asin().abs().to_degrees()
    };
    deviation(0, 1).max(deviation(0, 2)).max(deviation(1, 2))
}

/// Affine of the part of an array that begins at voxel `start`.
#[must_use]
pub fn cropped(affine: &Affine, start: [usize; 3]) -> Affine {
    let mut result = *affine;
    for row in result.iter_mut().take(3) {
        row[3] += (0..3).map(|axis| row[axis] * start[axis] as f64).sum::<f64>();
    }
    result
}

/// Largest distance in mm between the positions that two affines assign to the same corner of an array.
#[must_use]
pub fn largest_shift_mm(a: &Affine, b: &Affine, shape: [usize; 3]) -> f64 {
    let distance = |voxel| {
        let (p, q) = (apply(a, voxel), apply(b, voxel));
        (0..3).map(|row| (p[row] - q[row]).powi(2)).sum::<f64>().sqrt()
    };
    corners(shape).map(distance).fold(0.0, f64::max)
}

/// Largest distance between the positions at which two affines place a corner of an array, along each of its axes, in
/// voxels of the first affine; `None` if that affine is singular.
#[must_use]
pub fn largest_shift_voxels(a: &Affine, b: &Affine, shape: [usize; 3]) -> Option<[f64; 3]> {
    let voxel_from_world = inverse(a)?;
    let mut largest = [0.0; 3];
    for voxel in corners(shape) {
        let other = apply(&voxel_from_world, apply(b, voxel));
        for ((largest, other), own) in largest.iter_mut().zip(other).zip(voxel) {
            *largest = f64::max(*largest, (other - own).abs());
        }
    }
    Some(largest)
}

/// The corner voxels of an array.
fn corners(shape: [usize; 3]) -> impl Iterator<Item = [f64; 3]> {
    (0..8).map(move |at: usize| -> [f64; 3] {
        std::array::from_fn(|axis| if at >> axis & 1 == 1 { shape[axis] as f64 - 1.0 } else { 0.0 })
    })
}

/// Applies an affine to a point.
fn apply(affine: &Affine, point: [f64; 3]) -> [f64; 3] {
    std::array::from_fn(|row| affine[row][3] + (0..3).map(|axis| affine[row][axis] * point[axis]).sum::<f64>())
}

/// The linear part of an affine.
fn linear(affine: &Affine) -> Matrix3<f64> {
    Matrix3::from_fn(|row, column| affine[row][column])
}

/// Inverse of an affine, `voxel_from_world`; `None` for a singular affine.
#[must_use]
pub fn inverse(affine: &Affine) -> Option<Affine> {
    let matrix = Matrix4::from_fn(|row, column| affine[row][column]).try_inverse()?;
    Some(std::array::from_fn(|row| std::array::from_fn(|column| matrix[(row, column)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn diagonal(x: f64, y: f64, z: f64) -> Affine {
        [[x, 0.0, 0.0, 5.0], [0.0, y, 0.0, 6.0], [0.0, 0.0, z, 7.0], [0.0, 0.0, 0.0, 1.0]]
    }

    #[test]
    fn lps_is_oriented_to_ras() {
        let orientation = Orientation::closest(&diagonal(-2.0, -1.0, 3.0)).unwrap();
        assert_eq!(orientation, Orientation { source_axis: [0, 1, 2], flipped: [true, true, false] });
        let oriented = orientation.affine(&diagonal(-2.0, -1.0, 3.0), [4, 5, 6]);
        assert_eq!(oriented, [[2.0, 0.0, 0.0, -1.0], [0.0, 1.0, 0.0, 2.0], [0.0, 0.0, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]]);
    }

    #[test]
    fn shifts_are_reported_along_the_axes_of_the_first_array() {
        // Stored with y first, and z backwards.
        let stored = [[0.0, 2.0, 0.0, 5.0], [4.0, 0.0, 0.0, 6.0], [0.0, 0.0, -0.5, 7.0], [0.0, 0.0, 0.0, 1.0]];
        let mut other = stored;
        other[0][3] += 1.0;
        other[1][3] -= 1.0;
        other[2][2] = -0.625;
        // The last slice of three lies 2 * 0.125 mm off.
        let shift = largest_shift_voxels(&stored, &other, [4, 5, 3]).unwrap();
        for (found, expected) in shift.into_iter().zip([0.25, 0.5, 0.5]) {
            assert!((found - expected).abs() < 1e-9, "{shift:?}");
        }
        assert!((largest_shift_mm(&stored, &other, [4, 5, 3]) - 2.0625f64.sqrt()).abs() < 1e-9);
        assert_eq!(largest_shift_voxels(&[[0.0; 4]; 4], &other, [4, 5, 3]), None);
    }

    #[test]
    fn a_sheared_voxel_has_less_volume_than_its_sides_say() {
        let upright = diagonal(-2.0, 5.0, 10.0);
        assert!((voxel_ml(&upright) - 0.1).abs() < 1e-12 && skew_degrees(&upright) < 1e-12);
        // The third axis leans against the second one; it still has a length of 10 mm.
        let mut sheared = upright;
        (sheared[1][2], sheared[2][2]) = (-6.0, 8.0);
        assert!((voxel_ml(&sheared) - 0.08).abs() < 1e-12);
        assert!((skew_degrees(&sheared) - 0.6f64.asin().to_degrees()).abs() < 1e-9);
    }

    #[test]
    fn a_quaternion_near_a_half_turn_is_a_half_turn() {
        let nearly = f32::from_bits(1f32.to_bits() - 1);
        let axes = quaternion_axes([0.0, 0.0, nearly], [2.0, 3.0, 4.0]);
        assert_eq!(axes, [[-2.0, 0.0, 0.0], [0.0, -3.0, 0.0], [0.0, 0.0, 4.0]]);
    }

    #[test]
    fn singular_affines_have_no_orientation() {
        let mut flat = diagonal(1.0, 1.0, 0.0);
        assert_eq!(Orientation::closest(&flat), None);
        flat[2][2] = f64::NAN;
        assert_eq!(Orientation::closest(&flat), None);
        assert_eq!(Orientation::closest(&[[1.0; 4]; 4]), None);
    }

    proptest! {
        #[test]
        fn orienting_keeps_world_positions(
            order in Just([0usize, 1, 2]).prop_shuffle(), signs: [bool; 3], tilt in -0.3f64..0.3,
            shape in [2usize..9, 2..9, 2..9],
        ) {
            let mut affine = [[0.0; 4]; 4];
            for (world, &source) in order.iter().enumerate() {
                affine[world][source] = if signs[world] { -1.7 } else { 1.2 };
                affine[world][3] = 10.0 * world as f64;
            }
            affine[order[0]][order[1]] += tilt;
            affine[3][3] = 1.0;
            let Some(orientation) = Orientation::closest(&affine) else { return Ok(()) };
            let oriented = orientation.affine(&affine, shape);
            let voxel = [1usize, 0, 1];
            let mut source = [0usize; 3];
            for (axis, voxel) in voxel.into_iter().enumerate() {
                let at = orientation.source_axis[axis];
                source[at] = if orientation.flipped[axis] { shape[at] - 1 - voxel } else { voxel };
            }
            for row in 0..3 {
                let world = |a: &Affine, v: [usize; 3]| a[row][3] + (0..3).map(|c| a[row][c] * v[c] as f64).sum::<f64>();
                prop_assert!((world(&oriented, voxel) - world(&affine, source)).abs() < 1e-9);
            }
        }
    }
}
