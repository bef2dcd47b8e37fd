//! Finds the voxel that a [`CentrePick`] stands for.

use hiend_cache::shard::reader::CaseIndex;
use hiend_cache::{Case, ChunkError, VolumeReader};

use crate::sampler::{CentrePick, Kind};

/// Buffers for one image chunk and one label chunk.
#[derive(Default)]
pub(super) struct Locator {
    image: Vec<u16>,
    label: Vec<u8>,
}

impl Locator {
    /// Size of the buffers in bytes.
    pub(super) fn buffer_bytes(&self) -> u64 {
        (self.image.capacity() * size_of::<u16>() + self.label.capacity()) as u64
    }

    /// Reads the picked chunk and returns the picked voxel.
    pub(super) fn locate(
        &mut self,
        reader: &mut VolumeReader,
        case: &Case,
        index: &CaseIndex,
        pick: &CentrePick,
    ) -> Result<[usize; 3], hiend_cache::Error> {
        let threshold = case.record().foreground_above;
        let nth = pick.nth as usize;
        let at = match pick.kind {
            Kind::Foreground | Kind::Background => {
                reader.image_chunk(case, index, pick.chunk, &mut self.image)?;
                let foreground = pick.kind == Kind::Foreground;
                nth_matching(&self.image, nth, |&value| (value > threshold) == foreground)
            }
            Kind::Class(class) => {
                reader.label_chunk(case, index, pick.chunk, &mut self.label)?;
                nth_matching(&self.label, nth, |&label| u32::from(label) == class)
            }
        };
        let Some(at) = at else {
            return Err(hiend_cache::Error::CorruptChunk {
                path: case.shard().path().to_owned(),
                case: case.key().to_owned(),
                array: if matches!(pick.kind, Kind::Class(_)) { "label" } else { "image" },
                chunk: pick.chunk,
                reason: ChunkError::Occupancy { kind: pick.kind.to_string() },
            });
        };
        let region = index.grid.chunk_box(pick.chunk);
        let [_, ny, nz] = region.shape();
        let within = [at / (ny * nz), at / nz % ny, at % nz];
        Ok(std::array::from_fn(|axis| region.start[axis] + within[axis]))
    }
}

/// Index of the `nth` matching voxel, counted from 0. Matches are counted block by block in vector code before one
/// block is searched.
fn nth_matching<T>(voxels: &[T], mut nth: usize, matches: impl Fn(&T) -> bool) -> Option<usize> {
    const BLOCK: usize = 256;
    for (number, block) in voxels.chunks(BLOCK).enumerate() {
        let found = block.iter().map(|voxel| u32::from(matches(voxel))).sum::<u32>() as usize;
        if nth < found {
            let mut places = block.iter().enumerate().filter(|(_, voxel)| matches(voxel));
            return places.nth(nth).map(|(at, _)| number * BLOCK + at);
        }
        nth -= found;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nth_voxel_is_found_across_blocks() {
        let voxels: Vec<u16> = (0..2000).map(|i| i % 3).collect();
        for nth in [0, 1, 84, 85, 86, 400, 665, 666] {
            assert_eq!(nth_matching(&voxels, nth, |&value| value == 1), Some(3 * nth + 1));
        }
        assert_eq!(nth_matching(&voxels, 667, |&value| value == 1), None);
    }
}
