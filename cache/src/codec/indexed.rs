//! Packed chunks with an index of their rows of boxes, for decoders that begin at any voxel.
//!
//! A packed chunk ([`super::packed`]) is decoded from its first box on, because the position of a payload is the sum of
//! all widths before it. A device decodes with thousands of threads that begin anywhere. A record holds the packed bytes
//! as they are stored, after the position of each row of boxes along z:
//!
//! ```text
//!   word 0        number of packed bytes, headers and payload
//!   words 1..     one per row of boxes, y fastest, then x: position of its first payload, in words from word 0
//!   headers       as stored, after two bytes of padding unless their length is a multiple of 4
//!   payload       as stored; a box of width w takes w words
//! ```
//! Words have 32 bits and are little-endian.

use super::error::DecodeError;
use super::packed::{BOX, Packed};
use super::voxel::Voxel;
use crate::grid::Box3;

/// Length of a word in bytes.
const WORD: usize = 4;

impl Packed {
    /// Maximum number of bytes of the record of a chunk of shape `shape`, a multiple of 4.
    #[must_use]
    pub fn max_indexed_bytes(self, shape: [usize; 3]) -> usize {
        let Layout { payload, boxes, .. } = self.layout(shape);
        WORD * (payload + boxes * self.max_width())
    }

    /// Writes the record of a chunk of shape `shape` from its packed bytes to the beginning of `record`; returns its
    /// length in bytes, a multiple of 4.
    ///
    /// # Errors
    /// If the bytes are not a chunk of this shape, or `record` has no room for them. [`Self::max_indexed_bytes`] are
    /// enough for any chunk that was encoded.
    pub fn write_indexed(self, shape: [usize; 3], packed: &[u8], record: &mut [u8]) -> Result<usize, DecodeError> {
        let layout = self.layout(shape);
        let (headers, payload) = packed.split_at_checked(layout.headers).ok_or(DecodeError::Boxes)?;
        let end = WORD * layout.payload + payload.len().next_multiple_of(WORD);
        let record = record.get_mut(..end).ok_or(DecodeError::Boxes)?;
        let (index, content) = record.split_at_mut(WORD * (1 + layout.rows));
        let [len, row_starts @ ..] = index.as_chunks_mut().0 else { return Err(DecodeError::Boxes) };
        *len = u32::try_from(packed.len()).ok().ok_or(DecodeError::Boxes)?.to_le_bytes();
        let payload_end = if self.header_len() == 2 {
            let width = |header: &[u8; 2]| usize::from(header[0] & 15);
            start_rows(headers.as_chunks().0, width, &layout, row_starts)
        } else {
            let width = |header: &[u8; 4]| usize::from(header[0]);
            start_rows(headers.as_chunks().0, width, &layout, row_starts)
        };
        let expected = WORD * (payload_end - layout.payload);
        match payload.len().checked_sub(expected) {
            None => return Err(DecodeError::Boxes),
            Some(0) => {}
            Some(trailing) => return Err(DecodeError::Trailing(trailing)),
        }
        let (padding, content) = content.split_at_mut(content.len() - packed.len());
        padding.fill(0);
        content.copy_from_slice(packed);
        Ok(end)
    }

    /// Decodes at least `part` of the chunk whose record `record` begins with; see [`super::Decoder::decode_part`].
    ///
    /// # Errors
    /// If the bytes are not a record of a chunk of this shape.
    pub fn decode_indexed<T: Voxel>(
        self,
        shape: [usize; 3],
        part: &Box3,
        record: &[u8],
        values: &mut [T],
    ) -> Result<(), DecodeError> {
        let layout = self.layout(shape);
        let len = u32::from_le_bytes(*record.first_chunk().ok_or(DecodeError::Boxes)?) as usize;
        let payload = len.checked_sub(layout.headers).ok_or(DecodeError::Boxes)?;
        let end = WORD * layout.payload + payload;
        self.decode(shape, part, record.get(end - len..end).ok_or(DecodeError::Boxes)?, values)
    }

    /// Largest width that a box of an encoded chunk has.
    fn max_width(self) -> usize {
        if self.bits <= 12 { self.bits.into() } else { 16 }
    }

    fn layout(self, shape: [usize; 3]) -> Layout {
        let [boxes_x, boxes_y, boxes_z]: [usize; 3] = std::array::from_fn(|axis| shape[axis].div_ceil(BOX[axis]));
        let rows = boxes_x * boxes_y;
        let boxes = rows * boxes_z;
        let headers = boxes * self.header_len();
        Layout { rows, boxes_z, boxes, headers, payload: 1 + rows + headers.div_ceil(4) }
    }
}

/// Parts of a record.
struct Layout {
    /// Number of rows of boxes.
    rows: usize,
    /// Number of boxes in a row.
    boxes_z: usize,
    /// Number of boxes.
    boxes: usize,
    /// Bytes of all headers.
    headers: usize,
    /// First word of the payload.
    payload: usize,
}

/// Writes the word of each row's first payload; returns the word after the last payload.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a box of 32 voxels takes at most 255 words, and a chunk 2^18 voxels"
)]
fn start_rows<const HEADER_LEN: usize>(
    headers: &[[u8; HEADER_LEN]],
    width: impl Fn(&[u8; HEADER_LEN]) -> usize,
    layout: &Layout,
    row_starts: &mut [[u8; WORD]],
) -> usize {
    let mut at = layout.payload;
    for (row, start) in headers.chunks_exact(layout.boxes_z).zip(row_starts) {
        *start = (at as u32).to_le_bytes();
        at += row.iter().map(&width).sum::<usize>();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Packed bytes of a chunk and its record.
    fn record(packed: Packed, shape: [usize; 3], values: &[u16]) -> (Vec<u8>, Vec<u8>) {
        let mut bytes = Vec::new();
        packed.encode(shape, values, &mut bytes);
        let mut record = vec![7; packed.max_indexed_bytes(shape)];
        let len = packed.write_indexed(shape, &bytes, &mut record).unwrap();
        assert_eq!(len % WORD, 0);
        record.truncate(len);
        (bytes, record)
    }

    proptest! {
        #[test]
        #[expect(clippy::cast_possible_truncation, reason = "any bits serve the test")]
        fn records_decode_to_the_values_of_their_chunk(
            shape in prop::array::uniform3(1usize..11),
            bits in 1u8..=16,
            seed in any::<u16>(),
        ) {
            let top = u16::MAX >> (16 - bits);
            let values: Vec<u16> =
                (0..shape.iter().product::<usize>()).map(|i| (i as u16 ^ seed).wrapping_mul(40_503) & top).collect();
            let packed = Packed { bits };
            let (bytes, record) = record(packed, shape, &values);
            let whole = Box3::whole(shape);
            let mut decoded = vec![0u16; values.len()];
            // Records lie one after another, so other bytes may follow.
            let longer = [&record[..], &[9; 3]].concat();
            packed.decode_indexed(shape, &whole, &longer, &mut decoded).unwrap();
            prop_assert_eq!(&decoded, &values);
            prop_assert!(packed.decode_indexed(shape, &whole, &record[..record.len() - 4], &mut decoded).is_err());
            // Bytes that are not a chunk, and too little room, are refused.
            let mut room = vec![0; record.len() + 4];
            prop_assert!(packed.write_indexed(shape, &bytes[..bytes.len() - 1], &mut room).is_err());
            prop_assert!(packed.write_indexed(shape, &[&bytes[..], &[0]].concat(), &mut room).is_err());
            prop_assert!(packed.write_indexed(shape, &bytes, &mut room[..record.len() - 1]).is_err());
        }
    }

    #[test]
    fn layout_is_as_documented() {
        // Three boxes in rows of their own: six bytes of headers after two of padding.
        let packed = Packed { bits: 9 };
        let values: Vec<u16> = (0..2 * 6 * 8).map(|i| if i % 48 < 16 { i % 2 } else { 300 }).collect();
        let (bytes, record) = record(packed, [2, 6, 8], &values);
        // Widths 1, 0 and 0.
        assert_eq!(bytes.len(), 6 + 4);
        let index: Vec<u8> = [10u32, 6, 7, 7].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(record, [&index[..], &[0, 0], &bytes].concat());
        assert_eq!(packed.max_indexed_bytes([2, 6, 8]), 4 * (1 + 3 + 2 + 3 * 9));
    }
}
