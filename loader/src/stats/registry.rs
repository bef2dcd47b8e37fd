//! Names of metrics, in tables that programs pass to their recorder and that tests compare with dashboards.

use metrics::{SharedString, describe_counter, describe_gauge, describe_histogram};

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Sum that only grows.
    Counter,
    /// Current value.
    Gauge,
    /// Distribution, with sum and count.
    Histogram,
}

/// Description of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name, with the unit as its last word.
    pub name: &'static str,
    /// Metric type: counter, gauge or histogram.
    pub kind: MetricKind,
    /// One sentence for the scrape's `HELP` line.
    pub help: &'static str,
}

impl Metric {
    /// Describes a counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Counter, help }
    }

    /// Describes a gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Gauge, help }
    }

    /// Describes a histogram.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Histogram, help }
    }
}

/// Passes the descriptions to the process's recorder.
pub fn describe(metrics: &[Metric]) {
    for metric in metrics {
        let help = SharedString::const_str(metric.help);
        match metric.kind {
            MetricKind::Counter => describe_counter!(metric.name, help),
            MetricKind::Gauge => describe_gauge!(metric.name, help),
            MetricKind::Histogram => describe_histogram!(metric.name, help),
        }
    }
}

/// Metrics of a stream, in any process that holds a [`crate::pipeline::Loader`].
///
/// `hiend_loader_read_seconds` is computed from the kernel's accounting of the thread, as [`super`] describes.
pub const METRICS: &[Metric] = &[
    Metric::histogram("hiend_loader_read_seconds", "Time a visit waited for the disk."),
    Metric::histogram("hiend_loader_decode_seconds", "Time a visit spent on verifying and decoding chunks."),
    Metric::histogram("hiend_loader_augment_seconds", "Time a visit spent on cutting and augmenting crops."),
    Metric::histogram("hiend_loader_spill_wait_seconds", "Time a visit waited for memory beyond its usual share."),
    Metric::histogram("hiend_loader_buffer_wait_seconds", "Time the loader waited for a free batch buffer."),
    Metric::histogram("hiend_loader_queue_seconds", "Time a finished batch waited to be taken."),
    Metric::histogram("hiend_loader_wait_seconds", "Time the consumer waited for a batch."),
    Metric::counter("hiend_loader_batches_total", "Finished batches."),
    Metric::counter("hiend_loader_crops_total", "Crops of finished batches."),
    Metric::counter("hiend_loader_visits_total", "Finished visits, skipped ones included."),
    Metric::counter("hiend_loader_skipped_visits_total", "Visits skipped because their case is corrupt."),
    Metric::counter("hiend_loader_chunks_total", "Decoded chunks."),
    Metric::counter("hiend_loader_chunk_hits_total", "Uses of a chunk already decoded in the same visit."),
    Metric::counter("hiend_loader_coded_bytes_total", "Bytes on disk of decoded chunks."),
    Metric::gauge("hiend_loader_memory_bytes", "Bytes of the memory budget in use."),
];
