//! Warnings about stages of a program that stand still.
//!
//! A hanging disk, network or device raises no error: without a word, a program that waits for it looks like one at work.

use std::collections::BTreeMap;
use std::io;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::health::{Health, Stall};

/// Time without progress after which a stage counts as standing still, unless the user chooses another.
pub const STALLED_AFTER: Duration = Duration::from_mins(10);

/// Interval between two looks at the stages.
const EVERY: Duration = Duration::from_secs(1);

/// The system refused the thread that watches the stages.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the thread that warns of stages without progress; see the limit on processes (ulimit -u)")]
pub struct WatchdogError(#[source] io::Error);

/// Logs one warning for each stage that stands still, and one line once it goes on, until dropped.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts to watch the stages of `health`, on a thread of its own.
    ///
    /// # Errors
    /// If the system refuses the thread.
    pub fn start(health: Health) -> Result<Self, WatchdogError> {
        let (stop, stopped) = flume::bounded::<()>(0);
        let watch = move || {
            let mut stalls = Stalls::default();
            let mut look = || {
                for change in stalls.look(&health, Instant::now()) {
                    match change {
                        Change::Stalled(stall) => tracing::warn!("{stall}"),
                        Change::GoesOn(stall) => {
                            tracing::info!("{}: progress again after {} s", stall.stage, stall.still.as_secs());
                        }
                    }
                }
            };
            while stopped.recv_timeout(EVERY) == Err(flume::RecvTimeoutError::Timeout) {
                look();
            }
            // A stall that ended within the last interval.
            look();
        };
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(watch).map_err(WatchdogError)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// A change of a stage since the last look.
#[derive(Debug, PartialEq)]
enum Change {
    /// The stage stands still.
    Stalled(Stall),
    /// The stage goes on; its last state while it stood still.
    GoesOn(Stall),
}

/// Stages that stood still at the last look, and how long stages have stood still before.
#[derive(Debug, Default)]
struct Stalls {
    now: Vec<Stall>,
    /// Time from which a stage counts as standing still again, by its number: twice that of the last time. A stage that is slow
    /// by nature, such as a training whose steps take hours, is reported a few times and not at every step.
    patience: BTreeMap<usize, Duration>,
}

impl Stalls {
    /// Looks at the stages of `health`; returns the changes since the last look.
    fn look(&mut self, health: &Health, now: Instant) -> Vec<Change> {
        let before = std::mem::take(&mut self.now);
        let over: Vec<Stall> = before.iter().filter(|stall| health.goes_on_after(stall)).cloned().collect();
        self.patience.extend(over.iter().map(|stall| (stall.number(), 2 * stall.still)));
        let is_long = |stall: &Stall| self.patience.get(&stall.number()).is_none_or(|patience| stall.still > *patience);
        self.now = health.stalls_at(now).into_iter().filter(is_long).collect();
        let is_new = |stall: &&Stall| !before.iter().any(|known| known.is_same(stall));
        let stalled = self.now.iter().filter(is_new).cloned().map(Change::Stalled);
        over.into_iter().map(Change::GoesOn).chain(stalled).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of the changes that a look finds.
    fn look(stalls: &mut Stalls, health: &Health, now: Instant) -> Vec<String> {
        let text = |change| match change {
            Change::Stalled(stall) => stall.to_string(),
            Change::GoesOn(stall) => format!("{} goes on", stall.stage),
        };
        stalls.look(health, now).into_iter().map(text).collect()
    }

    #[test]
    fn a_stall_is_told_once_and_once_more_when_it_is_over() {
        let (health, mut stalls) = (Health::new(), Stalls::default());
        let (steps, batches) = (health.stage("training", STALLED_AFTER), health.stage("the loader", STALLED_AFTER));
        let later = |secs| Instant::now() + Duration::from_secs(secs);
        assert_eq!(look(&mut stalls, &health, later(9000)), [""; 0], "idle");
        steps.beat_at("after step 7");
        assert_eq!(look(&mut stalls, &health, later(500)), [""; 0]);
        let stalled = look(&mut stalls, &health, later(1000));
        assert!(
            stalled.len() == 1 && stalled[0].starts_with("no progress of training after step 7 for "),
            "{stalled:?}"
        );
        assert_eq!(look(&mut stalls, &health, later(2000)), [""; 0], "told before");
        batches.beat();
        let stalled = look(&mut stalls, &health, later(2000));
        assert!(stalled.len() == 1 && stalled[0].starts_with("no progress of the loader for "), "{stalled:?}");
        steps.beat_at("after step 8");
        batches.idle();
        let over = ["training after step 7 goes on", "the loader goes on"];
        assert_eq!(look(&mut stalls, &health, later(0)), over);
        assert_eq!(look(&mut stalls, &health, later(0)), [""; 0]);
        // No longer than before.
        batches.beat();
        assert_eq!(look(&mut stalls, &health, later(1000)), [""; 0]);
        assert_eq!(look(&mut stalls, &health, later(9000)).len(), 2);
        // A stage that went on and stands still again between two looks.
        batches.beat();
        assert_eq!(look(&mut stalls, &health, later(9000)), ["the loader goes on"]);
        assert!(look(&mut stalls, &health, later(20_000))[0].starts_with("no progress of the loader for "));
    }

    #[test]
    fn a_stage_that_ends_does_not_go_on() {
        let (health, mut stalls) = (Health::new(), Stalls::default());
        let batches = health.stage("the loader", Duration::ZERO);
        batches.beat();
        assert_eq!(look(&mut stalls, &health, Instant::now() + Duration::from_secs(5)).len(), 1);
        drop(batches);
        assert_eq!(look(&mut stalls, &health, Instant::now()), [""; 0]);
    }
}
