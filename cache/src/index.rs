//! Chunk index: position, length and checksum of each chunk of an array.
//!
//! An entry takes 16 bytes, little-endian: offset in the file (u64), length (u32), CRC-32C of the bytes (u32). A chunk
//! whose values are all equal has no bytes: its length is 0 and its offset field holds the value.

use crate::codec::Codec;
use crate::grid::Grid;

/// Length of an entry in the file, in bytes.
pub const ENTRY_LEN: usize = 16;

/// Position and content of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A chunk whose values all equal this one.
    Constant(u16),
    /// An encoded chunk.
    Coded {
        /// Offset of the first byte in the file.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// CRC-32C of the bytes.
        crc32c: u32,
    },
}

/// Entries that cannot describe a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A constant beyond the codec's bits, or with a checksum.
    #[error("constant {value} with checksum {crc32c:#010x}; expected up to {bits} bits and no checksum")]
    Constant {
        /// Content of the offset field.
        value: u64,
        /// Content of the checksum field.
        crc32c: u32,
        /// Significant bits of a value.
        bits: u8,
    },
    /// More bytes than a chunk of this size can take.
    #[error("{len} bytes are too many for a chunk of {num_voxels} voxels")]
    TooLong {
        /// Length in bytes.
        len: u32,
        /// Number of voxels of the chunk.
        num_voxels: usize,
    },
    /// Bytes beyond the case's chunk data.
    #[error("byte range {offset}+{len} runs past the chunk data, which ends at {end}")]
    Range {
        /// Offset of the first byte.
        offset: u64,
        /// Length in bytes.
        len: u32,
        /// End of the chunk data.
        end: u64,
    },
}

/// Errors from parsing the bytes of a chunk index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// A length that does not match the number of chunks.
    #[error("index of {len} bytes; expected {ENTRY_LEN} for each of {num_chunks} chunks")]
    Length {
        /// Length in bytes.
        len: usize,
        /// Number of chunks of the grid.
        num_chunks: usize,
    },
    /// An entry that cannot be valid; the first one found.
    #[error("chunk {chunk}: {error}")]
    Entry {
        /// Number of the chunk.
        chunk: usize,
        /// Fault of the entry.
        error: EntryError,
    },
}

impl Entry {
    /// Serializes the entry.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ENTRY_LEN] {
        let (offset, len, crc32c) = match self {
            Self::Constant(value) => (u64::from(value), 0, 0),
            Self::Coded { offset, len, crc32c } => (offset, len, crc32c),
        };
        let mut bytes = [0; ENTRY_LEN];
        bytes[..8].copy_from_slice(&offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..].copy_from_slice(&crc32c.to_le_bytes());
        bytes
    }

    /// Parses an entry of a chunk with `num_voxels` voxels; chunk data ends at offset `data_end`.
    ///
    /// # Errors
    /// If no chunk of this codec and size can have this entry.
    pub fn from_bytes(
        bytes: [u8; ENTRY_LEN],
        codec: &Codec,
        num_voxels: usize,
        data_end: u64,
    ) -> Result<Self, EntryError> {
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3, c0, c1, c2, c3] = bytes;
        let offset = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let crc32c = u32::from_le_bytes([c0, c1, c2, c3]);
        if len == 0 {
            return match u16::try_from(offset) {
                Ok(value) if u32::from(value) >> codec.bits() == 0 && crc32c == 0 => Ok(Self::Constant(value)),
                _ => Err(EntryError::Constant { value: offset, crc32c, bits: codec.bits() }),
            };
        }
        if len as usize > codec.max_bytes(num_voxels) {
            return Err(EntryError::TooLong { len, num_voxels });
        }
        match offset.checked_add(u64::from(len)) {
            Some(end) if end <= data_end => Ok(Self::Coded { offset, len, crc32c }),
            _ => Err(EntryError::Range { offset, len, end: data_end }),
        }
    }
}

/// Index of one array of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkIndex {
    /// One entry per chunk, in grid order.
    pub entries: Vec<Entry>,
}

impl ChunkIndex {
    /// Number of bytes of the encoded chunks.
    #[must_use]
    pub fn coded_bytes(&self) -> u64 {
        let len = |entry: &Entry| if let Entry::Coded { len, .. } = entry { u64::from(*len) } else { 0 };
        self.entries.iter().map(len).sum()
    }

    /// Parses one entry for each chunk of `grid`.
    ///
    /// # Errors
    /// If the length is wrong or an entry impossible; names the first such chunk.
    pub fn from_bytes(bytes: &[u8], codec: &Codec, grid: &Grid, data_end: u64) -> Result<Self, IndexError> {
        let (entries, rest) = bytes.as_chunks::<ENTRY_LEN>();
        if entries.len() != grid.num_chunks() || !rest.is_empty() {
            return Err(IndexError::Length { len: bytes.len(), num_chunks: grid.num_chunks() });
        }
        let entry = |(chunk, &bytes)| {
            Entry::from_bytes(bytes, codec, grid.chunk_box(chunk).num_voxels(), data_end)
                .map_err(|error| IndexError::Entry { chunk, error })
        };
        Ok(Self { entries: entries.iter().enumerate().map(entry).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::CodecPreset;
    use proptest::prelude::*;

    fn codec() -> Codec {
        Codec::new(9, CodecPreset::Fast)
    }

    fn raw(offset: u64, len: u32, crc32c: u32) -> [u8; ENTRY_LEN] {
        Entry::Coded { offset, len, crc32c }.to_bytes()
    }

    proptest! {
        #[test]
        fn entries_round_trip(offset in 0u64..1 << 40, len in 1u32..2000, crc32c: u32, value in 0u16..512) {
            for entry in [Entry::Coded { offset, len, crc32c }, Entry::Constant(value)] {
                prop_assert_eq!(Entry::from_bytes(entry.to_bytes(), &codec(), 2000, 1 << 41), Ok(entry));
            }
        }

        /// Plausible entries around every limit are accepted exactly if a chunk can have them.
        #[test]
        fn accepted_entries_are_those_within_the_limits(
            offset in prop_oneof![0u64..600, 4900u64..5100, any::<u64>()],
            len in prop_oneof![Just(0u32), 1u32..400, 5000u32..6000, any::<u32>()],
            crc32c in prop_oneof![Just(0u32), any::<u32>()],
        ) {
            let longest = u32::try_from(codec().max_bytes(64)).unwrap();
            let expected = if len == 0 {
                (offset < 512 && crc32c == 0).then(|| Entry::Constant(u16::try_from(offset).unwrap()))
            } else {
                let inside = u128::from(offset) + u128::from(len) <= 5000;
                (inside && len <= longest).then_some(Entry::Coded { offset, len, crc32c })
            };
            prop_assert_eq!(Entry::from_bytes(raw(offset, len, crc32c), &codec(), 64, 5000).ok(), expected);
        }
    }

    #[test]
    fn limits_of_an_entry_are_inclusive() {
        let longest = u32::try_from(codec().max_bytes(64)).unwrap();
        let parse = |offset, len, crc32c, end| Entry::from_bytes(raw(offset, len, crc32c), &codec(), 64, end);
        assert_eq!(parse(511, 0, 0, 0), Ok(Entry::Constant(511)));
        assert_eq!(parse(512, 0, 0, 0), Err(EntryError::Constant { value: 512, crc32c: 0, bits: 9 }));
        assert_eq!(parse(1, 0, 1, 0), Err(EntryError::Constant { value: 1, crc32c: 1, bits: 9 }));
        assert_eq!(
            parse(10, longest, 5, u64::from(longest) + 10),
            Ok(Entry::Coded { offset: 10, len: longest, crc32c: 5 })
        );
        let end = u64::from(longest) + 9;
        assert_eq!(parse(10, longest, 5, end), Err(EntryError::Range { offset: 10, len: longest, end }));
        let len = longest + 1;
        assert_eq!(parse(10, len, 5, u64::MAX), Err(EntryError::TooLong { len, num_voxels: 64 }));
        assert_eq!(parse(u64::MAX, 1, 5, u64::MAX), Err(EntryError::Range { offset: u64::MAX, len: 1, end: u64::MAX }));
    }

    #[test]
    fn index_has_one_possible_entry_per_chunk() {
        let grid = Grid::new([4, 4, 8], [4; 3]).unwrap();
        let (first, second) = (Entry::Constant(3), Entry::Coded { offset: 40, len: 7, crc32c: 9 });
        let bytes = [first.to_bytes(), second.to_bytes()].concat();
        let index = ChunkIndex::from_bytes(&bytes, &codec(), &grid, 47).unwrap();
        assert_eq!((index.coded_bytes(), index.entries), (7, vec![first, second]));
        for len in (0..bytes.len()).chain([bytes.len() + 1, bytes.len() + ENTRY_LEN]) {
            let mut other = bytes.clone();
            other.resize(len, 0);
            let error = ChunkIndex::from_bytes(&other, &codec(), &grid, 47).unwrap_err();
            assert_eq!(error, IndexError::Length { len, num_chunks: 2 });
        }
        let error = EntryError::Range { offset: 40, len: 7, end: 46 };
        assert_eq!(ChunkIndex::from_bytes(&bytes, &codec(), &grid, 46), Err(IndexError::Entry { chunk: 1, error }));
    }
}
