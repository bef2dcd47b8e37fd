//! Round trips of all codecs, damaged chunks and decompression bombs.

#![expect(clippy::disallowed_methods, reason = "frames that the tests wrote themselves")]

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

/// Chunks of shards and coded chunks have no other decoder, and a checksum protects neither from one who writes it again.
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
