//! Thread that sends a run while it is trained.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use flume::{Receiver, RecvTimeoutError};

use super::{MlflowError, Sender, Status};

/// Time that a run waits at its end before it reports the wait.
const NOTABLE: Duration = Duration::from_secs(1);

/// Timing of a [`Tracker`].
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Pause between an answer and the next request, during which entries accumulate.
    pub gather: Duration,
    /// Pause after a failed request; doubled after every further failure.
    pub retry: Duration,
    /// Maximum pause after a failed request.
    pub max_retry: Duration,
    /// Time that a finished run waits until everything is sent.
    pub closing: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(5),
            retry: Duration::from_secs(1),
            max_retry: Duration::from_mins(1),
            closing: Duration::from_secs(15),
        }
    }
}

/// Reason why a run was not sent completely.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// The last request failed.
    #[error(transparent)]
    Failed(#[from] MlflowError),
    /// The maximum waiting time elapsed.
    #[error("not done after {} s", .0.as_secs())]
    Late(Duration),
    /// The thread that sends has panicked.
    #[error("its thread ended")]
    ThreadEnded,
}

/// Sends a run on a separate thread. Only [`Tracker::finish`] waits for the server.
#[derive(Debug)]
pub struct Tracker {
    news: flume::Sender<()>,
    /// Status with which the run ended.
    status: Arc<Mutex<Status>>,
    result: Receiver<Result<(), MlflowError>>,
    closing: Duration,
}

impl Tracker {
    /// Starts sending the current and future entries of the journal.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(sender: Sender, pace: Pace) -> io::Result<Self> {
        // One message suffices to say that there is news.
        let (news, awaited) = flume::bounded(1);
        let (ended, result) = flume::bounded(1);
        // A tracker that is dropped without an end belongs to a run that failed.
        let status = Arc::new(Mutex::new(Status::Failed));
        let end = Arc::clone(&status);
        let run = move || {
            let mut following = Following { sender, pace, awaited, has_warned: false };
            following.until_the_end();
            let status = *end.lock().unwrap_or_else(PoisonError::into_inner);
            // Received unless the run has waited long enough.
            let _ = ended.send(following.close(status));
        };
        thread::Builder::new().name("mlflow".into()).spawn(run)?;
        Ok(Self { news, status, result, closing: pace.closing })
    }

    /// Signals that the journal has grown. Never waits.
    pub fn notify(&self) {
        // Full: the thread has not seen the last message yet. Disconnected: it has panicked, and `finish` says so.
        let _ = self.news.try_send(());
    }

    /// Waits until all entries and the final status are sent, or [`Pace::closing`] has passed. Calls `waiting` with the
    /// remaining time if this takes longer than one second.
    ///
    /// # Errors
    /// The reason why something was not sent.
    pub fn finish(self, status: Status, waiting: impl FnOnce(Duration)) -> Result<(), Unfinished> {
        let Self { news, status: shared, result, closing } = self;
        *shared.lock().unwrap_or_else(PoisonError::into_inner) = status;
        // Ends the waiting of the thread.
        drop(news);
        let answer = match result.recv_timeout(NOTABLE.min(closing)) {
            Err(RecvTimeoutError::Timeout) if closing > NOTABLE => {
                waiting(closing.saturating_sub(NOTABLE));
                result.recv_timeout(closing.saturating_sub(NOTABLE))
            }
            answer => answer,
        };
        match answer {
            Ok(sent) => Ok(sent?),
            Err(RecvTimeoutError::Timeout) => Err(Unfinished::Late(closing)),
            Err(RecvTimeoutError::Disconnected) => Err(Unfinished::ThreadEnded),
        }
    }
}

/// Part of the tracker that runs on its thread.
struct Following {
    sender: Sender,
    pace: Pace,
    awaited: Receiver<()>,
    has_warned: bool,
}

impl Following {
    /// Sends new entries until the run has ended.
    fn until_the_end(&mut self) {
        let mut retry = self.pace.retry;
        let mut is_shown = false;
        loop {
            let pause = match self.sender.catch_up() {
                Ok(()) => {
                    if let Some(page) = self.sender.page().filter(|_| !is_shown) {
                        tracing::info!("MLflow run {page}");
                        is_shown = true;
                    }
                    retry = self.pace.retry;
                    if self.awaited.recv().is_err() {
                        return;
                    }
                    self.pace.gather
                }
                Err(error) => {
                    self.warn(error);
                    let pause = retry;
                    retry = (2 * retry).min(self.pace.max_retry);
                    pause
                }
            };
            if self.has_ended_within(pause) {
                return;
            }
        }
    }

    /// Waits for `pause`, or until the run has ended; returns whether it has ended.
    fn has_ended_within(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        loop {
            match self.awaited.recv_deadline(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
    }

    /// Warns of the first failure.
    fn warn(&mut self, error: MlflowError) {
        let error = format!("{:#}", anyhow::Error::from(error));
        if std::mem::replace(&mut self.has_warned, true) {
            tracing::debug!("{error}");
        } else {
            tracing::warn!("{error}; training continues, and what MLflow misses is sent later");
        }
    }

    /// Sends the remaining entries and the final status; retries until the run no longer waits.
    fn close(&mut self, status: Status) -> Result<(), MlflowError> {
        let deadline = Instant::now() + self.pace.closing;
        loop {
            let result = self.sender.catch_up().and_then(|()| self.sender.finish(status));
            match result {
                Err(error) if error.is_temporary() && Instant::now() + self.pace.retry < deadline => {
                    thread::sleep(self.pace.retry);
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::journal::testing::{step_record, validation_record};
    use crate::journal::{Entry, Journal};
    use crate::report::mlflow::testing::{Fault, Server, live, run_folder};
    use crate::training::JOURNAL;

    /// Timing for tests: no pause for gathering entries, and a closing time that no slow machine exceeds.
    const PACE: Pace = Pace {
        gather: Duration::ZERO,
        retry: Duration::from_millis(1),
        max_retry: Duration::from_millis(1),
        closing: Duration::from_mins(10),
    };

    fn begin(run_dir: &Path) -> Journal {
        let mut journal = Journal::open(&run_dir.join(JOURNAL), false).unwrap();
        journal.write(&Entry::Started { step: 0, device: "CPU".into() }).unwrap();
        journal
    }

    fn write(journal: &mut Journal, steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            journal.write(&Entry::Step(step_record(step, 1.0 / step as f64))).unwrap();
        }
    }

    fn start(server: &Server, run_dir: &Path, begins: bool) -> Tracker {
        Tracker::start(live(server, run_dir, begins), PACE).unwrap()
    }

    #[test]
    fn run_is_sent_while_it_lasts() {
        let (server, run) = (Server::start(), run_folder());
        let mut journal = begin(run.path());
        let tracker = start(&server, run.path(), true);
        for step in 1..=250 {
            write(&mut journal, step..=step);
            tracker.notify();
        }
        journal.write(&Entry::Validation(validation_record(250, 0.5))).unwrap();
        tracker.finish(Status::Finished, |_| ()).unwrap();
        assert_eq!(server.steps("train/loss"), (1..=250).collect::<Vec<_>>());
        assert_eq!(server.steps("validation/mean_dice"), [250]);
        assert_eq!(server.status(), "FINISHED");
        assert_eq!(server.num_runs(), 1);
    }

    #[test]
    fn entries_that_an_absent_server_missed_are_sent_when_it_answers() {
        let (server, run) = (Server::start(), run_folder());
        server.go_away();
        let mut journal = begin(run.path());
        let tracker = start(&server, run.path(), true);
        write(&mut journal, 1..=120);
        tracker.notify();
        server.wait_for_refused(2);
        write(&mut journal, 121..=150);
        tracker.notify();
        server.come_back();
        tracker.finish(Status::Killed, |_| ()).unwrap();
        assert_eq!(server.steps("train/loss"), (1..=150).collect::<Vec<_>>());
        assert_eq!((server.status().as_str(), server.num_runs()), ("KILLED", 1));
    }

    #[test]
    fn run_that_nobody_receives_ends_all_the_same() {
        let (server, run) = (Server::start(), run_folder());
        server.go_away();
        let mut journal = begin(run.path());
        let pace = Pace { closing: Duration::from_millis(2), ..PACE };
        let tracker = Tracker::start(live(&server, run.path(), true), pace).unwrap();
        write(&mut journal, 1..=3);
        tracker.notify();
        let reason = tracker.finish(Status::Finished, |_| ()).unwrap_err();
        let reason = format!("{:#}", anyhow::Error::from(reason));
        assert!(reason.contains("does not answer") || reason.starts_with("not done after"), "{reason}");
    }

    #[test]
    fn resumed_session_continues_the_run_without_a_step_twice() {
        let (server, run) = (Server::start(), run_folder());
        let mut journal = begin(run.path());
        write(&mut journal, 1..=7);
        // Killed: without an end.
        let mut killed = live(&server, run.path(), true);
        killed.catch_up().unwrap();
        drop(killed);
        // Resumed from the checkpoint of step 5.
        let mut journal = Journal::open(&run.path().join(JOURNAL), true).unwrap();
        journal.write(&Entry::Started { step: 5, device: "CPU".into() }).unwrap();
        write(&mut journal, 6..=9);
        let tracker = start(&server, run.path(), false);
        tracker.finish(Status::Finished, |_| ()).unwrap();
        assert_eq!(server.steps("train/loss"), (1..=9).collect::<Vec<_>>());
        assert_eq!((server.status().as_str(), server.num_runs()), ("FINISHED", 1));
    }

    #[test]
    fn lost_answers_repeat_nothing() {
        for lost in ["runs/create", "params", "metrics", "runs/update"] {
            let (server, run) = (Server::start(), run_folder());
            let mut journal = begin(run.path());
            write(&mut journal, 1..=5);
            server.fail_at(lost, Fault::LoseAnswer);
            start(&server, run.path(), true).finish(Status::Finished, |_| ()).unwrap();
            assert_eq!(server.steps("train/loss"), [1, 2, 3, 4, 5], "{lost}");
            assert_eq!((server.status().as_str(), server.num_runs()), ("FINISHED", 1), "{lost}");
        }
    }
}
