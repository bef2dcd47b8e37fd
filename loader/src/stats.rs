//! What streams do, counted as they go: memory, crops, chunks, and the `metrics` of each visit and batch.
//!
//! # Metrics
//! | name | kind | once a | what |
//! |---|---|---|---|
//! | `hiend_loader_read_seconds` | histogram | visit | the thread neither ran nor waited for a core: it waited for the disk |
//! | `hiend_loader_decode_seconds` | histogram | visit | checking and decoding chunks |
//! | `hiend_loader_augment_seconds` | histogram | visit | cutting, normalising, augmenting |
//! | `hiend_loader_spill_wait_seconds` | histogram | visit | waited for memory, see [`crate::pipeline::MemoryPlan`] |
//! | `hiend_loader_buffer_wait_seconds` | histogram | batch | the loader waited for a free buffer |
//! | `hiend_loader_queue_seconds` | histogram | batch | the batch lay ready until it was taken |
//! | `hiend_loader_wait_seconds` | histogram | batch | the consumer waited |
//! | `hiend_loader_batches_total`, `_crops_total`, `_visits_total`, `_skipped_visits_total` | counter | batch, visit | |
//! | `hiend_loader_chunks_total`, `_coded_bytes_total` | counter | visit | chunks decoded, and their bytes on disk |
//! | `hiend_loader_chunk_hits_total` | counter | visit | a crop found a chunk decoded for another crop of its visit |
//! | `hiend_loader_memory_bytes` | gauge | batch | bytes of the budget in use |
//!
//! Nothing is recorded per chunk. Time spent waiting for the disk cannot be told from decoding by a clock where shards
//! are mapped, so it is taken from what the kernel says of the thread (`/proc/thread-self/schedstat`); where there is
//! no such file it counts as decoding. The kernel's count lags by up to a tick of its clock, in both directions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::visit::VisitTimes;

/// Counters of a loader, over all its streams.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    batches: AtomicU64,
    crops: AtomicU64,
    visits: AtomicU64,
    skipped_visits: AtomicU64,
    chunks: AtomicU64,
    chunk_hits: AtomicU64,
    coded_bytes: AtomicU64,
    memory_bytes: AtomicU64,
    peak_memory_bytes: AtomicU64,
}

/// How far a loader has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Batches finished, taken or not.
    pub batches: u64,
    /// Crops in them.
    pub crops: u64,
    /// Visits done, skipped ones included.
    pub visits: u64,
    /// Visits left out because their case is corrupt.
    pub skipped_visits: u64,
    /// Chunks decoded for crops.
    pub chunks: u64,
    /// How often a crop found a chunk decoded for another crop of its visit. Of `chunks + chunk_hits` uses of chunks,
    /// so many cost no decoding; nothing decoded is kept from one visit to the next.
    pub chunk_hits: u64,
    /// Bytes of the decoded chunks on disk.
    pub coded_bytes: u64,
    /// Bytes of the budget in use.
    pub memory_bytes: u64,
    /// The most that was in use at any time.
    pub peak_memory_bytes: u64,
}

impl Stats {
    /// So many bytes of the budget are in use from now on.
    pub(crate) fn hold(&self, bytes: u64) {
        let now = self.memory_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_memory_bytes.fetch_max(now, Ordering::Relaxed);
    }

    /// So many no longer are.
    pub(crate) fn release(&self, bytes: u64) {
        self.memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn visit(&self, times: &VisitTimes, read_secs: f64) {
        self.visits.fetch_add(1, Ordering::Relaxed);
        self.chunks.fetch_add(times.chunks, Ordering::Relaxed);
        self.chunk_hits.fetch_add(times.chunk_hits, Ordering::Relaxed);
        self.coded_bytes.fetch_add(times.coded_bytes, Ordering::Relaxed);
        metrics::counter!("hiend_loader_visits_total").increment(1);
        metrics::counter!("hiend_loader_chunks_total").increment(times.chunks);
        metrics::counter!("hiend_loader_chunk_hits_total").increment(times.chunk_hits);
        metrics::counter!("hiend_loader_coded_bytes_total").increment(times.coded_bytes);
        metrics::histogram!("hiend_loader_read_seconds").record(read_secs.max(0.0));
        metrics::histogram!("hiend_loader_decode_seconds").record((times.decode_secs - read_secs.max(0.0)).max(0.0));
        metrics::histogram!("hiend_loader_augment_seconds").record(times.augment_secs);
    }

    pub(crate) fn skipped_visit(&self) {
        self.visits.fetch_add(1, Ordering::Relaxed);
        self.skipped_visits.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("hiend_loader_visits_total").increment(1);
        metrics::counter!("hiend_loader_skipped_visits_total").increment(1);
    }

    pub(crate) fn batch(&self, crops: usize, buffer_wait_secs: f64) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.crops.fetch_add(crops as u64, Ordering::Relaxed);
        metrics::counter!("hiend_loader_batches_total").increment(1);
        metrics::counter!("hiend_loader_crops_total").increment(crops as u64);
        metrics::histogram!("hiend_loader_buffer_wait_seconds").record(buffer_wait_secs);
        metrics::gauge!("hiend_loader_memory_bytes").set(self.memory_bytes.load(Ordering::Relaxed) as f64);
    }

    pub(crate) fn progress(&self) -> Progress {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            batches: load(&self.batches),
            crops: load(&self.crops),
            visits: load(&self.visits),
            skipped_visits: load(&self.skipped_visits),
            chunks: load(&self.chunks),
            chunk_hits: load(&self.chunk_hits),
            coded_bytes: load(&self.coded_bytes),
            memory_bytes: load(&self.memory_bytes),
            peak_memory_bytes: load(&self.peak_memory_bytes),
        }
    }
}

/// Tells how long this thread was blocked since it was started.
pub(crate) struct BlockedClock {
    started: Instant,
    scheduled_nanos: Option<u64>,
}

impl BlockedClock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), scheduled_nanos: scheduled_nanos() }
    }

    /// Seconds in which the thread neither ran nor waited for a core. May come out a little below 0.
    pub(crate) fn blocked_secs(&self) -> f64 {
        match (self.scheduled_nanos, scheduled_nanos()) {
            (Some(before), Some(now)) => self.started.elapsed().as_secs_f64() - now.saturating_sub(before) as f64 / 1e9,
            _ => 0.0,
        }
    }
}

/// Nanoseconds that this thread ran or waited for a core, as the kernel counts them.
#[cfg(target_os = "linux")]
fn scheduled_nanos() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    Some(numbers.next()?.ok()? + numbers.next()?.ok()?)
}

#[cfg(not(target_os = "linux"))]
fn scheduled_nanos() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_remembered() {
        let stats = Stats::default();
        stats.hold(5);
        stats.hold(7);
        stats.release(5);
        stats.hold(1);
        let progress = stats.progress();
        assert_eq!((progress.memory_bytes, progress.peak_memory_bytes), (8, 12));
    }
}
