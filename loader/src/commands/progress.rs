//! Progress of work on cases: a bar on a terminal, a line every few seconds elsewhere, and a warning where it stands still.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::table::{count, size};
use crate::plural::duration;
use crate::program::health::{Health, Pulse};
use crate::program::watchdog::{STALLED_AFTER, Watchdog};
use crate::program::{StdoutError, note, print};

/// Shortest time between two progress lines when output is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Display of the cases and bytes that are done.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
    /// Number of cases done, and number of all cases.
    cases: (usize, usize),
    /// Number of bytes done, and number of all bytes.
    bytes: (u64, u64),
    /// Number of remarks that are printed at the end.
    remarks: usize,
    /// Progress signal for the warnings; it is sent with every case.
    pulse: Pulse,
    /// Warnings of a standstill; `None` where the system refuses the thread for them.
    _watchdog: Option<Watchdog>,
}

impl Progress {
    /// Starts the display of the work that is called `stage` in warnings.
    pub(super) fn new(stage: &str, num_cases: usize, num_bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{bar:32} {pos}/{len} cases  {msg}  {elapsed} elapsed";
            let bar = ProgressBar::new(num_cases as u64);
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let health = Health::new();
        let pulse = health.stage(stage, STALLED_AFTER);
        if num_cases > 0 {
            pulse.beat();
        }
        let watchdog = Watchdog::start(health).map_err(|error| note(format_args!("warning: {error}"))).ok();
        let now = Instant::now();
        Self {
            bar,
            started: now,
            last_line: now,
            cases: (0, num_cases),
            bytes: (0, num_bytes),
            remarks: 0,
            pulse,
            _watchdog: watchdog,
        }
    }

    /// Counts one more case of `bytes` as done.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.cases.0 += 1;
        self.bytes.0 += bytes;
        let (done, total) = self.cases;
        if done < total {
            self.pulse.beat_at(format!("after {done} of {}", count(total, "case")));
        } else {
            // What follows, such as pruning, reports no progress.
            self.pulse.idle();
        }
        let message = self.message();
        match &self.bar {
            Some(bar) => {
                bar.set_message(message);
                bar.set_position(self.cases.0 as u64);
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                note(format_args!("{}/{} cases  {message}", self.cases.0, self.cases.1));
            }
            None => {}
        }
    }

    /// Counts a remark that is printed at the end.
    pub(super) fn remark(&mut self) {
        self.remarks += 1;
    }

    /// Writes a line to standard error, above the bar.
    pub(super) fn note(&self, line: impl Display) {
        self.suspend(|| note(line));
    }

    /// Writes a line to standard output while the bar is shown; see [`print`](fn@print).
    pub(super) fn print(&self, line: impl Display) -> Result<bool, StdoutError> {
        self.suspend(|| print(line))
    }

    /// Removes the bar.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn message(&self) -> String {
        let secs = self.started.elapsed().as_secs_f64().max(1e-3);
        let rate = self.bytes.0 as f64 / secs;
        // Estimated from bytes, because the sizes of cases differ by a factor of a hundred.
        let left = self.bytes.1.saturating_sub(self.bytes.0) as f64 / rate.max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate and a time, both positive")]
        let (rate, left) = (rate as u64, Duration::from_secs(left as u64));
        let remarks = if self.remarks > 0 { format!("  {}", count(self.remarks, "remark")) } else { String::new() };
        format!("{}/s  {} left{remarks}", size(rate), duration(left))
    }
}
