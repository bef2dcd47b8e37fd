//! How a volume is cut into chunks, and which chunks a box meets.
//!
//! Chunks at the upper border are smaller, not padded. Everything is indexed `[x, y, z]` with z fastest.

use serde::{Deserialize, Serialize};

/// The most voxels a chunk may have. Keeps the packed low bits of a chunk within one raw zstd block (128 KiB).
pub const MAX_CHUNK_VOXELS: usize = 1 << 18;

/// A half-open box of voxels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Box3 {
    /// First voxel.
    pub start: [usize; 3],
    /// One past the last voxel.
    pub end: [usize; 3],
}

impl Box3 {
    /// Voxels along each axis.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        std::array::from_fn(|a| self.end[a].saturating_sub(self.start[a]))
    }

    /// Voxels in all.
    #[must_use]
    pub fn num_voxels(&self) -> usize {
        self.shape().iter().product()
    }

    /// The part of `self` that lies in `other`, if there is one.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let start = std::array::from_fn(|a| self.start[a].max(other.start[a]));
        let end: [usize; 3] = std::array::from_fn(|a| self.end[a].min(other.end[a]));
        (0..3).all(|a| start[a] < end[a]).then_some(Self { start, end })
    }
}

/// A volume's shape and the shape of its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    shape: [usize; 3],
    chunk: [usize; 3],
    chunks: [usize; 3],
}

impl Grid {
    /// A grid over a volume, or the reason why there is none.
    ///
    /// # Errors
    /// If a length is zero, a chunk has more than [`MAX_CHUNK_VOXELS`] voxels, or a product overflows 2^40 voxels.
    pub fn new(shape: [usize; 3], chunk: [usize; 3]) -> Result<Self, String> {
        let product = |lengths: [usize; 3]| lengths.iter().try_fold(1usize, |n, &length| n.checked_mul(length));
        match (product(shape), product(chunk)) {
            (Some(0) | None, _) => Err(format!("shape {shape:?} holds no voxels or too many")),
            (Some(n), _) if n > 1 << 40 => Err(format!("shape {shape:?} has more than 2^40 voxels")),
            (_, Some(n)) if (1..=MAX_CHUNK_VOXELS).contains(&n) => {
                Ok(Self { shape, chunk, chunks: std::array::from_fn(|a| shape[a].div_ceil(chunk[a])) })
            }
            _ => Err(format!("chunk shape {chunk:?} must hold 1 to {MAX_CHUNK_VOXELS} voxels")),
        }
    }

    /// The volume's shape.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The shape of a chunk that is not cut off.
    #[must_use]
    pub fn chunk(&self) -> [usize; 3] {
        self.chunk
    }

    /// Chunks of a column: those that lie above one another along z, whose numbers follow each other.
    #[must_use]
    pub fn column_len(&self) -> usize {
        self.chunks[2]
    }

    /// The voxels of the column that begins with chunk `idx`.
    #[must_use]
    pub fn column_box(&self, idx: usize) -> Box3 {
        let Box3 { start, mut end } = self.chunk_box(idx);
        end[2] = self.shape[2];
        Box3 { start, end }
    }

    /// How many chunks there are.
    #[must_use]
    pub fn num_chunks(&self) -> usize {
        self.chunks.iter().product()
    }

    /// The voxels of one chunk.
    #[must_use]
    pub fn chunk_box(&self, idx: usize) -> Box3 {
        let [_, ny, nz] = self.chunks;
        let at = [idx / (ny * nz), idx / nz % ny, idx % nz];
        let start = std::array::from_fn(|a| at[a] * self.chunk[a]);
        Box3 { start, end: std::array::from_fn(|a| (start[a] + self.chunk[a]).min(self.shape[a])) }
    }

    /// Every chunk that meets `region`, in increasing order. The region may reach beyond the volume.
    pub fn chunks_meeting(&self, region: &Box3) -> impl Iterator<Item = usize> + use<> {
        let inside = region.intersection(&Box3 { start: [0; 3], end: self.shape });
        let (first, last) = inside.map_or(([0; 3], [0; 3]), |b| {
            (
                std::array::from_fn(|a| b.start[a] / self.chunk[a]),
                std::array::from_fn(|a| b.end[a].div_ceil(self.chunk[a])),
            )
        });
        let [_, ny, nz] = self.chunks;
        let [ex, ey, ez]: [usize; 3] = last;
        let [sx, sy, sz]: [usize; 3] = first;
        (sx..ex).flat_map(move |x| (sy..ey).flat_map(move |y| (sz..ez).map(move |z| (x * ny + y) * nz + z)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn impossible_grids_are_refused() {
        for (shape, chunk) in [
            ([0, 4, 4], [2; 3]),
            ([4; 3], [0, 2, 2]),
            ([4; 3], [128, 128, 128]),
            ([usize::MAX, 2, 2], [2; 3]),
            ([1 << 20, 1 << 20, 2], [32; 3]),
        ] {
            assert!(Grid::new(shape, chunk).is_err(), "{shape:?} {chunk:?}");
        }
    }

    proptest! {
        #[test]
        fn chunks_tile_the_volume(shape in [1usize..40, 1..40, 1..40], chunk in [1usize..20, 1..20, 1..20]) {
            let grid = Grid::new(shape, chunk).unwrap();
            let voxels: usize = (0..grid.num_chunks()).map(|i| grid.chunk_box(i).num_voxels()).sum();
            prop_assert_eq!(voxels, shape.iter().product::<usize>());
        }

        #[test]
        fn a_region_meets_the_chunks_it_should(
            shape in [1usize..30, 1..30, 1..30], chunk in [1usize..12, 1..12, 1..12],
            start in [0usize..40, 0..40, 0..40], size in [0usize..20, 0..20, 0..20],
        ) {
            let grid = Grid::new(shape, chunk).unwrap();
            let region = Box3 { start, end: std::array::from_fn(|a| start[a] + size[a]) };
            let expected: Vec<usize> =
                (0..grid.num_chunks()).filter(|&i| grid.chunk_box(i).intersection(&region).is_some()).collect();
            prop_assert_eq!(grid.chunks_meeting(&region).collect::<Vec<_>>(), expected);
        }
    }
}
