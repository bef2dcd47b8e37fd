//! Panics: those of dependencies that are not bugs, because the system refused to start a thread, and those of a server.
//!
//! The thread pools of dependencies panic where a thread cannot be started (`ulimit -u`, a cgroup's `pids.max`, or no
//! address space for a stack). The user can correct that, so the program prints one line and exits with code 1, instead
//! of a panic with a backtrace.

use std::panic::PanicHookInfo;

use super::{FAILED, note};

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

/// Installs a panic hook that ends the process with exit code 1 after the report of a panic on any thread.
///
/// For servers, whose library catches the panic of a request: whatever made one request fail may have changed what the
/// others receive. Their clients ask another server, or wait until this one is started again.
pub fn end_at_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        note("error: a thread panicked, which is a bug: the message above says where; the server ends");
        std::process::exit(FAILED.into());
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

    /// Environment variable of the process that panics.
    const CHILD: &str = "HIEND_TEST_PANIC";

    fn bug() {
        panic!("a bug in a request");
    }

    #[test]
    fn a_panic_on_any_thread_of_a_server_ends_the_process_with_its_message() {
        if std::env::var_os(CHILD).is_some() {
            end_at_panic();
            // Caught, as the service catches the panic of a request.
            let _ = std::thread::spawn(|| std::panic::catch_unwind(bug).is_err()).join();
            println!("the process goes on");
            return;
        }
        let name = "program::panics::tests::a_panic_on_any_thread_of_a_server_ends_the_process_with_its_message";
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(output.status.code(), Some(1), "{out}{err}");
        assert!(err.contains("a bug in a request") && !out.contains("goes on"), "{out}{err}");
        assert!(err.lines().last().unwrap().starts_with("error: a thread panicked"), "{err}");
    }

    #[test]
    fn a_thread_that_cannot_be_started_is_distinguished_from_a_bug() {
        let eagain = std::io::Error::from_raw_os_error(11);
        assert!(is_exhaustion(&format!("failed to spawn thread: {eagain:?}")));
        assert!(!is_exhaustion("failed to spawn thread: a name with a null byte"));
        assert!(!is_exhaustion("index out of bounds: WouldBlock"));
    }
}
