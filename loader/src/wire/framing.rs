//! gRPC framing of a batch, implemented here so that voxels are not copied on their way.
//!
//! A message is one byte 0, its length as four bytes, then protobuf. A `Frame` with data is a tag, a length and the bytes
//! themselves; so on the wire the voxels are preceded by at most eleven bytes per frame. The writer sends slices of the
//! batch's own memory; the reader copies from the transport's buffer straight into the batch's memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use prost::Message as _;

use super::{BatchHeader, Frame, frame};
use crate::pipeline::{MOST_CROPS, RECORD_BYTES};

/// Number of bytes of voxels in a frame.
pub(crate) const FRAME_BYTES: usize = 1 << 20;

/// Largest header in bytes (256 MiB); it describes each crop of a batch.
const HEADER_LIMIT: usize = MOST_CROPS * RECORD_BYTES;

/// Length in bytes of the prefix of a message.
const PREFIX: usize = 5;

/// Tag of `Frame.data`: field 2, length-delimited.
const DATA_TAG: u8 = 0x12;

/// HTTP body made of pieces that are sent unchanged, followed by a gRPC status if the body is a response.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Pieces {
    /// Creates the body of a request with one message.
    pub(crate) fn request(message: &impl prost::Message) -> Self {
        Self { pieces: VecDeque::from([framed(message)]), trailers: None }
    }

    /// Creates the body of a response: the header, then the bytes in frames. Drops `keep` when the header is sent.
    pub(crate) fn batch(header: BatchHeader, keep: impl Send + 'static, data: impl IntoIterator<Item = Bytes>) -> Self {
        let header = framed(&Frame { part: Some(frame::Part::Header(header)) });
        let mut pieces = VecDeque::from([Bytes::from_owner(Kept { bytes: header, _keep: keep })]);
        for mut bytes in data {
            while !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(FRAME_BYTES));
                let mut prefix = BytesMut::with_capacity(PREFIX + 1 + 10);
                let len_of_len = prost::length_delimiter_len(piece.len());
                put_prefix(&mut prefix, 1 + len_of_len + piece.len());
                prefix.put_u8(DATA_TAG);
                prost::encode_length_delimiter(piece.len(), &mut prefix).expect("the buffer grows");
                pieces.push_back(prefix.freeze());
                pieces.push_back(piece);
            }
        }
        Self { pieces, trailers: Some(success()) }
    }

    /// Creates the body of a response with one message.
    pub(crate) fn response(message: &impl prost::Message) -> Self {
        Self { pieces: VecDeque::from([framed(message)]), trailers: Some(success()) }
    }
}

/// Bytes together with a value that is dropped with them.
struct Kept<T> {
    bytes: Bytes,
    _keep: T,
}

impl<T> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Trailers of a successful call.
fn success() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let piece = self.pieces.pop_front().map(http_body::Frame::data);
        Poll::Ready(piece.or_else(|| self.trailers.take().map(http_body::Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && self.trailers.is_none()
    }
}

fn put_prefix(buffer: &mut BytesMut, len: usize) {
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(len).expect("a message is below 4 GiB"));
}

fn framed(message: &impl prost::Message) -> Bytes {
    let len = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX + len);
    put_prefix(&mut buffer, len);
    message.encode(&mut buffer).expect("the buffer has room");
    buffer.freeze()
}

/// Part of a response, as returned by [`FrameReader::read`].
#[derive(Debug, PartialEq)]
pub(crate) enum Part {
    /// Description of the batch.
    Header(Box<BatchHeader>),
    /// Bytes of voxels or labels, which continue the previous part.
    Data(Bytes),
}

/// Error of a response that violates the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed response: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Incremental reader of the messages of a response.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    /// First bytes of a message of still unknown kind, or a whole message other than plain data.
    held: BytesMut,
    /// Number of data bytes still to come in the current message.
    data_left: usize,
}

impl FrameReader {
    /// Takes the next part from received bytes; `None` once they are used up.
    ///
    /// # Errors
    /// If the bytes are not messages of the contract.
    pub(crate) fn read(&mut self, arrived: &mut Bytes) -> Result<Option<Part>, Malformed> {
        while !arrived.is_empty() {
            if self.data_left > 0 {
                let data = arrived.split_to(arrived.len().min(self.data_left));
                self.data_left -= data.len();
                return Ok(Some(Part::Data(data)));
            }
            // At most a length and a tag are held before it is known how many bytes of the message are to be held.
            let wanted = self.wanted()?;
            let taken = arrived.split_to(arrived.len().min(wanted - self.held.len()));
            self.held.extend_from_slice(&taken);
            if let Some(part) = self.complete()? {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// Returns true between two messages.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.data_left == 0
    }

    fn message_len(&self) -> Result<Option<usize>, Malformed> {
        let Some((prefix, _)) = self.held.split_first_chunk::<PREFIX>() else { return Ok(None) };
        if prefix[0] != 0 {
            return Err(Malformed("a compressed message, although none was asked for"));
        }
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        Ok(Some(len as usize))
    }

    /// Number of held bytes that [`Self::complete`] needs to proceed; more than are held now.
    fn wanted(&self) -> Result<usize, Malformed> {
        let Some(len) = self.message_len()? else { return Ok(PREFIX) };
        if self.held.get(PREFIX) == Some(&DATA_TAG) && self.data_len(len).is_none() && self.held.len() < PREFIX + len {
            return Ok(self.held.len() + 1);
        }
        if self.held.len() == PREFIX {
            return Ok(PREFIX + 1);
        }
        if len > HEADER_LIMIT {
            return Err(Malformed("a header above 256 MiB"));
        }
        Ok(PREFIX + len)
    }

    /// Length of the data if the message consists of a tag, a length and that many bytes.
    fn data_len(&self, message_len: usize) -> Option<usize> {
        let body = self.held.get(PREFIX..)?;
        let (&DATA_TAG, length) = body.split_first()? else { return None };
        let len = prost::decode_length_delimiter(length).ok()?;
        (1 + prost::length_delimiter_len(len) + len == message_len).then_some(len)
    }

    /// Returns the part that the held bytes begin or complete.
    fn complete(&mut self) -> Result<Option<Part>, Malformed> {
        let Some(len) = self.message_len()? else { return Ok(None) };
        if let Some(data_len) = self.data_len(len) {
            self.held.clear();
            self.data_left = data_len;
            return Ok(None);
        }
        if self.held.len() < PREFIX + len {
            return Ok(None);
        }
        let message = Frame::decode(&self.held[PREFIX..]).ok().ok_or(Malformed("a message that is not a frame"))?;
        self.held.clear();
        Ok(match message.part {
            Some(frame::Part::Header(header)) => Some(Part::Header(Box::new(header))),
            Some(frame::Part::Data(data)) if !data.is_empty() => Some(Part::Data(data)),
            // The message is of a later version of the contract.
            Some(frame::Part::Data(_)) | None => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes of a body.
    fn sent(mut body: Pieces) -> Vec<u8> {
        std::iter::from_fn(|| body.pieces.pop_front()).flatten().collect()
    }

    /// Header and data of a response that arrives in chunks.
    fn received(bytes: &[u8], chunk: usize) -> Result<(Option<BatchHeader>, Vec<u8>), Malformed> {
        let (mut reader, mut header, mut data) = (FrameReader::default(), None, Vec::new());
        for chunk in bytes.chunks(chunk) {
            let mut arrived = Bytes::copy_from_slice(chunk);
            while let Some(part) = reader.read(&mut arrived)? {
                match part {
                    Part::Header(found) => header = Some(*found),
                    Part::Data(more) => data.extend_from_slice(&more),
                }
            }
        }
        assert!(reader.is_idle(), "the response is whole");
        Ok((header, data))
    }

    proptest! {
        #[test]
        fn batches_survive_any_division_into_chunks(len in 0usize..700, chunk in 1usize..40, step: u64) {
            let header = BatchHeader { step, voxel_bytes: len as u64, ..BatchHeader::default() };
            let data: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let halves = [Bytes::copy_from_slice(&data[..len / 3]), Bytes::copy_from_slice(&data[len / 3..])];
            let bytes = sent(Pieces::batch(header.clone(), (), halves));
            prop_assert_eq!(received(&bytes, chunk), Ok((Some(header), data)));
        }
    }

    #[test]
    fn large_batches_are_sent_in_frames() {
        let data = Bytes::from(vec![7; 2 * FRAME_BYTES + 5]);
        let body = Pieces::batch(BatchHeader::default(), (), [data.clone()]);
        assert_eq!(body.pieces.len(), 1 + 2 * 3);
        assert_eq!(received(&sent(body), 70_001), Ok((Some(BatchHeader::default()), data.to_vec())));
    }

    #[test]
    fn hand_made_frames_equal_those_of_prost() {
        let data = Bytes::from(vec![9; 300]);
        let mut by_hand = Pieces::batch(BatchHeader::default(), (), [data.clone()]);
        by_hand.pieces.pop_front();
        assert_eq!(sent(by_hand), framed(&Frame { part: Some(frame::Part::Data(data)) }));
    }

    #[test]
    fn messages_that_are_no_frames_are_malformed() {
        assert!(received(&[1, 0, 0, 0, 0], 5).is_err());
        assert!(received(&[0, 0, 0, 0, 2, 0xff, 0xff], 7).is_err());
        assert!(received(&[0, 0xff, 0xff, 0xff, 0xff, 0x0a, 0], 7).is_err());
        // The unknown field comes from a later version.
        assert_eq!(received(&[0, 0, 0, 0, 2, 0x78, 1], 2), Ok((None, vec![])));
    }
}
