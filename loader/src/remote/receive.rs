//! Reception of one batch: frames into memory.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body::Body as _;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use super::RemoteError;
use super::failure::{Failure, describe};
use super::link::{Dialer, Link};
use crate::batch::{Batch, BatchMemory};
use crate::blocks::Blocks;
use crate::shared_memory::Slot;
use crate::streaming;
use crate::wire::batch::Expected;
use crate::wire::framing::{FrameReader, Malformed, Part, Pieces};
use crate::wire::{self, BatchHeader, FetchRequest, path};

/// Permit for a batch in memory, held as long as the batch exists.
pub(super) type Permit = Arc<tokio::sync::OwnedSemaphorePermit>;

/// Memory for a batch that does not use a slot, and a sign of its progress.
pub(super) struct Reception<'a> {
    /// Source of the memory.
    pub(super) blocks: &'a Arc<Blocks>,
    /// Permit for the batch.
    pub(super) permit: &'a Permit,
    /// Number of frames that have arrived.
    pub(super) num_frames: &'a AtomicU64,
}

/// Voxels and labels of a batch that arrives in frames.
struct Arriving {
    header: Box<BatchHeader>,
    voxels: Box<dyn BatchMemory>,
    labels: Box<dyn BatchMemory>,
    /// Bytes that have arrived.
    filled: usize,
}

/// Fetches the batch of a step.
pub(super) async fn receive(
    dialer: &Dialer,
    link: &Link,
    step: u64,
    expected: Expected,
    slot: Option<(u64, Arc<Slot>)>,
    reception: &Reception<'_>,
) -> Result<Batch, Failure> {
    let &Reception { blocks, permit, num_frames } = reception;
    let url = dialer.url();
    let wrong = |err: Malformed| Failure::Lost(RemoteError::Protocol { url: url.to_owned(), reason: err.to_string() });
    let wire_slot = slot.as_ref().map(|(memory_id, slot)| wire::Slot {
        memory_id: *memory_id,
        number: u32::try_from(slot.number()).unwrap_or(u32::MAX),
    });
    let request = FetchRequest { stream_id: link.stream_id.clone(), step, slot: wire_slot };
    let mut body = pin!(send(dialer, link, &request).await?);
    let mut reader = FrameReader::default();
    let mut slot = slot.map(|(_, slot)| slot);
    let mut arriving: Option<Arriving> = None;
    let mut finished = false;
    while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|status| Failure::Away(describe(&status)))?;
        num_frames.fetch_add(1, Ordering::Relaxed);
        let mut bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    let status = Status::from_header_map(&trailers);
                    match status {
                        Some(status) if status.code() == Code::Ok => finished = true,
                        Some(status) => return Err(Failure::of(url, &status)),
                        None => {}
                    }
                }
                continue;
            }
        };
        while let Some(part) = reader.read(&mut bytes).map_err(wrong)? {
            match (part, &mut arriving) {
                (Part::Header(header), None) => {
                    let sizes = expected.check(step, &header).map_err(wrong)?;
                    let (voxels, labels) = memory(&header, sizes, slot.take(), blocks, permit)
                        .map_err(|err| err.unwrap_or_else(|| wrong(Malformed("a batch that does not fit its slot"))))?;
                    arriving = Some(Arriving { header, voxels, labels, filled: 0 });
                }
                (Part::Data(data), Some(arriving)) => arriving.put(&data).map_err(wrong)?,
                (Part::Header(_), Some(_)) => return Err(wrong(Malformed("two headers"))),
                (Part::Data(_), None) => return Err(wrong(Malformed("voxels before their header"))),
            }
        }
    }
    // Without a status, the connection broke.
    if !finished || !reader.is_idle() {
        return Err(Failure::Away("the connection ended within a batch".into()));
    }
    let arriving = arriving.ok_or_else(|| wrong(Malformed("no header")))?;
    arriving.finish(&expected).map_err(wrong)
}

/// Sends a request; returns the body of the response.
async fn send(dialer: &Dialer, link: &Link, request: &FetchRequest) -> Result<Body, Failure> {
    let mut http = Request::new(Body::new(Pieces::request(request)));
    *http.method_mut() = Method::POST;
    *http.uri_mut() = http::Uri::from_static(path::FETCH);
    *http.version_mut() = http::Version::HTTP_2;
    http.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    http.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    dialer.authorize(http.headers_mut());
    let away = |err: tonic::transport::Error| Failure::Away(describe(&Status::from_error(err.into())));
    let mut channel = link.channel.clone();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.map_err(away)?;
    let response = channel.call(http).await.map_err(away)?;
    if let Some(status) = Status::from_header_map(response.headers())
        && status.code() != Code::Ok
    {
        return Err(Failure::of(dialer.url(), &status));
    }
    if response.status() != http::StatusCode::OK {
        return Err(Failure::Away(format!("HTTP status {}", response.status())));
    }
    Ok(response.into_body())
}

type Memories = (Box<dyn BatchMemory>, Box<dyn BatchMemory>);

/// Memory of a batch: the slot if the voxels are there, otherwise blocks to be filled. The error is `None` for a slot
/// whose content contradicts the header.
fn memory(
    header: &BatchHeader,
    (voxels, labels): (usize, usize),
    slot: Option<Arc<Slot>>,
    blocks: &Arc<Blocks>,
    permit: &Permit,
) -> Result<Memories, Option<Failure>> {
    if header.in_slot {
        let offset = usize::try_from(header.label_offset).ok().ok_or(None)?;
        let (voxels, labels) = slot.and_then(|slot| slot.divide(voxels, offset, labels)).ok_or(None)?;
        return Ok((Box::new(voxels), Box::new(labels)));
    }
    let take = |bytes| {
        let block = blocks.take(bytes, Arc::clone(permit));
        block.map_err(|err| Some(Failure::Fatal(RemoteError::NoMemory { bytes: err.bytes })))
    };
    Ok((Box::new(take(voxels)?), Box::new(take(labels)?)))
}

impl Arriving {
    /// Copies bytes to their place in the voxels or labels.
    fn put(&mut self, data: &Bytes) -> Result<(), Malformed> {
        let num_voxels = self.voxels.bytes().len();
        let mut data = data.as_ref();
        if !self.header.in_slot && self.filled < num_voxels {
            let (voxels, rest) = data.split_at(data.len().min(num_voxels - self.filled));
            // A batch is larger than any cache: an ordinary store would read the line that it overwrites first, and
            // displace the bytes that arrive next.
            streaming::write(voxels, &mut self.voxels.bytes_mut()[self.filled..][..voxels.len()]);
            // Before the task continues on another thread.
            streaming::finish();
            self.filled += voxels.len();
            data = rest;
        }
        if data.is_empty() {
            return Ok(());
        }
        let at = self.filled.saturating_sub(num_voxels);
        let room = self.labels.bytes_mut().get_mut(at..).and_then(|labels| labels.get_mut(..data.len()));
        match room {
            Some(room) if !self.header.in_slot => room.copy_from_slice(data),
            _ => return Err(Malformed("more bytes than the header announced")),
        }
        self.filled += data.len();
        Ok(())
    }

    fn finish(self, expected: &Expected) -> Result<Batch, Malformed> {
        let announced = self.voxels.bytes().len() + self.labels.bytes().len();
        if !self.header.in_slot && self.filled != announced {
            return Err(Malformed("fewer bytes than the header announced"));
        }
        expected.batch(*self.header, self.voxels, self.labels)
    }
}
