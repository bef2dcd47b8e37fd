//! Slices through volumes in the radiological convention.

/// A slice through a volume as it appears on a screen, columns fastest.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Number of columns and rows.
    pub size: [usize; 2],
    /// Grey values; 0 is black, 1 is white.
    pub values: Vec<f32>,
    /// Label of every pixel, if the slice has labels.
    pub labels: Option<Vec<u8>>,
    /// Label of voxels without annotation, which are hatched; `None` if every label is a class.
    pub ignored: Option<u8>,
}

/// Plane of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Perpendicular to z.
    Axial,
    /// Perpendicular to y.
    Coronal,
    /// Perpendicular to x.
    Sagittal,
}

impl Plane {
    /// Axis perpendicular to the slice, axis of its columns, axis of its rows.
    #[must_use]
    pub fn axes(self) -> [usize; 3] {
        match self {
            Self::Axial => [2, 0, 1],
            Self::Coronal => [1, 0, 2],
            Self::Sagittal => [0, 1, 2],
        }
    }

    /// Name of the plane, lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Axial => "axial",
            Self::Coronal => "coronal",
            Self::Sagittal => "sagittal",
        }
    }

    /// Names of the axes of columns and rows, for volumes whose axes may not be those of the patient.
    #[must_use]
    pub fn axis_names(self) -> &'static str {
        match self {
            Self::Axial => "x-y",
            Self::Coronal => "x-z",
            Self::Sagittal => "y-z",
        }
    }

    /// Anatomical directions at the left, right, upper and lower edge.
    #[must_use]
    pub fn letters(self) -> [char; 4] {
        match self {
            Self::Axial => ['R', 'L', 'A', 'P'],
            Self::Coronal => ['R', 'L', 'S', 'I'],
            Self::Sagittal => ['A', 'P', 'S', 'I'],
        }
    }

    /// Cuts slice number `at` out of an array in RAS+ order, z fastest. `value` returns grey value and label of a voxel.
    pub fn cut(self, shape: [usize; 3], at: usize, with_labels: bool, value: impl Fn(usize) -> (f32, u8)) -> Slice {
        let [normal, across, down] = self.axes();
        let size = [shape[across], shape[down]];
        let mut slice = Slice { size, values: Vec::new(), labels: with_labels.then(Vec::new), ignored: None };
        let mut voxel = [0; 3];
        voxel[normal] = at.min(shape[normal] - 1);
        // R, A and S are at the left or at the top of the screen, so every axis of RAS+ runs backwards.
        for row in (0..size[1]).rev() {
            voxel[down] = row;
            for column in (0..size[0]).rev() {
                voxel[across] = column;
                let (grey, label) = value((voxel[0] * shape[1] + voxel[1]) * shape[2] + voxel[2]);
                slice.values.push(grey);
                if let Some(labels) = &mut slice.labels {
                    labels.push(label);
                }
            }
        }
        slice
    }
}

impl Slice {
    /// Grey value at a position between pixels, bilinear; positions outside are clamped to the border.
    #[must_use]
    pub fn interpolate(&self, x: f64, y: f64) -> f32 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positions in a slice")]
        let corner = |at: f64, length: usize| {
            let at = at.clamp(0.0, length as f64 - 1.0);
            let low = at as usize;
            (low, (low + 1).min(length - 1), (at - at.floor()) as f32)
        };
        let (x0, x1, fx) = corner(x, self.size[0]);
        let (y0, y1, fy) = corner(y, self.size[1]);
        let at = |x: usize, y: usize| self.values[y * self.size[0] + x];
        let upper = at(x0, y0) * (1.0 - fx) + at(x1, y0) * fx;
        let lower = at(x0, y1) * (1.0 - fx) + at(x1, y1) * fx;
        upper * (1.0 - fy) + lower * fy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_the_radiological_convention() {
        let shape = [3, 4, 5];
        let value = |voxel: usize| (voxel as f32, 0);
        let at = |x: usize, y: usize, z: usize| ((x * 4 + y) * 5 + z) as f32;
        let axial = Plane::Axial.cut(shape, 2, false, value);
        assert_eq!((axial.size, axial.values[0], axial.values[11]), ([3, 4], at(2, 3, 2), at(0, 0, 2)));
        let coronal = Plane::Coronal.cut(shape, 1, false, value);
        assert_eq!((coronal.size, coronal.values[0]), ([3, 5], at(2, 1, 4)));
        let sagittal = Plane::Sagittal.cut(shape, 1, false, value);
        assert_eq!((sagittal.size, sagittal.values[0], sagittal.values[1]), ([4, 5], at(1, 3, 4), at(1, 2, 4)));
    }

    #[test]
    fn grey_values_are_interpolated_and_clamped_at_the_border() {
        let slice = Slice { size: [2, 2], values: vec![0.0, 1.0, 2.0, 3.0], labels: None, ignored: None };
        for ([x, y], expected) in [([0.5, 0.5], 1.5), ([0.25, 0.0], 0.25), ([-3.0, 9.0], 2.0), ([7.0, -1.0], 1.0)] {
            assert!((slice.interpolate(x, y) - expected).abs() < 1e-6, "{x} {y}");
        }
    }
}
