//! Part of a group that its threads share: received frames, senders, and the first failure.

use std::sync::Arc;

use super::inbox::Inbox;
use super::peer::PeerFailure;
use super::wire::{Frame, Kind};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::Sender;
use crate::sync::{Mutex, PoisonError};

/// Part of a group that its threads share.
pub(super) struct Core {
    pub(super) inbox: Inbox,
    /// Senders of the frames to be sent, by connection.
    outgoing: Mutex<Vec<Option<Sender<Frame>>>>,
    /// Functions called once, after the first failure.
    pub(super) hooks: Mutex<Vec<Box<dyn Fn() + Send>>>,
    leaving: AtomicBool,
}

impl Core {
    /// Creates the shared part of a group with `num_links` connections.
    pub(super) fn new(num_links: usize) -> Arc<Self> {
        Arc::new(Self {
            inbox: Inbox::new(num_links),
            outgoing: Mutex::new(vec![None; num_links]),
            hooks: Mutex::default(),
            leaving: AtomicBool::new(false),
        })
    }

    /// Connects the sending end of a link. If the group has failed while other ranks were joining, the failure is sent
    /// to the new rank.
    pub(super) fn add_outgoing(&self, index: usize, sender: Sender<Frame>) {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = self.inbox.failure() {
            // Nothing else is queued yet, so there is room.
            let _ = sender.try_send(report(&failure));
        }
        outgoing[index] = Some(sender);
    }

    /// Queues a frame. If the connection is closed, the group has failed, which the next wait reports.
    pub(super) fn send(&self, index: usize, frame: Frame) {
        let sender = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)[index].clone();
        if let Some(sender) = sender {
            let _ = sender.send(frame);
        }
    }

    /// Ends the group, unless it has already ended: reports the failure on all connections and wakes all waiting
    /// threads.
    pub(super) fn fail(&self, failure: PeerFailure) {
        let report = report(&failure);
        // Held while the failure is recorded: a thread that learns of it and leaves must not close the connections before
        // the reports are queued.
        let outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.inbox.fail(failure) {
            return;
        }
        for sender in outgoing.iter().flatten() {
            // A peer that takes no more frames finds out by its own time-out.
            let _ = sender.try_send(report.clone());
        }
        drop(outgoing);
        for hook in self.hooks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            hook();
        }
    }

    /// Returns true while this rank closes its connections.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Lets the writers send the queued frames and then end.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner).fill(None);
    }
}

/// Frame that reports a failure to another rank.
fn report(failure: &PeerFailure) -> Frame {
    Frame::new(Kind::Abort, serde_json::to_vec(failure).unwrap_or_default())
}
