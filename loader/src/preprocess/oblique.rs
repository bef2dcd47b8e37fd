//! Resampling voxel by voxel, for grids that are rotated against the source.
//!
//! Only the source planes that the current output plane reads are in memory as floats: a few, where the rotation is
//! rounding in the header or a small tilt.

use super::grid::Coordinates;
use super::rows::{ReadRow, RowAt};

/// Map from output voxels to positions in the source file.
#[derive(Clone, Debug)]
pub(super) struct Oblique {
    coordinates: Coordinates,
    /// Oriented axis that each source axis becomes.
    target_axis: [usize; 3],
    /// Length and direction of the source axes, the file's fastest first.
    source_axes: [SourceAxis; 3],
}

#[derive(Clone, Copy, Debug)]
struct SourceAxis {
    /// Number of voxels along the axis.
    len: usize,
    /// True if the axis runs in the opposite direction of its oriented axis.
    flipped: bool,
}

impl SourceAxis {
    fn place(self, oriented: usize) -> usize {
        if self.flipped { self.len - 1 - oriented } else { oriented }
    }

    /// Lower index, upper index, and weight of the upper index at a coordinate.
    #[inline]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "coordinates are clamped to the axis")]
    fn linear(self, coordinate: f64) -> (usize, usize, f32) {
        let lower = coordinate as u32 as usize;
        let weight = (coordinate - lower as f64) as f32;
        (self.place(lower), self.place((lower + 1).min(self.len - 1)), weight)
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "coordinates are clamped to the axis")]
    fn nearest(self, coordinate: f64) -> usize {
        self.place((coordinate.round() as u32 as usize).min(self.len - 1))
    }
}

impl Oblique {
    /// Creates the map; `flipped` is indexed by oriented axis.
    pub(super) fn new(coordinates: Coordinates, target_axis: [usize; 3], flipped: [bool; 3]) -> Self {
        let source_axes =
            target_axis.map(|axis| SourceAxis { len: coordinates.source_shape()[axis], flipped: flipped[axis] });
        Self { coordinates, target_axis, source_axes }
    }

    /// Computes the source coordinates of an output row, for each source axis, before flipping.
    fn row_coordinates(&self, at: RowAt, out: &mut [Vec<f64>; 3]) {
        let fixed = self.coordinates.normalised(self.voxel([0, at.row, at.plane]));
        for (&axis, out) in self.target_axis.iter().zip(out) {
            self.coordinates.fill_row(axis, self.target_axis[0], fixed, out);
        }
    }

    /// Oriented output voxel at a position in processing order.
    fn voxel(&self, at: [usize; 3]) -> [usize; 3] {
        let mut voxel = [0; 3];
        for (&axis, at) in self.target_axis.iter().zip(at) {
            voxel[axis] = at;
        }
        voxel
    }

    /// Half-open range of the source planes that an output plane reads.
    fn planes(&self, plane: usize, width: usize, height: usize) -> (usize, usize) {
        let slow = self.source_axes[2];
        let (mut first, mut end) = (slow.len, 0);
        // Coordinates are an affine function, so their extremes lie at the plane's corners.
        for [column, row] in [[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]] {
            let normalised = self.coordinates.normalised(self.voxel([column, row, plane]));
            let (lower, upper, _) = slow.linear(self.coordinates.source(self.target_axis[2], normalised));
            first = first.min(lower.min(upper));
            end = end.max(lower.max(upper) + 1);
        }
        (first, end)
    }
}

/// Computes output rows of an image by trilinear interpolation.
pub(super) struct ObliqueRows<'a> {
    map: &'a Oblique,
    read: ReadRow<'a>,
    /// Source planes by number; those not in memory are empty.
    planes: Vec<Vec<f32>>,
    coordinates: [Vec<f64>; 3],
    values: Vec<f32>,
    height: usize,
}

impl<'a> ObliqueRows<'a> {
    pub(super) fn new(map: &'a Oblique, extent: [usize; 3], read: ReadRow<'a>) -> Self {
        let [width, height, _] = extent;
        let planes = vec![Vec::new(); map.source_axes[2].len];
        Self { map, read, planes, coordinates: Default::default(), values: vec![0.0; width], height }
    }

    /// Computes the row at `at`. Rows must be requested in order.
    pub(super) fn row(&mut self, at: RowAt) -> &[f32] {
        if at.row == 0 {
            self.load(at.plane);
        }
        self.map.row_coordinates(at, &mut self.coordinates);
        let [fast, middle, slow] = self.map.source_axes;
        let [along_fast, along_middle, along_slow] = &self.coordinates;
        let places = along_fast.iter().zip(along_middle).zip(along_slow);
        for (value, ((&along_fast, &along_middle), &along_slow)) in self.values.iter_mut().zip(places) {
            let (left, right, by_column) = fast.linear(along_fast);
            let (front, back, by_row) = middle.linear(along_middle);
            let (low, high, by_plane) = slow.linear(along_slow);
            // The order of the separable path, so that both round equally.
            let in_plane = |plane: &[f32]| {
                let front = &plane[front * fast.len..][..fast.len];
                let back = &plane[back * fast.len..][..fast.len];
                let left = front[left] + (back[left] - front[left]) * by_row;
                let right = front[right] + (back[right] - front[right]) * by_row;
                left + (right - left) * by_column
            };
            let (low, high) = (in_plane(&self.planes[low]), in_plane(&self.planes[high]));
            *value = low + (high - low) * by_plane;
        }
        &self.values
    }

    /// Reads the planes that an output plane needs and drops all others.
    fn load(&mut self, plane: usize) {
        let (first, end) = self.map.planes(plane, self.values.len(), self.height);
        let mut spare = Vec::new();
        for (number, values) in self.planes.iter_mut().enumerate() {
            if !(first..end).contains(&number) && !values.is_empty() {
                spare.push(std::mem::take(values));
            }
        }
        let [fast, middle, _] = self.map.source_axes;
        for (number, values) in self.planes.iter_mut().enumerate().take(end).skip(first) {
            if values.is_empty() {
                *values = spare.pop().unwrap_or_else(|| vec![0.0; fast.len * middle.len]);
                (self.read)(number * fast.len * middle.len, values);
            }
        }
    }
}

/// Computes one output row of a label map by nearest-neighbour interpolation. `coordinates` is a reused buffer.
pub(super) fn nearest_row(map: &Oblique, labels: &[u8], at: RowAt, coordinates: &mut [Vec<f64>; 3], out: &mut [u8]) {
    map.row_coordinates(at, coordinates);
    let [fast, middle, slow] = map.source_axes;
    let [along_fast, along_middle, along_slow] = &*coordinates;
    let places = along_fast.iter().zip(along_middle).zip(along_slow);
    for (label, ((&along_fast, &along_middle), &along_slow)) in out.iter_mut().zip(places) {
        let row = slow.nearest(along_slow) * middle.len + middle.nearest(along_middle);
        *label = labels[row * fast.len + fast.nearest(along_fast)];
    }
}
