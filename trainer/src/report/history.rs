//! Curves of a run over all its sessions, in bounded memory.

use std::path::Path;

use super::series::Series;
use crate::journal::{self, Entry, JournalError, StepRecord, ValidationRecord};

/// The curves of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Loss of each optimizer step.
    pub loss: Series,
    /// Learning rate of each optimizer step.
    pub lr: Series,
    /// Mean Dice of each validation, background included.
    pub mean_dice: Series,
    /// Mean Dice of each validation, without background.
    pub mean_fg_dice: Series,
}

impl History {
    /// Reads a journal. A session that resumes from an earlier step discards the records after that step.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn read(journal: &Path) -> Result<Self, JournalError> {
        Ok(Records::read(journal)?.into_history())
    }

    /// Reads a journal for a session that continues after `step` and has not recorded its start yet.
    ///
    /// # Errors
    /// If the journal cannot be read.
    pub fn read_until(journal: &Path, step: u64) -> Result<Self, JournalError> {
        let mut records = Records::read(journal)?;
        records.cut(step);
        Ok(records.into_history())
    }

    /// Adds an optimizer step.
    pub fn step(&mut self, record: &StepRecord) {
        self.loss.push(record.step, record.loss);
        self.lr.push(record.step, record.lr);
    }

    /// Adds a validation.
    pub fn validation(&mut self, record: &ValidationRecord) {
        self.mean_dice.push(record.step, record.mean_dice);
        self.mean_fg_dice.push(record.step, record.mean_fg_dice);
    }
}

/// Values of a journal by step, each in step order.
#[derive(Debug, Default)]
struct Records {
    /// Loss and learning rate.
    steps: Vec<(u64, [f64; 2])>,
    /// Mean Dice with and without background.
    validations: Vec<(u64, [f64; 2])>,
}

impl Records {
    fn read(journal: &Path) -> Result<Self, JournalError> {
        let mut records = Self::default();
        for entry in journal::read(journal)? {
            match entry? {
                Entry::Started { step, .. } => records.cut(step),
                Entry::Step(record) => put(&mut records.steps, record.step, [record.loss, record.lr]),
                Entry::Validation(record) => {
                    put(&mut records.validations, record.step, [record.mean_dice, record.mean_fg_dice]);
                }
                Entry::Stopped { .. } => {}
            }
        }
        Ok(records)
    }

    /// Values of a journal by step, in step order.
    fn cut(&mut self, step: u64) {
        for values in [&mut self.steps, &mut self.validations] {
            values.truncate(values.partition_point(|&(recorded, _)| recorded <= step));
        }
    }

    fn into_history(self) -> History {
        let mut history = History::default();
        for (step, [loss, lr]) in self.steps {
            history.loss.push(step, loss);
            history.lr.push(step, lr);
        }
        for (step, [mean, foreground]) in self.validations {
            history.mean_dice.push(step, mean);
            history.mean_fg_dice.push(step, foreground);
        }
        history
    }
}

/// Appends the values of a step and removes earlier records of this step and of all later ones.
fn put(values: &mut Vec<(u64, [f64; 2])>, step: u64, value: [f64; 2]) {
    while values.last().is_some_and(|&(last, _)| last >= step) {
        values.pop();
    }
    values.push((step, value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::{step_record, validation_record};

    #[test]
    fn later_of_two_lines_for_a_step_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = journal::Journal::open(&path, false).unwrap();
        let device = || "CPU".to_owned();
        let mut write = |entry: &Entry| journal.write(entry).unwrap();
        write(&Entry::Started { step: 0, device: device() });
        for step in 1..=5 {
            write(&Entry::Step(step_record(step, 1.0)));
        }
        write(&Entry::Validation(validation_record(5, 0.1)));
        // Killed, and resumed from the checkpoint of step 2.
        write(&Entry::Started { step: 2, device: device() });
        for step in 3..=6 {
            write(&Entry::Step(step_record(step, 2.0)));
        }
        write(&Entry::Validation(validation_record(5, 0.2)));
        let history = History::read(&path).unwrap();
        let losses: Vec<(u64, f64)> = history.loss.points().iter().map(|p| (p.first_step, p.mean)).collect();
        assert_eq!(losses, [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0), (6, 2.0)]);
        let dice: Vec<f64> = history.mean_dice.points().iter().map(|p| p.mean).collect();
        assert_eq!(dice, [0.2]);
    }

    #[test]
    fn session_that_goes_back_abandons_all_later_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = journal::Journal::open(&path, false).unwrap();
        for step in 1..=6 {
            journal.write(&Entry::Step(step_record(step, 1.0))).unwrap();
            journal.write(&Entry::Validation(validation_record(step, 0.1))).unwrap();
        }
        let steps = |history: &History| -> [Vec<u64>; 2] {
            [&history.loss, &history.mean_dice].map(|series| series.points().iter().map(|p| p.first_step).collect())
        };
        // Known to the session before the journal has its start.
        let known = History::read_until(&path, 3).unwrap();
        assert_eq!(steps(&known), [[1, 2, 3], [1, 2, 3]]);
        journal.write(&Entry::Started { step: 3, device: "CPU".into() }).unwrap();
        assert_eq!(steps(&History::read(&path).unwrap()), [[1, 2, 3], [1, 2, 3]]);
        journal.write(&Entry::Step(step_record(4, 2.0))).unwrap();
        // The validations of steps 4 to 6 belong to abandoned steps.
        assert_eq!(steps(&History::read(&path).unwrap()), [vec![1, 2, 3, 4], vec![1, 2, 3]]);
    }
}
