//! The private runtime that carries requests to object storage.

use std::future::Future;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};

use super::transport::{Abandoned, is_hopeless};

/// Threads of the runtime: they move bytes and encrypt, all other work is done by the threads that wait.
const THREADS: usize = 2;

/// Time between two looks at whether to go on waiting.
const LOOK: Duration = Duration::from_millis(100);

static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// Handle of the runtime, which is started on first use and lives as long as the process.
pub(super) fn handle() -> io::Result<Handle> {
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

/// Runs `future` on the runtime and waits for its value; gives up where requests are abandoned.
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
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) if !is_hopeless() => {}
            Err(RecvTimeoutError::Timeout) => return Err(io::Error::new(io::ErrorKind::Interrupted, Abandoned)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("a request to object storage panicked"));
            }
        }
    }
}
