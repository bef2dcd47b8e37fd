//! Bit packing of small boxes: the distance of each sample from its box's least, in as many bits as the box needs.
//!
//! In a box of 2 x 2 x 8 voxels a CT is one tissue and noise, so that few bits are left, and these an entropy coder
//! would hardly shrink: on a real CT the result is 2 to 8% larger than what zstd makes of planes (`benches/README.md`),
//! and decoding is a handful of shifts a vector.
//!
//! # Bytes
//! Boxes come in the order of the chunk, z fastest; those at its upper border reach beyond it and are filled up with
//! their least sample. First a header a box, then a payload a box, without gaps:
//!
//! ```text
//!   header    u16 little-endian, least << 4 | width    if samples have up to 12 bits
//!             u32 little-endian, least << 8 | width    else
//!   payload   4 * width bytes: of the 32 distances, d[0..32], z fastest, then y, then x
//!             width 16 (instead of 13 to 15, too): u16 little-endian each; else for each bit that is set in width, from the highest:
//!               8: 32 bytes, low 8 bits of d[i] in byte i
//!               4: 16 bytes, the next 4 bits of d[i] in byte i % 16, at bit 4 (i / 16)
//!               2:  8 bytes, the next 2 bits of d[i] in byte i % 8, at bit 2 (i / 8)
//!               1:  4 bytes, the last bit of d[i] in byte i / 8, at bit i % 8
//! ```
//! The parts are laid out so that eight neighbours along z are unpacked by the same shift.

use serde::{Deserialize, Serialize};

use super::Sample;

/// Voxels of a box along x, y, z.
const BOX: [usize; 3] = [2, 2, 8];
/// Samples of a box: four rows of eight.
type Rows = [[u16; 8]; 4];
const BOX_LEN: usize = 32;

/// Parameters of the packing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packed {
    /// Significant bits of a sample, 1 to 16.
    pub bits: u8,
}

impl Packed {
    pub(super) fn validate(self) -> Result<(), String> {
        if (1..=16).contains(&self.bits) { Ok(()) } else { Err(format!("{} bits a sample", self.bits)) }
    }

    /// No chunk of `num_voxels` voxels, whatever its shape, takes more bytes.
    pub(super) fn max_bytes(self, num_voxels: usize) -> usize {
        num_voxels * (self.header_len() + 2 * BOX_LEN)
    }

    fn header_len(self) -> usize {
        if self.bits <= 12 { 2 } else { 4 }
    }

    /// Bits of a header that hold the width.
    fn width_bits(self) -> u32 {
        if self.bits <= 12 { 4 } else { 8 }
    }

    /// Appends the packed samples of a chunk of this shape.
    ///
    /// # Panics
    /// If a sample has more than `bits` significant bits, or there are not as many as the shape says.
    pub(super) fn encode<T: Sample>(self, shape: [usize; 3], samples: &[T], out: &mut Vec<u8>) {
        assert_eq!(samples.len(), shape.iter().product::<usize>(), "a chunk has its shape");
        let [nx, ny, nz]: [usize; 3] = std::array::from_fn(|axis| shape[axis].div_ceil(BOX[axis]));
        let mut header_at = out.len();
        out.resize(header_at + nx * ny * nz * self.header_len(), 0);
        for idx in 0..nx * ny * nz {
            let corner = [idx / (ny * nz) * BOX[0], idx / nz % ny * BOX[1], idx % nz * BOX[2]];
            let inside = |row: usize| row_of(shape, corner, row).map(|(at, len)| &samples[at..at + len]);
            let all = || (0..4).filter_map(inside).flatten().map(|s| s.to_u16());
            let (least, most) = all().fold((u16::MAX, 0), |(low, high), s| (low.min(s), high.max(s)));
            assert!(u32::from(most) >> self.bits == 0, "a sample exceeds {} bits", self.bits);
            let mut rows: Rows = [[0; 8]; 4];
            for (row, distances) in rows.iter_mut().enumerate() {
                for (distance, sample) in distances.iter_mut().zip(inside(row).into_iter().flatten()) {
                    *distance = sample.to_u16() - least;
                }
            }
            // Widths above 12 are rare and would need parts of their own.
            let width = match u16::BITS - (most - least).leading_zeros() {
                13.. => 16,
                width => width,
            };
            let header = u32::from(least) << self.width_bits() | width;
            out[header_at..header_at + self.header_len()].copy_from_slice(&header.to_le_bytes()[..self.header_len()]);
            header_at += self.header_len();
            pack(&rows, width, out);
        }
    }

    /// Unpacks a chunk of this shape.
    ///
    /// # Errors
    /// Says why the bytes are no such chunk.
    pub(super) fn decode<T: Sample>(self, shape: [usize; 3], bytes: &[u8], samples: &mut [T]) -> Result<(), String> {
        let num_boxes: usize = (0..3).map(|axis| shape[axis].div_ceil(BOX[axis])).product();
        let (headers, payload) = bytes.split_at_checked(num_boxes * self.header_len()).ok_or("ends early")?;
        if self.bits <= 12 {
            let headers = headers.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
            decode_boxes(shape, headers.map(|header| (header >> 4, usize::from(header & 15))), payload, samples)
        } else {
            let headers = headers
                .as_chunks()
                .0
                .iter()
                .map(|&[width, a, b, _]: &[u8; 4]| (u16::from_le_bytes([a, b]), usize::from(width)));
            decode_boxes(shape, headers, payload, samples)
        }
    }
}

/// `headers` gives least and width of each box.
fn decode_boxes<T: Sample>(
    shape: [usize; 3],
    mut headers: impl Iterator<Item = (u16, usize)>,
    mut payload: &[u8],
    samples: &mut [T],
) -> Result<(), String> {
    let [nx, ny, nz] = shape;
    let mut next_box = || {
        let (least, width) = headers.next()?;
        let (packed, rest) = payload.split_at_checked(4 * width)?;
        payload = rest;
        let mut rows: Rows = [[least; 8]; 4];
        UNPACK.get(width)?(packed, &mut rows);
        Some(rows)
    };
    let broken = || "a width is impossible, or the bytes end early".to_owned();
    for (slab_idx, slab) in samples.chunks_mut(BOX[0] * ny * nz).enumerate() {
        let whole_slab = slab_idx < nx / BOX[0];
        let (near, far) = slab.split_at_mut(if whole_slab { ny * nz } else { 0 });
        for by in 0..ny.div_ceil(BOX[1]) {
            let at = by * BOX[1] * nz;
            if whole_slab && by < ny / BOX[1] {
                // All of the volume but its borders: four whole rows.
                let (a, b) = near[at..at + 2 * nz].split_at_mut(nz);
                let (c, d) = far[at..at + 2 * nz].split_at_mut(nz);
                let ([a, b, c, d], tails): ([&mut [[T; 8]]; 4], [&mut [T]; 4]) = {
                    let (a, b, c, d) = (a.as_chunks_mut(), b.as_chunks_mut(), c.as_chunks_mut(), d.as_chunks_mut());
                    ([a.0, b.0, c.0, d.0], [a.1, b.1, c.1, d.1])
                };
                for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
                    let rows = next_box().ok_or_else(broken)?;
                    for (to, row) in [a, b, c, d].into_iter().zip(rows) {
                        *to = row.map(T::from_u16);
                    }
                }
                if !tails[0].is_empty() {
                    let rows = next_box().ok_or_else(broken)?;
                    tails.into_iter().zip(&rows).for_each(|(to, row)| write(row, to));
                }
            } else {
                for bz in 0..nz.div_ceil(BOX[2]) {
                    let rows = next_box().ok_or_else(broken)?;
                    let corner = [0, by * BOX[1], bz * BOX[2]];
                    let here = if whole_slab { [BOX[0], ny, nz] } else { [1, ny, nz] };
                    for (number, row) in rows.iter().enumerate() {
                        let Some((at, len)) = row_of(here, corner, number) else { continue };
                        let to =
                            if at < near.len() { &mut near[at..at + len] } else { &mut far[at - near.len()..][..len] };
                        write(row, to);
                    }
                }
            }
        }
    }
    if payload.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", payload.len())) }
}

/// Fills `samples`, which may be fewer than the row has.
fn write<T: Sample>(row: &[u16; 8], samples: &mut [T]) {
    for (sample, &value) in samples.iter_mut().zip(row) {
        *sample = T::from_u16(value);
    }
}

/// Where row `row` of the box at `corner` begins in a chunk, and how much of it lies inside; `None` if nothing does.
fn row_of(shape: [usize; 3], corner: [usize; 3], row: usize) -> Option<(usize, usize)> {
    let (x, y) = (corner[0] + row / BOX[1], corner[1] + row % BOX[1]);
    let inside = x < shape[0] && y < shape[1];
    inside.then(|| ((x * shape[1] + y) * shape[2] + corner[2], (shape[2] - corner[2]).min(BOX[2])))
}

#[expect(clippy::cast_possible_truncation, reason = "parts are made of bytes")]
fn pack(rows: &Rows, width: u32, out: &mut Vec<u8>) {
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

/// Adds the distances of a box to its least sample, for each width.
const UNPACK: [fn(&[u8], &mut Rows); 17] = [
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

/// The loops have constant bounds and shifts, so each width becomes straight vector code.
fn unpack<const WIDTH: usize>(packed: &[u8], rows: &mut Rows) {
    assert_eq!(packed.len(), 4 * WIDTH, "the caller cuts the payload");
    if WIDTH == 16 {
        for (sample, bytes) in rows.as_flattened_mut().iter_mut().zip(packed.as_chunks().0) {
            *sample = sample.wrapping_add(u16::from_le_bytes(*bytes));
        }
        return;
    }
    let (mut at, mut shift) = (0, 0);
    if WIDTH & 8 != 0 {
        let part = &packed[..32];
        for (k, row) in rows.iter_mut().enumerate() {
            for (j, sample) in row.iter_mut().enumerate() {
                *sample = sample.wrapping_add(u16::from(part[8 * k + j]));
            }
        }
        (at, shift) = (32, 8);
    }
    if WIDTH & 4 != 0 {
        let part = &packed[at..at + 16];
        for (k, row) in rows.iter_mut().enumerate() {
            for (j, sample) in row.iter_mut().enumerate() {
                let value = u16::from(part[8 * (k % 2) + j]) >> (4 * (k / 2)) & 15;
                *sample = sample.wrapping_add(value << shift);
            }
        }
        at += 16;
        shift += 4;
    }
    if WIDTH & 2 != 0 {
        let part = &packed[at..at + 8];
        for (k, row) in rows.iter_mut().enumerate() {
            for (j, sample) in row.iter_mut().enumerate() {
                *sample = sample.wrapping_add((u16::from(part[j]) >> (2 * k) & 3) << shift);
            }
        }
        at += 8;
        shift += 2;
    }
    if WIDTH & 1 != 0 {
        let part = &packed[at..at + 4];
        for (k, row) in rows.iter_mut().enumerate() {
            for (j, sample) in row.iter_mut().enumerate() {
                *sample = sample.wrapping_add((u16::from(part[k]) >> j & 1) << shift);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: [usize; 3], bits: u8, sample: impl Fn(usize) -> u16) {
        let samples: Vec<u16> = (0..shape.iter().product()).map(sample).collect();
        let packed = Packed { bits };
        let mut bytes = Vec::new();
        packed.encode(shape, &samples, &mut bytes);
        assert!(bytes.len() <= packed.max_bytes(samples.len()));
        let mut decoded = vec![0u16; samples.len()];
        packed.decode(shape, &bytes, &mut decoded).unwrap();
        assert_eq!(decoded, samples, "{shape:?} {bits} bits");
        assert!(packed.decode(shape, &bytes[..bytes.len() - 1], &mut decoded).is_err());
        bytes.push(0);
        assert!(packed.decode(shape, &bytes, &mut decoded).is_err());
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
    fn every_width_and_every_border_comes_back() {
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
    fn the_bytes_are_as_documented() {
        let samples: Vec<u16> = (0..32).map(|i| 100 + i % 8).collect();
        let mut bytes = Vec::new();
        Packed { bits: 9 }.encode([2, 2, 8], &samples, &mut bytes);
        let mut expected = (100u16 << 4 | 3).to_le_bytes().to_vec();
        // Low two bits of 0 1 2 3 0 1 2 3, four times over; then the third bit.
        expected.extend([0, 0b0101_0101, 0b1010_1010, 0xFF].repeat(2));
        expected.extend([0b1111_0000; 4]);
        assert_eq!(bytes, expected);
    }
}
