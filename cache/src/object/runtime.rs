//! The private runtime that carries requests to object storage.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use super::transport::{Abandoned, is_hopeless};

/// Number of threads of the runtime: they move bytes and encrypt; the waiting threads do all other work.
const THREADS: usize = 2;

/// Interval between checks whether to keep waiting.
const LOOK: Duration = Duration::from_millis(100);

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// Process that uses object storage; 0 before the first use.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Error of using object storage in a process forked after its first use: the threads exist only in the parent, and
/// locks that they held are never released here.
#[derive(Debug, thiserror::Error)]
#[error(
    "object storage was used before this process was forked; use it in the new process alone, or start processes without \
     a fork (in Python with the start method \"spawn\")"
)]
struct Forked;

/// Refuses to continue in a forked process whose parent used object storage. Takes no lock, and comes before all of
/// them.
pub(super) fn check_process() -> io::Result<()> {
    let process = std::process::id();
    match OWNER.load(Ordering::Relaxed) {
        0 => {
            // Another thread that stores a number at this moment stores the same one.
            OWNER.store(process, Ordering::Relaxed);
            Ok(())
        }
        owner => check_owner(owner, process),
    }
}

fn check_owner(owner: u32, process: u32) -> io::Result<()> {
    if owner == process { Ok(()) } else { Err(io::Error::other(Forked)) }
}

/// Handle of the runtime, which is started on first use and lives as long as the process.
pub(super) fn handle() -> io::Result<Handle> {
    check_process()?;
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*runtime {
        return Ok(runtime.handle().clone());
    }
    // TLS needs a provider of cryptography, one per process. Another part of the program may have installed one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let started =
        Builder::new_multi_thread().worker_threads(THREADS).thread_name("object-store").enable_all().build()?;
    Ok(runtime.insert(started).handle().clone())
}

/// Runs `future` on the runtime and waits for its value; gives up once requests are abandoned.
///
/// The calling thread sleeps; it does not enter the runtime, so that it may belong to another one.
pub(super) fn wait<T, F>(future: F) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (sender, receiver) = mpsc::sync_channel(1);
    handle()?.spawn(async move {
        // The receiver is gone if it has given up.
        let _ = sender.send(future.await);
    });
    let panicked = || io::Error::other("a request to object storage panicked");
    next(&receiver, is_hopeless).and_then(|value| value.ok_or_else(panicked))
}

/// Waits for the next value that requests send; `None` once all of them have ended. Gives up when `is_hopeless` returns
/// `true`.
pub(super) fn next<T>(receiver: &Receiver<T>, is_hopeless: impl Fn() -> bool) -> io::Result<Option<T>> {
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(value) => return Ok(Some(value)),
            Err(RecvTimeoutError::Timeout) if !is_hopeless() => {}
            Err(RecvTimeoutError::Timeout) => return Err(io::Error::new(io::ErrorKind::Interrupted, Abandoned)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forked_processes_are_distinguished_from_the_one_that_uses_object_storage() {
        check_process().unwrap();
        check_process().unwrap();
        let process = std::process::id();
        assert!(check_owner(process, process).is_ok());
        let error = check_owner(process + 1, process).unwrap_err().to_string();
        assert!(error.contains("before this process was forked") && error.contains("\"spawn\""), "{error}");
    }

    #[test]
    fn values_are_awaited_until_there_are_none_or_no_hope() {
        let (sender, receiver) = mpsc::channel();
        sender.send(1).unwrap();
        // A value that is there counts in any case.
        assert_eq!(next(&receiver, || true).unwrap(), Some(1));
        assert_eq!(next(&receiver, || true).unwrap_err().kind(), io::ErrorKind::Interrupted);
        drop(sender);
        assert_eq!(next(&receiver, || false).unwrap(), None);
    }
}
