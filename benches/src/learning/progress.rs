//! Progress of all runs together, with the time left.

use std::time::{Duration, Instant};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(20);

/// Progress of the experiment in units of work; a unit is a step of pre-training.
pub(super) struct Progress {
    /// Total units of the runs that are unfinished when the program starts.
    total: f64,
    done: f64,
    started: Instant,
    last_line: Option<Instant>,
}

impl Progress {
    /// Creates the progress of `total` units.
    pub(super) fn new(total: f64) -> Self {
        Self { total, done: 0.0, started: Instant::now(), last_line: None }
    }

    /// Counts a step of `units` and sometimes prints a line about the run.
    pub(super) fn step(&mut self, units: f64, name: &str, step: u64, num_steps: u64, loss: f64) {
        self.done += units;
        if self.last_line.is_some_and(|last| last.elapsed() < INTERVAL) && step != num_steps {
            return;
        }
        self.last_line = Some(Instant::now());
        let left = self.started.elapsed().as_secs_f64() / self.done * (self.total - self.done).max(0.0);
        println!(
            "  {name}: step {step} of {num_steps}, loss {loss:.3}; {:.0}% of the training, about {:.0} min left",
            100.0 * (self.done / self.total).min(1.0),
            (left / 60.0).ceil()
        );
    }
}
