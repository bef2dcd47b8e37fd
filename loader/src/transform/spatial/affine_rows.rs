//! Rows of a rotated and scaled crop: straight lines through the source.

use super::SpatialParams;

/// Summand that rounds a float with absolute value below 2^21 to an integer, stored in the low bits of the sum.
pub(super) const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23
/// Number of rows along x, and along y, of the tiles in which a crop is resampled.
const TILE: usize = 8;

/// Integer part of a float that `ROUND` was added to.
#[inline]
pub(super) fn integer(shifted: f32) -> u32 {
    shifted.to_bits().wrapping_sub(ROUND.to_bits())
}

/// Walk over the rows of a crop, each a straight line through the source.
#[derive(Debug)]
pub(super) struct AffineRows {
    matrix: [[f64; 3]; 3],
    source_shape: [usize; 3],
    crop_shape: [usize; 3],
    /// Offset between consecutive voxels of a row, in source voxels.
    pub(super) increment: [f32; 3],
    /// Largest index along each axis.
    last: [f32; 3],
}

impl AffineRows {
    /// Creates the rows of a crop of a source, along the lines given by `params`.
    pub(super) fn new(params: &SpatialParams, source_shape: [usize; 3], crop_shape: [usize; 3]) -> Self {
        let matrix = params.source_from_crop();
        Self {
            matrix,
            source_shape,
            crop_shape,
            increment: matrix.map(|row| row[2] as f32),
            last: source_shape.map(|n| n as f32 - 1.0),
        }
    }

    /// Calls `row` with the source position of each row's first voxel and the row's voxels.
    ///
    /// Proceeds tile by tile, because a rotated row runs across the source's rows, so that the rows of a tile share
    /// cached voxels. Best of 60 runs with 96³ voxels, in ms, without tiles, with tiles of 8 by 8 rows, and with such
    /// tiles cut at 48 voxels: scale 0.7: 2.8, 2.9, 3.3; rotation by 15° about each axis: 4.2, 4.1, 4.4; by 30° and
    /// scale 1.4: 12.1, 9.9, 9.9.
    pub(super) fn each<T>(&self, crop: &mut [T], mut row: impl FnMut([f32; 3], &mut [T])) {
        let [nx, ny, nz] = self.crop_shape;
        assert_eq!(crop.len(), nx * ny * nz, "a crop has its shape");
        if crop.is_empty() {
            return;
        }
        let tiles = |n: usize| (0..n).step_by(TILE).map(move |from| from..(from + TILE).min(n));
        for (x_tile, y_tile) in tiles(nx).flat_map(|x_tile| tiles(ny).map(move |y_tile| (x_tile.clone(), y_tile))) {
            for x in x_tile {
                for y in y_tile.clone() {
                    row(self.start(x, y), &mut crop[(x * ny + y) * nz..][..nz]);
                }
            }
        }
    }

    /// Source position of a row's first voxel.
    pub(super) fn start(&self, x: usize, y: usize) -> [f32; 3] {
        let crop_centre = self.crop_shape.map(|n| (n as f64 - 1.0) / 2.0);
        let source_centre = self.source_shape.map(|n| (n as f64 - 1.0) / 2.0);
        let (from_x, from_y) = (x as f64 - crop_centre[0], y as f64 - crop_centre[1]);
        let mut start = [0.0; 3];
        for axis in 0..3 {
            let [by_x, by_y, by_z] = self.matrix[axis];
            let along = by_x * from_x + by_y * from_y - by_z * crop_centre[2];
            start[axis] = (source_centre[axis] + along) as f32;
        }
        start
    }

    /// Source position of voxel `z` of a row. Computed by multiplication, so that errors do not accumulate along the
    /// row.
    #[inline]
    pub(super) fn at(&self, start: [f32; 3], z: usize) -> [f32; 3] {
        let z = z as i32 as f32;
        [start[0] + self.increment[0] * z, start[1] + self.increment[1] * z, start[2] + self.increment[2] * z]
    }

    /// Returns true if every position of a row has voxels on both sides. Rounding is monotonic, so testing the ends
    /// suffices.
    pub(super) fn is_inside(&self, start: [f32; 3]) -> bool {
        let end = self.at(start, self.crop_shape[2] - 1);
        (0..3).all(|a| start[a] >= 0.0 && end[a] >= 0.0 && start[a] < self.last[a] && end[a] < self.last[a])
    }

    /// Resamples a row of labels that leaves the source; voxels outside are background.
    #[cold]
    pub(super) fn nearest_at_border(&self, start: [f32; 3], source: &[u8], to: &mut [u8]) {
        let [sx, sy, sz] = self.source_shape;
        for (z, t) in to.iter_mut().enumerate() {
            // Negative positions become huge ones, which the comparison with the shape rejects as well.
            let [x, y, z] = self.at(start, z).map(|p| integer(p + ROUND) as usize);
            *t = if x < sx && y < sy && z < sz { source[(x * sy + y) * sz + z] } else { 0 };
        }
    }

    /// Interpolates a row that leaves the source; voxels outside count as 0.
    #[cold]
    pub(super) fn interpolate_at_border(&self, start: [f32; 3], source: &[f32], to: &mut [f32]) {
        let [sx, sy, sz] = self.source_shape.map(|n| n as isize);
        for (z, t) in to.iter_mut().enumerate() {
            let at = self.at(start, z);
            let below = at.map(f32::floor);
            let [x, y, z] = below.map(|p| p as isize);
            let mut sum = 0.0;
            for corner in 0..8isize {
                let upper = [corner >> 2, corner >> 1 & 1, corner & 1];
                let (x, y, z) = (x + upper[0], y + upper[1], z + upper[2]);
                if (0..sx).contains(&x) && (0..sy).contains(&y) && (0..sz).contains(&z) {
                    let weight: f32 = (0..3)
                        .map(|a| if upper[a] == 1 { at[a] - below[a] } else { 1.0 - (at[a] - below[a]) })
                        .product();
                    sum += weight * source[((x * sy + y) * sz + z) as usize];
                }
            }
            *t = sum;
        }
    }
}

/// Interpolates a row from the eight voxels around each position.
///
/// Pairs along z are read together and stay pairs until the end, which halves the arithmetic; with that and a single
/// bounds check, a scale of 0.7 went from 6.2 to 3.7 ms.
#[inline]
pub(super) fn interpolate(
    source: &[f32],
    row: usize,
    plane: usize,
    to: &mut [f32],
    corners: &[u32],
    [in_x, in_y, in_z]: [&[f32]; 3],
) {
    // The slices have one length, so that one bounds check serves all four reads.
    let len = source.len() - plane - row;
    let [s00, s01, s10, s11] = [0, row, plane, plane + row].map(|offset| &source[offset..][..len]);
    let fractions = in_x.iter().zip(in_y).zip(in_z);
    for ((to, &corner), ((&in_x, &in_y), &in_z)) in to.iter_mut().zip(corners).zip(fractions) {
        let pair = corner as usize..corner as usize + 2;
        let near = mix_pairs(&s00[pair.clone()], &s01[pair.clone()], in_y);
        let far = mix_pairs(&s10[pair.clone()], &s11[pair], in_y);
        let [first, second] = mix_pairs(&near, &far, in_x);
        *to = first + in_z * (second - first);
    }
}

/// Interpolates linearly between two pairs; `weight` is that of `to`.
#[inline]
fn mix_pairs(from: &[f32], to: &[f32], weight: f32) -> [f32; 2] {
    [from[0] + weight * (to[0] - from[0]), from[1] + weight * (to[1] - from[1])]
}
