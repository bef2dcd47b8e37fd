//! From the voxels of a chunk to bytes and back.
//!
//! # The `packed` codec
//! The distances of the samples of small boxes from the least of each, in as few bits as the box needs ([`packed`]).
//! No entropy coder: 2 to 8% larger than `planes` on CT, and more than twice as fast to decode. What images are stored
//! with unless something else is asked for. The packed bytes are the content of a zstd frame, in one *raw* block
//! ([`stored`]) unless zstd would halve them: a chunk stays stock zstd data, and a reader borrows the packed bytes from
//! the memory map without copying them.
//!
//! # The `planes` codec
//! A CT's low bits are noise: they compress least and cost an entropy decoder most. So a chunk's samples are split
//! ([`planes`]): the lowest `raw_bits` (0 or 4) of each sample are packed two samples a byte, what remains is laid
//! out as one or two planes of bytes. The packed bits go into a zstd frame of one *raw* block where compressing them
//! would gain less than an eighth ([`stored`]), the planes into a compressed zstd frame. The two frames follow each
//! other, and any zstd tool decodes them to `packed bits ++ planes`: a chunk stays independent, stock zstd data.
//! A reader that finds the raw block borrows the packed bits from the memory map without copying them.
//!
//! # The `lz4` codec
//! The same split into packed bits and planes, all of it through one LZ4 block.
//!
//! Figures: see `benches/README.md`, table "codec".

pub mod packed;
pub mod planes;
pub mod stored;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::grid::Box3;
use packed::Packed;
use planes::Planes;

/// What to trade against what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodecPreset {
    /// Fast to decode: bits packed, no entropy coder.
    #[default]
    Fast,
    /// A little smaller, half as fast: bit planes through zstd, the low four bits apart.
    Dense,
    /// LZ4 instead of zstd, for comparison: larger than either and slower than [`Self::Fast`].
    Lz4,
}

/// How the samples of an array are coded; part of a case's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "id", rename_all = "lowercase", deny_unknown_fields)]
pub enum Codec {
    /// Bits packed box by box.
    Packed(Packed),
    /// Bit planes, then zstd.
    Planes(Planes),
    /// Bit planes, then LZ4.
    Lz4(Planes),
}

impl Codec {
    /// The codec for samples of `bits` significant bits.
    ///
    /// Samples of a byte are label maps: long runs, which entropy coders and LZ4 shrink to almost nothing.
    #[must_use]
    pub fn new(bits: u8, preset: CodecPreset) -> Self {
        // The low bits of samples wider than a byte are noise. Kept apart from the planes they also cost less: on real
        // CT 0.566 bytes a voxel with four of them apart, 0.600 with none.
        let raw_bits = if bits > 8 { 4 } else { 0 };
        match preset {
            CodecPreset::Fast if bits > 8 => Self::Packed(Packed { bits }),
            CodecPreset::Fast | CodecPreset::Dense => Self::Planes(Planes { bits, raw_bits }),
            CodecPreset::Lz4 => Self::Lz4(Planes { bits, raw_bits: 0 }),
        }
    }

    /// Significant bits of a sample.
    #[must_use]
    pub fn bits(&self) -> u8 {
        match self {
            Self::Packed(packed) => packed.bits,
            Self::Planes(planes) | Self::Lz4(planes) => planes.bits,
        }
    }

    /// Whether the parameters make sense; they may come from a file.
    ///
    /// # Errors
    /// Says what does not.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Packed(packed) => packed.validate(),
            Self::Planes(planes) | Self::Lz4(planes) => planes.validate(),
        }
    }

    /// No chunk of `num_voxels` voxels is longer than this many bytes.
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

/// An unsigned integer type of samples: `u8` for label maps, `u16` for images.
pub trait Voxel: Copy + Default + Eq + Ord + Send + Sync + 'static + Into<u32> + TryFrom<u32> {
    /// The most bits a sample can have.
    const BITS: u8;
    /// The low 16 bits, zero-extended.
    fn to_u16(self) -> u16;
    /// From 16 bits; what does not fit is cut off.
    fn from_u16(bits: u16) -> Self;
    /// [`Self::from_u16`] of eight samples.
    fn copy_row(row: &[u16; 8], to: &mut [Self; 8]);
}

impl Voxel for u8 {
    const BITS: u8 = 8;
    fn to_u16(self) -> u16 {
        u16::from(self)
    }
    #[expect(clippy::cast_possible_truncation, reason = "documented: what does not fit is cut off")]
    fn from_u16(bits: u16) -> Self {
        bits as u8
    }
    fn copy_row(row: &[u16; 8], to: &mut [Self; 8]) {
        *to = row.map(Self::from_u16);
    }
}

impl Voxel for u16 {
    const BITS: u8 = 16;
    fn to_u16(self) -> u16 {
        self
    }
    fn from_u16(bits: u16) -> Self {
        bits
    }
    fn copy_row(row: &[u16; 8], to: &mut [Self; 8]) {
        // Mapped one by one, the compiler takes the vector apart.
        *to = *row;
    }
}

/// Compresses chunks; keeps its context and buffers from one to the next.
pub struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    bytes: Vec<u8>,
    frame: Vec<u8>,
}

impl Encoder {
    /// An encoder at a zstd level.
    ///
    /// # Errors
    /// If zstd refuses the level or is out of memory.
    pub fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Compressor::new(level)?, bytes: Vec::new(), frame: Vec::new() })
    }

    /// Appends the coded samples of a chunk of this shape to `out`.
    ///
    /// # Errors
    /// If zstd fails (out of memory).
    ///
    /// # Panics
    /// If a sample has more significant bits than the codec says, or there are not as many as the shape says: the
    /// caller's error.
    pub fn encode<T: Voxel>(
        &mut self,
        codec: &Codec,
        shape: [usize; 3],
        samples: &[T],
        out: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        let planes = match codec {
            Codec::Packed(packed) => {
                self.bytes.clear();
                packed.encode(shape, samples, &mut self.bytes);
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
        planes.split(samples, &mut self.bytes);
        if let Codec::Lz4(_) = codec {
            out.extend_from_slice(&lz4_flex::block::compress(&self.bytes));
            return Ok(());
        }
        let (low, high) = self.bytes.split_at(planes.low_len(samples.len()));
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

/// Decompresses chunks; keeps its context and buffers from one to the next.
pub struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
    bytes: Vec<u8>,
}

impl Decoder {
    /// A decoder.
    ///
    /// # Errors
    /// If zstd is out of memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new()?, bytes: Vec::new() })
    }

    /// Decodes a chunk into `samples`, whose shape the caller knows from the grid.
    ///
    /// Never writes more than that, whatever the bytes say.
    ///
    /// # Errors
    /// Says why the bytes are no chunk of this codec and shape.
    pub fn decode<T: Voxel>(
        &mut self,
        codec: &Codec,
        shape: [usize; 3],
        bytes: &[u8],
        samples: &mut [T],
    ) -> Result<(), String> {
        self.decode_part(codec, shape, &Box3 { start: [0; 3], end: shape }, bytes, samples)
    }

    /// Decodes at least `part` of a chunk, a box of its voxels; the other `samples` may stay as they are.
    ///
    /// # Errors
    /// Says why the bytes are no chunk of this codec and shape, as far as they were looked at.
    pub fn decode_part<T: Voxel>(
        &mut self,
        codec: &Codec,
        shape: [usize; 3],
        part: &Box3,
        bytes: &[u8],
        samples: &mut [T],
    ) -> Result<(), String> {
        if shape.iter().product::<usize>() != samples.len() {
            return Err(format!("shape {shape:?} has not {} voxels", samples.len()));
        }
        if (0..3).any(|axis| part.end[axis] > shape[axis]) {
            return Err(format!("{part:?} reaches beyond shape {shape:?}"));
        }
        let planes = match codec {
            Codec::Packed(packed) => {
                if let Some(content) = stored::whole(bytes) {
                    return packed.decode(shape, part, content, samples);
                }
                let most = packed.max_bytes(samples.len());
                if self.bytes.len() < most {
                    self.bytes.resize(most, 0);
                }
                return match self.zstd.decompress_to_buffer(bytes, &mut self.bytes[..most]) {
                    Ok(len) => packed.decode(shape, part, &self.bytes[..len], samples),
                    Err(err) => Err(format!("not valid zstd data ({err})")),
                };
            }
            Codec::Lz4(planes) => return self.decode_lz4(*planes, bytes, samples),
            Codec::Planes(planes) => planes,
        };
        let (low_len, high_len) = (planes.low_len(samples.len()), planes.high_len(samples.len()));
        // A raw first frame is borrowed where it lies; otherwise both frames are decoded one after the other.
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
            Ok(len) => return Err(format!("decodes to {len} bytes instead of {expected}")),
            Err(err) => return Err(format!("not valid zstd data ({err})")),
        }
        if let Some(low) = raw {
            planes.join(low, decoded, samples);
        } else {
            let (low, high) = decoded.split_at(low_len);
            planes.join(low, high, samples);
        }
        Ok(())
    }

    fn decode_lz4<T: Voxel>(&mut self, planes: Planes, bytes: &[u8], samples: &mut [T]) -> Result<(), String> {
        let low_len = planes.low_len(samples.len());
        let expected = low_len + planes.high_len(samples.len());
        if self.bytes.len() < expected {
            self.bytes.resize(expected, 0);
        }
        let decoded = &mut self.bytes[..expected];
        match lz4_flex::block::decompress_into(bytes, decoded) {
            Ok(len) if len == expected => {}
            Ok(len) => return Err(format!("decodes to {len} bytes instead of {expected}")),
            Err(err) => return Err(format!("not valid LZ4 data ({err})")),
        }
        let (low, high) = decoded.split_at(low_len);
        planes.join(low, high, samples);
        Ok(())
    }
}

/// The codec of an array, checked to fit a sample type.
///
/// # Errors
/// If the record asks for more bits than the type has, or for nonsense.
pub(crate) fn check_fits<T: Voxel>(codec: Codec, case: &str) -> Result<()> {
    let fits = codec.validate().and_then(|()| {
        if codec.bits() > T::BITS { Err(format!("{} bits a sample do not fit", codec.bits())) } else { Ok(()) }
    });
    fits.map_err(|reason| Error::BadCase { case: case.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRESETS: [CodecPreset; 3] = [CodecPreset::Fast, CodecPreset::Dense, CodecPreset::Lz4];

    fn round_trip<T: Voxel + std::fmt::Debug>(codec: Codec, samples: &[T]) -> Vec<u8> {
        let shape = [1, 1, samples.len()];
        let mut bytes = vec![1, 2, 3];
        Encoder::new(3).unwrap().encode(&codec, shape, samples, &mut bytes).unwrap();
        let bytes = bytes.split_off(3);
        assert!(bytes.len() <= codec.max_bytes(samples.len()));
        let mut decoder = Decoder::new().unwrap();
        let mut back = vec![T::default(); samples.len()];
        decoder.decode(&codec, shape, &bytes, &mut back).unwrap();
        assert_eq!(back, samples);
        // Too short a target is an error, never an overflow.
        assert!(decoder.decode(&codec, shape, &bytes, &mut back[1..]).is_err());
        bytes
    }

    fn planes(bits: u8, raw_bits: u8, samples: &[u16]) {
        let planes = Planes { bits, raw_bits };
        let bytes = round_trip(Codec::Planes(planes), samples);
        // A stock decoder reads the frames too, to the length the codec states.
        let len = planes.low_len(samples.len()) + planes.high_len(samples.len());
        assert_eq!(zstd::stream::decode_all(bytes.as_slice()).unwrap().len(), len);
        round_trip(Codec::Lz4(planes), samples);
    }

    proptest! {
        #[test]
        fn images_round_trip(samples in prop::collection::vec(0u16..426, 1..3000), raw in prop::bool::ANY) {
            for preset in PRESETS {
                round_trip(Codec::new(9, preset), &samples);
            }
            let packed = round_trip(Codec::new(9, CodecPreset::Fast), &samples);
            prop_assert!(zstd::stream::decode_all(packed.as_slice()).is_ok(), "a stock decoder reads the frame");
            planes(9, if raw { 4 } else { 0 }, &samples);
        }

        #[test]
        fn full_range_round_trips(samples in prop::collection::vec(any::<u16>(), 1..3000), raw in prop::bool::ANY) {
            for preset in PRESETS {
                round_trip(Codec::new(16, preset), &samples);
            }
            planes(16, if raw { 4 } else { 0 }, &samples);
        }

        #[test]
        fn labels_round_trip(samples in prop::collection::vec(any::<u8>(), 1..3000)) {
            for preset in PRESETS {
                round_trip(Codec::new(8, preset), &samples);
            }
        }

        #[test]
        fn rubbish_is_refused_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300), shape in [1usize..9, 1..9, 1..20],
        ) {
            let mut samples = vec![0u16; shape.iter().product()];
            for (bits, preset) in [9, 16].into_iter().flat_map(|bits| PRESETS.map(|preset| (bits, preset))) {
                let _ = Decoder::new().unwrap().decode(&Codec::new(bits, preset), shape, &bytes, &mut samples);
            }
        }
    }

    #[test]
    fn flat_low_bits_are_compressed_not_stored() {
        let codec = Codec::Planes(Planes { bits: 9, raw_bits: 4 });
        let bytes = round_trip(codec, &vec![7u16; 32 * 32 * 32]);
        assert!(bytes.len() < 100, "{}", bytes.len());
    }
}
