//! Times of the batches of a stream, in all and by epoch.

use std::time::Instant;

use crate::batch::Batch;
use crate::verdict::SpanTimes;

/// Sums of the times of the batches that a stream has returned.
pub(crate) struct Meter {
    steps_per_epoch: u64,
    epoch: SpanTimes,
    total: SpanTimes,
    /// Number and times of the last epoch that ended, until they are taken.
    ended: Option<(u64, SpanTimes)>,
    /// Time at which the last batch was returned.
    last: Option<Instant>,
}

impl Meter {
    pub(crate) fn new(steps_per_epoch: u64) -> Self {
        Self { steps_per_epoch, epoch: SpanTimes::default(), total: SpanTimes::default(), ended: None, last: None }
    }

    /// Times of all batches so far except the first, which waits for the pipeline to fill.
    pub(crate) fn total(&self) -> &SpanTimes {
        &self.total
    }

    /// Returns the number and times of an epoch that ended since the last call.
    pub(crate) fn take_epoch(&mut self) -> Option<(u64, SpanTimes)> {
        self.ended.take()
    }

    /// Records the times of a batch that was requested at `asked` and is returned at `now`. Returns the number and times of
    /// the epoch that ends with it.
    pub(crate) fn count(&mut self, batch: &mut Batch, asked: Instant, now: Instant) -> Option<(u64, SpanTimes)> {
        batch.times.wait_secs = (now - asked).as_secs_f64();
        metrics::histogram!("hiend_loader_wait_seconds").record(batch.times.wait_secs);
        if let Some(last) = self.last.replace(now) {
            let elapsed_secs = (now - last).as_secs_f64();
            self.total.add(batch.shape[0], elapsed_secs, &batch.times);
            self.epoch.add(batch.shape[0], elapsed_secs, &batch.times);
        }
        if !(batch.step + 1).is_multiple_of(self.steps_per_epoch) {
            return None;
        }
        self.ended = Some((batch.step / self.steps_per_epoch, std::mem::take(&mut self.epoch)));
        self.ended
    }
}
