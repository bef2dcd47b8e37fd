//! Panics of dependencies that are not bugs: the system refused to start a thread.
//!
//! The thread pools of dependencies panic where a thread cannot be started (`ulimit -u`, a cgroup's `pids.max`, or no
//! address space for a stack). The user can correct that, so the program prints one line and exits with code 1, instead
//! of a panic with a backtrace.

use std::panic::PanicHookInfo;

use super::note;

/// Installs a panic hook that ends the process with one line where a thread could not be started.
///
/// All other panics are reported as before.
pub(super) fn explain_exhaustion() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_exhaustion(message_of(panic)) {
            note(
                "error: cannot start a thread: the limit of processes (ulimit -u, pids.max) or of memory is reached; \
                 raise it, or use fewer threads (--threads, --jobs)",
            );
            std::process::exit(1);
        }
        report(panic);
    }));
}

fn message_of<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or_default()
}

/// Returns true if a panic's message reports a thread that could not be started for lack of resources.
fn is_exhaustion(message: &str) -> bool {
    // `std::thread::spawn` and rayon's pools; both quote the system's error, EAGAIN or ENOMEM.
    let is_about_threads = message.contains("failed to spawn thread") || message.contains("ThreadPoolBuildError");
    is_about_threads && (message.contains("WouldBlock") || message.contains("OutOfMemory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_be_started_is_distinguished_from_a_bug() {
        let eagain = std::io::Error::from_raw_os_error(11);
        assert!(is_exhaustion(&format!("failed to spawn thread: {eagain:?}")));
        assert!(!is_exhaustion("failed to spawn thread: a name with a null byte"));
        assert!(!is_exhaustion("index out of bounds: WouldBlock"));
    }
}
