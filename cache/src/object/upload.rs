//! One object, written from front to back.
//!
//! An upload that is not finished leaves no object. Parts of an upload whose process was killed stay invisible; a
//! life-cycle rule of the bucket removes them (see `docs/object-storage.md`).

use std::io;
use std::path::PathBuf;

use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use tokio::task::JoinSet;

use super::bucket::Bucket;
use super::connect::io_error;
use super::runtime::{handle, wait};
use crate::error::FileError;

/// Length of a part in bytes: at most 10,000 parts make an object on S3, so it may have 160 GB.
const PART_LEN: usize = 16 << 20;
/// Parts in flight, which bounds the memory of an upload to 80 MiB.
const PARTS_IN_FLIGHT: usize = 4;

/// An object being written. Dropping it without [`Upload::finish`] leaves no object.
pub(crate) struct Upload {
    request: Option<Box<dyn MultipartUpload>>,
    buffer: Vec<u8>,
    parts: JoinSet<object_store::Result<()>>,
    url: PathBuf,
}

impl Upload {
    /// Begins to write an object.
    pub(crate) fn begin(bucket: &Bucket, name: &str) -> Result<Self, FileError> {
        let url = bucket.url_of(name);
        let (store, path) = (bucket.store().clone(), bucket.object(name));
        let begun = wait(async move { store.put_multipart(&path).await });
        let begun = begun.and_then(|begun| begun.map_err(|err| io_error(&err)));
        let upload = begun.map_err(FileError::at(&url, "begin to upload"))?;
        Ok(Self { request: Some(upload), buffer: Vec::new(), parts: JoinSet::new(), url })
    }

    /// Appends bytes. Waits while too many parts are in flight.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), FileError> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(PART_LEN - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == PART_LEN {
                self.send_part()?;
            }
        }
        Ok(())
    }

    /// Sends what is left and makes the object visible.
    pub(crate) fn finish(mut self) -> Result<(), FileError> {
        self.send_part()?;
        self.wait_for(0)?;
        let Some(mut upload) = self.request.take() else { return Ok(()) };
        let completed = wait(async move {
            let result = upload.complete().await;
            if result.is_err() {
                // What cannot be removed is left to the bucket's life-cycle rule.
                let _ = upload.abort().await;
            }
            result
        });
        let completed = completed.and_then(|completed| completed.map_err(|err| io_error(&err)));
        completed.map(drop).map_err(FileError::at(&self.url, "complete the upload of"))
    }

    fn send_part(&mut self) -> Result<(), FileError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.wait_for(PARTS_IN_FLIGHT - 1)?;
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        if let Some(upload) = &mut self.request {
            let handle = handle().map_err(FileError::at(&self.url, "upload"))?;
            self.parts.spawn_on(upload.put_part(payload), &handle);
        }
        Ok(())
    }

    /// Waits until at most `left` parts are in flight.
    fn wait_for(&mut self, left: usize) -> Result<(), FileError> {
        while self.parts.len() > left {
            let mut parts = std::mem::take(&mut self.parts);
            let (parts, sent) = wait(async move {
                let sent = parts.join_next().await;
                (parts, sent)
            })
            .map_err(FileError::at(&self.url, "upload"))?;
            self.parts = parts;
            let sent = match sent {
                Some(Ok(sent)) => sent.map_err(|err| io_error(&err)),
                Some(Err(err)) => Err(io::Error::other(err)),
                None => Ok(()),
            };
            sent.map_err(FileError::at(&self.url, "upload a part of"))?;
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut upload) = self.request.take() else { return };
        let mut parts = std::mem::take(&mut self.parts);
        // What cannot be removed is left to the bucket's life-cycle rule.
        let _ = wait(async move {
            parts.shutdown().await;
            upload.abort().await
        });
    }
}
