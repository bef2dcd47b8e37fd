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
#[expect(clippy::disallowed_methods, reason = "frames that the tests wrote themselves")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng as _;

    const PRESETS: [CodecPreset; 3] = [CodecPreset::Fast, CodecPreset::Dense, CodecPreset::Lz4];

    fn round_trip<T: Voxel + std::fmt::Debug>(codec: Codec, values: &[T]) -> Vec<u8> {
        let shape = [1, 1, values.len()];
        let mut bytes = vec![1, 2, 3];
        Encoder::new(3).unwrap().encode(&codec, shape, values, &mut bytes).unwrap();
        let bytes = bytes.split_off(3);
        assert!(bytes.len() <= codec.max_bytes(values.len()));
        let mut reader = Decoder::new().unwrap();
        let mut decoded = vec![T::default(); values.len()];
        reader.decode(&codec, shape, &bytes, &mut decoded).unwrap();
        assert_eq!(decoded, values);
        let short = reader.decode(&codec, shape, &bytes, &mut decoded[1..]);
        assert!(matches!(short, Err(DecodeError::OutputLength { .. })), "{short:?}");
        let beyond = Box3 { start: [0; 3], end: [1, 1, values.len() + 1] };
        let outside = reader.decode_part(&codec, shape, &beyond, &bytes, &mut decoded);
        assert!(matches!(outside, Err(DecodeError::Part { .. })), "{outside:?}");
        bytes
    }

    fn planes(bits: u8, raw_bits: u8, values: &[u16]) {
        let planes = Planes { bits, raw_bits };
        let bytes = round_trip(Codec::Planes(planes), values);
        // A stock decoder reads the frames too, to the length that the codec states.
        let len = planes.low_len(values.len()) + planes.high_len(values.len());
        assert_eq!(zstd::stream::decode_all(bytes.as_slice()).unwrap().len(), len);
        round_trip(Codec::Lz4(planes), values);
    }

    /// Every codec available for images or label maps of `bits` bits.
    fn codecs(bits: u8) -> Vec<Codec> {
        let mut codecs: Vec<Codec> = PRESETS.map(|preset| Codec::new(bits, preset)).to_vec();
        codecs.push(Codec::Planes(Planes { bits, raw_bits: 0 }));
        codecs.push(Codec::Lz4(Planes { bits, raw_bits: 4 }));
        codecs
    }

    /// zstd frame that decompresses to `len` zeros, from 4 bytes for each 128 KiB. Its header states that length if `is_told`,
    /// and otherwise a window.
    fn bomb(len: u64, is_told: bool) -> Vec<u8> {
        const BLOCK_LEN: u32 = 128 << 10;
        let mut bytes = 0xFD2F_B528_u32.to_le_bytes().to_vec();
        if is_told {
            // Content size in 8 bytes (3 << 6), single segment (1 << 5).
            bytes.push(0b1110_0000);
            bytes.extend_from_slice(&len.to_le_bytes());
        } else {
            // Window of 2^(10 + 7) bytes.
            bytes.extend_from_slice(&[0, 7 << 3]);
        }
        let num_blocks = len / u64::from(BLOCK_LEN);
        for block in 1..=num_blocks {
            // Last block (1), type RLE (1 << 1), size (<< 3); then the byte that is repeated.
            let header = u32::from(block == num_blocks) | 1 << 1 | BLOCK_LEN << 3;
            bytes.extend_from_slice(&header.to_le_bytes()[..3]);
            bytes.push(0);
        }
        bytes
    }

    /// Chunks of shards and coded chunks have no other decoder, and a checksum protects neither from one who writes it anew.
    #[test]
    fn decompression_bomb_ends_at_the_length_of_a_chunk() {
        let shape = [4, 8, 16];
        let mut values = vec![0u16; shape.iter().product()];
        for is_told in [false, true] {
            let small = bomb(1 << 20, is_told);
            assert_eq!(zstd::stream::decode_all(small.as_slice()).unwrap(), vec![0; 1 << 20], "a stock decoder");
            let large = bomb(1 << 30, is_told);
            assert!(large.len() < 1 << 16);
            for codec in codecs(9).into_iter().filter(|codec| !matches!(codec, Codec::Lz4(_))) {
                let mut reader = Decoder::new().unwrap();
                let result = reader.decode(&codec, shape, &large, &mut values);
                assert!(matches!(result, Err(DecodeError::Zstd(_))), "{codec:?}: {result:?}");
                assert!(reader.bytes.capacity() <= codec.max_bytes(values.len()), "{codec:?}");
            }
            let Codec::Packed(packed) = Codec::new(9, CodecPreset::Fast) else { panic!("the fast codec packs images") };
            let mut reader = Decoder::new().unwrap();
            let result = reader.packed_bytes(packed, shape, &large).map(<[u8]>::len);
            assert!(matches!(result, Err(DecodeError::Zstd(_))), "{result:?}");
            assert!(reader.bytes.capacity() <= packed.max_bytes(values.len()));
        }
    }

    proptest! {
        #[test]
        fn images_round_trip(values in prop::collection::vec(0u16..426, 1..3000), raw in prop::bool::ANY) {
            for preset in PRESETS {
                round_trip(Codec::new(9, preset), &values);
            }
            let packed = round_trip(Codec::new(9, CodecPreset::Fast), &values);
            prop_assert!(zstd::stream::decode_all(packed.as_slice()).is_ok(), "a stock decoder reads the frame");
            planes(9, if raw { 4 } else { 0 }, &values);
        }

        #[test]
        fn full_range_round_trips(values in prop::collection::vec(any::<u16>(), 1..3000), raw in prop::bool::ANY) {
            for preset in PRESETS {
                round_trip(Codec::new(16, preset), &values);
            }
            planes(16, if raw { 4 } else { 0 }, &values);
        }

        #[test]
        fn labels_round_trip(values in prop::collection::vec(any::<u8>(), 1..3000)) {
            for preset in PRESETS {
                round_trip(Codec::new(8, preset), &values);
            }
        }

        /// Random bytes almost never form a valid chunk; where they do, the decoded values depend on the bytes alone.
        #[test]
        fn random_bytes_are_an_error_or_decode_to_one_result(
            bytes in prop::collection::vec(any::<u8>(), 0..300), shape in [1usize..9, 1..9, 1..20],
        ) {
            let len = shape.iter().product();
            for codec in [9, 16].into_iter().flat_map(codecs) {
                let [first, second] = [0, u16::MAX].map(|fill| {
                    let mut values = vec![fill; len];
                    Decoder::new().unwrap().decode(&codec, shape, &bytes, &mut values).map(|()| values).ok()
                });
                prop_assert_eq!(first, second, "{:?}", codec);
            }
        }

        /// Damage that keeps the frames intact reaches the code behind zstd and LZ4.
        #[test]
        fn flipped_bit_is_an_error_or_decodes_to_one_result(
            values in prop::collection::vec(0u16..426, 64..600), at in any::<prop::sample::Index>(), bit in 0u32..8,
        ) {
            let shape = [1, 1, values.len()];
            for codec in codecs(9) {
                let mut bytes = Vec::new();
                Encoder::new(3).unwrap().encode(&codec, shape, &values, &mut bytes).unwrap();
                *at.get_mut(&mut bytes) ^= 1 << bit;
                let [first, second] = [0, u16::MAX].map(|fill| {
                    let mut decoded = vec![fill; values.len()];
                    Decoder::new().unwrap().decode(&codec, shape, &bytes, &mut decoded).map(|()| decoded).ok()
                });
                prop_assert_eq!(first, second, "{:?}", codec);
            }
        }

        #[test]
        fn truncated_and_extended_chunks_are_errors(values in prop::collection::vec(0u16..426, 64..300)) {
            let shape = [1, 1, values.len()];
            let mut decoded = vec![0u16; values.len()];
            let mut reader = Decoder::new().unwrap();
            for codec in codecs(9) {
                let mut bytes = Vec::new();
                Encoder::new(3).unwrap().encode(&codec, shape, &values, &mut bytes).unwrap();
                for len in 0..bytes.len() {
                    let result = reader.decode(&codec, shape, &bytes[..len], &mut decoded);
                    prop_assert!(result.is_err(), "{:?} cut to {} of {} bytes", codec, len, bytes.len());
                }
                // To LZ4, a last token of zero literals is valid: only the chunk's checksum finds it.
                bytes.push(if matches!(codec, Codec::Lz4(_)) { 0x10 } else { 0 });
                prop_assert!(reader.decode(&codec, shape, &bytes, &mut decoded).is_err(), "{:?} and a byte", codec);
            }
        }
    }

    #[test]
    fn constant_low_bits_are_compressed_not_stored() {
        let codec = Codec::Planes(Planes { bits: 9, raw_bits: 4 });
        let bytes = round_trip(codec, &vec![7u16; 32 * 32 * 32]);
        assert!(bytes.len() < 100, "{}", bytes.len());
    }

    #[test]
    fn noise_is_stored_raw_and_repetition_is_compressed() {
        let shape = [32; 3];
        let encode = |codec: Codec, values: &[u16]| {
            let mut bytes = Vec::new();
            Encoder::new(3).unwrap().encode(&codec, shape, values, &mut bytes).unwrap();
            bytes
        };
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let noise: Vec<u16> = (0..32_768).map(|_| rng.random_range(0..512)).collect();
        let packed = Codec::new(9, CodecPreset::Fast);
        assert!(stored::whole(&encode(packed, &noise)).is_some());
        let repeated: Vec<u16> = (0..32_768).map(|i| i % 2).collect();
        let bytes = encode(packed, &repeated);
        assert!(stored::whole(&bytes).is_none() && bytes.len() < 1000, "{} bytes", bytes.len());
        let planes = Planes { bits: 9, raw_bits: 4 };
        assert!(stored::read(&encode(Codec::Planes(planes), &noise), planes.low_len(noise.len())).is_some());
    }

    #[test]
    fn preset_decides_the_codec_by_the_number_of_bits() {
        use CodecPreset::{Dense, Fast, Lz4};
        let planes = |bits, raw_bits| Planes { bits, raw_bits };
        for (bits, preset, expected) in [
            (9, Fast, Codec::Packed(Packed { bits: 9 })),
            (8, Fast, Codec::Planes(planes(8, 0))),
            (9, Dense, Codec::Planes(planes(9, 4))),
            (8, Dense, Codec::Planes(planes(8, 0))),
            (9, Lz4, Codec::Lz4(planes(9, 0))),
            (8, Lz4, Codec::Lz4(planes(8, 0))),
        ] {
            assert_eq!(Codec::new(bits, preset), expected);
            assert_eq!(expected.bits(), bits);
        }
    }

    #[test]
    fn impossible_parameters_are_rejected() {
        let planes = |bits, raw_bits| Codec::Planes(Planes { bits, raw_bits });
        for codec in [Codec::Packed(Packed { bits: 1 }), planes(16, 0), planes(1, 0), planes(5, 4), planes(16, 4)] {
            assert_eq!(codec.validate(16), Ok(()), "{codec:?}");
        }
        for (codec, max_bits) in [
            (Codec::Packed(Packed { bits: 0 }), 16),
            (Codec::Packed(Packed { bits: 17 }), 255),
            (Codec::Packed(Packed { bits: 9 }), 8),
            (planes(0, 0), 16),
            (planes(17, 4), 255),
            (planes(9, 4), 8),
        ] {
            let bits = codec.bits();
            assert_eq!(codec.validate(max_bits), Err(CodecError::Bits { bits, max: max_bits.min(16) }), "{codec:?}");
        }
        for (bits, raw_bits) in [(4, 4), (9, 3), (9, 5), (16, 255)] {
            for codec in [planes(bits, raw_bits), Codec::Lz4(Planes { bits, raw_bits })] {
                assert_eq!(codec.validate(16), Err(CodecError::RawBits { bits, raw_bits }));
            }
        }
    }
}
