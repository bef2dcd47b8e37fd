//! Where the chunks of a case lie, and the checksum of each.
//!
//! An entry is 16 bytes, little-endian: offset in the file (u64), length (u32), CRC-32C of the bytes (u32). A chunk
//! whose samples are all equal has no bytes: its length is 0 and its offset field holds the value.

use crate::codec::Codec;
use crate::grid::Grid;

/// Bytes of an entry in the file.
pub const ENTRY_LEN: usize = 16;

/// One chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// All samples have this value.
    Constant(u16),
    /// Coded bytes.
    Coded {
        /// Offset in the file.
        offset: u64,
        /// Bytes.
        len: u32,
        /// CRC-32C of the bytes.
        crc32c: u32,
    },
}

impl Entry {
    /// The entry's 16 bytes.
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

    /// Reads an entry and checks it against what a chunk of this codec and size can be.
    ///
    /// # Errors
    /// Says what is impossible about it.
    pub fn from_bytes(bytes: [u8; ENTRY_LEN], codec: &Codec, num_voxels: usize, data_end: u64) -> Result<Self, String> {
        let [o0, o1, o2, o3, o4, o5, o6, o7, l0, l1, l2, l3, c0, c1, c2, c3] = bytes;
        let offset = u64::from_le_bytes([o0, o1, o2, o3, o4, o5, o6, o7]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let crc32c = u32::from_le_bytes([c0, c1, c2, c3]);
        if len == 0 {
            return match u16::try_from(offset) {
                Ok(value) if u32::from(value) >> codec.bits() == 0 && crc32c == 0 => Ok(Self::Constant(value)),
                _ => Err(format!("constant {offset} exceeds {} bits", codec.bits())),
            };
        }
        if len as usize > codec.max_bytes(num_voxels) {
            return Err(format!("{len} bytes are too many for a chunk of {num_voxels} voxels"));
        }
        match offset.checked_add(u64::from(len)) {
            Some(end) if end <= data_end => Ok(Self::Coded { offset, len, crc32c }),
            _ => Err(format!("bytes {offset}+{len} lie outside the chunk data, which ends at {data_end}")),
        }
    }
}

/// The chunks of one array of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkIndex {
    /// One entry a chunk, in grid order.
    pub entries: Vec<Entry>,
}

impl ChunkIndex {
    /// Bytes that the coded chunks take.
    #[must_use]
    pub fn coded_bytes(&self) -> u64 {
        let len = |entry: &Entry| if let Entry::Coded { len, .. } = entry { u64::from(*len) } else { 0 };
        self.entries.iter().map(len).sum()
    }

    /// Parses and validates `grid.num_chunks()` entries.
    ///
    /// # Errors
    /// Names the first impossible chunk.
    pub fn from_bytes(bytes: &[u8], codec: &Codec, grid: &Grid, data_end: u64) -> Result<Self, String> {
        let (entries, rest) = bytes.as_chunks::<ENTRY_LEN>();
        if entries.len() != grid.num_chunks() || !rest.is_empty() {
            return Err(format!("index of {} bytes for {} chunks", bytes.len(), grid.num_chunks()));
        }
        let entry = |(idx, &bytes)| {
            Entry::from_bytes(bytes, codec, grid.chunk_box(idx).num_voxels(), data_end)
                .map_err(|reason| format!("chunk {idx}: {reason}"))
        };
        Ok(Self { entries: entries.iter().enumerate().map(entry).collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::CodecPreset;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_round_trip(offset in 0u64..1 << 40, len in 1u32..2000, crc32c: u32, value in 0u16..512) {
            let codec = Codec::new(9, CodecPreset::Fast);
            for entry in [Entry::Coded { offset, len, crc32c }, Entry::Constant(value)] {
                prop_assert_eq!(Entry::from_bytes(entry.to_bytes(), &codec, 2000, 1 << 41), Ok(entry));
            }
        }

        #[test]
        fn an_accepted_entry_lies_within_the_data(bytes: [u8; 16]) {
            let codec = Codec::new(9, CodecPreset::Fast);
            match Entry::from_bytes(bytes, &codec, 64, 5000) {
                Ok(Entry::Coded { offset, len, .. }) => prop_assert!(offset + u64::from(len) <= 5000),
                Ok(Entry::Constant(value)) => prop_assert!(value < 512),
                Err(_) => {}
            }
        }
    }
}
