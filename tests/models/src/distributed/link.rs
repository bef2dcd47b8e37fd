//! Connections in memory instead of TCP, each with a thread that reads and a thread that writes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shuttle::rand::Rng as _;
use shuttle::thread::{JoinHandle, spawn};

pub(super) use super::incoming::Peer;

use super::group_core::Core;
use super::incoming::{receive_all, writing_failed};
use super::wire::Frame;
use crate::sync::channel::{Receiver, bounded};
use crate::sync::{Condvar, Mutex};

/// Number of frames that may wait to be sent.
const OUTGOING: usize = 32;
/// Timeout named in messages; no time passes in a model.
const TIMEOUT: Duration = Duration::from_mins(1);

/// One direction of a connection.
#[derive(Debug)]
struct Pipe {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    /// True once the writer has ended; what was written can still be read.
    ended: bool,
    /// True once the reader is gone.
    broken: bool,
}

impl Pipe {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::default()), changed: Condvar::new() })
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().expect("no thread panics with the lock"));
        self.changed.notify_all();
    }

    fn write(&self, frame: &Frame) -> io::Result<()> {
        let mut written = Ok(());
        self.change(|state| {
            if state.ended || state.broken {
                written = Err(io::ErrorKind::BrokenPipe.into());
            } else {
                state.frames.push_back(frame.clone());
            }
        });
        written
    }

    fn read(&self) -> io::Result<Frame> {
        let mut state = self.state.lock().expect("no thread panics with the lock");
        loop {
            if state.broken {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if let Some(frame) = state.frames.pop_front() {
                return Ok(frame);
            }
            if state.ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            state = self.changed.wait(state).expect("no thread panics with the lock");
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Wire {
    incoming: Arc<Pipe>,
    outgoing: Arc<Pipe>,
}

impl Wire {
    /// Both ends of a connection.
    #[must_use]
    pub fn pair() -> (Self, Self) {
        let (to, from) = (Pipe::new(), Pipe::new());
        (Self { incoming: Arc::clone(&from), outgoing: Arc::clone(&to) }, Self { incoming: to, outgoing: from })
    }

    /// Closes both directions. The other end can still read what was written.
    pub fn cut(&self) {
        self.outgoing.change(|state| state.ended = true);
        self.incoming.change(|state| state.broken = true);
    }
}

/// A connection, to be closed by [`Self::close`].
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: Peer,
    wire: Wire,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Link {
    /// Starts the threads of a connection.
    pub(super) fn start(wire: Wire, peer: Peer, core: &Arc<Core>) -> Self {
        let (sender, outgoing) = bounded(OUTGOING);
        let (from, to) = ((peer.clone(), Arc::clone(core)), (peer.clone(), Arc::clone(core)));
        let (incoming, writing) = (Arc::clone(&wire.incoming), Arc::clone(&wire.outgoing));
        let reader = spawn(move || receive_all(|| incoming.read(), &from.0, &from.1, TIMEOUT));
        let writer = spawn(move || write_all(&writing, &outgoing, &to.0, &to.1));
        core.add_outgoing(peer.index, sender);
        Self { peer, wire, reader, writer }
    }

    /// Waits for the writer to end, and for the reader unless the time is over, which may happen at once; then closes
    /// the connection.
    pub(super) fn close(self, _: Instant) {
        let _ = self.writer.join();
        if shuttle::rand::thread_rng().r#gen() {
            self.wire.cut();
        }
        let _ = self.reader.join();
        self.wire.cut();
    }
}

fn write_all(pipe: &Pipe, outgoing: &Receiver<Frame>, peer: &Peer, core: &Core) {
    while let Ok(frame) = outgoing.recv() {
        if let Err(error) = pipe.write(&frame) {
            writing_failed(&error, peer, core, TIMEOUT);
            return;
        }
    }
    pipe.change(|state| state.ended = true);
}
