//! One connection to another rank: a thread that reads, and a thread that writes and sends heartbeats.

use std::io::{self, BufReader, BufWriter, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use flume::RecvTimeoutError;

use super::group_core::Core;
use super::incoming::{Peer, receive_all, writing_failed};
use super::wire::{Frame, Kind};

/// Maximum interval of heartbeats.
const MAX_INTERVAL: Duration = Duration::from_secs(5);
/// Time beyond the deadline of [`Link::close`] for sending the queued frames. Without it, a rank that gets no processor
/// time for seconds would lose its last frame, and the others would report it as gone.
const SENDING: Duration = Duration::from_secs(20);
/// Number of frames that may be queued for sending; more than the protocol keeps in flight.
const OUTGOING: usize = 32;
/// Number of bytes read and written at once, for frames that are smaller.
const BUFFER: usize = 64 << 10;

/// A connection, to be closed by [`Self::close`].
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: Peer,
    stream: TcpStream,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Link {
    /// Starts the threads of a connection. A peer that is silent for `timeout` fails the group.
    ///
    /// # Errors
    /// If the socket cannot be set up or the system refuses a thread.
    pub(super) fn start(stream: TcpStream, peer: Peer, core: &Arc<Core>, timeout: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let (sender, outgoing) = flume::bounded(OUTGOING);
        let (reading, writing) = (stream.try_clone()?, stream.try_clone()?);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(format!("{name}-{}", peer.rank)).spawn(work)
        };
        let (from, to) = ((peer.clone(), Arc::clone(core)), (peer.clone(), Arc::clone(core)));
        let interval = (timeout / 4).min(MAX_INTERVAL);
        let mut reading = BufReader::with_capacity(BUFFER, reading);
        let receive = move || receive_all(|| Frame::read(&mut reading), &from.0, &from.1, timeout);
        let reader = spawn("rank-in", Box::new(receive))?;
        let writer =
            spawn("rank-out", Box::new(move || write_all(writing, &outgoing, &to.0, &to.1, timeout, interval)))?;
        core.add_outgoing(peer.index, sender);
        Ok(Self { peer, stream, reader, writer })
    }

    /// Waits for both threads to end, which they do once the core has dropped its senders and the peer has closed its
    /// end; then closes the connection. Waits for the reader until `deadline`, and for the writer [`SENDING`] longer.
    pub(super) fn close(self, deadline: Instant) {
        wait_for(&self.writer, deadline + SENDING);
        wait_for(&self.reader, deadline);
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in [self.reader, self.writer] {
            // A panic of a thread has shown its message already.
            let _ = thread.join();
        }
    }
}

/// Waits for a thread to end, at most until `deadline`.
fn wait_for(thread: &JoinHandle<()>, deadline: Instant) {
    while Instant::now() < deadline && !thread.is_finished() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn write_all(
    stream: TcpStream,
    outgoing: &flume::Receiver<Frame>,
    peer: &Peer,
    core: &Core,
    timeout: Duration,
    interval: Duration,
) {
    let mut stream = BufWriter::with_capacity(BUFFER, stream);
    loop {
        let frame = match outgoing.recv_timeout(interval) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => Frame::empty(Kind::Heartbeat),
            Err(RecvTimeoutError::Disconnected) => {
                // The peer reads what was sent, then the end.
                let _ = stream.get_ref().shutdown(Shutdown::Write);
                return;
            }
        };
        if let Err(error) = frame.write(&mut stream).and_then(|()| stream.flush()) {
            writing_failed(&error, peer, core, timeout);
            // The content of the buffer cannot be sent, so dropping the writer must not try.
            let _ = stream.into_parts();
            return;
        }
    }
}
