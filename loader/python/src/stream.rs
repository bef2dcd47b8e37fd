//! `Stream`: batches in the order of their steps.
//!
//! A separate thread asks the loader for a batch only when Python asks for one. Python waits for it without the GIL, in
//! short intervals, so that signals are handled and messages are logged in between. An interrupted wait loses nothing:
//! the next call receives the batch that was asked for. A signal that arrives while a batch is handed over does lose
//! that batch; `CropDataset` detects this by the step of the next batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hiend_loader::batch as loader;
use pyo3::prelude::*;

use crate::batch::Batch;
use crate::error::Failure;
use crate::log;
use crate::wait::TICK;

/// Number of wait intervals without a batch after which a lack of free buffers is reported.
const TICKS_TO_WARNING: u32 = 10;

/// Answer to one request: a batch, an error, or the end.
type Reply = Option<Result<loader::Batch, Failure>>;

/// Iterator over the batches of a stream.
#[pyclass(frozen, module = "hiend._hiend")]
pub(crate) struct Stream {
    requests: flume::Sender<()>,
    replies: flume::Receiver<Reply>,
    /// Number of requests whose caller was interrupted; their replies go to the next callers.
    open_requests: AtomicUsize,
    /// Number of batches that Python holds.
    alive: Arc<AtomicUsize>,
    /// Number of batches that can be in use at the same time.
    num_buffers: usize,
}

impl Stream {
    /// Starts the thread of a stream.
    ///
    /// # Errors
    /// If the system provides no thread.
    pub(crate) fn start<E>(
        mut batches: impl Iterator<Item = Result<loader::Batch, E>> + Send + 'static,
        num_buffers: usize,
    ) -> Result<Self, Failure>
    where
        Failure: From<E>,
    {
        let (requests, asked) = flume::bounded::<()>(1);
        let (sender, replies) = flume::bounded::<Reply>(1);
        let answer = move || {
            for () in asked {
                let next = catch_unwind(AssertUnwindSafe(|| batches.next()));
                let reply = match next {
                    Ok(next) => next.map(|batch| batch.map_err(Failure::from)),
                    Err(_panic) => Some(Err(Failure::other("a thread of the loader panicked (a bug)"))),
                };
                if sender.send(reply).is_err() {
                    break;
                }
            }
        };
        std::thread::Builder::new()
            .name("hiend-stream".into())
            .spawn(answer)
            .map_err(|err| Failure::other(format!("cannot start the stream's thread: {err}")))?;
        Ok(Self { requests, replies, open_requests: AtomicUsize::new(0), alive: Arc::default(), num_buffers })
    }

    /// Takes over the request of an interrupted call, if there is one.
    fn take_open_request(&self) -> bool {
        let take = |count: usize| count.checked_sub(1);
        self.open_requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }

    /// Returns true if the caller holds every buffer, so that no further batch can be made.
    fn has_no_buffer(&self) -> bool {
        self.alive.load(Ordering::Relaxed) >= self.num_buffers
    }
}

#[pymethods]
impl Stream {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    /// Waits for the next batch, without the GIL.
    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Batch>> {
        log::forward(py)?;
        if !self.take_open_request() {
            // Blocks only while other Python threads wait for batches of the same stream.
            py.detach(|| self.requests.send(())).map_err(|_closed| ended())?;
        }
        let mut ticks = 0;
        loop {
            match py.detach(|| self.replies.recv_timeout(TICK)) {
                Ok(reply) => {
                    log::forward(py)?;
                    return Ok(reply.transpose()?.map(|batch| Batch::new(batch, &self.alive)).transpose()?);
                }
                Err(flume::RecvTimeoutError::Timeout) => {
                    ticks += 1;
                    if ticks == TICKS_TO_WARNING && self.has_no_buffer() {
                        tracing::warn!(
                            "waiting for a free buffer: all {} are held by batches that are still in use; drop \
                             them, copy what is kept (batch.image.clone()), or let fewer threads share the iterator",
                            self.num_buffers
                        );
                    }
                    if let Err(error) = log::forward(py).and_then(|()| py.check_signals()) {
                        self.open_requests.fetch_add(1, Ordering::AcqRel);
                        return Err(error);
                    }
                }
                Err(flume::RecvTimeoutError::Disconnected) => return Err(ended().into()),
            }
        }
    }
}

/// Error for a stream whose thread ended without a reply: unreachable, because panics are caught on that thread.
fn ended() -> Failure {
    Failure::other("the stream's thread ended (a bug)")
}
