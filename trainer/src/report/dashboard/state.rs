//! State of the dashboard, of bounded size for runs of any length.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::journal::{StepRecord, ValidationRecord};
use crate::report::history::History;
use crate::report::ranks::RankSummary;
use crate::training::Event;

/// Number of steps over which speed and time left are averaged.
const WINDOW: usize = 100;
/// Maximum number of lines in the log.
const LOG_LINES: usize = 200;
/// Number of lines that stay on the screen after the run, not counting warnings.
const LAST_LINES: usize = 4;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogLine {
    pub text: String,
    pub warning: bool,
}

/// State of the dashboard.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub history: History,
    /// Folder, device and model size of the run; empty until it starts.
    pub heading: String,
    pub start_step: u64,
    pub step: u64,
    pub end_step: u64,
    pub since: Instant,
    pub validation: Option<ValidationRecord>,
    /// Number of cases done and of all cases, during a validation.
    pub validating: Option<(usize, usize)>,
    /// Highest mean Dice of any validation with foreground, including earlier sessions; NaN before the first.
    pub best_dice: f64,
    pub log: VecDeque<LogLine>,
    pub stopping: bool,
    started: Option<String>,
    window: VecDeque<(Instant, StepRecord)>,
}

/// Means over the last steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Speed {
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: Option<f64>,
    pub crops_per_sec: f64,
    pub step_ms: f64,
    pub wait_ms: f64,
    pub compute_ms: f64,
    pub upload_ms: f64,
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            history: History::default(),
            heading: String::new(),
            start_step: 0,
            step: 0,
            end_step: 0,
            since: now,
            validation: None,
            validating: None,
            best_dice: f64::NAN,
            log: VecDeque::new(),
            stopping: false,
            started: None,
            window: VecDeque::new(),
        }
    }

    /// Adds an event and its line.
    pub(super) fn event(&mut self, event: &Event<'_>, line: Option<String>, now: Instant) {
        match event {
            Event::Started { num_params, device, step, end_step, best, run_dir } => {
                let millions = *num_params as f64 / 1e6;
                self.heading = format!("{}  {millions:.1}M parameters on {device}", run_dir.display());
                (self.start_step, self.step, self.end_step) = (*step, *step, *end_step);
                self.best_dice = best.map_or(f64::NAN, |best| best.mean_dice);
                self.since = now;
                self.started = line;
                return;
            }
            Event::Validating { done, total } => {
                self.validating = Some((*done, *total)).filter(|(done, total)| done < total);
                return;
            }
            Event::Step(record) => {
                self.validating = None;
                self.history.step(record);
                self.step = record.step;
                self.window.push_back((now, (*record).clone()));
                if self.window.len() > WINDOW {
                    self.window.pop_front();
                }
                // The figures above the log show it; only the last step's line stays after the dashboard.
                if record.step != self.end_step {
                    return;
                }
            }
            Event::Validation(record) => {
                self.history.validation(record);
                if record.mean_fg_dice.is_finite() {
                    self.best_dice = self.best_dice.max(record.mean_dice);
                }
                self.validation = Some((*record).clone());
            }
            _ => {}
        }
        let warning = matches!(event, Event::Warning(_));
        self.log(line.into_iter().map(|text| LogLine { text, warning }));
    }

    /// Adds lines of the program's log.
    pub(super) fn take_log(&mut self, lines: Vec<String>) {
        self.log(lines.into_iter().map(|text| LogLine { text, warning: true }));
    }

    fn log(&mut self, lines: impl Iterator<Item = LogLine>) {
        self.log.extend(lines);
        let surplus = self.log.len().saturating_sub(LOG_LINES);
        self.log.drain(..surplus);
    }

    /// Lines that stay on the screen after the run: its start, warnings, and the latest lines.
    pub(super) fn last_lines(&self) -> Vec<&str> {
        let recent = self.log.len().saturating_sub(LAST_LINES);
        let kept = self.log.iter().enumerate().filter(|&(index, line)| line.warning || index >= recent);
        self.started.as_deref().into_iter().chain(kept.map(|(_, line)| line.text.as_str())).collect()
    }

    /// Computes the means over the last steps, if there are any.
    pub(super) fn speed(&self) -> Option<Speed> {
        let (_, last) = self.window.back()?;
        let sum = |value: fn(&StepRecord) -> f64| self.window.iter().map(|(_, record)| value(record)).sum::<f64>();
        let mean = |value| sum(value) / self.window.len() as f64;
        Some(Speed {
            loss: mean(|r| r.loss),
            lr: last.lr,
            grad_norm: last.grad_norm,
            crops_per_sec: sum(|r| r.crops as f64) * 1e3 / sum(|r| r.step_ms).max(1e-9),
            step_ms: mean(|r| r.step_ms),
            wait_ms: mean(|r| r.wait_ms),
            compute_ms: mean(|r| r.compute_ms),
            upload_ms: mean(|r| r.upload_ms),
        })
    }

    /// Summarizes the ranks' parts in the last steps; `None` with a single rank.
    pub(super) fn ranks(&self) -> Option<RankSummary> {
        RankSummary::of(self.window.iter().map(|(_, record)| record))
    }

    /// Estimates the remaining time from the last steps, including checkpoints and validations.
    pub(super) fn time_left(&self, now: Instant) -> Option<Duration> {
        let ((first, record), (last, _)) = (self.window.front()?, self.window.back()?);
        let own = Duration::from_secs_f64(record.step_ms.max(0.0) / 1e3);
        let per_step = (last.saturating_duration_since(*first) + own) / self.window.len() as u32;
        let left = per_step.as_secs_f64() * self.end_step.saturating_sub(self.step) as f64;
        let since_last = now.saturating_duration_since(*last);
        Some(Duration::try_from_secs_f64(left).ok()?.saturating_sub(since_last.min(per_step)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Best;
    use crate::journal::testing::{step_record, validation_record};

    #[test]
    fn best_validation_of_earlier_sessions_counts() {
        let now = Instant::now();
        let best_after = |best: Option<Best>, mean_dice: f64| {
            let mut state = State::new(now);
            let (device, run_dir) = ("CPU".to_owned(), std::path::Path::new("run"));
            let started = Event::Started { num_params: 1, device, step: 5, end_step: 9, best, run_dir };
            state.event(&started, None, now);
            state.event(&Event::Validation(&validation_record(6, mean_dice)), None, now);
            format!("{:.2}", state.best_dice)
        };
        let best = Some(Best { step: 3, mean_dice: 0.75 });
        assert_eq!([best_after(best, 0.5), best_after(best, 0.9), best_after(None, 0.5)], ["0.75", "0.90", "0.50"]);
    }

    #[test]
    fn speed_and_time_left_use_the_last_steps() {
        let start = Instant::now();
        let mut state = State::new(start);
        assert_eq!((state.speed(), state.time_left(start)), (None, None));
        state.end_step = 1000;
        // The first steps are slow; a hundred steps later they no longer count.
        let mut now = start;
        for step in 1..=200 {
            let ms = if step <= 100 { 9000 } else { 100 };
            now += Duration::from_millis(ms);
            let record = StepRecord { step_ms: ms as f64, ..step_record(step, 0.5) };
            state.event(&Event::Step(&record), None, now);
        }
        let speed = state.speed().unwrap();
        assert!((speed.crops_per_sec - 40.0).abs() < 1e-9 && (speed.wait_ms - 2.5).abs() < 1e-9, "{speed:?}");
        let left = state.time_left(now).unwrap().as_secs_f64();
        assert!((left - 80.0).abs() < 1e-6, "{left}");
        assert_eq!(state.window.len(), WINDOW);
    }

    #[test]
    fn warnings_are_kept_and_the_log_is_bounded() {
        let now = Instant::now();
        let mut state = State::new(now);
        state.event(&Event::Warning("disk".into()), Some("warning: disk".into()), now);
        for index in 0..100 {
            let path = std::path::PathBuf::from(format!("checkpoint-{index}"));
            state.event(&Event::Checkpoint(&path), Some(format!("checkpoint {index}")), now);
        }
        let lines = ["warning: disk", "checkpoint 96", "checkpoint 97", "checkpoint 98", "checkpoint 99"];
        assert_eq!(state.last_lines(), lines);
        state.take_log((0..1000).map(|index| index.to_string()).collect());
        assert_eq!(state.log.len(), LOG_LINES);
    }
}
