//! Fetching, from object storage, of the bytes that upcoming visits will read, so that decoding threads rarely wait.

use std::sync::Arc;

use hiend_cache::{Case, DiskCache};

use super::sequence::Sequence;
use super::{Error, Shared};
use crate::visit::Visitor;

/// Number of threads that fetch. They mostly wait: a visit takes three round trips.
pub(super) const THREADS: usize = 16;
/// Largest number of bytes fetched ahead of the visits: two seconds on a link of 10 Gbit/s.
const MOST_AHEAD: u64 = 2 << 30;

/// Checks that the disk caches of a stream can keep what one batch needs; returns the number of bytes that may be fetched
/// ahead of the visits, `None` if all cases are local.
///
/// # Errors
/// If a disk cache is too small; the error states the size that would do.
pub(super) fn check_disk_caches(sequence: &Sequence, visits: usize) -> Result<Option<u64>, Error> {
    let mut disk_caches: Vec<&Arc<DiskCache>> = Vec::new();
    for disk_cache in sequence.caches().filter_map(|cache| cache.disk_cache()) {
        if !disk_caches.iter().any(|other| Arc::ptr_eq(other, disk_cache)) {
            disk_caches.push(disk_cache);
        }
    }
    if disk_caches.is_empty() {
        return Ok(None);
    }
    let mut needed: Vec<u64> = sequence
        .cases()
        .filter(|case| case.is_remote())
        .map(|case| DiskCache::bytes_of_range(case.record().span.len()))
        .collect();
    needed.sort_unstable_by(|a, b| b.cmp(a));
    let needed = needed.iter().take(visits).sum();
    let mut ahead = MOST_AHEAD;
    for disk_cache in disk_caches {
        disk_cache.require(needed).map_err(hiend_cache::Error::from)?;
        ahead = ahead.min(disk_cache.room() / 2);
    }
    Ok(Some(ahead))
}

impl Shared {
    /// Fetches the bytes that a visit will read, or advises the system to read them if the case is local.
    ///
    /// Errors are only logged here; the visit reads the same bytes and reports them.
    pub(super) fn fetch_ahead(&self, visit: u64, visitor: &mut Visitor) {
        let (case, epoch) = self.sequence.visit(visit);
        if !is_to_be_fetched(case) {
            case.will_need();
            return;
        }
        let ignore = self.config.ignore_label.or_else(|| self.sequence.ignore_label(visit));
        if let Err(err) = visitor.fetch_ahead((case, ignore), epoch, &self.plan, self.config.labels) {
            tracing::debug!(case = case.key(), "not fetched ahead: {err}");
        }
    }

    /// Calls `submit` with a function that hands visits to fetching threads, and waits until all visits are fetched.
    pub(super) fn fetching(&self, submit: impl FnOnce(&dyn Fn(u64))) {
        let (sender, receiver) = flume::bounded::<u64>(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let receiver = receiver.clone();
                scope.spawn(move || {
                    let mut visitor = Visitor::default();
                    receiver.iter().for_each(|visit| self.fetch_ahead(visit, &mut visitor));
                });
            }
            drop(receiver);
            // Fails only if all threads have panicked, which the end of the scope reports.
            submit(&|visit| {
                let _ = sender.send(visit);
            });
            drop(sender);
        });
    }
}

/// Returns `true` for a case in object storage if some of its bytes are not on this machine yet.
fn is_to_be_fetched(case: &Case) -> bool {
    case.is_remote() && !case.is_at_hand()
}
