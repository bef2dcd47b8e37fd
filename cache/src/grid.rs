//! The grid of chunks over a volume, and the chunks that a box intersects.
//!
//! Chunks at the upper borders are smaller, not padded. Positions and shapes are `[x, y, z]` with z fastest.

use serde::{Deserialize, Serialize};

/// Maximum number of voxels in a chunk. Keeps the packed low bits of a chunk within one raw zstd block (128 KiB).
pub const MAX_CHUNK_VOXELS: usize = 1 << 18;

/// Maximum number of voxels in a volume.
const MAX_VOXELS: usize = 1 << 40;

/// Volume or chunk shapes that no grid can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// A volume without voxels.
    #[error("shape {shape:?} has a length of zero")]
    Empty {
        /// Shape of the volume.
        shape: [usize; 3],
    },
    /// A volume of more than 2^40 voxels.
    #[error("shape {shape:?} has more than 2^40 voxels")]
    TooLarge {
        /// Shape of the volume.
        shape: [usize; 3],
    },
    /// A chunk without voxels, or with more than [`MAX_CHUNK_VOXELS`].
    #[error("chunk shape {chunk:?} must hold 1 to {MAX_CHUNK_VOXELS} voxels")]
    Chunk {
        /// Shape of a chunk.
        chunk: [usize; 3],
    },
}

/// A half-open box of voxels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Box3 {
    /// First voxel along each axis.
    pub start: [usize; 3],
    /// One past the last voxel along each axis.
    pub end: [usize; 3],
}

impl Box3 {
    /// Box of a whole volume of this shape.
    #[must_use]
    pub fn whole(shape: [usize; 3]) -> Self {
        Self { start: [0; 3], end: shape }
    }

    /// Number of voxels along each axis; 0 where the end lies before the start.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        std::array::from_fn(|a| self.end[a].saturating_sub(self.start[a]))
    }

    /// Number of voxels in the box.
    #[must_use]
    pub fn num_voxels(&self) -> usize {
        self.shape().iter().product()
    }

    /// Box of the voxels in both `self` and `other`; `None` if there are none.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let start = std::array::from_fn(|a| self.start[a].max(other.start[a]));
        let end: [usize; 3] = std::array::from_fn(|a| self.end[a].min(other.end[a]));
        (0..3).all(|a| start[a] < end[a]).then_some(Self { start, end })
    }

    /// Returns `true` if every voxel of `self` lies in `other`.
    #[must_use]
    pub fn is_inside(&self, other: &Self) -> bool {
        (0..3).all(|a| other.start[a] <= self.start[a] && self.end[a] <= other.end[a])
    }
}

/// Partition of a volume into chunks, numbered with z fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    shape: [usize; 3],
    chunk: [usize; 3],
    chunks: [usize; 3],
}

impl Grid {
    /// Partitions a volume of `shape` into chunks of shape `chunk`.
    ///
    /// # Errors
    /// If a length is zero, a chunk has more than [`MAX_CHUNK_VOXELS`] voxels, or the volume more than 2^40.
    pub fn new(shape: [usize; 3], chunk: [usize; 3]) -> Result<Self, GridError> {
        let product = |lengths: [usize; 3]| lengths.iter().try_fold(1usize, |n, &length| n.checked_mul(length));
        if shape.contains(&0) {
            return Err(GridError::Empty { shape });
        }
        if product(shape).is_none_or(|voxels| voxels > MAX_VOXELS) {
            return Err(GridError::TooLarge { shape });
        }
        if product(chunk).is_none_or(|voxels| !(1..=MAX_CHUNK_VOXELS).contains(&voxels)) {
            return Err(GridError::Chunk { chunk });
        }
        Ok(Self { shape, chunk, chunks: std::array::from_fn(|a| shape[a].div_ceil(chunk[a])) })
    }

    /// Shape of the volume.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Shape of a full chunk; chunks at the upper borders may be smaller.
    #[must_use]
    pub fn chunk(&self) -> [usize; 3] {
        self.chunk
    }

    /// Number of chunks in a column: all chunks with the same x and y, numbered consecutively.
    #[must_use]
    pub fn column_len(&self) -> usize {
        self.chunks[2]
    }

    /// Box of the column from chunk `idx` to the upper border of z.
    #[must_use]
    pub fn column_box(&self, idx: usize) -> Box3 {
        let Box3 { start, mut end } = self.chunk_box(idx);
        end[2] = self.shape[2];
        Box3 { start, end }
    }

    /// Number of chunks in the volume.
    #[must_use]
    pub fn num_chunks(&self) -> usize {
        self.chunks.iter().product()
    }

    /// Box of chunk `idx`.
    #[must_use]
    pub fn chunk_box(&self, idx: usize) -> Box3 {
        let [_, ny, nz] = self.chunks;
        let at = [idx / (ny * nz), idx / nz % ny, idx % nz];
        let start = std::array::from_fn(|a| at[a] * self.chunk[a]);
        Box3 { start, end: std::array::from_fn(|a| (start[a] + self.chunk[a]).min(self.shape[a])) }
    }

    /// Numbers of the chunks that intersect `region`, in increasing order. The region may reach beyond the volume.
    pub fn chunks_meeting(&self, region: &Box3) -> impl Iterator<Item = usize> + use<> {
        let inside = region.intersection(&Box3::whole(self.shape));
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
    fn impossible_grid_is_an_error() {
        let check = |shape, chunk, expected| assert_eq!(Grid::new(shape, chunk), Err(expected));
        for shape in [[0, 4, 4], [4, 4, 0], [usize::MAX, 2, 0]] {
            check(shape, [2; 3], GridError::Empty { shape });
        }
        for shape in [[usize::MAX, 2, 2], [1 << 20, 1 << 20, 2], [(1 << 40) + 1, 1, 1]] {
            check(shape, [2; 3], GridError::TooLarge { shape });
        }
        for chunk in [[0, 2, 2], [128; 3], [usize::MAX, 2, 2], [1, 1, MAX_CHUNK_VOXELS + 1]] {
            check([4; 3], chunk, GridError::Chunk { chunk });
        }
    }

    #[test]
    fn largest_grid_is_accepted() {
        let grid = Grid::new([1 << 20, 1 << 20, 1], [1, 1, MAX_CHUNK_VOXELS]).unwrap();
        assert_eq!((grid.num_chunks(), grid.column_len()), (1 << 40, 1));
    }

    #[test]
    fn box_is_inside_itself_and_nothing_smaller() {
        let outer = Box3 { start: [1, 2, 3], end: [4, 6, 8] };
        assert!(outer.is_inside(&outer));
        for axis in 0..3 {
            let (mut low, mut high) = (outer, outer);
            low.start[axis] -= 1;
            high.end[axis] += 1;
            assert!(!low.is_inside(&outer) && !high.is_inside(&outer), "axis {axis}");
            assert!(outer.is_inside(&low) && outer.is_inside(&high), "axis {axis}");
        }
    }

    #[test]
    fn column_reaches_from_its_chunk_to_the_upper_border() {
        let grid = Grid::new([5, 7, 11], [2, 3, 4]).unwrap();
        assert_eq!((grid.shape(), grid.chunk(), grid.column_len()), ([5, 7, 11], [2, 3, 4], 3));
        assert_eq!(grid.column_box(3), Box3 { start: [0, 3, 0], end: [2, 6, 11] });
        assert_eq!(grid.column_box(17), Box3 { start: [2, 6, 8], end: [4, 7, 11] });
    }

    proptest! {
        #[test]
        fn chunks_tile_the_volume(shape in [1usize..20, 1..20, 1..20], chunk in [1usize..12, 1..12, 1..12]) {
            let grid = Grid::new(shape, chunk).unwrap();
            let mut covered = vec![0u8; shape.iter().product()];
            for part in (0..grid.num_chunks()).map(|idx| grid.chunk_box(idx)) {
                prop_assert!(part.is_inside(&Box3::whole(shape)));
                for (x, y) in (part.start[0]..part.end[0]).flat_map(|x| (part.start[1]..part.end[1]).map(move |y| (x, y))) {
                    let row = (x * shape[1] + y) * shape[2];
                    covered[row + part.start[2]..row + part.end[2]].iter_mut().for_each(|count| *count += 1);
                }
            }
            prop_assert!(covered.iter().all(|&count| count == 1));
        }

        #[test]
        fn chunks_of_a_region_are_those_that_intersect_it(
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
