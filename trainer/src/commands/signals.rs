//! SIGTERM and SIGUSR1: the signals a batch system sends before it ends a job.
//!
//! Both request a stop: the step in progress is finished and saved, and the program exits with [`REQUEUE`], by which a
//! job script tells an interrupted run from a finished one. Further signals change nothing; Ctrl-C twice ends at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};

use super::INTERRUPTED;
use crate::report::dashboard::terminal;
use crate::training::Stop;

/// Exit code of a run that a batch system's signal stopped and that can be resumed (`EX_TEMPFAIL` of `sysexits.h`).
pub(super) const REQUEUE: u8 = 75;

/// The signals of a batch system, blocked until they are handled.
pub(super) struct BatchSignals {
    signals: SigSet,
    received: Arc<AtomicBool>,
}

impl BatchSignals {
    /// Blocks the signals in this thread and those it starts later. To be called before other threads exist.
    pub(super) fn block() -> anyhow::Result<Self> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGUSR1].into_iter().collect();
        signals.thread_block().context("cannot block SIGTERM and SIGUSR1")?;
        Ok(Self { signals, received: Arc::default() })
    }

    /// Starts the thread that turns the signals into a stop request, and confirms them if `tells` is set.
    pub(super) fn handle(&self, stop: &Stop, tells: bool) -> anyhow::Result<()> {
        let (signals, received, stop) = (self.signals, Arc::clone(&self.received), stop.clone());
        let wait = move || {
            while let Ok(signal) = signals.wait() {
                received.store(true, Ordering::Relaxed);
                if !stop.request() && tells && !terminal::is_shown() {
                    super::note(format_args!("{signal}: stopping after this step"));
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
        thread.map(|_| ()).context("cannot start the signals thread; see the limit on processes (ulimit -u)")
    }

    /// Exit code of a run that was stopped: [`REQUEUE`] if one of the signals arrived, that of Ctrl-C otherwise.
    pub(super) fn interrupted(&self) -> ExitCode {
        ExitCode::from(if self.received.load(Ordering::Relaxed) { REQUEUE } else { INTERRUPTED })
    }
}
