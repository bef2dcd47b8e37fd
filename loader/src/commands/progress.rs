//! A progress bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};

/// Lines that are not on a terminal come at most this often.
const LINE_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    last_line: Instant,
    cases: (usize, usize),
    bytes: (u64, u64),
}

impl Progress {
    pub fn new(num_cases: usize, num_bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = "{bar:32} {pos}/{len} cases  {msg}  {elapsed} gone";
            let bar = ProgressBar::new(num_cases as u64);
            bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let now = Instant::now();
        Self { bar, started: now, last_line: now, cases: (0, num_cases), bytes: (0, num_bytes) }
    }

    /// Another case is done.
    pub fn advance(&mut self, bytes: u64) {
        self.cases.0 += 1;
        self.bytes.0 += bytes;
        let message = self.message();
        match &self.bar {
            Some(bar) => {
                bar.set_message(message);
                bar.set_position(self.cases.0 as u64);
            }
            None if self.last_line.elapsed() >= LINE_EVERY => {
                self.last_line = Instant::now();
                eprintln!("{}/{} cases  {message}", self.cases.0, self.cases.1);
            }
            None => {}
        }
    }

    /// A line of its own, above the bar.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// A line of the command's result, while the bar stands.
    pub fn print(&self, line: &str) {
        let write = || {
            // A reader that went away is no reason to stop looking.
            let _ = super::print(line);
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn message(&self) -> String {
        let secs = self.started.elapsed().as_secs_f64().max(1e-3);
        let rate = self.bytes.0 as f64 / secs;
        // What is left is judged by bytes, because cases differ in size a hundredfold.
        let left = self.bytes.1.saturating_sub(self.bytes.0) as f64 / rate.max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate and a time, both positive")]
        let (rate, left) = (ByteSize(rate as u64), Duration::from_secs(left as u64));
        format!("{}/s  {} left", rate.display().si(), duration(left))
    }
}

/// `2h 5m`, `3m 10s` or `8s`.
pub(super) fn duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s}s"),
        (h, m, _) => format!("{h}h {m}m"),
    }
}
