//! Orientation and resampling in one pass, on exactly MONAI's grid.
//!
//! The grid of an axis-aligned scan is parallel to the source's axes and is read axis by axis, which is fast
//! (`separable`). With any shear, even the rounding of an oblique affine in the file, MONAI rotates the grid a little,
//! and every voxel is read at its own coordinates (`oblique`). Shear of that size changes image values by less than
//! their rounding, but it decides which label is nearest where a coordinate is a half, and where the foreground ends
//! where an interpolated value equals the threshold. Such scans therefore get no shortcut.

use super::grid::{Coordinates, Grid};
use super::oblique::{self, Oblique};
use super::rows::{Layout, ReadRow, RowAt, fill_by_rows};
use super::separable::{self, AxisTaps};
use crate::geometry::Affine;
use crate::volume::{Volume, VolumeInfo};

/// Map from a source array to the oriented, resampled array.
#[derive(Clone, Debug)]
pub struct Resampling {
    reading: Reading,
    shape: [usize; 3],
    /// Output axis that each source axis becomes.
    target_axis: [usize; 3],
    affine: Affine,
}

/// Method of reading the source.
#[derive(Clone, Debug)]
enum Reading {
    /// Axis by axis; one entry per source axis, the fastest first.
    Separable([AxisTaps; 3]),
    /// Voxel by voxel.
    Oblique(Oblique),
}

impl Resampling {
    /// Creates the map for a scan and a target spacing in mm; `None` only orients.
    #[must_use]
    pub fn new(info: &VolumeInfo, target: Option<[f64; 3]>) -> Self {
        let source_shape = info.orientation.shape(info.shape);
        let source = info.orientation.affine(&info.affine, info.shape);
        let grid = match target {
            Some(target) => Grid::new(&source, source_shape, target),
            None => Grid::unchanged(&source, source_shape),
        };
        Self::on_grid(&grid, source_shape, info.orientation.source_axis, info.orientation.flipped)
    }

    /// Creates the map onto a grid; axes are those of [`Orientation`](crate::geometry::Orientation).
    fn on_grid(grid: &Grid, source_shape: [usize; 3], source_axis: [usize; 3], flipped: [bool; 3]) -> Self {
        let mut target_axis = [0; 3];
        for (axis, &source) in source_axis.iter().enumerate() {
            target_axis[source] = axis;
        }
        let reading = match &grid.source_from_output {
            None => Reading::Separable(target_axis.map(|axis| AxisTaps::unchanged(source_shape[axis], flipped[axis]))),
            Some(source_from_output) => {
                let coordinates = Coordinates::new(source_from_output, source_shape, grid.shape);
                if coordinates.is_separable() {
                    Reading::Separable(target_axis.map(|axis| AxisTaps::resampled(&coordinates, axis, flipped[axis])))
                } else {
                    Reading::Oblique(Oblique::new(coordinates, target_axis, flipped))
                }
            }
        };
        Self { reading, shape: grid.shape, target_axis, affine: grid.affine }
    }

    /// Number of voxels of the result along x, y, z.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Output axis that each source axis becomes; the source's fastest axis comes first.
    #[must_use]
    pub fn target_axis(&self) -> [usize; 3] {
        self.target_axis
    }

    /// `world_from_voxel` of the result.
    #[must_use]
    pub fn affine(&self) -> Affine {
        self.affine
    }

    fn layout(&self) -> Layout {
        Layout::new(self.shape, self.target_axis)
    }
}

/// Resamples an image by trilinear interpolation into `out`, which is z fastest and of [`Resampling::shape`].
///
/// `sink` receives every row of values (HU) with its position, and writes the row of `out`.
pub fn trilinear<T: Copy + Default>(
    volume: &Volume,
    resampling: &Resampling,
    out: &mut [T],
    sink: impl FnMut(&[f32], RowAt, &mut [T]),
) {
    trilinear_of(&|start, row| volume.read_f32(start, row), resampling, out, sink);
}

fn trilinear_of<T: Copy + Default>(
    read: ReadRow<'_>,
    resampling: &Resampling,
    out: &mut [T],
    mut sink: impl FnMut(&[f32], RowAt, &mut [T]),
) {
    let layout = resampling.layout();
    match &resampling.reading {
        Reading::Separable(axes) => {
            let mut rows = separable::SeparableRows::new(axes, read);
            fill_by_rows(layout, out, |at, samples| sink(rows.row(at), at, samples));
        }
        Reading::Oblique(map) => {
            let mut rows = oblique::ObliqueRows::new(map, layout.extent, read);
            fill_by_rows(layout, out, |at, samples| sink(rows.row(at), at, samples));
        }
    }
}

/// Resamples a label map in file order by nearest-neighbour interpolation; the result is z fastest.
#[must_use]
pub fn nearest(labels: &[u8], resampling: &Resampling) -> Vec<u8> {
    let mut out = vec![0u8; resampling.shape.iter().product()];
    let layout = resampling.layout();
    match &resampling.reading {
        Reading::Separable(axes) => {
            fill_by_rows(layout, &mut out, |at, row| separable::nearest_row(axes, labels, at, row));
        }
        Reading::Oblique(map) => {
            let mut coordinates = Default::default();
            fill_by_rows(layout, &mut out, |at, row| oblique::nearest_row(map, labels, at, &mut coordinates, row));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn oblique_and_separable_resampling_agree(
            order in Just([0usize, 1, 2]).prop_shuffle(), flipped: [bool; 3], seed in 1usize..1000,
            shape in prop::array::uniform3(1usize..12),
            spacing in prop::array::uniform3(prop::sample::select(vec![0.75, 0.8, 1.5, 2.0, 3.0, 5.0])),
        ) {
            let mut affine = [[0.0; 4], [0.0; 4], [0.0; 4], [0.0, 0.0, 0.0, 1.0]];
            (0..3).for_each(|axis| affine[axis][axis] = spacing[axis]);
            let grid = Grid::new(&affine, shape, [1.5; 3]);
            let separable = Resampling::on_grid(&grid, shape, order, flipped);
            prop_assert!(matches!(separable.reading, Reading::Separable(_)));
            let source_from_output = grid.source_from_output.unwrap_or(super::super::matrix::diagonal([1.0; 4]));
            let coordinates = Coordinates::new(&source_from_output, shape, grid.shape);
            let map = Oblique::new(coordinates, separable.target_axis, flipped);
            let oblique = Resampling { reading: Reading::Oblique(map), ..separable.clone() };

            let voxels = shape.iter().product::<usize>();
            let labels: Vec<u8> = (0..voxels).map(|at| (at * 157 + at / 7 * seed).to_le_bytes()[0]).collect();
            prop_assert_eq!(nearest(&labels, &oblique), nearest(&labels, &separable));

            let read = |start: usize, out: &mut [f32]| {
                out.iter_mut().zip(&labels[start..]).for_each(|(out, &label)| *out = f32::from(label));
            };
            let image = |resampling: &Resampling| {
                let mut out = vec![0f32; resampling.shape().iter().product()];
                trilinear_of(&read, resampling, &mut out, |values, _, out| out.copy_from_slice(values));
                out
            };
            // Both interpolate values up to 255 in f32, whose last place is 1.5e-5; orders of the axes differ, so a few
            // roundings do.
            for (a, b) in image(&oblique).into_iter().zip(image(&separable)) {
                prop_assert!((a - b).abs() < 1e-4, "{a} {b}");
            }
        }
    }
}
