//! From the voxels of a chunk to bytes and back: bit planes, then stock zstd frames.
//!
//! # The `planes` codec
//! A CT's low bits are noise: they compress least and cost an entropy decoder most. So a chunk's samples are split
//! ([`planes`]): the lowest `raw_bits` (0 or 4) of each sample are packed two samples a byte, what remains is laid
//! out as one or two planes of bytes. The packed bits go into a zstd frame of one *raw* block where compressing them
//! would gain less than an eighth ([`stored`]), the planes into a compressed zstd frame. The two frames follow each
//! other, and any zstd tool decodes them to `packed bits ++ planes`: a chunk stays independent, stock zstd data.
//! A reader that finds the raw block borrows the packed bits from the memory map without copying them.
//!
//! Figures: see `benches/README.md`, table "codec".

pub mod planes;
pub mod stored;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use planes::Planes;

/// What to trade against what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Fast to decode: the low four bits are kept out of the entropy coder.
    #[default]
    Fast,
    /// About a fifth smaller, half as fast: all bits go through zstd.
    Dense,
}

/// How the samples of an array are coded; part of a case's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "id", rename_all = "lowercase", deny_unknown_fields)]
pub enum Codec {
    /// Bit planes, then zstd.
    Planes(Planes),
}

impl Codec {
    /// The codec for samples of `bits` significant bits.
    #[must_use]
    pub fn new(bits: u8, preset: Preset) -> Self {
        let raw_bits = if preset == Preset::Fast && bits > 8 { 4 } else { 0 };
        Self::Planes(Planes { bits, raw_bits })
    }

    /// Whether the parameters make sense; they may come from a file.
    ///
    /// # Errors
    /// Says what does not.
    pub fn validate(&self) -> Result<(), String> {
        let Self::Planes(planes) = self;
        planes.validate()
    }

    /// No chunk of `num_voxels` voxels is longer than this many bytes.
    #[must_use]
    pub fn max_bytes(&self, num_voxels: usize) -> usize {
        let Self::Planes(planes) = self;
        let raw = planes.low_len(num_voxels) + planes.high_len(num_voxels);
        zstd::zstd_safe::compress_bound(raw) + 2 * stored::HEADER_LEN
    }
}

/// An unsigned integer type of samples: `u8` for label maps, `u16` for images.
pub trait Sample: Copy + Default + Eq + Ord + Send + Sync + 'static + Into<u32> + TryFrom<u32> {
    /// The most bits a sample can have.
    const BITS: u8;
    /// The low 16 bits, zero-extended.
    fn to_u16(self) -> u16;
    /// From 16 bits; what does not fit is cut off.
    fn from_u16(bits: u16) -> Self;
}

impl Sample for u8 {
    const BITS: u8 = 8;
    fn to_u16(self) -> u16 {
        u16::from(self)
    }
    #[expect(clippy::cast_possible_truncation, reason = "documented: what does not fit is cut off")]
    fn from_u16(bits: u16) -> Self {
        bits as u8
    }
}

impl Sample for u16 {
    const BITS: u8 = 16;
    fn to_u16(self) -> u16 {
        self
    }
    fn from_u16(bits: u16) -> Self {
        bits
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

    /// Appends the coded samples to `out`.
    ///
    /// # Errors
    /// If zstd fails (out of memory).
    ///
    /// # Panics
    /// If a sample has more significant bits than the codec says: the caller's error.
    pub fn encode<T: Sample>(&mut self, codec: &Codec, samples: &[T], out: &mut Vec<u8>) -> std::io::Result<()> {
        let Codec::Planes(planes) = codec;
        planes.split(samples, &mut self.bytes);
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

    /// Decodes a chunk into `samples`, whose length the caller knows from the grid.
    ///
    /// Never writes more than that, whatever the bytes say.
    ///
    /// # Errors
    /// Says why the bytes are no chunk of this codec and length.
    pub fn decode<T: Sample>(&mut self, codec: &Codec, bytes: &[u8], samples: &mut [T]) -> Result<(), String> {
        let Codec::Planes(planes) = codec;
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
        match raw {
            Some(low) => planes.join(low, decoded, samples),
            None => {
                let (low, high) = decoded.split_at(low_len);
                planes.join(low, high, samples);
            }
        }
        Ok(())
    }
}

/// The codec of an array, checked to fit a sample type.
///
/// # Errors
/// If the record asks for more bits than the type has, or for nonsense.
pub(crate) fn check_fits<T: Sample>(codec: &Codec, case: &str) -> Result<()> {
    let Codec::Planes(planes) = codec;
    let fits = codec.validate().and_then(|()| {
        if planes.bits > T::BITS { Err(format!("{} bits a sample do not fit", planes.bits)) } else { Ok(()) }
    });
    fits.map_err(|reason| Error::BadCase { case: case.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip<T: Sample + std::fmt::Debug>(codec: Codec, samples: &[T]) {
        let mut bytes = vec![1, 2, 3];
        Encoder::new(3).unwrap().encode(&codec, samples, &mut bytes).unwrap();
        assert!(bytes.len() - 3 <= codec.max_bytes(samples.len()));
        let mut decoder = Decoder::new().unwrap();
        let mut decoded = vec![T::default(); samples.len()];
        decoder.decode(&codec, &bytes[3..], &mut decoded).unwrap();
        assert_eq!(decoded, samples);
        // A stock decoder reads the frames too, to the length the codec states.
        let Codec::Planes(planes) = codec;
        let len = planes.low_len(samples.len()) + planes.high_len(samples.len());
        assert_eq!(zstd::stream::decode_all(&bytes[3..]).unwrap().len(), len);
        // Too short a target is an error, never an overflow.
        if samples.len() > 1 {
            assert!(decoder.decode(&codec, &bytes[3..], &mut decoded[1..]).is_err());
        }
    }

    proptest! {
        #[test]
        fn images_round_trip(samples in prop::collection::vec(0u16..426, 1..3000), dense: bool) {
            round_trip(Codec::new(9, if dense { Preset::Dense } else { Preset::Fast }), &samples);
        }

        #[test]
        fn full_range_round_trips(samples in prop::collection::vec(any::<u16>(), 1..3000), dense: bool) {
            round_trip(Codec::new(16, if dense { Preset::Dense } else { Preset::Fast }), &samples);
        }

        #[test]
        fn labels_round_trip(samples in prop::collection::vec(any::<u8>(), 1..3000)) {
            round_trip(Codec::new(8, Preset::Fast), &samples);
        }

        #[test]
        fn rubbish_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), n in 1usize..500) {
            let mut samples = vec![0u16; n];
            let _ = Decoder::new().unwrap().decode(&Codec::new(9, Preset::Fast), &bytes, &mut samples);
        }
    }

    #[test]
    fn flat_low_bits_are_compressed_not_stored() {
        let samples = vec![7u16; 32 * 32 * 32];
        let mut bytes = Vec::new();
        Encoder::new(3).unwrap().encode(&Codec::new(9, Preset::Fast), &samples, &mut bytes).unwrap();
        assert!(bytes.len() < 100, "{}", bytes.len());
        round_trip(Codec::new(9, Preset::Fast), &samples);
    }
}
