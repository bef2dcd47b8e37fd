//! `RUN_DIR/journal.jsonl`: one JSON object a line, one line a step.
//!
//! A run that is killed and goes on repeats the steps since its last checkpoint; of two lines for a step, the later
//! one counts (and with the same data both say the same loss). A kill can leave half a line at the end: readers pass
//! over it, and the run that goes on cuts it off.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

/// The longest line there can be, bytes. A step takes 300; a file without line ends is no journal.
const MAX_LINE: u64 = 1 << 20;

/// What one update was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Updates done with this one, from 1.
    pub step: u64,
    /// Position in epochs.
    pub epoch: f64,
    /// Before the update.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of all gradients before clipping, where they are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Crops of the batch.
    pub crops: usize,
    /// Crops a second, of this step.
    pub crops_per_sec: f64,
    /// From the end of the last step to the end of this one: waiting and computing.
    pub step_ms: f64,
    /// How long the device had nothing to do since no batch was there.
    pub wait_ms: f64,
    /// From the loader's buffer to the device. On another thread, so no part of `step_ms`.
    pub upload_ms: f64,
    /// Forward, backward, update, and reading the loss.
    pub compute_ms: f64,
    /// Reading and decoding in the loader, summed over its threads.
    pub decode_ms: f64,
    /// Cutting and augmenting in the loader, summed over its threads.
    pub augment_ms: f64,
}

/// What a validation during fine-tuning found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Updates done before.
    pub step: u64,
    /// Position in epochs.
    pub epoch: f64,
    /// Mean over cases and classes, background included: what the recipe chooses the best checkpoint by.
    #[serde(deserialize_with = "nan_if_null")]
    pub mean_dice: f64,
    /// The same without background; NaN if no case has another class.
    #[serde(deserialize_with = "nan_if_null")]
    pub mean_fg_dice: f64,
    /// Mean over cases by class, background first; nothing for a class that no case has.
    pub dice_per_class: Vec<Option<f64>>,
    /// Cases predicted.
    pub num_cases: usize,
    /// Whether no earlier validation was better.
    pub best: bool,
    /// How long it took.
    pub secs: f64,
}

/// JSON has no NaN; it is written as null.
fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry {
    /// The run began, or went on.
    Started {
        /// Updates done before.
        step: u64,
        /// Where it runs.
        device: String,
    },
    /// An update.
    Step(StepRecord),
    /// A validation.
    Validation(ValidationRecord),
    /// The run stopped.
    Stopped {
        /// Updates done.
        step: u64,
        /// Whether it was asked to stop early.
        interrupted: bool,
    },
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens `path`; what is there stays if the run goes on, but for half a line at the end.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path, goes_on: bool) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).truncate(!goes_on).read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        let tail_start = len.saturating_sub(MAX_LINE);
        file.seek(SeekFrom::Start(tail_start))?;
        let mut tail = Vec::new();
        (&mut file).take(MAX_LINE).read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at as u64 + 1);
        file.set_len(tail_start + whole)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file })
    }

    /// Writes a line at once: it is there even if the process is killed after this.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("journal {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A line in the midst of the file.
    #[error("journal {}, line {line}: expected an entry of this program's", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The entries of a journal in the order they were written; see [`read`].
#[derive(Debug)]
pub struct Entries {
    path: PathBuf,
    file: BufReader<File>,
    line: u64,
    bytes: Vec<u8>,
}

/// Reads a journal entry by entry, in the memory of a line. A last line that is not whole is passed over.
///
/// # Errors
/// If the file cannot be opened.
pub fn read(path: &Path) -> Result<Entries, JournalError> {
    let file = File::open(path).map_err(|source| JournalError::Read { path: path.to_owned(), source })?;
    Ok(Entries { path: path.to_owned(), file: BufReader::new(file), line: 0, bytes: vec![] })
}

impl Iterator for Entries {
    type Item = Result<Entry, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.bytes.clear();
        self.line += 1;
        if let Err(source) = (&mut self.file).take(MAX_LINE).read_until(b'\n', &mut self.bytes) {
            return Some(Err(JournalError::Read { path: self.path.clone(), source }));
        }
        // Nothing is left, or a line was not finished: lines are written together with their end.
        let too_long = self.bytes.len() as u64 == MAX_LINE;
        if self.bytes.last() != Some(&b'\n') && !too_long {
            return None;
        }
        let entry = serde_json::from_slice(&self.bytes);
        Some(entry.map_err(|source| JournalError::Line { path: self.path.clone(), line: self.line, source }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing::validation_record;

    const LINES: &str = r#"{"event":"started","step":0,"device":"CPU"}
{"event":"stopped","step":2,"interrupted":true}
"#;

    fn file_with(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        file
    }

    fn check(text: &[u8], num_entries: usize) {
        let file = file_with(text);
        let entries: Vec<Entry> = read(file.path()).unwrap().map(Result::unwrap).collect();
        assert_eq!(entries.len(), num_entries);
    }

    #[test]
    fn half_a_last_line_is_passed_over() {
        check(b"", 0);
        check(LINES.as_bytes(), 2);
        let first = LINES.find('\n').unwrap();
        for cut in 0..LINES.len() {
            check(&LINES.as_bytes()[..cut], usize::from(cut > first));
        }
    }

    #[test]
    fn a_broken_line_elsewhere_is_named() {
        let text = LINES.replace("stopped", "stepped");
        let file = file_with(text.as_bytes());
        let error = read(file.path()).unwrap().find_map(Result::err).unwrap();
        let message = format!("{:#}", anyhow::Error::from(error));
        assert!(
            message.contains("line 2: expected an entry of this program's: unknown variant `stepped`"),
            "{message}"
        );
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn a_file_without_line_ends_is_refused_in_bounded_memory() {
        let file = file_with(&vec![b'x'; 3 * MAX_LINE as usize]);
        assert!(matches!(read(file.path()).unwrap().next(), Some(Err(JournalError::Line { line: 1, .. }))));
    }

    #[test]
    fn a_run_that_goes_on_cuts_half_a_line_off() {
        let file = file_with(format!("{LINES}{{\"event\":\"st").as_bytes());
        let entry = Entry::Started { step: 2, device: "CPU".into() };
        Journal::open(file.path(), true).unwrap().write(&entry).unwrap();
        let entries: Vec<Entry> = read(file.path()).unwrap().map(Result::unwrap).collect();
        assert_eq!((entries.len(), &entries[2]), (3, &entry));
        Journal::open(file.path(), false).unwrap();
        check(&std::fs::read(file.path()).unwrap(), 0);
    }

    #[test]
    fn a_dice_that_was_not_measured_comes_back() {
        let record = ValidationRecord { mean_fg_dice: f64::NAN, ..validation_record(3, 0.25) };
        let line = serde_json::to_string(&Entry::Validation(record)).unwrap();
        let Entry::Validation(read) = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
        assert!(read.mean_fg_dice.is_nan() && (read.mean_dice - 0.25).abs() < 1e-12, "{line}");
    }
}
