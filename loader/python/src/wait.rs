//! Waiting for work on another thread, without the GIL and while handling signals.

use std::time::Duration;

use hiend_loader::stop::Stop;
use pyo3::prelude::*;

use crate::error::Failure;
use crate::log;

/// Interval at which a waiting thread checks for signals.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Runs `work` on a thread of its own. A signal whose handler raises an exception, such as Ctrl-C, requests a stop and
/// abandons requests to object storage that does not answer; the exception is returned when the work has ended.
///
/// # Errors
/// If the work fails or panics, or a signal or log handler raises an exception.
pub(crate) fn wait<T: Send>(
    py: Python<'_>,
    stop: &Stop,
    work: impl FnOnce() -> Result<T, Failure> + Send,
) -> PyResult<T> {
    let mut raised = None;
    let done = std::thread::scope(|scope| {
        let (sender, receiver) = flume::bounded::<()>(1);
        let working = scope.spawn(move || {
            let _ends_the_wait = sender;
            work()
        });
        while let Err(flume::RecvTimeoutError::Timeout) = py.detach(|| receiver.recv_timeout(TICK)) {
            if let Err(error) = log::forward(py).and_then(|()| py.check_signals()) {
                stop.request();
                hiend_cache::abandon_requests();
                raised.get_or_insert(error);
            }
        }
        py.detach(|| working.join())
    });
    if raised.is_some() {
        // The program may continue, in a notebook for example.
        hiend_cache::resume_requests();
    }
    log::forward(py)?;
    if let Some(raised) = raised {
        return Err(raised);
    }
    Ok(done.unwrap_or_else(|_panic| Err(Failure::other("a thread of the loader panicked (a bug)")))?)
}
