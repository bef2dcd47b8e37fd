//! Counters of a loader's streams: memory, crops, chunks, and the `metrics` of each visit and batch.
//!
//! [`METRICS`] lists the metrics that the process's recorder receives.
//!
//! Nothing is recorded per chunk. Where shards are mapped, a clock cannot separate waiting for the disk from decoding.
//! Waiting is therefore computed from the kernel's accounting of the thread (`/proc/thread-self/schedstat`); without
//! that file it counts as decoding. The kernel's count is off by up to one tick of its clock, in both directions.

mod registry;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

pub use registry::{METRICS, Metric, MetricKind, describe};

use crate::visit::VisitTimes;

/// Counters of a loader, summed over all its streams.
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

/// Snapshot of a loader's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Number of finished batches, whether or not the consumer has taken them.
    pub batches: u64,
    /// Number of crops in the finished batches.
    pub crops: u64,
    /// Number of finished visits, skipped ones included.
    pub visits: u64,
    /// Number of visits skipped because their case is corrupt.
    pub skipped_visits: u64,
    /// Number of chunks decoded for crops.
    pub chunks: u64,
    /// Number of uses of a chunk already decoded for another crop of the same visit. Decoded chunks are not kept from
    /// one visit to the next.
    pub chunk_hits: u64,
    /// Size on disk of the decoded chunks, in bytes.
    pub coded_bytes: u64,
    /// Memory of the budget in use, in bytes.
    pub memory_bytes: u64,
    /// Largest memory in use at any time, in bytes.
    pub peak_memory_bytes: u64,
}

impl Stats {
    /// Counts `bytes` of the budget as in use.
    pub(crate) fn hold(&self, bytes: u64) {
        let now = self.memory_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_memory_bytes.fetch_max(now, Ordering::Relaxed);
    }

    /// Counts `bytes` of the budget as free again.
    pub(crate) fn release(&self, bytes: u64) {
        self.memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Records a finished visit, in which the thread waited `read_secs` for the disk.
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

    /// Records a visit whose case is corrupt.
    pub(crate) fn skipped_visit(&self) {
        self.visits.fetch_add(1, Ordering::Relaxed);
        self.skipped_visits.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("hiend_loader_visits_total").increment(1);
        metrics::counter!("hiend_loader_skipped_visits_total").increment(1);
    }

    /// Records a finished batch, for whose buffer the loader waited `buffer_wait_secs`.
    pub(crate) fn batch(&self, crops: usize, buffer_wait_secs: f64) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.crops.fetch_add(crops as u64, Ordering::Relaxed);
        metrics::counter!("hiend_loader_batches_total").increment(1);
        metrics::counter!("hiend_loader_crops_total").increment(crops as u64);
        metrics::histogram!("hiend_loader_buffer_wait_seconds").record(buffer_wait_secs);
        metrics::gauge!("hiend_loader_memory_bytes").set(self.memory_bytes.load(Ordering::Relaxed) as f64);
    }

    /// Current values of the counters.
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

/// Clock that measures how long the current thread is blocked.
pub(crate) struct BlockedClock {
    started: Instant,
    scheduled_nanos: Option<u64>,
}

impl BlockedClock {
    /// Starts measuring.
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), scheduled_nanos: scheduled_nanos() }
    }

    /// Seconds since the start during which the thread neither ran nor waited for a core. May be slightly negative.
    pub(crate) fn blocked_secs(&self) -> f64 {
        match (self.scheduled_nanos, scheduled_nanos()) {
            (Some(before), Some(now)) => self.started.elapsed().as_secs_f64() - now.saturating_sub(before) as f64 / 1e9,
            _ => 0.0,
        }
    }
}

/// Nanoseconds that the current thread ran or waited for a core, as counted by the kernel.
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
    fn the_peak_is_the_largest_memory_in_use() {
        let stats = Stats::default();
        stats.hold(5);
        stats.hold(7);
        stats.release(5);
        stats.hold(1);
        let progress = stats.progress();
        assert_eq!((progress.memory_bytes, progress.peak_memory_bytes), (8, 12));
    }
}
