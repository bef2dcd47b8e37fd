//! MONAI's grid: shape and position of a resampled scan, and the source coordinates of its voxels.
//!
//! # Directions and size
//! Directions and size are those of `Spacingd`. The new axes are the old ones made orthogonal (the first axis is kept,
//! the second is rotated within the plane of both, the third is perpendicular to it) at the new spacing, so resampling
//! removes shear. The size is the extent of the source's corners along the new axes. If one corner of the source has
//! the smallest coordinate on every new axis, the first voxel lies there; without shear there always is such a corner.
//! Otherwise the two grids share their centre. The tolerance is so narrow (1e-8 voxel) that the rounding of an oblique
//! affine to the file's 32-bit numbers already counts as shear.
//!
//! # Coordinates
//! MONAI uses `affine_grid` and `grid_sample`: an output index becomes a coordinate in [-1, 1], then a source index, in
//! double precision. Where a source coordinate is exactly a half (from 3 mm to 1.5 mm: every other voxel), the rounding
//! of that detour decides which voxel is nearest. [`Coordinates`] therefore makes the same detour, operation by
//! operation, and label maps are equal voxel for voxel, except at such halves: releases of `PyTorch` round the detour
//! differently (`tests/pytorch/spacing_ties.py` counts them).

use super::matrix::{cholesky, diagonal, fused_product, inverse, product, solve, times_vector, transpose};
use crate::geometry::{Affine, spacing};

/// Largest difference (mm) at which spacings or entries of affines are treated as equal.
const TOLERANCE: f64 = 1e-3;
/// Largest distance (voxels) from the smallest coordinates within which a corner counts as the first corner.
const CORNER_TOLERANCE: f64 = 1e-8;

/// The voxel grid of a resampled scan.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    /// Number of voxels along x, y, z.
    pub(super) shape: [usize; 3],
    /// `world_from_voxel`.
    pub(super) affine: Affine,
    /// Affine from output voxels to source voxels; `None` if the source is not resampled.
    pub(super) source_from_output: Option<Affine>,
}

impl Grid {
    /// Creates the grid of a scan that is not resampled.
    pub(super) fn unchanged(source: &Affine, shape: [usize; 3]) -> Self {
        Self { shape, affine: *source, source_from_output: None }
    }

    /// Creates the grid of an oriented scan at another spacing (mm).
    pub(super) fn new(source: &Affine, source_shape: [usize; 3], target: [f64; 3]) -> Self {
        let old = spacing(source);
        let new =
            std::array::from_fn(
                |axis| if (old[axis] - target[axis]).abs() <= TOLERANCE { old[axis] } else { target[axis] },
            );
        let mut affine = orthogonal(source, new);
        let (shape, first) = place(source, source_shape, &affine);
        for row in 0..3 {
            affine[row][3] = first[row];
        }
        let source_from_output = solve(*source, affine);
        if shape == source_shape && (close(source, &affine) || close(&source_from_output, &diagonal([1.0; 4]))) {
            return Self::unchanged(source, shape);
        }
        // MONAI keeps the product, not the requested matrix.
        Self { shape, affine: fused_product(source, &source_from_output), source_from_output: Some(source_from_output) }
    }
}

/// The affine with orthogonal axes closest to those of `source`, of lengths `spacing`, without translation.
fn orthogonal(source: &Affine, spacing: [f64; 3]) -> Affine {
    let axes = linear(source);
    let shear = transpose(&cholesky(&product(&transpose(&axes), &axes)));
    let rotation = product(&axes, &inverse(shear));
    let axes = product(&rotation, &diagonal(spacing));
    let mut affine = diagonal([1.0; 4]);
    for row in 0..3 {
        affine[row][..3].copy_from_slice(&axes[row]);
    }
    affine
}

/// Number of voxels along the new axes, and world position of the first voxel.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of voxels, at least 1")]
fn place(source: &Affine, source_shape: [usize; 3], affine: &Affine) -> ([usize; 3], [f64; 3]) {
    // Corner 0 is the first voxel; the last axis changes fastest.
    let mut corners = [[1.0; 8]; 4];
    for (axis, row) in corners.iter_mut().take(3).enumerate() {
        for (corner, coordinate) in row.iter_mut().enumerate() {
            *coordinate = if corner >> (2 - axis) & 1 == 1 { source_shape[axis] as f64 - 1.0 } else { 0.0 };
        }
    }
    let along = product(&solve(*affine, *source), &corners);
    let lowest: [f64; 3] = std::array::from_fn(|axis| along[axis].iter().copied().fold(f64::INFINITY, f64::min));
    let extent = |axis: usize| along[axis].iter().copied().fold(f64::NEG_INFINITY, f64::max) - lowest[axis];
    let size: [f64; 3] = std::array::from_fn(|axis| (extent(axis) + 1.0).round_ties_even());
    let is_first = |corner: &usize| (0..3).all(|axis| (lowest[axis] - along[axis][*corner]).abs() <= CORNER_TOLERANCE);
    let first = if let Some(corner) = (0..8).find(is_first) {
        let world = product(source, &corners);
        std::array::from_fn(|row| world[row][corner])
    } else {
        let centre = times_vector(&linear(source), source_shape.map(|len| len as f64 / 2.0));
        let to_centre = times_vector(&linear(affine), size.map(|len| len / 2.0));
        std::array::from_fn(|row| centre[row] + source[row][3] - to_centre[row])
    };
    (size.map(|len| len as usize), first)
}

fn linear(affine: &Affine) -> [[f64; 3]; 3] {
    std::array::from_fn(|row| std::array::from_fn(|column| affine[row][column]))
}

/// Returns true if two affines are equal within MONAI's tolerance.
fn close(a: &Affine, b: &Affine) -> bool {
    a.as_flattened().iter().zip(b.as_flattened()).all(|(a, b)| (a - b).abs() <= TOLERANCE + 1e-5 * b.abs())
}

/// Source coordinates of output voxels; both arrays are oriented to RAS+.
#[derive(Clone, Debug)]
pub(super) struct Coordinates {
    /// Affine from normalised output coordinates to normalised source coordinates, one row per source axis.
    theta: [[f64; 4]; 3],
    /// Normalised coordinates of the output indices, for each axis.
    normalised: [Vec<f64>; 3],
    source_shape: [usize; 3],
}

impl Coordinates {
    pub(super) fn new(source_from_output: &Affine, source_shape: [usize; 3], shape: [usize; 3]) -> Self {
        let to_source = product(&normalisation(source_shape), source_from_output);
        let theta = product(&to_source, &inverse(normalisation(shape)));
        let normalised = shape.map(|len| (0..len).map(|idx| normalised(idx, len)).collect());
        Self { theta: [theta[0], theta[1], theta[2]], normalised, source_shape }
    }

    /// Returns true if each source coordinate depends on one output axis only.
    pub(super) fn is_separable(&self) -> bool {
        (0..3).all(|row| (0..3).all(|column| row == column || self.theta[row][column] == 0.0))
    }

    /// Shape of the source array.
    pub(super) fn source_shape(&self) -> [usize; 3] {
        self.source_shape
    }

    /// Normalised coordinates of an output voxel.
    pub(super) fn normalised(&self, voxel: [usize; 3]) -> [f64; 3] {
        std::array::from_fn(|axis| self.normalised[axis][voxel[axis]])
    }

    /// Fills `out` with the source coordinates along `axis` of a row of output voxels, which runs along `row_axis` and
    /// has the normalised coordinates `fixed` on the other axes.
    pub(super) fn fill_row(&self, axis: usize, row_axis: usize, fixed: [f64; 3], out: &mut Vec<f64>) {
        let [x, y, z] = fixed;
        let row = self.normalised[row_axis].iter();
        out.clear();
        match row_axis {
            0 => out.extend(row.map(|&at| self.source(axis, [at, y, z]))),
            1 => out.extend(row.map(|&at| self.source(axis, [x, at, z]))),
            _ => out.extend(row.map(|&at| self.source(axis, [x, y, at]))),
        }
    }

    /// Source coordinate along `axis` at a normalised output coordinate, clamped to the source.
    ///
    /// `PyTorch` adds the axes in reverse order, each with one fused multiply-add.
    #[inline]
    pub(super) fn source(&self, axis: usize, [x, y, z]: [f64; 3]) -> f64 {
        let [by_x, by_y, by_z, shift] = self.theta[axis];
        let m = self.source_shape[axis] as f64;
        let normalised = x.mul_add(by_x, y.mul_add(by_y, z * by_z)) + shift;
        let unclamped = ((normalised + 1.0) * m - 1.0) / 2.0;
        unclamped.clamp(0.0, m - 1.0)
    }
}

/// The affine from voxel indices to coordinates that are -1 and 1 at the outer faces of the array.
fn normalisation(shape: [usize; 3]) -> Affine {
    let mut affine = diagonal([1.0; 4]);
    for (axis, len) in shape.into_iter().enumerate() {
        affine[axis][axis] = 2.0 / len as f64;
        affine[axis][3] = 1.0 / len as f64 - 1.0;
    }
    affine
}

/// The normalised coordinate of an index, with the rounding of `affine_grid`.
fn normalised(idx: usize, len: usize) -> f64 {
    let n = len as f64;
    if len == 1 { 0.0 } else { linspace(idx, len) * (n - 1.0) / n }
}

/// Element `idx` of `torch.linspace(-1, 1, len)` in double precision, equal to the last bit.
///
/// `PyTorch`'s AVX2 kernel counts from both ends with fused multiply-add, four elements at a time while eight are left;
/// within four elements it adds rounded multiples of the increment.
fn linspace(idx: usize, len: usize) -> f64 {
    let increment = 2.0 / (len as f64 - 1.0);
    let counted = |idx: usize| {
        if idx < len / 2 {
            increment.mul_add(idx as f64, -1.0)
        } else {
            (-increment).mul_add((len - 1 - idx) as f64, 1.0)
        }
    };
    if idx < len / 8 * 8 {
        let first = idx / 4 * 4;
        counted(first) + increment * (idx - first) as f64
    } else {
        counted(idx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linspace_has_the_bits_of_pytorch() {
        // torch.linspace(-1, 1, 21, dtype=torch.float64) of PyTorch 1.13.
        let expected = [
            -1.0,
            -0.9,
            -0.8,
            -0.7,
            -0.6,
            -0.5,
            -0.399_999_999_999_999_97,
            -0.299_999_999_999_999_93,
            -0.199_999_999_999_999_96,
            -0.099_999_999_999_999_95,
            5.551_115_123_125_783e-17,
            0.100_000_000_000_000_09,
            0.199_999_999_999_999_96,
            0.299_999_999_999_999_93,
            0.399_999_999_999_999_97,
            0.5,
            0.6,
            0.7,
            0.8,
            0.9,
            1.0,
        ];
        let own: Vec<f64> = (0..21).map(|idx| linspace(idx, 21)).collect();
        assert_eq!(own, expected);
    }

    #[test]
    fn grid_of_the_requested_spacing_is_unchanged() {
        let source = [[1.5, 0.0, 0.0, -7.0], [0.0, 2.0, 0.0, 3.0], [0.0, 0.0, 4.0, 11.0], [0.0, 0.0, 0.0, 1.0]];
        let grid = Grid::new(&source, [5, 6, 7], [1.5, 2.0, 4.0005]);
        assert!(grid.source_from_output.is_none() && grid.shape == [5, 6, 7] && grid.affine == source);
        assert!(Grid::new(&source, [5, 6, 7], [1.5, 2.0, 4.5]).source_from_output.is_some());
    }

    #[test]
    fn grid_of_a_rotated_scan_covers_its_corners() {
        // Rotated by 30 degrees about z: the axes stay orthogonal, so the first voxel and the extent are the source's own.
        let (sin, cos) = (0.5, 0.75f64.sqrt());
        let source = [
            [2.0 * cos, -2.0 * sin, 0.0, 5.0],
            [2.0 * sin, 2.0 * cos, 0.0, 6.0],
            [0.0, 0.0, 3.0, 7.0],
            [0.0, 0.0, 0.0, 1.0],
        ];
        let grid = Grid::new(&source, [5, 6, 7], [1.0, 2.0, 1.5]);
        assert_eq!(grid.shape, [9, 6, 13]);
        for (row, expected) in [5.0, 6.0, 7.0].into_iter().enumerate() {
            // Rounding of products of numbers below 10.
            assert!((grid.affine[row][3] - expected).abs() < 1e-12, "{:?}", grid.affine);
        }
        assert!(
            (grid.affine[0][0] - cos).abs() < 1e-12 && (grid.affine[2][2] - 1.5).abs() < 1e-12,
            "{:?}",
            grid.affine
        );
    }

    #[test]
    fn grid_of_a_sheared_scan_shares_its_centre() {
        // y leans towards x: the new axes are those of the world, and no corner has the smallest coordinate on both.
        let source = [[1.0, -0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
        let grid = Grid::new(&source, [9, 5, 3], [1.0; 3]);
        // From x = -2 to 8.
        assert_eq!(grid.shape, [11, 5, 3]);
        // MONAI's centre is that of the arrays' outer faces counted from 0, half a voxel beyond the middle of the corners.
        let centre = [(9.0 - 0.5 * 5.0) / 2.0, 5.0 / 2.0, 3.0 / 2.0];
        for (axis, centre) in centre.into_iter().enumerate() {
            let first = centre - [11.0, 5.0, 3.0][axis] / 2.0;
            assert!((grid.affine[axis][3] - first).abs() < 1e-12, "{:?}", grid.affine);
        }
    }
}
