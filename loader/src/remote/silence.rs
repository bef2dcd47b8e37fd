//! Silence of a server that makes a batch: the server hangs without ending its connection, or the batch takes long.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::failure::Failure;
use crate::batch::Batch;

/// Time to wait for a silent server, given how often each other server was silent during the step; `None` if there is
/// no other server. It doubles with the smallest of these numbers, so that a batch that takes long on every server is
/// eventually made.
pub(super) fn patience_with(patience: Duration, silences_of_others: impl Iterator<Item = u32>) -> Option<Duration> {
    silences_of_others.min().map(|silences| patience.saturating_mul(1 << silences.min(10)))
}

/// Waits for a batch. Every `tick`, compares the time since its last frame with `patience()`, which is `None` while no
/// other server can be asked. Once the time reaches the patience, returns it as the error.
pub(super) async fn watch(
    batch: impl Future<Output = Result<Batch, Failure>>,
    num_frames: &AtomicU64,
    tick: Duration,
    patience: impl Fn() -> Option<Duration>,
) -> Result<Result<Batch, Failure>, Duration> {
    let mut batch = pin!(batch);
    let mut progress = Progress { num_frames: 0, since: Instant::now() };
    loop {
        if let Ok(result) = tokio::time::timeout(tick, batch.as_mut()).await {
            return Ok(result);
        }
        let silent_for = progress.silent_for(num_frames.load(Ordering::Relaxed), Instant::now());
        if patience().is_some_and(|patience| silent_for >= patience) {
            return Err(silent_for);
        }
    }
}

/// Progress of a batch that is being received.
struct Progress {
    /// Number of frames at the last check.
    num_frames: u64,
    /// Time of the first check that found `num_frames`.
    since: Instant,
}

impl Progress {
    /// Time for which no frame has arrived, if `num_frames` frames have arrived by `now`.
    fn silent_for(&mut self, num_frames: u64, now: Instant) -> Duration {
        if num_frames != self.num_frames {
            *self = Self { num_frames, since: now };
        }
        now.duration_since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_frame() {
        let started = Instant::now();
        let at = |secs| started + Duration::from_secs(secs);
        let mut progress = Progress { num_frames: 0, since: started };
        assert_eq!(progress.silent_for(0, at(40)), Duration::from_secs(40));
        assert_eq!(progress.silent_for(2, at(50)), Duration::ZERO);
        assert_eq!(progress.silent_for(2, at(55)), Duration::from_secs(5));
        assert_eq!(progress.silent_for(2, at(170)), Duration::from_mins(2));
    }

    #[test]
    fn patience_grows_only_when_every_other_server_was_silent() {
        let check = |silences: &[u32], expected: Option<u64>| {
            let patience = patience_with(Duration::from_mins(1), silences.iter().copied());
            assert_eq!(patience, expected.map(Duration::from_mins), "{silences:?}");
        };
        check(&[], None);
        check(&[0], Some(1));
        check(&[3, 0], Some(1));
        check(&[1], Some(2));
        check(&[3, 2], Some(4));
    }
}
