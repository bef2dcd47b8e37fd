//! Panics: those of dependencies that are not bugs, because the system refused to start a thread, and bugs on any thread.
//!
//! The thread pools of dependencies panic where a thread cannot be started (`ulimit -u`, a cgroup's `pids.max`, or no
//! address space for a stack). The user can correct that, so the program prints one line and exits with code 1, instead
//! of a panic with a backtrace.
//!
//! Every other panic is a bug. On the thread that runs the program it ends the program, unless a library catches it. A
//! panic on another thread would leave a program without the work of that thread, or with a state that a bug may have
//! changed: the process ends at once, with exit code 1. A program with work to save is stopped instead ([`stop_at_panic`]) and
//! ends with the same error. A library that catches panics, such as that of a server, does not change this.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{FAILED, note};
use crate::caught::is_caught;

/// Error of a program in which a thread panicked. The message of the panic is on standard error before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{thread} panicked, which is a bug: the message above says where")]
pub struct Panicked {
    /// Name of the thread, as the beginning of a sentence.
    thread: String,
}

impl Panicked {
    /// Creates the error of the calling thread.
    fn here() -> Self {
        let thread = std::thread::current();
        Self { thread: thread.name().map_or_else(|| "a thread".to_owned(), |name| format!("thread {name}")) }
    }
}

/// Panic on another thread than that of the program, and the program's reaction.
struct State {
    /// First panic that no error reports yet.
    first: Option<Panicked>,
    /// Request to stop; `None` in a process that ends at once.
    stop: Option<Box<dyn Fn() + Send>>,
}

static STATE: Mutex<State> = Mutex::new(State { first: None, stop: None });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the panic hook of a program, which runs on the calling thread.
pub(super) fn watch() {
    let own = std::thread::current().id();
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_exhaustion(message_of(panic)) {
            note(
                "error: cannot start a thread: the limit of processes (ulimit -u, pids.max) or of memory is reached; \
                 raise it, or use fewer threads (--threads, --jobs)",
            );
            std::process::exit(FAILED.into());
        }
        report(panic);
        if std::thread::current().id() != own && !is_caught() {
            react(Panicked::here());
        }
    }));
}

/// Ends the process at the first panic, or requests its stop.
fn react(panicked: Panicked) {
    // Held while the process ends, so that a second panic at the same time adds no second line.
    let mut state = state();
    if state.first.is_some() {
        return;
    }
    let Some(stop) = &state.stop else {
        note(format_args!("error: {panicked}"));
        std::process::exit(FAILED.into());
    };
    stop();
    state.first = Some(panicked);
}

/// Makes a panic on another thread call `stop` instead of ending the process, from now on. The program then ends with
/// [`Panicked`] as its error, unless it has another one.
///
/// For programs with work to save. `stop` is called by the thread that panics and must not panic.
pub fn stop_at_panic(stop: impl Fn() + Send + 'static) {
    state().stop = Some(Box::new(stop));
}

/// Takes the panic that has stopped this program, if there was one, for an error that reports it.
#[must_use]
pub fn take_panicked() -> Option<Panicked> {
    state().first.take()
}

/// Calls `run`, the work of a program. A panic in it, or one that has stopped it, is an error.
///
/// # Errors
/// The error of `run`, or [`Panicked`].
pub(super) fn as_error<T>(run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let result = catch_unwind(AssertUnwindSafe(run));
    // A panic of this thread may pass on that of another thread, which says more.
    match (result, take_panicked()) {
        (Ok(Err(error)), _) => Err(error),
        (Ok(Ok(value)), None) => Ok(value),
        (_, Some(panicked)) => Err(panicked.into()),
        (Err(_), None) => Err(Panicked::here().into()),
    }
}

fn message_of<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    panic.payload_as_str().unwrap_or_default()
}

/// Returns true if a panic's message reports a thread that could not be started for lack of resources.
fn is_exhaustion(message: &str) -> bool {
    // `std::thread::spawn`, rayon's pools and tokio's; all quote the system's error, EAGAIN or ENOMEM.
    let is_about_threads = ["failed to spawn thread", "ThreadPoolBuildError", "OS can't spawn worker thread"];
    let is_short = ["WouldBlock", "OutOfMemory", "(os error 11)", "(os error 12)"];
    let has = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    has(&is_about_threads) && has(&is_short)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread::{Builder, spawn};

    use super::*;
    use crate::caught::catch_panic;
    use crate::stop::Stop;

    /// Environment variable of the process that panics.
    const CHILD: &str = "HIEND_TEST_PANIC";

    /// Line that shows that the process went on.
    const GOES_ON: &str = "the process goes on";

    fn bug() {
        panic!("a bug in a request");
    }

    /// Calls `panics` in a process of its own, which runs the test `name` of this module again. Returns exit code, standard
    /// output and standard error in the parent, and `None` in that process.
    fn process(name: &str, panics: impl FnOnce()) -> Option<(Option<i32>, String, String)> {
        if std::env::var_os(CHILD).is_some() {
            watch();
            panics();
            return None;
        }
        let name = format!("program::panics::tests::{name}");
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Some((output.status.code(), out, err))
    }

    #[test]
    fn a_panic_on_another_thread_ends_the_process_with_its_message() {
        let panics = || {
            // Caught, as the service catches the panic of a request.
            let thread = Builder::new().name("upload".into()).spawn(|| catch_unwind(bug).is_err());
            let _ = thread.unwrap().join();
            println!("{GOES_ON}");
        };
        let name = "a_panic_on_another_thread_ends_the_process_with_its_message";
        let Some((code, out, err)) = process(name, panics) else { return };
        assert_eq!(code, Some(1), "{out}{err}");
        assert!(err.contains("a bug in a request") && !out.contains(GOES_ON), "{out}{err}");
        assert!(err.lines().last().unwrap().starts_with("error: thread upload panicked, which is a bug"), "{err}");
    }

    #[test]
    fn a_program_with_work_to_save_stops_at_a_panic_and_ends_with_it() {
        let panics = || {
            let (stop, num_requests) = (Stop::new(), Arc::new(AtomicU32::new(0)));
            let (request, count) = (stop.clone(), Arc::clone(&num_requests));
            stop_at_panic(move || {
                request.request();
                count.fetch_add(1, Ordering::Relaxed);
            });
            let result = as_error(|| {
                let thread = Builder::new().name("dashboard".into()).spawn(bug);
                assert!(thread.unwrap().join().is_err() && stop.is_requested());
                assert!(spawn(bug).join().is_err(), "a second panic");
                assert_eq!(num_requests.load(Ordering::Relaxed), 1);
                println!("saved");
                Ok(())
            });
            println!("error: {}", result.unwrap_err());
            // Reported once.
            as_error(|| Ok(())).unwrap();
            let result = as_error(|| -> anyhow::Result<()> {
                let _ = spawn(bug).join();
                anyhow::bail!("the disk is full")
            });
            println!("error: {}", result.unwrap_err());
        };
        let name = "a_program_with_work_to_save_stops_at_a_panic_and_ends_with_it";
        let Some((code, out, err)) = process(name, panics) else { return };
        assert_eq!(code, Some(0), "{out}{err}");
        let error = "saved\nerror: thread dashboard panicked, which is a bug: the message above says where\n";
        assert!(out.contains(error) && out.contains("error: the disk is full\n"), "{out}{err}");
        assert!(err.contains("thread 'dashboard'") && err.contains("a bug in a request"), "{err}");
    }

    #[test]
    fn panics_that_are_caught_on_purpose_end_nothing() {
        let panics = || {
            assert_eq!(spawn(|| catch_panic(bug)).join().unwrap(), Err("a bug in a request".to_owned()));
            assert_eq!(spawn(|| catch_panic(|| 3)).join().unwrap(), Ok(3));
            // On the thread of the program, a library may catch one.
            assert!(catch_unwind(bug).is_err());
            as_error(|| Ok(())).unwrap();
            println!("{GOES_ON}");
            // One that nothing catches ends the program.
            let error = as_error(|| {
                bug();
                Ok(())
            });
            println!("error: {}", error.unwrap_err());
            // After a caught panic, a thread is as it was before.
            let caught_before = || {
                assert!(catch_panic(bug).is_err());
                bug();
            };
            let _ = spawn(caught_before).join();
            println!("not reached");
        };
        let Some((code, out, err)) = process("panics_that_are_caught_on_purpose_end_nothing", panics) else { return };
        assert_eq!(code, Some(1), "{out}{err}");
        assert!(out.contains(GOES_ON) && !out.contains("not reached"), "{out}{err}");
        assert!(out.contains("panicked, which is a bug"), "{out}{err}");
        assert!(err.lines().last().unwrap().starts_with("error: a thread panicked"), "{err}");
    }

    #[test]
    fn a_thread_that_cannot_be_started_is_distinguished_from_a_bug() {
        let eagain = std::io::Error::from_raw_os_error(11);
        assert!(is_exhaustion(&format!("failed to spawn thread: {eagain:?}")));
        assert!(is_exhaustion(&format!("OS can't spawn worker thread: {eagain}")));
        assert!(!is_exhaustion("failed to spawn thread: a name with a null byte"));
        assert!(!is_exhaustion("index out of bounds: WouldBlock"));
    }
}
