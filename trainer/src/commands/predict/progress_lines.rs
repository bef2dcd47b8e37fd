//! Lines that report progress where standard error is not a terminal.

use std::time::{Duration, Instant};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Decides when a line is due, and writes it.
#[derive(Debug)]
pub(super) struct ProgressLines {
    last: Instant,
    /// Time and number of windows at the first report with a finished window; the time before it was preparation.
    first: Option<(Instant, usize)>,
}

impl ProgressLines {
    pub(super) fn new(started: Instant) -> Self {
        Self { last: started, first: None }
    }

    /// Line for `done` of `total` windows; `None` if the last line is less than 10 s old or nothing is left to do.
    pub(super) fn next(&mut self, now: Instant, done: usize, total: usize) -> Option<String> {
        let (since, done_then) = *self.first.get_or_insert((now, done));
        if done >= total || now.duration_since(self.last) < INTERVAL {
            return None;
        }
        self.last = now;
        let num_windows = done - done_then;
        if num_windows == 0 {
            return Some(format!("{done} of {total} windows"));
        }
        let secs_left = now.duration_since(since).as_secs_f64() / num_windows as f64 * (total - done) as f64;
        Some(format!("{done} of {total} windows, {secs_left:.0} s left"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_every_ten_seconds_and_tells_the_time_left() {
        let started = Instant::now();
        let mut lines = ProgressLines::new(started);
        let mut at = |secs: u64, done| lines.next(started + Duration::from_secs(secs), done, 10);
        assert_eq!(at(2, 0), None);
        assert_eq!(at(6, 1), None);
        assert_eq!(at(10, 2).as_deref(), Some("2 of 10 windows, 32 s left"));
        assert_eq!(at(14, 3), None);
        assert_eq!(at(22, 5).as_deref(), Some("5 of 10 windows, 20 s left"));
        assert_eq!(at(42, 10), None);
    }

    #[test]
    fn a_slow_first_report_has_no_estimate() {
        let started = Instant::now();
        let mut lines = ProgressLines::new(started);
        assert_eq!(lines.next(started + Duration::from_secs(11), 0, 4).as_deref(), Some("0 of 4 windows"));
    }
}
