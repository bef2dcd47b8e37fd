//! Metrics of a service.

use tonic::Status;

use super::status;
use crate::stats::Metric;

/// Metrics of a service. The metrics of its loaders are in [`crate::stats::METRICS`].
pub const METRICS: &[Metric] = &[
    Metric::gauge("hiend_serve_clients", "Clients that are served."),
    Metric::gauge("hiend_serve_streams", "Open streams."),
    Metric::gauge("hiend_serve_waiting", "Requests that wait for their turn or for memory."),
    Metric::gauge("hiend_serve_held_bytes", "Bytes held for clients: batches made or sent, and shared memory."),
    Metric::gauge("hiend_serve_free_bytes", "Bytes of batch memory kept for the next batches."),
    Metric::counter("hiend_serve_batches_total", "Batches made, by transport: socket or shared_memory."),
    Metric::counter("hiend_serve_crops_total", "Crops of the batches made."),
    Metric::counter("hiend_serve_bytes_total", "Bytes of voxels and labels, by transport: socket or shared_memory."),
    Metric::counter("hiend_serve_refused_total", "Requests refused, by status code."),
    Metric::histogram("hiend_serve_queue_seconds", "Time that a request waited for its turn and for memory."),
];

/// Records a batch that was made.
pub(super) fn batch(in_slot: bool, crops: usize, bytes: usize, queue_secs: f64) {
    let transport = if in_slot { "shared_memory" } else { "socket" };
    metrics::counter!("hiend_serve_batches_total", "transport" => transport).increment(1);
    metrics::counter!("hiend_serve_crops_total").increment(crops as u64);
    metrics::counter!("hiend_serve_bytes_total", "transport" => transport).increment(bytes as u64);
    metrics::histogram!("hiend_serve_queue_seconds").record(queue_secs);
}

/// Records a refused request.
pub(super) fn refused(status: &Status) {
    metrics::counter!("hiend_serve_refused_total", "code" => format!("{:?}", status.code())).increment(1);
}

/// Records the number of open streams.
pub(super) fn streams(open: usize) {
    metrics::gauge!("hiend_serve_streams").set(open as f64);
}

/// Records the state of a service, and the bytes of batch memory that it keeps for the next batches.
pub(super) fn state(state: &status::Status, free_bytes: u64) {
    streams(state.streams);
    metrics::gauge!("hiend_serve_clients").set(state.clients as f64);
    metrics::gauge!("hiend_serve_waiting").set(state.waiting as f64);
    metrics::gauge!("hiend_serve_held_bytes").set(state.held_bytes as f64);
    metrics::gauge!("hiend_serve_free_bytes").set(free_bytes as f64);
}
