//! Chunks that the crops of a visit need, decoded column by column, each chunk once.

use hiend_cache::grid::Grid;
use hiend_cache::index::Entry;
use hiend_cache::shard::reader::CaseIndex;
use hiend_cache::{Box3, Case, VolumeReader};

use super::VisitTimes;

/// Arrays of a case that are decoded: the image, and the labels if wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrays {
    pub(super) image: bool,
    pub(super) label: bool,
}

/// Decoder of one column of chunks at a time.
#[derive(Default)]
pub(super) struct ColumnDecoder {
    /// Boxes of the volume that crops need.
    regions: Vec<Box3>,
    /// For each chunk, true if any region intersects it.
    wanted: Vec<bool>,
    /// Number of pairs of a region and a chunk that intersect.
    num_uses: u64,
    /// Image of the current column, chunk by chunk; only wanted chunks hold voxels of it.
    pub(super) image: Vec<Vec<u16>>,
    /// Labels of the current column.
    pub(super) label: Vec<Vec<u8>>,
}

impl ColumnDecoder {
    /// Size in bytes of the buffers that depend on the case.
    pub(super) fn buffer_bytes(&self) -> u64 {
        let image = self.image.iter().map(Vec::capacity).sum::<usize>() * size_of::<u16>();
        let label = self.label.iter().map(Vec::capacity).sum::<usize>();
        (image + label + self.wanted.capacity()) as u64
    }

    /// Starts a visit that needs `regions`.
    pub(super) fn want(&mut self, grid: &Grid, regions: impl Iterator<Item = Box3>) {
        self.regions.clear();
        self.regions.extend(regions);
        self.wanted.clear();
        self.wanted.resize(grid.num_chunks(), false);
        self.num_uses = 0;
        for chunk in self.regions.iter().flat_map(|region| grid.chunks_meeting(region)) {
            self.wanted[chunk] = true;
            self.num_uses += 1;
        }
    }

    /// Numbers of the wanted chunks, in increasing order.
    pub(super) fn wanted(&self) -> impl Iterator<Item = usize> {
        self.wanted.iter().enumerate().filter(|(_, wanted)| **wanted).map(|(chunk, _)| chunk)
    }

    /// Decodes the wanted chunks of `arrays` in the column that begins with chunk `column`, each only as far as it is
    /// wanted. Returns whether there are any.
    pub(super) fn read(
        &mut self,
        reader: &mut VolumeReader,
        case: &Case,
        index: &CaseIndex,
        column: usize,
        arrays: Arrays,
    ) -> Result<bool, hiend_cache::Error> {
        let column_len = index.grid.column_len();
        if !self.wanted[column..column + column_len].contains(&true) {
            return Ok(false);
        }
        self.image.resize_with(self.image.len().max(column_len), Vec::new);
        self.label.resize_with(self.label.len().max(column_len), Vec::new);
        for number in 0..column_len {
            let chunk = column + number;
            if !self.wanted[chunk] {
                continue;
            }
            let part = wanted_part(&index.grid.chunk_box(chunk), &self.regions);
            if arrays.image {
                reader.image_part(case, index, chunk, &part, &mut self.image[number])?;
            }
            if arrays.label {
                reader.label_part(case, index, chunk, &part, &mut self.label[number])?;
            }
        }
        Ok(true)
    }

    /// Number of chunks, bytes and chunk hits of the visit; times are 0.
    pub(super) fn work(&self, index: &CaseIndex, labels: bool) -> VisitTimes {
        let arrays = [Some(&index.image), index.label.as_ref().filter(|_| labels)];
        let mut work = VisitTimes::default();
        for array in arrays.into_iter().flatten() {
            let wanted = array.entries.iter().zip(&self.wanted).filter(|(_, wanted)| **wanted);
            for (entry, _) in wanted {
                work.chunks += 1;
                work.coded_bytes += match entry {
                    Entry::Constant(_) => 0,
                    Entry::Coded { len, .. } => u64::from(*len),
                };
            }
            work.chunk_hits += self.num_uses;
        }
        work.chunk_hits -= work.chunks;
        work
    }
}

/// Smallest box within a chunk, in coordinates relative to the chunk, that contains all its voxels in `regions`.
///
/// Crops end inside the chunks at their faces; a crop needs two fifths of the voxels of the chunks that it intersects.
fn wanted_part(chunk: &Box3, regions: &[Box3]) -> Box3 {
    let parts = regions.iter().filter_map(|region| region.intersection(chunk));
    let both = |a: Box3, b: Box3| Box3 {
        start: std::array::from_fn(|axis| a.start[axis].min(b.start[axis])),
        end: std::array::from_fn(|axis| a.end[axis].max(b.end[axis])),
    };
    let part = parts.reduce(both).unwrap_or(Box3 { start: chunk.start, end: chunk.start });
    let within = |voxel: [usize; 3]| std::array::from_fn(|axis| voxel[axis] - chunk.start[axis]);
    Box3 { start: within(part.start), end: within(part.end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_part_is_the_hull_of_all_regions_within_the_chunk() {
        let chunk = Box3 { start: [8, 8, 8], end: [16, 16, 16] };
        let region = |start, end| Box3 { start, end };
        let regions = [
            region([0, 0, 0], [10, 9, 16]),
            region([12, 10, 9], [13, 20, 11]),
            // This region does not meet the chunk.
            region([16, 0, 0], [20, 16, 16]),
        ];
        assert_eq!(wanted_part(&chunk, &regions), region([0, 0, 0], [5, 8, 8]));
        assert_eq!(wanted_part(&chunk, &regions[1..]), region([4, 2, 1], [5, 8, 3]));
        assert_eq!(wanted_part(&chunk, &regions[2..]).shape(), [0; 3]);
    }
}
