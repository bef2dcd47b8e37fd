//! Advice to the system about the cases to be visited next, so that a cache larger than memory streams at disk speed.
//!
//! One thread walks the sequence of visits ahead of the workers and advises the bytes of each case, until the bytes
//! advised and not yet visited reach the budget. Only this thread waits where giving advice blocks; workers never wait
//! for it. A case larger than the whole budget is not advised; its bytes are left to the page faults of its visit.
//!
//! For caches in object storage the budget is a part of the disk cache, and further threads fetch the bytes that each
//! visit will read ([`super::fetch_ahead`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::Shared;
use crate::stats::Stats;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Bytes advised and not yet visited.
#[derive(Debug)]
pub(super) struct ReadAhead {
    limit: u64,
    /// True if the bytes count as memory of the stream.
    counted: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Next visit to advise.
    cursor: u64,
    /// Bytes claimed by the visits in flight.
    in_flight: u64,
    /// Bytes claimed by each visit in flight.
    claims: BTreeMap<u64, u64>,
    /// Visits that finished before they were claimed.
    overtaken: BTreeSet<u64>,
    stopped: bool,
}

/// Outcome of claiming a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    /// Advise the visit's bytes.
    Give,
    /// Give no advice: the visit is done already, or its bytes exceed the budget.
    Skip,
    /// End: the stream is over.
    Stop,
}

impl ReadAhead {
    /// Creates the state for a budget of `limit` bytes and the visits from `first_visit` on.
    pub(super) fn new(limit: u64, first_visit: u64) -> Self {
        let state = State { cursor: first_visit, ..State::default() };
        Self { limit, counted: true, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Creates the state for bytes on a disk, which do not count as memory of the stream.
    pub(super) fn on_disk(limit: u64, first_visit: u64) -> Self {
        Self { counted: false, ..Self::new(limit, first_visit) }
    }

    /// Advises the visits of some steps one after another, until the last one or [`Self::stop`].
    pub(super) fn run(&self, shared: &Shared, steps: Range<u64>) {
        if self.limit == 0 {
            return;
        }
        if shared.fetched_ahead.is_some() {
            shared.fetching(|fetch| self.advise_each(shared, steps, fetch));
        } else {
            self.advise_each(shared, steps, |visit| shared.sequence.visit(visit).0.will_need());
        }
    }

    /// Calls `advise` with the number of each visit once its bytes fit into the budget.
    fn advise_each(&self, shared: &Shared, steps: Range<u64>, advise: impl Fn(u64)) {
        for step in steps {
            let first = shared.first_visit(step);
            for visit in first..first + shared.share.1 as u64 {
                #[cfg(test)]
                (shared.hooks.before_advice)(visit);
                let (case, _) = shared.sequence.visit(visit);
                let span = &case.record().span;
                match self.claim(&shared.stats, visit, span.len()) {
                    Advice::Give => advise(visit),
                    Advice::Skip => {}
                    Advice::Stop => return,
                }
            }
        }
    }

    /// Records that a visit is over, so that its bytes have been read.
    pub(super) fn done(&self, stats: &Stats, visit: u64) {
        if self.limit == 0 {
            return;
        }
        let mut guard = self.lock();
        if let Some(bytes) = guard.claims.remove(&visit) {
            guard.in_flight -= bytes;
            self.count(bytes, Stats::release, stats);
            self.changed.notify_all();
        } else if visit >= guard.cursor && !guard.stopped {
            guard.overtaken.insert(visit);
        }
    }

    /// Ends the thread and releases its bytes.
    pub(super) fn stop(&self, stats: &Stats) {
        let mut guard = self.lock();
        guard.stopped = true;
        self.count(guard.in_flight, Stats::release, stats);
        guard.in_flight = 0;
        guard.claims.clear();
        self.changed.notify_all();
    }

    /// Waits until `bytes` fit into the budget and claims them for a visit.
    fn claim(&self, stats: &Stats, visit: u64, bytes: u64) -> Advice {
        let mut guard = self.lock();
        loop {
            let held = guard.in_flight;
            if let Some(advice) = guard.try_claim(self.limit, visit, bytes) {
                self.count(guard.in_flight - held, Stats::hold, stats);
                return advice;
            }
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Passes `bytes` to `count`, which holds or releases them, if they count as memory of the stream.
    fn count(&self, bytes: u64, count: impl Fn(&Stats, u64), stats: &Stats) {
        if self.counted {
            count(stats, bytes);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Claims bytes for a visit; `None` if it must wait for others to be done.
    ///
    /// A case larger than the budget claims all of it. It is not advised, but the claim keeps the thread from running
    /// ahead without end where no case fits.
    fn try_claim(&mut self, limit: u64, visit: u64, bytes: u64) -> Option<Advice> {
        if self.stopped {
            return Some(Advice::Stop);
        }
        self.cursor = visit;
        if self.overtaken.remove(&visit) {
            self.cursor = visit + 1;
            return Some(Advice::Skip);
        }
        let claim = bytes.min(limit);
        if self.in_flight + claim > limit {
            return None;
        }
        self.cursor = visit + 1;
        self.in_flight += claim;
        self.claims.insert(visit, claim);
        Some(if bytes > limit { Advice::Skip } else { Advice::Give })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims without waiting.
    fn claim(read_ahead: &ReadAhead, stats: &Stats, visit: u64, bytes: u64) -> Option<Advice> {
        let mut guard = read_ahead.lock();
        let held = guard.in_flight;
        let advice = guard.try_claim(read_ahead.limit, visit, bytes);
        read_ahead.count(guard.in_flight - held, Stats::hold, stats);
        advice
    }

    #[test]
    fn claims_stay_within_the_budget_and_are_released() {
        let (read_ahead, stats) = (ReadAhead::new(10, 5), Stats::default());
        assert_eq!(claim(&read_ahead, &stats, 5, 6), Some(Advice::Give));
        assert_eq!(claim(&read_ahead, &stats, 6, 4), Some(Advice::Give));
        assert_eq!(claim(&read_ahead, &stats, 7, 1), None);
        assert_eq!(stats.progress().memory_bytes, 10);
        read_ahead.done(&stats, 6);
        assert_eq!(claim(&read_ahead, &stats, 7, 5), None);
        assert_eq!(claim(&read_ahead, &stats, 7, 4), Some(Advice::Give));
        read_ahead.stop(&stats);
        assert_eq!(claim(&read_ahead, &stats, 8, 1), Some(Advice::Stop));
        assert_eq!(stats.progress().memory_bytes, 0);
    }

    #[test]
    fn overtaken_visits_are_skipped_and_forgotten() {
        let (read_ahead, stats) = (ReadAhead::new(10, 0), Stats::default());
        for visit in [0, 1] {
            read_ahead.done(&stats, visit);
        }
        assert_eq!(claim(&read_ahead, &stats, 0, 3), Some(Advice::Skip));
        assert_eq!(claim(&read_ahead, &stats, 1, 30), Some(Advice::Skip));
        assert!(read_ahead.lock().overtaken.is_empty());
        assert_eq!(claim(&read_ahead, &stats, 2, 3), Some(Advice::Give));
        // Claimed and done, so neither in flight nor overtaken.
        read_ahead.done(&stats, 2);
        let guard = read_ahead.lock();
        assert_eq!((guard.in_flight, guard.claims.len(), guard.overtaken.len()), (0, 0, 0));
    }

    #[test]
    fn cases_larger_than_the_budget_do_not_let_the_thread_run_ahead() {
        let (read_ahead, stats) = (ReadAhead::new(10, 0), Stats::default());
        assert_eq!(claim(&read_ahead, &stats, 0, 11), Some(Advice::Skip));
        assert_eq!(claim(&read_ahead, &stats, 1, 11), None);
        assert_eq!(claim(&read_ahead, &stats, 1, 1), None);
        read_ahead.done(&stats, 0);
        assert_eq!(claim(&read_ahead, &stats, 1, 11), Some(Advice::Skip));
    }
}
