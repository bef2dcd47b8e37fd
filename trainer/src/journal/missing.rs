//! Steps without a line in a journal: their lines were lost, for example with a copy of the run, or all cases of their
//! batches are corrupt.

use std::ops::RangeInclusive;

use super::{Entry, JournalError};

/// Finds the steps without a line among all entries of a journal, up to the last step that it records and up to `done`, in
/// ascending order.
///
/// # Errors
/// The first entry that cannot be read.
pub fn missing_steps(
    entries: impl IntoIterator<Item = Result<Entry, JournalError>>,
    done: u64,
) -> Result<Vec<RangeInclusive<u64>>, JournalError> {
    let mut gaps = Gaps::default();
    for entry in entries {
        if let Entry::Step(record) = entry? {
            gaps.record(record.step);
        }
    }
    if gaps.highest < done {
        gaps.ranges.push(gaps.highest + 1..=done);
    }
    Ok(gaps.ranges)
}

/// Clause for messages about steps without a line, with the possible causes.
#[must_use]
pub fn missing_text(ranges: &[RangeInclusive<u64>]) -> String {
    let steps = describe_steps(ranges);
    format!(
        "no line of {steps} (lost, or all cases of their batches are corrupt; checkpoints do not need these lines, curves \
         do not show these steps)"
    )
}

/// Clause for messages about a resumed run without a checkpoint, whose journal has steps; `None` if it has none.
#[must_use]
pub fn begins_again_text(entries: impl IntoIterator<Item = Result<Entry, JournalError>>) -> Option<String> {
    let step_of = |entry: Result<Entry, JournalError>| match entry {
        Ok(Entry::Step(record)) => Some(record.step),
        _ => None,
    };
    let last = entries.into_iter().filter_map(step_of).max()?;
    Some(format!(
        "has steps up to {last}, and there is no checkpoint (lost, or the run was killed before the first one); training \
         begins again at step 1"
    ))
}

/// Names missing steps: `the steps 2 to 60`.
fn describe_steps(ranges: &[RangeInclusive<u64>]) -> String {
    let one = |range: &RangeInclusive<u64>| match (range.start(), range.end()) {
        (first, last) if first == last => format!("step {first}"),
        (first, last) => format!("the steps {first} to {last}"),
    };
    match ranges {
        [] => "no step".to_owned(),
        [range] => one(range),
        [first, .., last] => format!("some of the steps {} to {}", first.start(), last.end()),
    }
}

/// Steps without a line below the highest one with a line.
#[derive(Debug, Default)]
struct Gaps {
    highest: u64,
    ranges: Vec<RangeInclusive<u64>>,
}

impl Gaps {
    fn record(&mut self, step: u64) {
        if step > self.highest {
            if step - self.highest > 1 {
                self.ranges.push(self.highest + 1..=step - 1);
            }
            self.highest = step;
        } else if let Some(at) = self.ranges.iter().position(|range| range.contains(&step)) {
            // A resumed run repeats steps.
            let (first, last) = self.ranges[at].clone().into_inner();
            let rest = [first..=step - 1, step + 1..=last];
            self.ranges.splice(at..=at, rest.into_iter().filter(|range| !range.is_empty()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::step_record;
    use crate::journal::{Journal, read};

    #[test]
    fn steps_without_a_line_are_found() {
        let check = |steps: &[u64], done: u64, expected: &[RangeInclusive<u64>], text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal.jsonl");
            let mut journal = Journal::open(&path, false).unwrap();
            for &step in steps {
                journal.write(&Entry::Step(step_record(step, 0.5))).unwrap();
            }
            let found = missing_steps(read(&path).unwrap(), done).unwrap();
            assert_eq!(found, expected, "{steps:?}");
            assert_eq!(describe_steps(&found), text);
        };
        check(&[], 0, &[], "no step");
        check(&[1, 2, 3], 2, &[], "no step");
        check(&[1], 60, &[2..=60], "the steps 2 to 60");
        check(&[3, 4], 4, &[1..=2], "the steps 1 to 2");
        check(&[1, 3, 4, 7], 8, &[2..=2, 5..=6, 8..=8], "some of the steps 2 to 8");
        // Steps that a resumed run repeats are not lost.
        check(&[1, 2, 3, 2, 3, 4], 4, &[], "no step");
        check(&[1, 5, 2, 3, 4, 5], 5, &[], "no step");
        check(&[1, 9, 4], 9, &[2..=3, 5..=8], "some of the steps 2 to 8");
        check(&[2], 2, &[1..=1], "step 1");
    }

    #[test]
    fn steps_that_are_repeated_for_lack_of_a_checkpoint_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, false).unwrap();
        assert_eq!(begins_again_text(read(&path).unwrap()), None);
        for step in [1, 2, 3, 1] {
            journal.write(&Entry::Step(step_record(step, 0.5))).unwrap();
        }
        let text = begins_again_text(read(&path).unwrap()).unwrap();
        assert!(text.starts_with("has steps up to 3, and there is no checkpoint"), "{text}");
    }
}
