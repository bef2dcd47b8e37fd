//! Tells the system which cases come next, so that a cache larger than memory streams at disk speed.
//!
//! One thread walks the sequence of visits ahead of the workers and advises the bytes of each case, until as many
//! bytes as the budget allows are advised and not yet visited. It owns the waiting that advice may cost; no worker
//! does. A case larger than the whole allowance is left to the page faults of its visit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, PoisonError};

use super::Shared;

/// What is advised and not yet visited.
#[derive(Debug)]
pub(super) struct ReadAhead {
    limit: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The next visit to advise.
    cursor: u64,
    in_flight: u64,
    advised: BTreeMap<u64, u64>,
    /// Visits done before they were advised.
    overtaken: BTreeSet<u64>,
    stopped: bool,
}

impl ReadAhead {
    /// For the visits of the steps from `start_step` on.
    pub(super) fn new(shared: &Shared, start_step: u64) -> Self {
        let state = State { cursor: shared.first_visit(start_step), ..State::default() };
        Self { limit: shared.memory.read_ahead_bytes, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Advises until told to stop.
    pub(super) fn run(&self, shared: &Shared, start_step: u64) {
        if self.limit == 0 {
            return;
        }
        for step in start_step.. {
            let first = shared.first_visit(step);
            for visit in first..first + shared.share.1 as u64 {
                let (case, _) = shared.sequence.visit(visit);
                let span = &case.record().span;
                match self.take(shared, visit, span.data_len + span.index_len) {
                    Taken::Yes => case.will_need(),
                    Taken::No => {}
                    Taken::Stopped => return,
                }
            }
        }
    }

    /// The visit is over: its bytes are read.
    pub(super) fn done(&self, shared: &Shared, visit: u64) {
        if self.limit == 0 {
            return;
        }
        let mut state = self.lock();
        if let Some(bytes) = state.advised.remove(&visit) {
            state.in_flight -= bytes;
            shared.stats.release(bytes);
            self.changed.notify_all();
        } else if visit >= state.cursor && !state.stopped {
            state.overtaken.insert(visit);
        }
    }

    /// Ends the thread, and gives back what it holds.
    pub(super) fn stop(&self, shared: &Shared) {
        let mut state = self.lock();
        state.stopped = true;
        shared.stats.release(state.in_flight);
        state.in_flight = 0;
        state.advised.clear();
        self.changed.notify_all();
    }

    fn take(&self, shared: &Shared, visit: u64, bytes: u64) -> Taken {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Taken::Stopped;
            }
            state.cursor = visit;
            if bytes > self.limit || state.overtaken.remove(&visit) {
                state.cursor = visit + 1;
                return Taken::No;
            }
            if state.in_flight + bytes <= self.limit {
                state.cursor = visit + 1;
                state.in_flight += bytes;
                state.advised.insert(visit, bytes);
                shared.stats.hold(bytes);
                return Taken::Yes;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken {
    Yes,
    No,
    Stopped,
}
