//! Frames on a connection between two ranks: a kind, a length, a payload.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | [`Kind`] |
//! | 4 | length of the payload, little-endian, at most [`MAX_PAYLOAD`] |
//! | length | payload |

use std::io::{self, Read, Write};
use std::sync::Arc;

/// Maximum length of a payload, in bytes. A frame that states more is rejected before memory is allocated.
pub(super) const MAX_PAYLOAD: usize = 64 << 20;

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sign of life, without payload.
    Heartbeat,
    /// A small value of one rank, or the values of all.
    Gather,
    /// A bucket of gradients.
    Sum,
    /// A failure that ends all ranks, as JSON.
    Abort,
    /// An orderly exit of the rank.
    Leave,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Heartbeat, Self::Gather, Self::Sum, Self::Abort, Self::Leave];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// A frame. Its payload is shared between the connections that it is sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Kind of the frame.
    pub kind: Kind,
    /// Bytes of the message, without the frame's head.
    pub payload: Arc<Vec<u8>>,
}

impl Frame {
    /// Creates a frame with a payload.
    pub(super) fn new(kind: Kind, payload: Vec<u8>) -> Self {
        Self { kind, payload: Arc::new(payload) }
    }

    /// Creates a frame without payload.
    pub(super) fn empty(kind: Kind) -> Self {
        Self::new(kind, vec![])
    }

    /// Writes the frame.
    ///
    /// # Errors
    /// If the connection fails, or a write takes longer than its timeout.
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).map_err(io::Error::other)?;
        let mut head = [0; 5];
        head[0] = self.kind as u8;
        head[1..].copy_from_slice(&length.to_le_bytes());
        out.write_all(&head)?;
        out.write_all(&self.payload)
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// `InvalidData` if the bytes are not a frame, `UnexpectedEof` if the connection is closed, and the errors of
    /// reading, a timeout among them.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let kind = Kind::of(head[0]).ok_or_else(|| invalid(format!("unknown kind of frame {}", head[0])))?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(invalid(format!("a frame of {length} bytes, at most {MAX_PAYLOAD} are allowed")));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(Self::new(kind, payload))
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Joins the values of all ranks into one payload: their number, then each with its length, as little-endian `u32`.
pub(super) fn pack(values: &[Vec<u8>]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(4 + values.iter().map(|value| 4 + value.len()).sum::<usize>());
    packed.extend_from_slice(&(values.len() as u32).to_le_bytes());
    for value in values {
        packed.extend_from_slice(&(value.len() as u32).to_le_bytes());
        packed.extend_from_slice(value);
    }
    packed
}

/// Splits a payload made by [`pack`] into `count` values; `None` for any other payload.
pub(super) fn unpack(packed: &[u8], count: usize) -> Option<Vec<Vec<u8>>> {
    fn number(rest: &mut &[u8]) -> Option<usize> {
        let (number, after) = rest.split_first_chunk::<4>()?;
        *rest = after;
        Some(u32::from_le_bytes(*number) as usize)
    }
    let mut rest = packed;
    if number(&mut rest)? != count {
        return None;
    }
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(&mut rest)?;
        let (value, after) = rest.split_at_checked(length)?;
        values.push(value.to_vec());
        rest = after;
    }
    rest.is_empty().then_some(values)
}

/// Converts floats to little-endian bytes.
pub(super) fn bytes_of(floats: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 * floats.len());
    for float in floats {
        bytes.extend_from_slice(&float.to_le_bytes());
    }
    bytes
}

/// Converts bytes to floats; `None` unless there are `count` of them.
pub(super) fn floats_of(bytes: &[u8], count: usize) -> Option<Vec<f32>> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    (rest.is_empty() && chunks.len() == count).then(|| chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_a_round_trip(kind in 0..5u8, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let frame = Frame::new(Kind::of(kind).unwrap(), payload);
            let mut bytes = vec![];
            frame.write(&mut bytes).unwrap();
            prop_assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap(), frame);
            let cut = &bytes[..bytes.len() - 1];
            prop_assert_eq!(Frame::read(&mut &*cut).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }

        #[test]
        fn accepted_frames_write_back_to_the_bytes_read(
            kind in 0..7_u8,
            length in 0..70_u32,
            payload in proptest::collection::vec(any::<u8>(), 0..70),
        ) {
            let bytes = [[kind].as_slice(), length.to_le_bytes().as_slice(), payload.as_slice()].concat();
            let end = 5 + length as usize;
            match Frame::read(&mut bytes.as_slice()) {
                Ok(frame) => {
                    let mut written = vec![];
                    frame.write(&mut written).unwrap();
                    prop_assert_eq!(written.as_slice(), &bytes[..end]);
                }
                Err(error) if Kind::of(kind).is_none() => {
                    prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                }
                Err(error) => {
                    prop_assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
                    prop_assert!(bytes.len() < end, "a whole frame was refused");
                }
            }
        }

        #[test]
        fn unpacked_values_pack_to_the_bytes_read(
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5), 0..4),
            at in any::<proptest::sample::Index>(),
            byte in 0..6_u8,
        ) {
            let mut bytes = pack(&values);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Some(unpacked) = unpack(&bytes, usize::from(bytes[0])) {
                prop_assert_eq!(pack(&unpacked), bytes);
            }
        }

        #[test]
        fn values_survive_packing(values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..5)) {
            let packed = pack(&values);
            prop_assert_eq!(unpack(&packed, values.len() + 1), None);
            prop_assert_eq!(unpack(&packed[..packed.len() - 1], values.len()), None);
            prop_assert_eq!(unpack(&packed, values.len()), Some(values));
        }
    }

    #[test]
    fn long_frame_is_refused_before_it_is_allocated() {
        let mut bytes = vec![Kind::Sum as u8];
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn floats_survive_a_round_trip() {
        let floats = [0.0, -0.0, 1.5, f32::MIN_POSITIVE, f32::INFINITY];
        let bytes = bytes_of(&floats);
        assert_eq!(floats_of(&bytes, 5).unwrap().map_bits(), floats.to_vec().map_bits());
        assert_eq!((floats_of(&bytes, 4), floats_of(&bytes[1..], 4)), (None, None));
    }

    trait Bits {
        fn map_bits(self) -> Vec<u32>;
    }

    impl Bits for Vec<f32> {
        fn map_bits(self) -> Vec<u32> {
            self.into_iter().map(f32::to_bits).collect()
        }
    }
}
