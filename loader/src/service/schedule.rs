//! Order in which batches are made: clients take turns, each within its own memory.
//!
//! A client whose memory is full because it does not read is passed over; the others take its turns. Requests of one
//! client are served in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::plural::count;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Account of one client's memory, in bytes.
#[derive(Debug)]
pub(super) struct Account {
    limit: u64,
    held: AtomicU64,
    /// Bytes in use that are only freed when the client leaves: its shared memory.
    pinned: AtomicU64,
    schedule: Arc<Schedule>,
}

/// Reserved bytes of an account; dropping the reservation frees them.
#[derive(Debug)]
pub(super) struct Reservation {
    account: Arc<Account>,
    bytes: u64,
    is_pinned: bool,
}

/// A batch to be made.
pub(super) struct Job {
    /// Bytes to reserve before the job starts.
    pub(super) bytes: u64,
    /// Number of visits of the batch, a measure of the work.
    pub(super) visits: usize,
    /// Returns true once the request has ended.
    pub(super) is_cancelled: Box<dyn Fn() -> bool + Send>,
    /// Function that makes the batch.
    pub(super) work: Box<dyn FnOnce(Reservation) + Send>,
}

/// Jobs of all clients.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Largest number of waiting jobs of one client.
    most_waiting: usize,
    /// Number of visits in progress above which no third batch is begun.
    enough_visits: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Clients with waiting jobs; the first client has the next turn.
    turns: VecDeque<Turn>,
    running: usize,
    running_visits: usize,
    /// Start times of the jobs in progress, by number.
    begun: BTreeMap<u64, Instant>,
    next_number: u64,
    stopped: bool,
}

struct Turn {
    account: Arc<Account>,
    jobs: VecDeque<Job>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("clients", &self.turns.len())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

/// Reason why a job is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The client already has the largest number of waiting jobs.
    #[error("this client has {} waiting; wait for their batches first", count(waiting, "request"))]
    TooMany {
        /// Number of waiting jobs.
        waiting: usize,
    },
    /// The job needs more than the client's memory, or more than its shared memory leaves of it.
    #[error(
        "the batch takes {bytes} bytes, but a client has {limit}, {pinned} of them for shared memory; raise \
         --client-memory of the service"
    )]
    TooLarge {
        /// Bytes of the batch.
        bytes: u64,
        /// Memory of a client.
        limit: u64,
        /// Bytes of the client's shared memory.
        pinned: u64,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Stopped,
}

impl Account {
    /// Creates the account of a new client.
    pub(super) fn new(schedule: &Arc<Schedule>, limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, held: AtomicU64::new(0), pinned: AtomicU64::new(0), schedule: Arc::clone(schedule) })
    }

    /// Reserves bytes if they are free.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let take = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= self.limit);
        self.held.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(Reservation { account: Arc::clone(self), bytes, is_pinned: false })
    }

    /// Reserves bytes, if they are free, for memory that stays in use until the client leaves, so that no batch waits
    /// for it.
    pub(super) fn pin(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut reservation = self.reserve(bytes)?;
        self.pinned.fetch_add(bytes, Ordering::AcqRel);
        reservation.is_pinned = true;
        Some(reservation)
    }

    /// Bytes in use.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Acquire)
    }

    /// Bytes that the client may use.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_pinned {
            self.account.pinned.fetch_sub(self.bytes, Ordering::AcqRel);
        }
        self.account.held.fetch_sub(self.bytes, Ordering::AcqRel);
        let schedule = &self.account.schedule;
        // A thread between its check of the account and its wait would miss the call.
        drop(schedule.lock());
        schedule.changed.notify_all();
    }
}

impl Schedule {
    /// Creates an empty schedule for a number of threads.
    pub(super) fn new(threads: usize, most_waiting: usize) -> Arc<Self> {
        Arc::new(Self { most_waiting, enough_visits: 2 * threads, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Adds a job to the jobs of a client.
    ///
    /// # Errors
    /// If the client has too many jobs waiting, the job is too large, or the server ends.
    pub(super) fn submit(&self, account: &Arc<Account>, job: Job) -> Result<(), Refused> {
        let (limit, pinned) = (account.limit, account.pinned.load(Ordering::Acquire));
        if job.bytes > limit.saturating_sub(pinned) {
            return Err(Refused::TooLarge { bytes: job.bytes, limit, pinned });
        }
        let mut state = self.lock();
        if state.stopped {
            return Err(Refused::Stopped);
        }
        if let Some(turn) = state.turns.iter_mut().find(|turn| Arc::ptr_eq(&turn.account, account)) {
            let waiting = turn.jobs.len();
            if waiting >= self.most_waiting {
                return Err(Refused::TooMany { waiting });
            }
            turn.jobs.push_back(job);
        } else {
            state.turns.push_back(Turn { account: Arc::clone(account), jobs: VecDeque::from([job]) });
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Runs jobs until [`Self::stop`]. The panic of a job ends its request alone; the program `hiend-serve` ends then.
    pub(super) fn run(&self) {
        while let Some((job, reservation)) = self.next() {
            let visits = job.visits;
            let number = self.lock().begin(Instant::now());
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (job.work)(reservation)));
            if done.is_err() {
                tracing::error!("a request panicked (a bug); the panic was reported above");
            }
            let mut state = self.lock();
            state.running -= 1;
            state.running_visits -= visits;
            state.begun.remove(&number);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Ends the threads in [`Self::run`] after their current jobs, and drops all waiting jobs.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        let dropped = std::mem::take(&mut state.turns);
        drop(state);
        self.changed.notify_all();
        drop(dropped);
    }

    /// Wakes the threads to look for cancelled jobs.
    pub(super) fn nudge(&self) {
        // A thread between its check of the jobs and its wait would miss the call.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Number of waiting jobs.
    pub(super) fn waiting(&self) -> usize {
        self.lock().turns.iter().map(|turn| turn.jobs.len()).sum()
    }

    /// Number of jobs in progress, and the age of the oldest.
    pub(super) fn in_work(&self, now: Instant) -> (usize, Duration) {
        let state = self.lock();
        let oldest = state.begun.values().min().map(|&begun| now.saturating_duration_since(begun));
        (state.begun.len(), oldest.unwrap_or_default())
    }

    /// Waits for the next job that may start.
    fn next(&self) -> Option<(Job, Reservation)> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            let mut cancelled = Vec::new();
            let found = if state.running < 2 || state.running_visits < self.enough_visits {
                state.next(&mut cancelled)
            } else {
                None
            };
            if found.is_some() || !cancelled.is_empty() {
                drop(state);
                // A job holds what its client holds, and freeing that takes the lock.
                drop(cancelled);
                if found.is_some() {
                    return found;
                }
                state = self.lock();
                continue;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Jobs and turns that are dropped after the lock is released.
enum Dropped {
    Job { _job: Job },
    Turn { _turn: Turn },
}

impl State {
    /// Records that a job has begun; returns its number.
    fn begin(&mut self, now: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.begun.insert(number, now);
        number
    }

    /// Takes the next job whose client has memory for it. The client's next turn comes after those of all others.
    fn next(&mut self, dropped: &mut Vec<Dropped>) -> Option<(Job, Reservation)> {
        for _ in 0..self.turns.len() {
            let mut turn = self.turns.pop_front()?;
            while let Some(job) = turn.jobs.pop_front_if(|job| (job.is_cancelled)()) {
                dropped.push(Dropped::Job { _job: job });
            }
            let found = turn.jobs.front().and_then(|job| turn.account.reserve(job.bytes));
            let found = found.and_then(|reservation| turn.jobs.pop_front().map(|job| (job, reservation)));
            if turn.jobs.is_empty() {
                dropped.push(Dropped::Turn { _turn: turn });
            } else {
                self.turns.push_back(turn);
            }
            if let Some((job, reservation)) = found {
                self.running += 1;
                self.running_visits += job.visits;
                return Some((job, reservation));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    /// Test bench whose jobs store their reservations in a list, by name.
    struct Bench {
        schedule: Arc<Schedule>,
        kept: Arc<Mutex<Vec<(u32, Reservation)>>>,
    }

    impl Bench {
        fn new() -> Self {
            Self { schedule: Schedule::new(1, 3), kept: Arc::default() }
        }

        fn submit(&self, account: &Arc<Account>, name: u32, bytes: u64) -> Result<(), Refused> {
            let kept = Arc::clone(&self.kept);
            let work = Box::new(move |reservation| kept.lock().unwrap().push((name, reservation)));
            self.schedule.submit(account, Job { bytes, visits: 1, is_cancelled: Box::new(|| false), work })
        }

        /// Runs the jobs that may start now; returns their names.
        fn run(&self) -> Vec<u32> {
            let before = self.kept.lock().unwrap().len();
            loop {
                let mut dropped = Vec::new();
                let found = self.schedule.lock().next(&mut dropped);
                drop(dropped);
                let Some((job, reservation)) = found else { break };
                (job.work)(reservation);
                self.schedule.lock().running -= 1;
            }
            self.kept.lock().unwrap()[before..].iter().map(|(name, _)| *name).collect()
        }
    }

    #[test]
    fn clients_take_turns_whatever_the_number_of_their_requests() {
        let bench = Bench::new();
        let [a, b, c] = [(); 3].map(|()| Account::new(&bench.schedule, 100));
        for name in [10, 11, 12] {
            bench.submit(&a, name, 1).unwrap();
        }
        bench.submit(&b, 20, 1).unwrap();
        bench.submit(&c, 30, 1).unwrap();
        bench.submit(&b, 21, 1).unwrap();
        assert_eq!(bench.run(), [10, 20, 30, 11, 21, 12]);
        assert_eq!(bench.schedule.waiting(), 0);
    }

    #[test]
    fn a_client_without_memory_is_passed_over_until_it_reads() {
        let bench = Bench::new();
        let (slow, fast) = (Account::new(&bench.schedule, 10), Account::new(&bench.schedule, 10));
        for name in [1, 2, 3] {
            bench.submit(&slow, name, 5).unwrap();
        }
        for name in [11, 12] {
            bench.submit(&fast, name, 5).unwrap();
        }
        assert_eq!(bench.run(), [1, 11, 2, 12]);
        assert_eq!((slow.held(), fast.held()), (10, 10));
        bench.kept.lock().unwrap().retain(|(name, _)| *name < 10);
        bench.submit(&fast, 13, 5).unwrap();
        assert_eq!(bench.run(), [13]);
        bench.kept.lock().unwrap().retain(|(name, _)| *name != 1);
        assert_eq!(bench.run(), [3]);
    }

    #[test]
    fn too_many_and_too_large_jobs_are_refused() {
        let bench = Bench::new();
        let account = Account::new(&bench.schedule, 10);
        assert_eq!(bench.submit(&account, 0, 11), Err(Refused::TooLarge { bytes: 11, limit: 10, pinned: 0 }));
        for name in 0..3 {
            bench.submit(&account, name, 1).unwrap();
        }
        assert_eq!(bench.submit(&account, 3, 1), Err(Refused::TooMany { waiting: 3 }));
        bench.schedule.stop();
        assert_eq!(bench.submit(&account, 3, 1), Err(Refused::Stopped));
        bench.schedule.run();
    }

    #[test]
    fn jobs_for_which_shared_memory_leaves_no_room_are_refused_instead_of_waiting() {
        let bench = Bench::new();
        let account = Account::new(&bench.schedule, 10);
        let slots = account.pin(6).unwrap();
        assert!(account.pin(5).is_none());
        assert_eq!(bench.submit(&account, 0, 5), Err(Refused::TooLarge { bytes: 5, limit: 10, pinned: 6 }));
        bench.submit(&account, 1, 4).unwrap();
        drop(slots);
        assert_eq!(account.held(), 0);
        bench.submit(&account, 2, 10).unwrap();
    }

    #[test]
    fn cancelled_jobs_are_not_done() {
        let bench = Bench::new();
        let account = Account::new(&bench.schedule, 10);
        let cancelled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&cancelled);
        let is_cancelled = Box::new(move || flag.load(Ordering::Relaxed));
        let work = Box::new(|_: Reservation| panic!("a cancelled job is done"));
        bench.schedule.submit(&account, Job { bytes: 1, visits: 1, is_cancelled, work }).unwrap();
        bench.submit(&account, 1, 1).unwrap();
        cancelled.store(true, Ordering::Relaxed);
        assert_eq!(bench.run(), [1]);
    }

    #[test]
    fn waiting_threads_start_when_memory_is_freed() {
        let schedule = Schedule::new(1, 8);
        let account = Account::new(&schedule, 10);
        let held = account.reserve(10).unwrap();
        assert!(account.reserve(1).is_none());
        let (sender, receiver) = flume::bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(|| schedule.run());
            let work = Box::new(move |_: Reservation| sender.send(()).unwrap());
            let job = Job { bytes: 10, visits: 1, is_cancelled: Box::new(|| false), work };
            schedule.submit(&account, job).unwrap();
            drop(held);
            receiver.recv().unwrap();
            schedule.stop();
        });
        assert_eq!(account.held(), 0);
    }
}
