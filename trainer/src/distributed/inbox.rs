//! Frames that have arrived from all peers, the end of each connection, and the failure that ends the group: every
//! event for which a rank can wait.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::peer::PeerFailure;
use super::wire::Frame;
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Maximum number of frames of one peer that wait to be taken. The protocol keeps fewer in flight
/// ([`super::tcp_sum::WINDOW`] buckets), so this bounds memory and never delays a reader.
const CAPACITY: usize = 16;

/// A frame and the time of its arrival.
#[derive(Clone, Debug)]
pub(super) struct Arrived {
    pub frame: Frame,
    pub at: Instant,
}

/// Frames and end of each connection, and the first failure.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    queues: Vec<VecDeque<Arrived>>,
    /// Ends of the connections: `None` while a connection is open, `true` if its peer left in an orderly way.
    ends: Vec<Option<bool>>,
    failure: Option<PeerFailure>,
}

/// Reason why no frame arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoFrame {
    /// The group has failed.
    Failed(PeerFailure),
    /// The wait timed out.
    TimedOut,
}

impl Inbox {
    /// Creates an inbox for `num_peers` connections.
    pub(super) fn new(num_peers: usize) -> Self {
        let queues = (0..num_peers).map(|_| VecDeque::new()).collect();
        Self {
            state: Mutex::new(State { queues, ends: vec![None; num_peers], failure: None }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a frame; waits while the queue is full. Drops it after a failure.
    pub(super) fn put(&self, peer: usize, frame: Frame) {
        let at = Instant::now();
        let state = self.lock();
        let full = |state: &mut State| state.failure.is_none() && state.queues[peer].len() >= CAPACITY;
        let mut state = self.changed.wait_while(state, full).unwrap_or_else(PoisonError::into_inner);
        if state.failure.is_none() {
            state.queues[peer].push_back(Arrived { frame, at });
            self.changed.notify_all();
        }
    }

    /// Waits for the next frame of a peer. Frames that arrived before a failure are still returned.
    ///
    /// # Errors
    /// If the group has failed, or nothing arrived within `patience`.
    pub(super) fn take(&self, peer: usize, patience: Duration) -> Result<Arrived, NoFrame> {
        let waits = |state: &mut State| state.failure.is_none() && state.queues[peer].is_empty();
        let (mut state, _) =
            self.changed.wait_timeout_while(self.lock(), patience, waits).unwrap_or_else(PoisonError::into_inner);
        match (state.queues[peer].pop_front(), &state.failure) {
            (Some(arrived), _) => {
                self.changed.notify_all();
                Ok(arrived)
            }
            (None, Some(failure)) => Err(NoFrame::Failed(failure.clone())),
            (None, None) => Err(NoFrame::TimedOut),
        }
    }

    /// Records a failure and wakes all waiting threads. Returns whether it is the first.
    pub(super) fn fail(&self, failure: PeerFailure) -> bool {
        let mut state = self.lock();
        let first = state.failure.is_none();
        if first {
            state.failure = Some(failure);
        }
        self.changed.notify_all();
        first
    }

    /// Records that a peer has left in an orderly way, or that its connection has ended otherwise. Only the first
    /// record is kept.
    pub(super) fn end(&self, peer: usize, in_order: bool) {
        let mut state = self.lock();
        if state.ends[peer].is_none() {
            state.ends[peer] = Some(in_order);
        }
        self.changed.notify_all();
    }

    /// Waits until a peer has left in an orderly way. Returns `false` if its connection ends otherwise or `patience`
    /// elapses.
    pub(super) fn has_left(&self, peer: usize, patience: Duration) -> bool {
        let waits = |state: &mut State| state.ends[peer].is_none();
        let (state, _) =
            self.changed.wait_timeout_while(self.lock(), patience, waits).unwrap_or_else(PoisonError::into_inner);
        state.ends[peer] == Some(true)
    }

    /// The first failure.
    pub(super) fn failure(&self) -> Option<PeerFailure> {
        self.lock().failure.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::super::peer::Cause;
    use super::super::wire::Kind;
    use super::*;

    #[test]
    fn frames_of_each_peer_arrive_in_order() {
        let inbox = Inbox::new(2);
        for number in 0..3 {
            inbox.put(1, Frame::new(Kind::Gather, vec![number]));
        }
        for number in 0..3 {
            assert_eq!(*inbox.take(1, Duration::ZERO).unwrap().frame.payload, [number]);
        }
        assert_eq!(inbox.take(0, Duration::ZERO).unwrap_err(), NoFrame::TimedOut);
    }

    #[test]
    fn first_end_of_a_connection_counts() {
        let inbox = Inbox::new(3);
        inbox.end(0, true);
        inbox.end(0, false);
        inbox.end(1, false);
        inbox.end(1, true);
        assert!(inbox.has_left(0, Duration::from_secs(9)) && !inbox.has_left(1, Duration::from_secs(9)));
        assert!(!inbox.has_left(2, Duration::ZERO));
    }

    #[test]
    fn failure_wakes_readers_and_writers_and_the_first_one_stays() {
        let inbox = Inbox::new(1);
        let failure = |rank| PeerFailure { rank, name: "host".into(), cause: Cause::Closed };
        for _ in 0..CAPACITY {
            inbox.put(0, Frame::empty(Kind::Sum));
        }
        std::thread::scope(|scope| {
            let blocked = scope.spawn(|| inbox.put(0, Frame::empty(Kind::Sum)));
            assert!(inbox.fail(failure(3)));
            blocked.join().unwrap();
        });
        assert!(!inbox.fail(failure(4)));
        for _ in 0..CAPACITY {
            assert_eq!(inbox.take(0, Duration::ZERO).unwrap().frame.kind, Kind::Sum);
        }
        assert_eq!(inbox.take(0, Duration::from_secs(9)).unwrap_err(), NoFrame::Failed(failure(3)));
        assert_eq!(inbox.failure(), Some(failure(3)));
    }
}
