//! Shuttle's types under the names of `std`, and a model of flume's bounded channels.

pub use std::sync::PoisonError;

pub use shuttle::sync::{Condvar, Mutex, MutexGuard, atomic};

/// Replacement for flume's channels, as far as this code uses them: bounded, with any number of senders and receivers.
///
/// As in flume, queued values stay in the channel after its last receiver was dropped, until its last sender is
/// dropped.
pub mod channel {
    use std::collections::VecDeque;
    use std::fmt;
    use std::sync::Arc;

    use super::{Condvar, Mutex, MutexGuard};

    struct State<T> {
        queue: VecDeque<T>,
        senders: usize,
        receivers: usize,
    }

    struct Channel<T> {
        capacity: usize,
        state: Mutex<State<T>>,
        changed: Condvar,
    }

    impl<T> Channel<T> {
        fn lock(&self) -> MutexGuard<'_, State<T>> {
            self.state.lock().expect("no thread panics with the lock")
        }

        fn change(&self, change: impl FnOnce(&mut State<T>)) {
            change(&mut self.lock());
            self.changed.notify_all();
        }
    }

    /// Error of a channel whose senders are gone and whose values were all received.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Disconnected;

    /// Error of a value that was not sent, because all receivers are gone or the channel is full.
    pub struct NotSent<T>(pub T);

    impl<T> fmt::Debug for NotSent<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("NotSent").finish_non_exhaustive()
        }
    }

    /// Sending end of a channel.
    pub struct Sender<T>(Arc<Channel<T>>);

    /// Receiving end of a channel.
    pub struct Receiver<T>(Arc<Channel<T>>);

    /// Makes a channel for `capacity` values.
    #[must_use]
    pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let state = State { queue: VecDeque::new(), senders: 1, receivers: 1 };
        let channel = Arc::new(Channel { capacity, state: Mutex::new(state), changed: Condvar::new() });
        (Sender(Arc::clone(&channel)), Receiver(channel))
    }

    impl<T> Sender<T> {
        /// Waits for room and sends a value.
        ///
        /// # Errors
        /// If all receivers are gone.
        pub fn send(&self, value: T) -> Result<(), NotSent<T>> {
            let mut state = self.0.lock();
            while state.receivers > 0 && state.queue.len() == self.0.capacity {
                state = self.0.changed.wait(state).expect("no thread panics with the lock");
            }
            self.push(state, value)
        }

        /// Sends a value.
        ///
        /// # Errors
        /// If all receivers have been dropped, or the channel is full.
        pub fn try_send(&self, value: T) -> Result<(), NotSent<T>> {
            let state = self.0.lock();
            if state.queue.len() == self.0.capacity { Err(NotSent(value)) } else { self.push(state, value) }
        }

        fn push(&self, mut state: MutexGuard<'_, State<T>>, value: T) -> Result<(), NotSent<T>> {
            if state.receivers == 0 {
                return Err(NotSent(value));
            }
            state.queue.push_back(value);
            drop(state);
            self.0.changed.notify_all();
            Ok(())
        }
    }

    impl<T> Receiver<T> {
        /// Waits for a value.
        ///
        /// # Errors
        /// If all senders are gone and nothing is queued.
        pub fn recv(&self) -> Result<T, Disconnected> {
            let mut state = self.0.lock();
            loop {
                if let Some(value) = state.queue.pop_front() {
                    drop(state);
                    self.0.changed.notify_all();
                    return Ok(value);
                }
                if state.senders == 0 {
                    return Err(Disconnected);
                }
                state = self.0.changed.wait(state).expect("no thread panics with the lock");
            }
        }

        /// Takes everything that is queued.
        pub fn drain(&self) -> VecDeque<T> {
            let mut taken = VecDeque::new();
            self.0.change(|state| taken = std::mem::take(&mut state.queue));
            taken
        }

        /// Number of queued values.
        #[must_use]
        pub fn len(&self) -> usize {
            self.0.lock().queue.len()
        }

        /// Returns true if nothing is queued.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.len() == 0
        }
    }

    impl<T> fmt::Debug for Sender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Sender").finish_non_exhaustive()
        }
    }

    impl<T> fmt::Debug for Receiver<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Receiver").finish_non_exhaustive()
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.lock().senders += 1;
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            self.0.lock().receivers += 1;
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.change(|state| state.senders -= 1);
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.0.change(|state| state.receivers -= 1);
        }
    }
}
