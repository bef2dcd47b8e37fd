//! A sign of life while something long goes on that says nothing itself.

use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Calls something every so often on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Ticker {
    stop: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Calls `tick` with the time since now, first after `every`.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(every: Duration, tick: impl Fn(Duration) + Send + 'static) -> io::Result<Self> {
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
    fn it_ticks_until_it_is_dropped() {
        let (give, take) = flume::unbounded();
        let ticker = Ticker::start(Duration::from_millis(5), move |since| give.send(since).unwrap()).unwrap();
        let (first, second) = (take.recv().unwrap(), take.recv().unwrap());
        assert!(Duration::from_millis(5) <= first && first < second);
        drop(ticker);
        // The sender went with the thread.
        assert!(take.into_iter().count() < 1000);
    }
}
