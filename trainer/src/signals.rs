//! Signals that ask a run to stop, received by one thread in the order in which the system delivers them.
//!
//! They are blocked in all threads and read from a file descriptor, so that each signal arrives with its sender. Before
//! that they have their default effect, which ends the process.

use std::io;

use hiend_loader::program::ignores_hangup;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// Signals that ask a run to stop. SIGHUP is not received by a process that was started with SIGHUP ignored, as by `nohup`.
pub(crate) const STOPPING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1];

/// A received signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub signal: Signal,
    /// Process that sent the signal; 0 for the kernel, which sends the signals of a terminal.
    pub sender: Pid,
}

/// Receiver of the signals in [`STOPPING`].
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals in this thread and in those that it starts later; child processes also inherit the mask. Must
    /// be called before other threads exist.
    ///
    /// # Errors
    /// If the system gives no file descriptor.
    pub(crate) fn block() -> io::Result<Self> {
        let mut signals: SigSet = STOPPING.into_iter().collect();
        if ignores_hangup() {
            signals.remove(Signal::SIGHUP);
        }
        signals.thread_block()?;
        Ok(Self { fd: SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)? })
    }

    /// Waits for the next signal.
    ///
    /// # Errors
    /// If the file descriptor cannot be read.
    pub(crate) fn next(&self) -> io::Result<Arrived> {
        loop {
            match self.fd.read_signal() {
                Ok(Some(info)) => {
                    // Signals outside of the set cannot arrive.
                    if let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed()) {
                        return Ok(Arrived { signal, sender: Pid::from_raw(info.ssi_pid.cast_signed()) });
                    }
                }
                // A process that was stopped and continued.
                Ok(None) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
