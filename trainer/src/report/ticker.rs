//! Periodic messages during a long operation that reports nothing itself.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Calls a function at regular intervals on a separate thread, until dropped.
#[derive(Debug)]
pub(super) struct Ticker {
    stop: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Calls `tick` with the elapsed time after every interval `every`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(every: Duration, tick: impl Fn(Duration) + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = flume::bounded::<()>(0);
        let since = Instant::now();
        let thread = std::thread::Builder::new().name("ticker".into()).spawn(move || {
            while stopped.recv_timeout(every) == Err(flume::RecvTimeoutError::Timeout) {
                tick(since.elapsed());
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a full queue would block the ticker that is to be dropped")]
    fn ticks_until_dropped() {
        let (sender, receiver) = flume::unbounded();
        let ticker = Ticker::start(Duration::from_millis(5), move |since| sender.send(since).unwrap()).unwrap();
        let (first, second) = (receiver.recv().unwrap(), receiver.recv().unwrap());
        assert!(Duration::from_millis(5) <= first && first < second);
        drop(ticker);
        // Ends, because the sender was dropped with the thread.
        receiver.into_iter().for_each(drop);
    }
}
