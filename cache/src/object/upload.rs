//! One object, written from front to back.
//!
//! An upload that is not finished leaves no object. Parts of an upload whose process was killed stay invisible; a
//! life-cycle rule of the bucket removes them (see `docs/object-storage.md`).

use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};

use futures::FutureExt as _;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload};
use tokio::task::JoinHandle;

use super::bucket::Bucket;
use super::connect::io_error;
use super::runtime::{handle, next, wait};
use super::transport::is_hopeless;
use crate::error::FileError;

/// Length of a part in bytes: at most 10,000 parts make an object on S3, so it may have 80 GB. All parts in flight share the
/// link, and each must arrive within the time for a request.
const PART_LEN: usize = 8 << 20;
/// Parts in flight, which bounds the memory of an upload to 40 MiB.
const PARTS_IN_FLIGHT: usize = 4;

/// An object being written. Dropping it without [`Upload::finish`] leaves no object.
pub(crate) struct Upload {
    request: Option<Box<dyn MultipartUpload>>,
    buffer: Vec<u8>,
    /// Tasks of the parts that may be in flight. They are kept when a wait is given up, so that the upload is aborted
    /// only after all of them have ended: a part that arrives later would stay in the bucket.
    parts: Vec<JoinHandle<()>>,
    /// Number of parts whose result was not received.
    num_open: usize,
    results: (Sender<io::Result<()>>, Receiver<io::Result<()>>),
    url: PathBuf,
}

impl Upload {
    /// Begins the upload of an object.
    pub(crate) fn begin(bucket: &Bucket, name: &str) -> Result<Self, FileError> {
        let url = bucket.url_of(name);
        let (store, path) = (bucket.store().clone(), bucket.object(name));
        let begun = wait(async move { store.put_multipart(&path).await });
        let begun = begun.and_then(|begun| begun.map_err(|err| io_error(&err)));
        let upload = begun.map_err(FileError::at(&url, "begin to upload"))?;
        Ok(Self::of(upload, url))
    }

    fn of(request: Box<dyn MultipartUpload>, url: PathBuf) -> Self {
        let request = Some(request);
        Self { request, buffer: Vec::new(), parts: Vec::new(), num_open: 0, results: mpsc::channel(), url }
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
        self.wait_for(0, is_hopeless)?;
        let Some(mut upload) = self.request.take() else { return Ok(()) };
        let completed = wait(async move {
            let result = upload.complete().await;
            if result.is_err() {
                // An upload that cannot be aborted is left to the bucket's life-cycle rule.
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
        self.wait_for(PARTS_IN_FLIGHT - 1, is_hopeless)?;
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        if let Some(upload) = &mut self.request {
            let handle = handle().map_err(FileError::at(&self.url, "upload"))?;
            let part = AssertUnwindSafe(upload.put_part(payload)).catch_unwind();
            let sender = self.results.0.clone();
            self.parts.retain(|part| !part.is_finished());
            self.parts.push(handle.spawn(async move {
                let sent = match part.await {
                    Ok(sent) => sent.map_err(|err| io_error(&err)),
                    Err(_panic) => Err(io::Error::other("a request to object storage panicked")),
                };
                // The receiver is gone if the upload is.
                let _ = sender.send(sent);
            }));
            self.num_open += 1;
        }
        Ok(())
    }

    /// Waits until at most `left` parts are in flight. Gives up when `is_hopeless` returns `true`.
    fn wait_for(&mut self, left: usize, is_hopeless: fn() -> bool) -> Result<(), FileError> {
        while self.num_open > left {
            let sent = next(&self.results.1, is_hopeless).map_err(FileError::at(&self.url, "upload"))?;
            self.num_open -= 1;
            // There is a sender as long as there is an upload.
            sent.unwrap_or(Ok(())).map_err(FileError::at(&self.url, "upload a part of"))?;
        }
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut upload) = self.request.take() else { return };
        let parts = std::mem::take(&mut self.parts);
        // An upload that cannot be aborted is left to the bucket's life-cycle rule.
        let _ = wait(async move {
            parts.iter().for_each(JoinHandle::abort);
            for part in parts {
                // The part was cancelled, or had ended before.
                let _ = part.await;
            }
            upload.abort().await
        });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};

    use object_store::{PutResult, UploadPart};

    use super::*;

    type Events = Arc<Mutex<Vec<&'static str>>>;

    /// An upload whose parts never arrive. It records the order in which they end and the upload is aborted.
    #[derive(Debug)]
    struct Stuck(Events);

    /// A part; dropping it ends the part.
    struct Part(Events);

    impl Drop for Part {
        fn drop(&mut self) {
            self.0.lock().unwrap().push("part");
        }
    }

    type Answer<'a, T> = Pin<Box<dyn Future<Output = object_store::Result<T>> + Send + 'a>>;

    impl MultipartUpload for Stuck {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            let part = Part(Arc::clone(&self.0));
            Box::pin(async move {
                let _part = part;
                std::future::pending().await
            })
        }

        fn complete<'a, 'b>(&'a mut self) -> Answer<'b, PutResult>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(std::future::pending())
        }

        fn abort<'a, 'b>(&'a mut self) -> Answer<'b, ()>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async {
                self.0.lock().unwrap().push("abort");
                Ok(())
            })
        }
    }

    #[test]
    fn upload_that_is_given_up_ends_its_parts_before_it_is_aborted() {
        let events = Events::default();
        let mut upload = Upload::of(Box::new(Stuck(Arc::clone(&events))), "s3://bucket/shard".into());
        for _ in 0..2 {
            upload.buffer.push(1);
            upload.send_part().unwrap();
        }
        let error = upload.wait_for(0, || true).unwrap_err().to_string();
        assert!(error.contains("s3://bucket/shard"), "{error}");
        drop(upload);
        assert_eq!(*events.lock().unwrap(), ["part", "part", "abort"]);
    }
}
