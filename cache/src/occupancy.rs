//! How many foreground voxels, and how many of each label class, every chunk holds.
//!
//! # Law
//! Drawing a chunk with probability proportional to its count, then the k-th matching voxel of that chunk with k
//! uniform, draws every matching voxel of the volume with the same probability. One uniform integer in
//! `0..total` decides both: [`Counts::locate`] says which chunk it falls into and which voxel of the chunk it is.
//!
//! # Bytes, little-endian
//! ```text
//! foreground   u32 a chunk
//! classes      u32
//!   each       class u32 | entries u32 | entries x (chunk u32, count u32), chunks increasing
//! ```

use crate::grid::Grid;

/// Counts of one kind of voxel over the chunks of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunk and running total up to and with it; only chunks with a count above zero.
    running: Vec<(u32, u64)>,
}

impl Counts {
    /// From `(chunk, count)` pairs in increasing order of chunk.
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

    /// Voxels of this kind in the volume.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.running.last().map_or(0, |&(_, total)| total)
    }

    /// The chunk that holds voxel number `k` of this kind, and which one of the chunk's it is; `None` beyond the total.
    #[must_use]
    pub fn locate(&self, k: u64) -> Option<(usize, u32)> {
        let at = self.running.partition_point(|&(_, total)| total <= k);
        let &(chunk, _) = self.running.get(at)?;
        let before = if at == 0 { 0 } else { self.running[at - 1].1 };
        Some((chunk as usize, u32::try_from(k - before).ok()?))
    }

    /// Count of every chunk that has any.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let before = std::iter::once(0).chain(self.running.iter().map(|&(_, total)| total));
        self.running.iter().zip(before).map(|(&(chunk, total), before)| {
            (chunk, u32::try_from(total - before).expect("a chunk has at most 2^18 voxels"))
        })
    }
}

/// All counts of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Voxels above the case's foreground threshold.
    pub foreground: Counts,
    /// Every other voxel.
    pub background: Counts,
    /// Voxels of each label value that occurs, 0 included; in increasing order.
    pub classes: Vec<(u32, Counts)>,
}

impl Occupancy {
    /// Counts of one class; empty for a class that does not occur.
    #[must_use]
    pub fn class(&self, class: u32) -> Option<&Counts> {
        self.classes.iter().find(|(value, _)| *value == class).map(|(_, counts)| counts)
    }

    pub(crate) fn new(grid: &Grid, foreground: &[u32], classes: Vec<(u32, Counts)>) -> Self {
        let chunks = || 0..u32::try_from(grid.num_chunks()).expect("checked when the grid was made");
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

    /// Parses and validates.
    ///
    /// # Errors
    /// If lengths do not add up, or a count exceeds its chunk.
    pub(crate) fn from_bytes(bytes: &[u8], grid: &Grid) -> Result<Self, String> {
        let bad = |what: &str| format!("occupancy: {what}");
        let (words, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(bad("length is no multiple of 4"));
        }
        if words.len() <= grid.num_chunks() {
            return Err(bad("ends early"));
        }
        let mut words = words.iter().map(|&word| u32::from_le_bytes(word));
        let mut next = || words.next().ok_or_else(|| bad("ends early"));
        let fits = |chunk: u32, count: u32| {
            (chunk as usize) < grid.num_chunks() && count as usize <= grid.chunk_box(chunk as usize).num_voxels()
        };
        let mut foreground = Vec::with_capacity(grid.num_chunks());
        for chunk in 0..u32::try_from(grid.num_chunks()).map_err(|_| bad("too many chunks"))? {
            let count = next()?;
            if !fits(chunk, count) {
                return Err(bad(&format!("{count} foreground voxels in chunk {chunk}")));
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
                    return Err(bad(&format!("{count} voxels of class {class} in chunk {chunk}")));
                }
                counts.push((chunk, count));
            }
            if classes.last().is_some_and(|&(last, _)| last >= class) {
                return Err(bad("classes are not in increasing order"));
            }
            classes.push((class, Counts::new(counts)));
        }
        if words.next().is_some() {
            return Err(bad("is followed by more bytes"));
        }
        Ok(Self::new(grid, &foreground, classes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn locate_visits_every_voxel_once(counts in prop::collection::vec(0u32..5, 1..20)) {
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
        fn bytes_round_trip(counts in prop::collection::vec((0u32..28, 0u32..28), 8)) {
            let grid = Grid::new([6; 3], [3; 3]).unwrap();
            let foreground: Vec<u32> = counts.iter().map(|c| c.0.min(27)).collect();
            let class = Counts::new((0u32..).zip(counts.iter().map(|c| c.1.min(27))));
            let occupancy = Occupancy::new(&grid, &foreground, vec![(3, class)]);
            let bytes = occupancy.to_bytes(&grid);
            prop_assert_eq!(Occupancy::from_bytes(&bytes, &grid), Ok(occupancy));
            for cut in 0..bytes.len() {
                prop_assert!(Occupancy::from_bytes(&bytes[..cut], &grid).is_err());
            }
        }
    }
}
