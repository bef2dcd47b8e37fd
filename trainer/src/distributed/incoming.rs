//! Reception of frames from another rank: data for the inbox, reports of failures, the end of the connection, and
//! errors of the connection.

use std::io;
use std::time::Duration;

use super::group_core::Core;
use super::peer::{Cause, PeerFailure};
use super::wire::{Frame, Kind};

/// Other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Rank of the other process.
    pub rank: usize,
    /// Host and process of the peer.
    pub name: String,
    /// Index of the peer's queue in the inbox.
    pub index: usize,
}

impl Peer {
    /// Failure of this peer with the given cause.
    pub(super) fn failed(&self, cause: Cause) -> PeerFailure {
        PeerFailure { rank: self.rank, name: self.name.clone(), cause }
    }
}

/// Passes on every frame that `read` returns, until the connection ends. `read` fails if a peer is silent for
/// `timeout`.
pub(super) fn receive_all(mut read: impl FnMut() -> io::Result<Frame>, peer: &Peer, core: &Core, timeout: Duration) {
    let mut left = false;
    loop {
        match read() {
            Ok(Frame { kind: Kind::Heartbeat, .. }) => {}
            Ok(Frame { kind: Kind::Leave, .. }) => {
                left = true;
                core.inbox.end(peer.index, true);
            }
            Ok(Frame { kind: Kind::Abort, payload }) => {
                let failure = serde_json::from_slice(&payload);
                core.fail(failure.unwrap_or_else(|error| {
                    peer.failed(Cause::Protocol(format!("an unreadable report of a failure: {error}")))
                }));
            }
            Ok(frame) => core.inbox.put(peer.index, frame),
            Err(error) => {
                if !left && !core.is_leaving() {
                    core.fail(peer.failed(cause(&error, timeout)));
                }
                core.inbox.end(peer.index, false);
                return;
            }
        }
    }
}

/// Fails the group because a frame could not be written to a peer, unless the peer has closed the connection: then the
/// reader also notices, after the peer's last frames, which may state the reason.
pub(super) fn writing_failed(error: &io::Error, peer: &Peer, core: &Core, timeout: Duration) {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    let is_closed = matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected);
    // A connection that closes after its peer has reported a failure does not replace that failure.
    if !is_closed && !core.is_leaving() {
        core.fail(peer.failed(cause(error, timeout)));
    }
}

/// Kind of failure that an error of a connection indicates.
fn cause(error: &io::Error, timeout: Duration) -> Cause {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Cause::Silent(timeout.as_secs()),
        io::ErrorKind::InvalidData => Cause::Protocol(error.to_string()),
        _ => Cause::Closed,
    }
}
