//! Log lines about a run. The dashboard receives the same events.

use std::io::Write;
use std::time::{Duration, Instant};

use hiend_loader::program::{count, escape_name};

use super::ranks::RankSummary;
use crate::journal::StepRecord;
use crate::training::{Event, Outcome};

/// Time between two lines about a validation in progress.
const VALIDATING: Duration = Duration::from_secs(10);

/// Writes a line every few optimizer steps, averaged over them.
#[derive(Debug)]
pub struct Console<W> {
    out: W,
    log_every: u64,
    since: Vec<StepRecord>,
    end_step: u64,
    /// Durations of the validations in seconds; the summary's time of steps excludes them.
    validation_secs: Vec<f64>,
    /// Begin of the validation in progress, and time of its last line.
    validating: Option<(Instant, Instant)>,
}

impl<W: Write> Console<W> {
    /// Creates a console that writes to `out` every `log_every` steps; 0 for no lines about steps.
    pub fn new(out: W, log_every: u64) -> Self {
        Self { out, log_every, since: vec![], end_step: 0, validation_secs: vec![], validating: None }
    }

    /// Writes the line of an event, if it has one. Output that cannot be written (a closed pipe) does not stop a run.
    pub fn event(&mut self, event: &Event<'_>) {
        if let Some(line) = self.line(event) {
            self.write(&line);
        }
    }

    /// Writes a line, with control characters escaped, which may occur in names.
    pub(super) fn write(&mut self, line: &str) {
        let _ = writeln!(self.out, "{}", escape_name(line));
        let _ = self.out.flush();
    }

    /// Formats the line of an event, if it has one.
    pub(super) fn line(&mut self, event: &Event<'_>) -> Option<String> {
        Some(match event {
            Event::Started { num_params, device, step, end_step, run_dir, .. } => {
                self.end_step = *end_step;
                let millions = *num_params as f64 / 1e6;
                let from = if *step > 0 { format!(", resumed after step {step}") } else { String::new() };
                format!(
                    "training {millions:.1}M parameters on {device} to step {end_step}{from}; run {}",
                    run_dir.display()
                )
            }
            Event::Tuning => {
                "the first step compiles kernels; kernels in place of a missing library are tuned as well, for minutes"
                    .into()
            }
            Event::Step(record) => {
                self.since.push((*record).clone());
                let due = self.log_every > 0 && record.step.is_multiple_of(self.log_every);
                if !due && record.step != self.end_step {
                    // Without lines there is nothing to average.
                    if self.log_every == 0 {
                        self.since.clear();
                    }
                    return None;
                }
                self.average()?
            }
            Event::Validation(record) => {
                self.validation_secs.push(record.secs);
                format!(
                    "validation after step {}: mean Dice {} with background, {} without, {} in {:.1} s{}",
                    record.step,
                    dice(record.mean_dice),
                    dice(record.mean_fg_dice),
                    count(record.num_cases, "case"),
                    record.secs,
                    if record.best { " (best so far)" } else { "" }
                )
            }
            Event::Validating { done, total } => self.validating(*done, *total, Instant::now())?,
            Event::Checkpoint(path) => format!("checkpoint {}", path.display()),
            Event::Picture(path) => format!("picture {}", path.display()),
            Event::Note(text) => (*text).to_owned(),
            Event::Warning(message) => format!("warning: {message}"),
            Event::Stopped(summary) => match summary.outcome {
                Outcome::Finished => format!(
                    "done: {} in {:.1} s{}, waiting for data {:.1}% of the time{}",
                    count(usize::try_from(summary.steps_done).unwrap_or(usize::MAX), "step"),
                    summary.elapsed_secs,
                    self.validations(),
                    summary.wait_share * 100.0,
                    summary
                        .best
                        .map(|best| {
                            format!("; best mean Dice with background {:.4} after step {}", best.mean_dice, best.step)
                        })
                        .unwrap_or_default()
                ),
                Outcome::Interrupted => format!("stopped after step {}", summary.step),
            },
        })
    }

    /// Line on a validation in progress: one as it begins, and then one every [`VALIDATING`] at most.
    fn validating(&mut self, done: usize, total: usize, now: Instant) -> Option<String> {
        let Some((begin, last)) = self.validating.as_mut().filter(|_| done > 0) else {
            self.validating = Some((now, now));
            return Some(format!("validating {}", count(total, "case")));
        };
        if done >= total || now.duration_since(*last) < VALIDATING {
            return None;
        }
        *last = now;
        let secs_left = now.duration_since(*begin).as_secs_f64() / done as f64 * (total - done) as f64;
        Some(format!("validated {done} of {total} cases, {secs_left:.0} s left"))
    }

    /// Number and time of the validations, if there were any.
    fn validations(&self) -> String {
        match self.validation_secs.as_slice() {
            [] => String::new(),
            all => format!(" (and {} in {:.1} s)", count(all.len(), "validation"), all.iter().sum::<f64>()),
        }
    }

    fn average(&mut self) -> Option<String> {
        let records = std::mem::take(&mut self.since);
        let last = records.last()?;
        let mean = |value: fn(&StepRecord) -> f64| records.iter().map(value).sum::<f64>() / records.len() as f64;
        let crops: usize = records.iter().map(|r| r.crops).sum();
        let secs = records.iter().map(|r| r.step_ms).sum::<f64>() / 1e3;
        let norm = last.grad_norm.map(|norm| format!("  |g| {norm:.3}")).unwrap_or_default();
        let ranks = RankSummary::of(records.iter());
        let ranks = ranks.map(|ranks| format!("  slowest {}", ranks.slowest())).unwrap_or_default();
        Some(format!(
            "step {:>6}/{}  loss {:.4}  lr {:.2e}{norm}  {:.1} crops/s  {:.0} ms = wait {:.1} + compute {:.1}  (upload {:.1} alongside){ranks}",
            last.step,
            self.end_step,
            mean(|r| r.loss),
            last.lr,
            crops as f64 / secs.max(1e-9),
            mean(|r| r.step_ms),
            mean(|r| r.wait_ms),
            mean(|r| r.compute_ms),
            mean(|r| r.upload_ms),
        ))
    }
}

/// Formats a Dice; `-` if it was not measured.
pub(super) fn dice(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::ValidationRecord;
    use crate::journal::testing::validation_record;
    use crate::training::Summary;

    #[test]
    fn unmeasured_dice_is_a_dash() {
        let record = ValidationRecord { mean_fg_dice: f64::NAN, best: false, ..validation_record(3, 0.98) };
        let line = Console::new(Vec::<u8>::new(), 1).line(&Event::Validation(&record)).unwrap();
        assert_eq!(line, "validation after step 3: mean Dice 0.9800 with background, - without, 2 cases in 1.0 s");
    }

    #[test]
    fn a_validation_has_a_line_as_it_begins_and_every_ten_seconds() {
        let mut console = Console::new(Vec::<u8>::new(), 1);
        let began = Instant::now();
        for _ in 0..2 {
            let mut at = |secs: u64, done| console.validating(done, 6, began + Duration::from_secs(secs));
            assert_eq!(at(0, 0).as_deref(), Some("validating 6 cases"));
            assert_eq!(at(8, 1), None);
            assert_eq!(at(16, 2).as_deref(), Some("validated 2 of 6 cases, 32 s left"));
            assert_eq!(at(24, 3), None);
            assert_eq!(at(32, 4).as_deref(), Some("validated 4 of 6 cases, 16 s left"));
            assert_eq!(at(48, 6), None);
        }
    }

    #[test]
    fn closing_line_counts_the_time_of_validations() {
        let mut console = Console::new(Vec::<u8>::new(), 1);
        let summary = Summary {
            outcome: Outcome::Finished,
            step: 60,
            steps_done: 60,
            losses: vec![],
            elapsed_secs: 56.6,
            wait_share: 0.0,
            checkpoint: None,
            best: None,
            picture: None,
        };
        let line = console.line(&Event::Stopped(&summary)).unwrap();
        assert_eq!(line, "done: 60 steps in 56.6 s, waiting for data 0.0% of the time");
        for step in [30, 60] {
            console.line(&Event::Validation(&ValidationRecord { secs: 75.5, ..validation_record(step, 0.5) }));
        }
        let line = console.line(&Event::Stopped(&summary)).unwrap();
        assert_eq!(line, "done: 60 steps in 56.6 s (and 2 validations in 151.0 s), waiting for data 0.0% of the time");
    }
}
