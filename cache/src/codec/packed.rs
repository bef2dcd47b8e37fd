//! Bit packing of small boxes: the distance of each value from its box's minimum, in as few bits as the box needs.
//!
//! In a box of 2 x 2 x 8 voxels a CT holds one tissue and noise. Few bits remain, and an entropy coder would hardly
//! shrink them: on a real CT the result is 2 to 8% larger than zstd's of planes (`benches/README.md`), and decoding takes
//! a handful of shifts per vector.
//!
//! # Bytes
//! Boxes follow the order of the chunk, z fastest. Boxes at its upper borders extend beyond it and are filled with their
//! minimum. All headers come first, one per box, then all payloads, without gaps:
//!
//! ```text
//!   header    u16 little-endian, minimum << 4 | width    if values have up to 12 bits
//!             u32 little-endian, minimum << 8 | width    otherwise
//!   payload   4 * width bytes with the 32 distances d[0..32], z fastest, then y, then x
//!             width 16 (also in place of 13 to 15): u16 little-endian each
//!             other widths: one part for each bit that is set in width, from the highest:
//!               8: 32 bytes, low 8 bits of d[i] in byte i
//!               4: 16 bytes, the next 4 bits of d[i] in byte i % 16, at bit 4 (i / 16)
//!               2:  8 bytes, the next 2 bits of d[i] in byte i % 8, at bit 2 (i / 8)
//!               1:  4 bytes, the last bit of d[i] in byte i / 8, at bit i % 8
//! ```
//! The layout of the parts lets eight neighbours along z be unpacked by the same shift.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::error::DecodeError;
use super::voxel::Voxel;
use crate::grid::Box3;

/// Shape of a box in voxels along x, y, z.
pub(super) const BOX: [usize; 3] = [2, 2, 8];
/// Values of a box: four rows of eight along z.
type BoxRows = [[u16; 8]; 4];
/// Number of voxels in a box.
const BOX_LEN: usize = 32;

/// Parameters of the bit packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// Significant bits of a value, 1 to 16.
    pub bits: u8,
}

impl Packed {
    /// Upper bound on the encoded length in bytes of a chunk with `num_voxels` voxels, for any shape.
    pub(super) fn max_bytes(self, num_voxels: usize) -> usize {
        num_voxels * (self.header_len() + 2 * BOX_LEN)
    }

    /// Bytes of a box's header.
    pub(super) fn header_len(self) -> usize {
        if self.bits <= 12 { 2 } else { 4 }
    }

    /// Number of bits of a header that hold the width.
    fn width_bits(self) -> u32 {
        if self.bits <= 12 { 4 } else { 8 }
    }

    /// Appends the packed values of a chunk of shape `shape` to `out`.
    ///
    /// # Panics
    /// If a value has more than `bits` significant bits, or the number of values does not match the shape.
    pub(super) fn encode<T: Voxel>(self, shape: [usize; 3], values: &[T], out: &mut Vec<u8>) {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "a chunk has the number of values of its shape");
        let [nx, ny, nz]: [usize; 3] = std::array::from_fn(|axis| shape[axis].div_ceil(BOX[axis]));
        let mut header_at = out.len();
        out.resize(header_at + nx * ny * nz * self.header_len(), 0);
        for idx in 0..nx * ny * nz {
            let corner = [idx / (ny * nz) * BOX[0], idx / nz % ny * BOX[1], idx % nz * BOX[2]];
            let inside = |row: usize| row_of(shape, corner, row).map(|(at, len)| &values[at..at + len]);
            let all = || (0..4).filter_map(inside).flatten().map(|s| s.to_u16());
            let (minimum, maximum) = all().fold((u16::MAX, 0), |(low, high), s| (low.min(s), high.max(s)));
            assert!(u32::from(maximum) >> self.bits == 0, "a value exceeds {} bits", self.bits);
            let mut rows: BoxRows = [[0; 8]; 4];
            for (row, distances) in rows.iter_mut().enumerate() {
                for (distance, value) in distances.iter_mut().zip(inside(row).into_iter().flatten()) {
                    *distance = value.to_u16() - minimum;
                }
            }
            // Widths above 12 are rare and not worth parts of their own.
            let width = match u16::BITS - (maximum - minimum).leading_zeros() {
                13.. => 16,
                width => width,
            };
            let header = u32::from(minimum) << self.width_bits() | width;
            out[header_at..header_at + self.header_len()].copy_from_slice(&header.to_le_bytes()[..self.header_len()]);
            header_at += self.header_len();
            pack(&rows, width, out);
        }
    }

    /// Unpacks the boxes that intersect `part`; values outside them keep their previous content.
    ///
    /// # Errors
    /// If the bytes are not a chunk of this shape. Of boxes outside `part` only the lengths are checked.
    pub(super) fn decode<T: Voxel>(
        self,
        shape: [usize; 3],
        part: &Box3,
        bytes: &[u8],
        values: &mut [T],
    ) -> Result<(), DecodeError> {
        let num_boxes: usize = (0..3).map(|axis| shape[axis].div_ceil(BOX[axis])).product();
        let (headers, payload) = bytes.split_at_checked(num_boxes * self.header_len()).ok_or(DecodeError::Boxes)?;
        if self.bits <= 12 {
            let parse = |&bytes: &[u8; 2]| {
                let header = u16::from_le_bytes(bytes);
                (header >> 4, usize::from(header & 15))
            };
            Boxes { headers: headers.as_chunks().0, parse, next: 0, payload }.decode(shape, part, values)
        } else {
            let parse = |&[width, a, b, _]: &[u8; 4]| (u16::from_le_bytes([a, b]), usize::from(width));
            Boxes { headers: headers.as_chunks().0, parse, next: 0, payload }.decode(shape, part, values)
        }
    }
}

/// Cursor over the boxes of a chunk; `parse` splits a header into minimum and width.
struct Boxes<'a, const HEADER_LEN: usize, P> {
    headers: &'a [[u8; HEADER_LEN]],
    parse: P,
    /// Number of the box whose payload comes next.
    next: usize,
    payload: &'a [u8],
}

impl<const HEADER_LEN: usize, P: Fn(&[u8; HEADER_LEN]) -> (u16, usize)> Boxes<'_, HEADER_LEN, P> {
    fn decode<T: Voxel>(mut self, shape: [usize; 3], part: &Box3, values: &mut [T]) -> Result<(), DecodeError> {
        let [_, ny, nz] = shape;
        let [_, boxes_y, boxes_z] = std::array::from_fn(|axis| shape[axis].div_ceil(BOX[axis]));
        let [range_x, range_y, range_z]: [Range<usize>; 3] =
            std::array::from_fn(|axis| part.start[axis] / BOX[axis]..part.end[axis].div_ceil(BOX[axis]));
        for (bx, by) in range_x.flat_map(|bx| range_y.clone().map(move |by| (bx, by))) {
            let first = (bx * boxes_y + by) * boxes_z;
            self.skip_to(first + range_z.start).ok_or(DecodeError::Boxes)?;
            let [at_x, at_y] = [bx * BOX[0], by * BOX[1]];
            let row = |number: usize| {
                let row = (at_x + number / BOX[1]) * ny + at_y + number % BOX[1];
                row * nz..(row + 1) * nz
            };
            let mut borders = range_z.clone();
            if at_x + 1 < shape[0] && at_y + 1 < ny {
                // Away from the chunk's upper borders: four whole rows.
                let rows = values.get_disjoint_mut([0, 1, 2, 3].map(row)).expect("four rows of a chunk do not overlap");
                let [a, b, c, d] = rows.map(|row| row.as_chunks_mut().0);
                let whole = range_z.start..range_z.end.min(a.len());
                borders.start = whole.end;
                let [a, b, c, d] = [a, b, c, d].map(|row: &mut [[T; 8]]| &mut row[whole.clone()]);
                for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                    self.next_box([a, b, c, d]).ok_or(DecodeError::Boxes)?;
                }
            }
            for bz in borders {
                let mut rows = [[T::default(); 8]; 4];
                self.next_box(rows.each_mut()).ok_or(DecodeError::Boxes)?;
                for (number, row) in rows.iter().enumerate() {
                    if let Some((at, len)) = row_of(shape, [at_x, at_y, bz * BOX[2]], number) {
                        values[at..at + len].copy_from_slice(&row[..len]);
                    }
                }
            }
        }
        self.skip_to(self.headers.len()).ok_or(DecodeError::Boxes)?;
        if self.payload.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.payload.len())) }
    }

    /// Skips the boxes before number `target`; `None` if a width leads past the end of the data.
    fn skip_to(&mut self, target: usize) -> Option<()> {
        let widths = self.headers.get(self.next..target)?.iter().map(|header| (self.parse)(header).1);
        self.payload = self.payload.get(4 * widths.sum::<usize>()..)?;
        self.next = target;
        Some(())
    }

    /// Unpacks the next box into four rows; `None` if its width is invalid or the data ends early.
    #[expect(clippy::inline_always, reason = "a call and an option per box cost a twentieth of the decoding time")]
    #[inline(always)]
    fn next_box<T: Voxel>(&mut self, to: [&mut [T; 8]; 4]) -> Option<()> {
        let (minimum, width) = (self.parse)(self.headers.get(self.next)?);
        self.next += 1;
        let payload = self.payload;
        self.payload = payload.get(4 * width..)?;
        let mut rows: BoxRows = [[minimum; 8]; 4];
        if let (Some(window), true) = (payload.first_chunk(), width < 16) {
            unpack_any(window, width, minimum, rows.as_flattened_mut().try_into().expect("four rows"));
        } else {
            UNPACK.get(width)?(&payload[..4 * width], &mut rows);
        }
        rows.iter().zip(to).for_each(|(row, to)| T::copy_row(row, to));
        Some(())
    }
}

/// Number of bytes of a payload with all four parts.
const WINDOW: usize = 4 * 15;

/// Constants of [`unpack_any`] for each of the 32 lanes: mask of the two bits of the third part, multiplier that moves
/// them to bit 6, and mask of the one bit of the last part.
const LANES: [[u16; BOX_LEN]; 3] = {
    let mut lanes = [[0; BOX_LEN]; 3];
    let mut i = 0;
    while i < BOX_LEN {
        lanes[0][i] = 3 << (2 * (i / 8));
        lanes[1][i] = 1 << (6 - 2 * (i / 8));
        lanes[2][i] = 1 << (i % 8);
        i += 1;
    }
    lanes
};

/// Unpacks a box of fewer than 16 bits without branching on its width.
///
/// Reads all four parts at the place where they are or would be, and masks those that the box does not have. This takes
/// more arithmetic than [`unpack`] of the right width but no jump: widths follow the noise, and a processor often
/// predicts the next one wrong. Figures in `benches/README.md`, "Decoding". The loops run over all lanes, with constants
/// for the differences, because the compiler turns that into plain vector code and everything else into shuffles.
///
/// The function is never inlined, because the compiler takes the vectors apart when they are among other code.
#[inline(never)]
fn unpack_any(window: &[u8; WINDOW], width: usize, minimum: u16, values: &mut [u16; BOX_LEN]) {
    let has = |part: usize| usize::from(width & part != 0);
    let mask = |part: usize| if width & part != 0 { u16::MAX } else { 0 };
    let at4 = 32 * has(8);
    let at2 = at4 + 16 * has(4);
    let at1 = at2 + 8 * has(2);
    let (part4, part2, part1) = (&window[at4..at4 + 16], &window[at2..at2 + 8], &window[at1..at1 + 4]);
    let mut spread4 = [0u16; BOX_LEN];
    for (i, &byte) in part4.iter().enumerate() {
        (spread4[i], spread4[16 + i]) = (u16::from(byte), u16::from(byte >> 4));
    }
    let spread2: BoxRows = [std::array::from_fn(|j| u16::from(part2[j])); 4];
    let spread1: BoxRows = std::array::from_fn(|k| [u16::from(part1[k]); 8]);
    let (shift4, shift2, bit) = (width & 0b1000, width & 0b1100, (mask(1) & 1) << (width & 0b1110));
    let (mask8, mask4, mask2) = (mask(8), mask(4) & 15, mask(2) & 3);
    let [bits2, to_bit6, bits1] = &LANES;
    for (i, value) in values.iter_mut().enumerate() {
        let lowest = u16::from(window[i]) & mask8;
        let next = (spread4[i] & mask4) << shift4;
        let third = ((spread2.as_flattened()[i] & bits2[i]).wrapping_mul(to_bit6[i]) >> 6 & mask2) << shift2;
        let fourth = if spread1.as_flattened()[i] & bits1[i] == bits1[i] { bit } else { 0 };
        *value = minimum.wrapping_add(lowest).wrapping_add(next).wrapping_add(third).wrapping_add(fourth);
    }
}

/// Start of row `row` of the box at `corner` within the chunk, and its length inside; `None` if it lies outside.
fn row_of(shape: [usize; 3], corner: [usize; 3], row: usize) -> Option<(usize, usize)> {
    let (x, y) = (corner[0] + row / BOX[1], corner[1] + row % BOX[1]);
    let inside = x < shape[0] && y < shape[1];
    inside.then(|| ((x * shape[1] + y) * shape[2] + corner[2], (shape[2] - corner[2]).min(BOX[2])))
}

/// Appends the payload of a box.
#[expect(clippy::cast_possible_truncation, reason = "parts are made of bytes")]
fn pack(rows: &BoxRows, width: u32, out: &mut Vec<u8>) {
    let distances = rows.as_flattened();
    if width == 16 {
        out.extend(distances.iter().flat_map(|d| d.to_le_bytes()));
        return;
    }
    let mut shift = 0;
    for part in [8, 4, 2, 1u32].into_iter().filter(|part| width & part != 0) {
        let value = |i: usize| (distances[i] >> shift) as u8 & (0xFF >> (8 - part));
        let stride = 4 * part as usize;
        let byte = |at: usize| {
            if part == 1 {
                return (0..8).fold(0, |byte, bit| byte | value(8 * at + bit) << bit);
            }
            (0..8 / part).fold(0, |byte, k| byte | value(at + stride * k as usize) << (part * k))
        };
        out.extend((0..stride).map(byte));
        shift += part;
    }
}

/// [`unpack`] for each width.
const UNPACK: [fn(&[u8], &mut BoxRows); 17] = [
    unpack::<0>,
    unpack::<1>,
    unpack::<2>,
    unpack::<3>,
    unpack::<4>,
    unpack::<5>,
    unpack::<6>,
    unpack::<7>,
    unpack::<8>,
    unpack::<9>,
    unpack::<10>,
    unpack::<11>,
    unpack::<12>,
    unpack::<13>,
    unpack::<14>,
    unpack::<15>,
    unpack::<16>,
];

/// Unpacks the distances of a box from its minimum and adds them to `rows`, which hold the minimum.
///
/// Loop bounds and shifts are constant, so each width compiles to straight vector code.
fn unpack<const WIDTH: usize>(packed: &[u8], rows: &mut BoxRows) {
    assert_eq!(packed.len(), 4 * WIDTH, "the caller cuts the payload to its width");
    if WIDTH == 16 {
        for (value, bytes) in rows.as_flattened_mut().iter_mut().zip(packed.as_chunks().0) {
            *value = value.wrapping_add(u16::from_le_bytes(*bytes));
        }
        return;
    }
    let (mut at, mut shift) = (0, 0);
    if WIDTH & 8 != 0 {
        let part = &packed[..32];
        for (k, row) in rows.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                *value = value.wrapping_add(u16::from(part[8 * k + j]));
            }
        }
        (at, shift) = (32, 8);
    }
    if WIDTH & 4 != 0 {
        let part = &packed[at..at + 16];
        for (k, row) in rows.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                let bits = u16::from(part[8 * (k % 2) + j]) >> (4 * (k / 2)) & 15;
                *value = value.wrapping_add(bits << shift);
            }
        }
        at += 16;
        shift += 4;
    }
    if WIDTH & 2 != 0 {
        let part = &packed[at..at + 8];
        for (k, row) in rows.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                *value = value.wrapping_add((u16::from(part[j]) >> (2 * k) & 3) << shift);
            }
        }
        at += 8;
        shift += 2;
    }
    if WIDTH & 1 != 0 {
        let part = &packed[at..at + 4];
        for (k, row) in rows.iter_mut().enumerate() {
            for (j, value) in row.iter_mut().enumerate() {
                *value = value.wrapping_add((u16::from(part[k]) >> j & 1) << shift);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: [usize; 3], bits: u8, value: impl Fn(usize) -> u16) {
        let values: Vec<u16> = (0..shape.iter().product()).map(value).collect();
        let packed = Packed { bits };
        let mut bytes = Vec::new();
        packed.encode(shape, &values, &mut bytes);
        assert!(bytes.len() <= packed.max_bytes(values.len()));
        let all = Box3 { start: [0; 3], end: shape };
        let mut decoded = vec![0u16; values.len()];
        packed.decode(shape, &all, &bytes, &mut decoded).unwrap();
        assert_eq!(decoded, values, "{shape:?} {bits} bits");
        assert!(packed.decode(shape, &all, &bytes[..bytes.len() - 1], &mut decoded).is_err());
        bytes.push(0);
        assert!(packed.decode(shape, &all, &bytes, &mut decoded).is_err());
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "any bits serve the test")]
    fn every_width_and_border_round_trips() {
        for bits in 1..=16u8 {
            for width in 1..=bits {
                let (mask, top) = (u16::MAX >> (16 - width), u16::MAX >> (16 - bits));
                for shape in [[2, 2, 8], [1, 1, 1], [3, 2, 9], [4, 5, 17], [1, 7, 8]] {
                    check(shape, bits, |i| (top - mask) + ((i * 40_503) as u16 & mask));
                }
            }
        }
    }

    #[test]
    fn part_is_decoded_and_the_lengths_of_the_rest_are_checked() {
        let shape = [7, 6, 21];
        let values: Vec<u16> = (0..7 * 6 * 21u16).map(|i| i * 37 % 419).collect();
        for bits in [9, 16] {
            let packed = Packed { bits };
            let mut bytes = Vec::new();
            packed.encode(shape, &values, &mut bytes);
            let parts =
                [([0; 3], shape), ([0; 3], [1; 3]), ([6, 5, 20], shape), ([3, 2, 7], [4, 5, 17]), ([2; 3], [2; 3])];
            for (start, end) in parts {
                let part = Box3 { start, end };
                let mut decoded = vec![9999u16; values.len()];
                packed.decode(shape, &part, &bytes, &mut decoded).unwrap();
                for (i, (&found, &expected)) in decoded.iter().zip(&values).enumerate() {
                    let at = [i / (6 * 21), i / 21 % 6, i % 21];
                    let inside = (0..3).all(|axis| (start[axis]..end[axis]).contains(&at[axis]));
                    assert!(found == expected || (!inside && found == 9999), "{part:?}: {found} at {at:?}");
                }
                assert!(packed.decode(shape, &part, &bytes[..bytes.len() - 1], &mut decoded).is_err());
                let longer = [&bytes[..], &[0]].concat();
                assert!(packed.decode(shape, &part, &longer, &mut decoded).is_err());
            }
        }
    }

    #[test]
    fn layout_is_as_documented() {
        let values: Vec<u16> = (0..32).map(|i| 100 + i % 8).collect();
        let mut bytes = Vec::new();
        Packed { bits: 9 }.encode([2, 2, 8], &values, &mut bytes);
        let mut expected = (100u16 << 4 | 3).to_le_bytes().to_vec();
        // Low two bits of 0 1 2 3 0 1 2 3, four times; then the third bit.
        expected.extend([0, 0b0101_0101, 0b1010_1010, 0xFF].repeat(2));
        expected.extend([0b1111_0000; 4]);
        assert_eq!(bytes, expected);
    }
}
