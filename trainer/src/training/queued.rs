//! Steps whose results have not arrived yet.

use std::time::Instant;

use hiend_loader::batch::BatchTimes;

use crate::journal::RankRecord;

/// A step queued on the device.
pub(super) struct Queued {
    pub step: u64,
    pub lr: f64,
    pub crops: usize,
    /// Cases of this rank's share of the batch; other cases are unknown here.
    pub cases: Vec<String>,
    pub start: Instant,
    pub wait_secs: f64,
    pub upload_secs: f64,
    pub loader: BatchTimes,
    pub ranks: Vec<RankRecord>,
}
