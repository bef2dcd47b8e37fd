//! Handling of Ctrl-C, SIGTERM and SIGHUP: the first signal asks the program to stop, the second ends it. A program
//! started with SIGHUP ignored, as by `nohup`, continues to ignore it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use nix::sys::signal::{SigSet, Signal};

use super::{INTERRUPTED, note};

/// Calls `first` on the first Ctrl-C (or SIGTERM, SIGHUP). The second signal calls `before_exit` and ends the process
/// with [`INTERRUPTED`].
///
/// # Errors
/// If the handler cannot be installed: a process has one.
pub fn on_interrupt(
    first: impl FnOnce() + Send + 'static,
    before_exit: impl Fn() + Send + 'static,
) -> anyhow::Result<()> {
    let mut first = Some(first);
    ctrlc::set_handler(move || {
        if let Some(first) = first.take() {
            return first();
        }
        before_exit();
        std::process::exit(INTERRUPTED.into());
    })
    // The error of `ctrlc` has no source, so the system's own reason takes its place.
    .map_err(|error| match error {
        ctrlc::Error::System(reason) => anyhow::Error::new(reason),
        error => error.into(),
    })
    .context("cannot install the handler for Ctrl-C, which takes a thread; see the limit on processes (ulimit -u)")
}

/// Returns a flag that the first Ctrl-C sets; `message` then announces the next step to the user. From then on, the
/// program no longer waits for object storage that does not answer.
///
/// # Errors
/// If the handler cannot be installed.
pub fn interrupt_flag(message: &'static str) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let first = move || {
        flag.store(true, Ordering::Relaxed);
        hiend_cache::abandon_requests();
        note(format_args!("\n{message}"));
    };
    on_interrupt(first, || ())?;
    Ok(stop)
}

/// Returns `true` if this process ignores SIGHUP, as a process started by `nohup` does. Must be called before a handler
/// is installed. Always `false` on systems without `/proc/self/status`.
#[must_use]
pub fn ignores_hangup() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| is_ignored(&status, Signal::SIGHUP))
}

/// Unblocks the signals that end a program: a process inherits the signal mask of its parent, which may block them.
/// SIGHUP is blocked instead if it is ignored, because the handler of [`on_interrupt`] would otherwise receive it. Must
/// be called before other threads exist.
pub(super) fn unblock_signals() {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    // Both calls fail only for invalid arguments.
    let _ = signals.thread_unblock();
    if ignores_hangup() {
        let _ = SigSet::from(Signal::SIGHUP).thread_block();
    }
}

/// Returns `true` if `signal` is in the set of ignored signals in the text of a `/proc/PID/status`.
fn is_ignored(status: &str, signal: Signal) -> bool {
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set & (1 << (signal as i32 - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert!(is_ignored(status, Signal::SIGHUP) && is_ignored(status, Signal::SIGPIPE));
        assert!(!is_ignored(status, Signal::SIGINT) && !is_ignored(status, Signal::SIGTERM));
        assert!(!is_ignored("Name:\tx\n", Signal::SIGHUP));
    }
}
