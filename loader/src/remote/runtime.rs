//! Runtime of a client.

use std::io;

use tokio::runtime::{Builder, Handle};

/// Runtime of a client, which may be dropped on any thread.
pub(super) struct Runtime(Option<tokio::runtime::Runtime>);

impl Runtime {
    /// Starts the threads of the runtime.
    ///
    /// # Errors
    /// If the system refuses them.
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(crate::budget::cores().clamp(1, 2))
            .max_blocking_threads(4)
            .thread_name("remote-io")
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken only by drop").handle()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
