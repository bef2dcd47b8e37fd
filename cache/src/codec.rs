//! Codecs: from the voxels of a chunk to bytes and back.
//!
//! # The `packed` codec
//! Divides the chunk into small boxes and stores the distance of each value from the box's minimum, in as few bits as
//! the box needs ([`packed`]). There is no entropy coder: the result is 2 to 8% larger than that of `planes` on CT and
//! decodes more than twice as fast. It is the default for images. The packed bytes are the content of a zstd frame, in
//! one *raw* block ([`stored`]) unless zstd would halve them: a chunk remains stock zstd data, and a reader borrows the
//! packed bytes from the memory map without copying them.
//!
//! # The `planes` codec
//! The low bits of a CT are noise: they compress least and cost an entropy decoder most. This codec splits the values
//! ([`planes`]): the lowest `raw_bits` (0 or 4) of each are packed, two values per byte; the remaining bits form one or
//! two planes of bytes. The packed bits go into a zstd frame of one *raw* block where compression would save less than
//! an eighth ([`stored`]), the planes into a compressed zstd frame. The two frames are concatenated, and any zstd tool
//! decodes them to `packed bits ++ planes`: a chunk is independent, stock zstd data. A reader that finds the raw block
//! borrows the packed bits from the memory map without copying them.
//!
//! # The `lz4` codec
//! Packed low bits and byte planes as in `planes`, compressed together into one LZ4 block.
//!
//! Figures: `benches/README.md`, table "codec".

mod error;
pub mod indexed;
pub mod packed;
pub mod planes;
pub mod stored;
mod voxel;

use serde::{Deserialize, Serialize};

pub use error::{CodecError, DecodeError};
pub use voxel::Voxel;

use crate::grid::Box3;
use packed::Packed;
use planes::Planes;

/// Trade-off between size and decoding speed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodecPreset {
    /// Bit packing without an entropy coder: fastest to decode.
    #[default]
    Fast,
    /// Bit planes through zstd, with the low four bits stored separately: slightly smaller, half as fast.
    Dense,
    /// Bit planes through LZ4, for comparison: larger than either and slower than [`Self::Fast`].
    Lz4,
}

/// Codec of an array and its parameters; part of a case's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "id", rename_all = "lowercase", deny_unknown_fields)]
pub enum Codec {
    /// Bit packing of small boxes.
    Packed(Packed),
    /// Bit planes compressed with zstd.
    Planes(Planes),
    /// Bit planes compressed with LZ4.
    Lz4(Planes),
}

impl Codec {
    /// Selects the codec for values of `bits` significant bits.
    ///
    /// Up to 8 bits are taken for a label map: its long runs compress to almost nothing with an entropy coder or LZ4.
    #[must_use]
    pub fn new(bits: u8, preset: CodecPreset) -> Self {
        // The low bits of values wider than a byte are noise. Stored apart from the planes they also take less space:
        // on real CT 0.566 bytes per voxel with four raw bits, 0.600 with none.
        let raw_bits = if bits > 8 { 4 } else { 0 };
        match preset {
            CodecPreset::Fast if bits > 8 => Self::Packed(Packed { bits }),
            CodecPreset::Fast | CodecPreset::Dense => Self::Planes(Planes { bits, raw_bits }),
            CodecPreset::Lz4 => Self::Lz4(Planes { bits, raw_bits: 0 }),
        }
    }

    /// Number of significant bits of a value.
    #[must_use]
    pub fn bits(&self) -> u8 {
        match self {
            Self::Packed(packed) => packed.bits,
            Self::Planes(planes) | Self::Lz4(planes) => planes.bits,
        }
    }

    /// Checks parameters, which may come from a file, for values of up to `max_bits` bits.
    ///
    /// # Errors
    /// If there is no codec with these parameters, or its values do not fit.
    pub fn validate(&self, max_bits: u8) -> Result<(), CodecError> {
        let bits = self.bits();
        if !(1..=max_bits.min(16)).contains(&bits) {
            return Err(CodecError::Bits { bits, max: max_bits.min(16) });
        }
        match self {
            Self::Packed(_) => Ok(()),
            Self::Planes(planes) | Self::Lz4(planes) => planes.validate(),
        }
    }

    /// Upper bound on the encoded length in bytes of a chunk with `num_voxels` voxels.
    #[must_use]
    pub fn max_bytes(&self, num_voxels: usize) -> usize {
        let raw = |planes: &Planes| planes.low_len(num_voxels) + planes.high_len(num_voxels);
        match self {
            Self::Packed(packed) => zstd::zstd_safe::compress_bound(packed.max_bytes(num_voxels)) + stored::HEADER_LEN,
            Self::Planes(planes) => zstd::zstd_safe::compress_bound(raw(planes)) + 2 * stored::HEADER_LEN,
            Self::Lz4(planes) => lz4_flex::block::get_maximum_output_size(raw(planes)),
        }
    }
}

/// Encodes chunks and reuses its zstd context and buffers.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    bytes: Vec<u8>,
    frame: Vec<u8>,
}

impl Encoder {
    /// Creates an encoder with a zstd compression level.
    ///
    /// # Errors
    /// If zstd rejects the level or runs out of memory.
    pub fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(level)?, bytes: Vec::new(), frame: Vec::new() })
    }

    /// Appends the encoded values of a chunk of shape `shape` to `out`.
    ///
    /// # Errors
    /// If zstd runs out of memory.
    ///
    /// # Panics
    /// If a value has more significant bits than the codec, or the number of values does not match the shape.
    pub fn encode<T: Voxel>(
        &mut self,
        codec: &Codec,
        shape: [usize; 3],
        values: &[T],
        out: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        let planes = match codec {
            Codec::Packed(packed) => {
                self.bytes.clear();
                packed.encode(shape, values, &mut self.bytes);
                compress(&mut self.zstd, &self.bytes, &mut self.frame)?;
                let fits = self.bytes.len() <= stored::MAX_LEN;
                if fits && self.frame.len() > self.bytes.len() / 2 {
                    stored::write(&self.bytes, out);
                } else {
                    out.extend_from_slice(&self.frame);
                }
                return Ok(());
            }
            Codec::Planes(planes) | Codec::Lz4(planes) => planes,
        };
        planes.split(values, &mut self.bytes);
        if let Codec::Lz4(_) = codec {
            out.extend_from_slice(&lz4_flex::block::compress(&self.bytes));
            return Ok(());
        }
        let (low, high) = self.bytes.split_at(planes.low_len(values.len()));
        if !low.is_empty() {
            compress(&mut self.zstd, low, &mut self.frame)?;
            if self.frame.len() < low.len() - low.len() / 8 {
                out.extend_from_slice(&self.frame);
            } else {
                stored::write(low, out);
            }
        }
        compress(&mut self.zstd, high, &mut self.frame)?;
        out.extend_from_slice(&self.frame);
        Ok(())
    }
}

fn compress(zstd: &mut zstd::bulk::Compressor<'_>, bytes: &[u8], frame: &mut Vec<u8>) -> std::io::Result<()> {
    frame.clear();
    frame.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
    zstd.compress_to_buffer(bytes, frame).map(|_| ())
}

/// Decodes chunks and reuses its zstd context and buffers.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    bytes: Vec<u8>,
}

impl Decoder {
    /// Creates a decoder.
    ///
    /// # Errors
    /// If zstd runs out of memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, bytes: Vec::new() })
    }

    /// Decodes a chunk of shape `shape`, known from the grid, into `values`.
    ///
    /// Never writes more than that, whatever the bytes are.
    ///
    /// # Errors
    /// If the bytes are not a chunk of this codec and shape.
    pub fn decode<T: Voxel>(
        &mut self,
        codec: &Codec,
        shape: [usize; 3],
        bytes: &[u8],
        values: &mut [T],
    ) -> Result<(), DecodeError> {
        self.decode_part(codec, shape, &Box3::whole(shape), bytes, values)
    }

    /// Decodes at least `part`, a box of the chunk's own voxels; the other `values` may keep their previous content.
    ///
    /// # Errors
    /// If the bytes that were read are not those of a chunk of this codec and shape.
    pub fn decode_part<T: Voxel>(
        &mut self,
        codec: &Codec,
        shape: [usize; 3],
        part: &Box3,
        bytes: &[u8],
        values: &mut [T],
    ) -> Result<(), DecodeError> {
        if shape.iter().product::<usize>() != values.len() {
            return Err(DecodeError::OutputLength { shape, len: values.len() });
        }
        if (0..3).any(|axis| part.end[axis] > shape[axis]) {
            return Err(DecodeError::Part { end: part.end });
        }
        let planes = match codec {
            Codec::Packed(packed) => {
                let content = self.packed_bytes(*packed, shape, bytes)?;
                return packed.decode(shape, part, content, values);
            }
            Codec::Lz4(planes) => return self.decode_lz4(*planes, bytes, values),
            Codec::Planes(planes) => planes,
        };
        let (low_len, high_len) = (planes.low_len(values.len()), planes.high_len(values.len()));
        // A raw first frame is borrowed in place; otherwise both frames are decompressed one after the other.
        let (raw, packed) = match stored::read(bytes, low_len) {
            Some((raw, rest)) if low_len > 0 => (Some(raw), rest),
            _ => (None, bytes),
        };
        let expected = high_len + if raw.is_some() { 0 } else { low_len };
        if self.bytes.len() < expected {
            self.bytes.resize(expected, 0);
        }
        let decoded = &mut self.bytes[..expected];
        match self.zstd.decompress_to_buffer(packed, decoded) {
            Ok(len) if len == expected => {}
            Ok(found) => return Err(DecodeError::Length { found, expected }),
            Err(err) => return Err(DecodeError::Zstd(err)),
        }
        if let Some(low) = raw {
            planes.join(low, decoded, values);
        } else {
            let (low, high) = decoded.split_at(low_len);
            planes.join(low, high, values);
        }
        Ok(())
    }

    /// Packed bytes of a chunk of shape `shape`: borrowed from `bytes`, or decompressed if zstd halved them.
    ///
    /// # Errors
    /// If zstd cannot decompress the bytes, or to more than a chunk takes.
    pub fn packed_bytes<'a>(
        &'a mut self,
        packed: Packed,
        shape: [usize; 3],
        bytes: &'a [u8],
    ) -> Result<&'a [u8], DecodeError> {
        if let Some(content) = stored::whole(bytes) {
            return Ok(content);
        }
        let most = packed.max_bytes(shape.iter().product());
        if self.bytes.len() < most {
            self.bytes.resize(most, 0);
        }
        match self.zstd.decompress_to_buffer(bytes, &mut self.bytes[..most]) {
            Ok(len) => Ok(&self.bytes[..len]),
            Err(err) => Err(DecodeError::Zstd(err)),
        }
    }

    fn decode_lz4<T: Voxel>(&mut self, planes: Planes, bytes: &[u8], values: &mut [T]) -> Result<(), DecodeError> {
        let low_len = planes.low_len(values.len());
        let expected = low_len + planes.high_len(values.len());
        if self.bytes.len() < expected {
            self.bytes.resize(expected, 0);
        }
        let decoded = &mut self.bytes[..expected];
        match lz4_flex::block::decompress_into(bytes, decoded) {
            Ok(len) if len == expected => {}
            Ok(found) => return Err(DecodeError::Length { found, expected }),
            Err(err) => return Err(DecodeError::Lz4(err)),
        }
        let (low, high) = decoded.split_at(low_len);
        planes.join(low, high, values);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
