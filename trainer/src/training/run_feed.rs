//! Feed of a run's batches to the device.

use super::error::thread_error;
use super::{Stream, Target, Task, TrainingError};
use crate::config::RunConfig as _;
use crate::device::Compute;
use crate::feed::{Feed, FeedConfig};

/// Starts a feed of the batches from `start` on, or of a rank's share of them.
pub(super) fn feed_of<T: Task>(
    task: &T,
    stream: &Stream,
    compute: &Compute,
    start: u64,
    share: (usize, usize),
) -> Result<Feed<Target<T>>, TrainingError> {
    let config = task.config();
    let source = (stream.open)(start, share).map_err(|source| TrainingError::Open { step: start, source })?;
    let feed = FeedConfig {
        start_step: start,
        crop_size: config.stream().crop_size,
        micro_batch: config.train().crops_at_a_time(),
    };
    Feed::start(source, task.targets(), compute.raw().clone(), feed).map_err(thread_error("feed"))
}
