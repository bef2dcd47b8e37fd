//! SIGTERM and SIGUSR1, the signals a batch system sends before it ends a job; and SIGHUP, the end of a terminal.
//!
//! All request a stop: the step in progress is finished and saved. After a batch system's signal the program exits with
//! [`REQUEUE`], by which a job script tells an interrupted run from a finished one. Further signals change nothing; Ctrl-C
//! twice ends at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use hiend_loader::program::ignores_hangup;
use nix::sys::signal::{SigSet, Signal};

use super::INTERRUPTED;
use crate::report::dashboard::terminal;
use crate::training::Stop;

/// Exit code of a run that a batch system's signal stopped and that can be resumed (`EX_TEMPFAIL` of `sysexits.h`).
pub(super) const REQUEUE: u8 = 75;

/// The signals that request a stop, except Ctrl-C, blocked until they are handled.
pub(super) struct BatchSignals {
    signals: SigSet,
    /// True once a signal of a batch system arrived.
    received: Arc<AtomicBool>,
}

impl BatchSignals {
    /// Blocks the signals in this thread and those it starts later. To be called before other threads exist. SIGHUP is
    /// not among them if this process ignores it, as under `nohup`.
    pub(super) fn block() -> anyhow::Result<Self> {
        let mut signals: SigSet = [Signal::SIGTERM, Signal::SIGUSR1].into_iter().collect();
        if !ignores_hangup() {
            signals.add(Signal::SIGHUP);
        }
        signals.thread_block().context("cannot block SIGTERM, SIGUSR1 and SIGHUP")?;
        Ok(Self { signals, received: Arc::default() })
    }

    /// Starts the thread that turns the signals into a stop request, and confirms them if `tells` is set.
    pub(super) fn handle(&self, stop: &Stop, tells: bool) -> anyhow::Result<()> {
        let (signals, received, stop) = (self.signals, Arc::clone(&self.received), stop.clone());
        let wait = move || {
            while let Ok(signal) = signals.wait() {
                if signal != Signal::SIGHUP {
                    received.store(true, Ordering::Relaxed);
                }
                if !stop.request() && tells && !terminal::is_shown() {
                    super::note(format_args!("{signal}: stopping after this step"));
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
        thread.map(|_| ()).context("cannot start the signals thread; see the limit on processes (ulimit -u)")
    }

    /// Exit code of a run that was stopped: [`REQUEUE`] if a batch system's signal arrived, that of Ctrl-C otherwise.
    pub(super) fn interrupted(&self) -> ExitCode {
        ExitCode::from(if self.received.load(Ordering::Relaxed) { REQUEUE } else { INTERRUPTED })
    }
}
