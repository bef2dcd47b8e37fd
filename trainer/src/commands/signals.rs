//! Reaction of a run to signals: it stops after the step in progress, or ends at once. A prediction stops after the batch of
//! windows in progress and keeps the label maps that are finished; its exit codes are the same.
//!
//! | signal | effect on a run that has begun | exit code |
//! |---|---|---|
//! | SIGINT (Ctrl-C) | ends after the step in progress, saved; the second one ends it at once | 130 |
//! | SIGTERM, SIGUSR1 (batch systems) | ends after the step in progress, saved, however many arrive | 75 ([`REQUEUE`]) |
//! | SIGHUP (end of a terminal) | the same; no effect if it was ignored from the start, as by `nohup` | 130 |
//!
//! A process that has not begun has nothing to save, and ends at once.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use super::INTERRUPTED;
use crate::report::dashboard::terminal;
use crate::signals::{Arrived, Signals};
use crate::training::Stop;

/// Exit code of a run that a batch system's signal stopped and that can be resumed (`EX_TEMPFAIL` of `sysexits.h`).
pub(super) const REQUEUE: u8 = 75;

/// Handler of the signals that stop a run.
pub(super) struct StopSignals {
    state: Arc<Mutex<State>>,
}

/// Signals received so far, and the stop request that they raise.
#[derive(Default)]
struct State {
    /// Stop request of the run, and the part of the work that is still done, if this process confirms the stop to the user.
    /// Absent before the run has begun.
    run: Option<(Stop, Option<&'static str>)>,
    interrupts: Interrupts,
    /// True once a signal (rather than a key of the dashboard) requested the stop.
    requested: bool,
    /// True once a signal of a batch system arrived.
    batch: bool,
}

/// Reaction to a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    /// The process ends at once with this exit code.
    Exit(u8),
    /// A stop after the step in progress is requested.
    Stop,
    /// A stop was already requested.
    Nothing,
}

/// Counts of received SIGINTs, by sender.
///
/// One Ctrl-C may arrive twice: through the process group, and from a parent that passes on its own signals, as the
/// launcher of `--devices` and torchrun do. Signals from the parent are therefore counted separately.
#[derive(Clone, Copy, Debug, Default)]
struct Interrupts {
    from_parent: u32,
    from_others: u32,
}

impl Interrupts {
    /// Counts a SIGINT; returns how often the user has interrupted so far.
    fn add(&mut self, is_from_parent: bool) -> u32 {
        let count = if is_from_parent { &mut self.from_parent } else { &mut self.from_others };
        *count += 1;
        self.from_parent.max(self.from_others)
    }
}

impl State {
    fn receive(&mut self, signal: Signal, is_from_parent: bool) -> Reaction {
        let is_batch = matches!(signal, Signal::SIGTERM | Signal::SIGUSR1);
        self.batch |= is_batch;
        let code = if is_batch { REQUEUE } else { INTERRUPTED };
        let interrupts = if signal == Signal::SIGINT { self.interrupts.add(is_from_parent) } else { 0 };
        let Some((stop, _)) = &self.run else { return Reaction::Exit(code) };
        let was_requested = stop.request();
        let by_key = !std::mem::replace(&mut self.requested, true) && was_requested;
        match interrupts {
            2.. => Reaction::Exit(code),
            // The dashboard's key requested the stop before this signal.
            1 if by_key => Reaction::Exit(code),
            _ if was_requested => Reaction::Nothing,
            _ => Reaction::Stop,
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StopSignals {
    /// Starts the thread that receives the signals. Until [`Self::begin`] is called, they end the process. Must be
    /// called before other threads exist.
    pub(super) fn watch() -> anyhow::Result<Self> {
        let signals = Signals::block().context("cannot receive signals")?;
        let (state, parent) = (Arc::<Mutex<State>>::default(), getppid());
        let shared = Arc::clone(&state);
        let receive = move || {
            while let Ok(Arrived { signal, sender }) = signals.next() {
                let mut state = lock(&shared);
                let reaction = state.receive(signal, sender == parent);
                // A batch that waits for object storage which is away would delay the stop.
                hiend_cache::abandon_requests();
                let part = state.run.as_ref().and_then(|(_, part)| *part);
                drop(state);
                match reaction {
                    Reaction::Exit(code) => {
                        terminal::restore();
                        std::process::exit(code.into());
                    }
                    Reaction::Stop => {
                        // The dashboard shows the request itself.
                        if let Some(part) = part.filter(|_| !terminal::is_shown()) {
                            confirm(signal, part);
                        }
                    }
                    Reaction::Nothing => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".into()).spawn(receive);
        thread.context("cannot start the signals thread; see the limit on processes (ulimit -u)")?;
        Ok(Self { state })
    }

    /// Makes signals request `stop` from now on. `part` names the part of the work that is still done, for the rank that
    /// announces the stop.
    pub(super) fn begin(&self, stop: &Stop, part: Option<&'static str>) {
        lock(&self.state).run = Some((stop.clone(), part));
    }

    /// Exit code of a stopped run: [`REQUEUE`] if a batch system's signal arrived, otherwise the code of Ctrl-C.
    pub(super) fn interrupted(&self) -> ExitCode {
        ExitCode::from(if lock(&self.state).batch { REQUEUE } else { INTERRUPTED })
    }
}

fn confirm(signal: Signal, part: &str) {
    match signal {
        Signal::SIGINT => super::note(format_args!("stopping after this {part}; press Ctrl-C again to stop at once")),
        _ => super::note(format_args!("{signal}: stopping after this {part}; two SIGINTs stop at once")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(received: &[(Signal, bool)], expected: &[Reaction]) -> State {
        let mut state = State { run: Some((Stop::default(), None)), ..State::default() };
        let reactions: Vec<Reaction> =
            received.iter().map(|(signal, is_from_parent)| state.receive(*signal, *is_from_parent)).collect();
        assert_eq!(reactions, expected, "{received:?}");
        state
    }

    #[test]
    fn second_interrupt_ends_at_once_unless_the_parent_passed_on_the_first() {
        use Reaction::{Exit, Nothing, Stop};
        const INT: Signal = Signal::SIGINT;
        check(&[(INT, false), (INT, false)], &[Stop, Exit(INTERRUPTED)]);
        check(&[(INT, true), (INT, true)], &[Stop, Exit(INTERRUPTED)]);
        // To the whole group: once directly, once through the parent, in any order.
        check(&[(INT, false), (INT, true), (INT, false)], &[Stop, Nothing, Exit(INTERRUPTED)]);
        check(&[(INT, true), (INT, false), (INT, true)], &[Stop, Nothing, Exit(INTERRUPTED)]);
    }

    #[test]
    fn other_signals_never_end_at_once() {
        use Reaction::{Exit, Nothing, Stop};
        let state = check(
            &[(Signal::SIGTERM, false), (Signal::SIGHUP, false), (Signal::SIGTERM, true), (Signal::SIGUSR1, false)],
            &[Stop, Nothing, Nothing, Nothing],
        );
        assert!(state.batch);
        let hangups = [(Signal::SIGHUP, false), (Signal::SIGHUP, true), (Signal::SIGINT, false)];
        assert!(!check(&hangups, &[Stop, Nothing, Nothing]).batch);
        check(
            &[(Signal::SIGTERM, false), (Signal::SIGINT, false), (Signal::SIGINT, false)],
            &[Stop, Nothing, Exit(INTERRUPTED)],
        );
    }

    #[test]
    fn interrupt_after_the_key_of_the_dashboard_ends_at_once() {
        let stop = Stop::default();
        stop.request();
        let mut state = State { run: Some((stop, Some("step"))), ..State::default() };
        assert_eq!(state.receive(Signal::SIGINT, false), Reaction::Exit(INTERRUPTED));
    }

    #[test]
    fn process_that_has_not_begun_ends_at_once() {
        for (signal, code) in [(Signal::SIGINT, INTERRUPTED), (Signal::SIGTERM, REQUEUE), (Signal::SIGHUP, INTERRUPTED)]
        {
            assert_eq!(State::default().receive(signal, true), Reaction::Exit(code));
        }
    }
}
