//! Stream of batches from servers, in the order of their steps.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::RemoteError;
use super::fetch::Fetcher;
use super::runtime::Runtime;
use crate::batch::Batch;
use crate::meter::Meter;
use crate::verdict::SpanTimes;

/// Receiver of a batch that is being fetched.
type Place = flume::Receiver<Result<Batch, RemoteError>>;

/// Iterator over batches in the order of their steps. Ends after the last step or the first error.
pub struct RemoteStream {
    /// Number of batches to return.
    left: u64,
    places: flume::Receiver<Place>,
    driver: tokio::task::AbortHandle,
    meter: Meter,
    failed: bool,
    // Dropped last: it runs the requests.
    _runtime: Arc<Runtime>,
}

impl RemoteStream {
    pub(super) fn start(
        fetcher: &Arc<Fetcher>,
        runtime: &Arc<Runtime>,
        num_batches: usize,
        steps_per_epoch: u64,
        steps: Range<u64>,
    ) -> Self {
        let left = steps.end.saturating_sub(steps.start);
        let (sender, places) = flume::bounded(num_batches + 1);
        let fetcher = Arc::clone(fetcher);
        let driver = runtime.handle().spawn(drive(fetcher, sender, num_batches, steps)).abort_handle();
        Self { left, places, driver, meter: Meter::new(steps_per_epoch), failed: false, _runtime: Arc::clone(runtime) }
    }

    /// Times of all batches so far except the first, which waits for the pipeline to fill.
    #[must_use]
    pub fn total(&self) -> &SpanTimes {
        self.meter.total()
    }

    /// Returns the number and times of an epoch that ended since the last call.
    pub fn take_epoch(&mut self) -> Option<(u64, SpanTimes)> {
        self.meter.take_epoch()
    }

    fn count(&mut self, batch: &mut Batch, asked: Instant) {
        self.meter.count(batch, asked, Instant::now());
        metrics::counter!("hiend_loader_batches_total").increment(1);
        metrics::counter!("hiend_loader_crops_total").increment(batch.shape[0] as u64);
    }
}

/// Starts the request of each step as soon as memory for its batch is free.
async fn drive(fetcher: Arc<Fetcher>, places: flume::Sender<Place>, num_batches: usize, steps: Range<u64>) {
    let permits = Arc::new(Semaphore::new(num_batches));
    for step in steps {
        // In the order of the steps, so that the oldest one always has memory.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let (sender, place) = flume::bounded(1);
        // Full only after errors, which free their permits; the consumer stops at the first of them.
        if places.try_send(place).is_err() {
            return;
        }
        let fetcher = Arc::clone(&fetcher);
        // Ends by itself even when the stream is dropped: a slot is free once the server has answered, not before.
        tokio::spawn(async move {
            let batch = fetcher.fetch(step, Arc::new(permit)).await;
            // The stream may have been dropped.
            let _ = sender.send(batch);
        });
    }
}

impl Iterator for RemoteStream {
    type Item = Result<Batch, RemoteError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.left == 0 {
            return None;
        }
        self.left -= 1;
        let asked = Instant::now();
        let place = self.places.recv().ok().ok_or(RemoteError::Panicked);
        let batch = place.and_then(|place| place.recv().unwrap_or(Err(RemoteError::Panicked)));
        Some(match batch {
            Ok(mut batch) => {
                self.count(&mut batch, asked);
                Ok(batch)
            }
            Err(err) => {
                self.failed = true;
                Err(err)
            }
        })
    }
}

impl Drop for RemoteStream {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
