//! Occupancy: the number of foreground voxels, and of voxels of each label class, in every chunk.
//!
//! # Uniform sampling
//! Sampling a chunk with probability proportional to its count, then the k-th matching voxel of that chunk with k
//! uniform, selects every matching voxel of the volume with the same probability. One uniform integer in `0..total`
//! decides both: [`Counts::locate`] maps it to a chunk and a voxel of that chunk.
//!
//! # Bytes, little-endian
//! ```text
//! foreground   u32 per chunk
//! classes      u32
//!   each       class u32 | entries u32 | entries x (chunk u32, count u32), chunks increasing
//! ```

use crate::grid::Grid;

/// Errors from parsing a case's occupancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OccupancyError {
    /// A length that is not a multiple of 4.
    #[error("occupancy of {0} bytes; expected a multiple of 4")]
    Length(usize),
    /// Fewer bytes than the counts take.
    #[error("occupancy ends early")]
    Truncated,
    /// Bytes after the last class.
    #[error("occupancy is followed by more bytes")]
    Trailing,
    /// A foreground count beyond the chunk's size.
    #[error("occupancy states {count} foreground voxels in chunk {chunk}, which has fewer")]
    Foreground {
        /// Number of the chunk.
        chunk: u32,
        /// Stated count.
        count: u32,
    },
    /// A class count beyond the chunk's size, or chunks out of order.
    #[error("occupancy states {count} voxels of class {class} in chunk {chunk}, which is out of order or has fewer")]
    Class {
        /// Label value.
        class: u32,
        /// Number of the chunk.
        chunk: u32,
        /// Stated count.
        count: u32,
    },
    /// Classes that are not in increasing order.
    #[error("occupancy states class {0} out of order")]
    Order(u32),
}

/// Counts of one kind of voxel over the chunks of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunk number and running total including it, for chunks with a count above zero.
    running: Vec<(u32, u64)>,
}

impl Counts {
    /// Builds the table from `(chunk, count)` pairs in increasing order of chunk.
    #[must_use]
    pub fn new(counts: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut total = 0u64;
        let pairs = counts.into_iter().filter(|&(_, count)| count > 0);
        let running = pairs.map(|(chunk, count)| {
            total += u64::from(count);
            (chunk, total)
        });
        Self { running: running.collect() }
    }

    /// Number of voxels of this kind in the volume.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.running.last().map_or(0, |&(_, total)| total)
    }

    /// Chunk that holds voxel number `k` of this kind, and the voxel's number within that chunk; `None` beyond the total.
    #[must_use]
    pub fn locate(&self, k: u64) -> Option<(usize, u32)> {
        let at = self.running.partition_point(|&(_, total)| total <= k);
        let &(chunk, _) = self.running.get(at)?;
        let before = if at == 0 { 0 } else { self.running[at - 1].1 };
        Some((chunk as usize, u32::try_from(k - before).ok()?))
    }

    /// Iterates over `(chunk, count)` of the chunks with a count above zero.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let before = std::iter::once(0).chain(self.running.iter().map(|&(_, total)| total));
        self.running.iter().zip(before).map(|(&(chunk, total), before)| {
            (chunk, u32::try_from(total - before).expect("a chunk has at most 2^18 voxels"))
        })
    }
}

/// Counts of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Voxels above the foreground threshold of the case.
    pub foreground: Counts,
    /// Voxels at or below the foreground threshold.
    pub background: Counts,
    /// Voxels of each label value that occurs, 0 included, in increasing order.
    pub classes: Vec<(u32, Counts)>,
}

impl Occupancy {
    /// Counts of one class; `None` if it does not occur.
    #[must_use]
    pub fn class(&self, class: u32) -> Option<&Counts> {
        self.classes.iter().find(|(value, _)| *value == class).map(|(_, counts)| counts)
    }

    /// Derives the background from the foreground counts, one per chunk.
    pub(crate) fn new(grid: &Grid, foreground: &[u32], classes: Vec<(u32, Counts)>) -> Self {
        let chunks = || (0..grid.num_chunks()).map(chunk_number);
        let background = chunks().zip(foreground).map(|(chunk, &count)| {
            let voxels = grid.chunk_box(chunk as usize).num_voxels();
            (chunk, u32::try_from(voxels).expect("a chunk has at most 2^18 voxels") - count)
        });
        Self {
            background: Counts::new(background),
            foreground: Counts::new(chunks().zip(foreground.iter().copied())),
            classes,
        }
    }

    /// Serializes the counts of a volume with this grid.
    pub(crate) fn to_bytes(&self, grid: &Grid) -> Vec<u8> {
        let mut dense = vec![0u32; grid.num_chunks()];
        for (chunk, count) in self.foreground.iter() {
            dense[chunk as usize] = count;
        }
        let mut words = dense;
        words.push(u32::try_from(self.classes.len()).expect("labels have at most 256 classes"));
        for (class, counts) in &self.classes {
            words.extend([*class, u32::try_from(counts.running.len()).expect("no more than chunks")]);
            words.extend(counts.iter().flat_map(|(chunk, count)| [chunk, count]));
        }
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Parses the counts of a volume with this grid.
    ///
    /// # Errors
    /// If lengths do not add up, numbers are out of order, or a count exceeds the size of its chunk.
    pub(crate) fn from_bytes(bytes: &[u8], grid: &Grid) -> Result<Self, OccupancyError> {
        let (words, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(OccupancyError::Length(bytes.len()));
        }
        // Before anything is allocated for the number of chunks that a file claims.
        if words.len() <= grid.num_chunks() {
            return Err(OccupancyError::Truncated);
        }
        let mut words = words.iter().map(|&word| u32::from_le_bytes(word));
        let mut next = || words.next().ok_or(OccupancyError::Truncated);
        let fits = |chunk: u32, count: u32| {
            (chunk as usize) < grid.num_chunks() && count as usize <= grid.chunk_box(chunk as usize).num_voxels()
        };
        let mut foreground = Vec::with_capacity(grid.num_chunks());
        for chunk in (0..grid.num_chunks()).map(chunk_number) {
            let count = next()?;
            if !fits(chunk, count) {
                return Err(OccupancyError::Foreground { chunk, count });
            }
            foreground.push(count);
        }
        let mut classes: Vec<(u32, Counts)> = Vec::new();
        for _ in 0..next()? {
            let (class, entries) = (next()?, next()?);
            let mut counts: Vec<(u32, u32)> = Vec::new();
            for _ in 0..entries {
                let (chunk, count) = (next()?, next()?);
                if !fits(chunk, count) || counts.last().is_some_and(|&(last, _)| last >= chunk) {
                    return Err(OccupancyError::Class { class, chunk, count });
                }
                counts.push((chunk, count));
            }
            if classes.last().is_some_and(|&(last, _)| last >= class) {
                return Err(OccupancyError::Order(class));
            }
            classes.push((class, Counts::new(counts)));
        }
        if words.next().is_some() {
            return Err(OccupancyError::Trailing);
        }
        Ok(Self::new(grid, &foreground, classes))
    }
}

/// Number of a chunk as the file stores it.
fn chunk_number(chunk: usize) -> u32 {
    u32::try_from(chunk).expect("each chunk takes four bytes of a length that fits in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn locate_finds_every_voxel_once(counts in prop::collection::vec(0u32..5, 1..20)) {
            let table = Counts::new((0u32..).zip(counts.iter().copied()));
            let mut seen = vec![0u32; counts.len()];
            for k in 0..table.total() {
                let (chunk, within) = table.locate(k).unwrap();
                prop_assert_eq!(within, seen[chunk]);
                seen[chunk] += 1;
            }
            prop_assert_eq!(&seen, &counts);
            prop_assert_eq!(table.locate(table.total()), None);
        }

        #[test]
        fn bytes_round_trip_and_truncation_is_an_error(counts in prop::collection::vec((0u32..28, 0u32..28), 8)) {
            let grid = Grid::new([6; 3], [3; 3]).unwrap();
            let foreground: Vec<u32> = counts.iter().map(|c| c.0.min(27)).collect();
            let class = Counts::new((0u32..).zip(counts.iter().map(|c| c.1.min(27))));
            let occupancy = Occupancy::new(&grid, &foreground, vec![(3, class)]);
            for (chunk, count) in occupancy.background.iter() {
                prop_assert_eq!(count, 27 - foreground[chunk as usize]);
            }
            let total = occupancy.foreground.total() + occupancy.background.total();
            prop_assert_eq!(total, 216);
            let bytes = occupancy.to_bytes(&grid);
            prop_assert_eq!(Occupancy::from_bytes(&bytes, &grid), Ok(occupancy));
            for cut in 0..bytes.len() {
                let expected = if cut % 4 == 0 { OccupancyError::Truncated } else { OccupancyError::Length(cut) };
                prop_assert_eq!(Occupancy::from_bytes(&bytes[..cut], &grid), Err(expected));
            }
        }
    }

    #[test]
    fn contradictions_are_errors() {
        // Two chunks of 4 voxels.
        let grid = Grid::new([1, 1, 8], [1, 1, 4]).unwrap();
        let parse = |words: &[u32]| {
            Occupancy::from_bytes(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>(), &grid)
        };
        let occupancy = parse(&[4, 0, 2, 0, 1, 1, 4, 5, 2, 0, 1, 1, 3]).unwrap();
        assert_eq!(occupancy.class(5).map(Counts::total), Some(4));
        assert_eq!((occupancy.class(0).map(Counts::total), occupancy.class(1)), (Some(4), None));
        for (words, error) in [
            (&[5, 0, 0][..], OccupancyError::Foreground { chunk: 0, count: 5 }),
            (&[4, 0, 1, 7, 1, 1, 5], OccupancyError::Class { class: 7, chunk: 1, count: 5 }),
            (&[4, 0, 1, 7, 1, 2, 1], OccupancyError::Class { class: 7, chunk: 2, count: 1 }),
            (&[4, 0, 1, 7, 2, 1, 1, 0, 1], OccupancyError::Class { class: 7, chunk: 0, count: 1 }),
            (&[4, 0, 1, 7, 2, 1, 1, 1, 1], OccupancyError::Class { class: 7, chunk: 1, count: 1 }),
            (&[4, 0, 2, 7, 1, 0, 1, 7, 1, 0, 1], OccupancyError::Order(7)),
            (&[4, 0, 2, 7, 1, 0, 1, 6, 1, 0, 1], OccupancyError::Order(6)),
            (&[4, 0, 0, 0], OccupancyError::Trailing),
            (&[4, 0, u32::MAX], OccupancyError::Truncated),
            (&[4, 0, 1, 7, u32::MAX], OccupancyError::Truncated),
        ] {
            assert_eq!(parse(words), Err(error), "{words:?}");
        }
    }
}
