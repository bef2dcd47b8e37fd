//! `RUN_DIR/journal.jsonl`: one JSON object per line, one line per optimizer step.
//!
//! A run that was killed and resumed repeats the steps since its last checkpoint. If there are two lines for a step,
//! the later one is valid; with the same data both record the same loss. A kill can leave an incomplete last line:
//! readers skip it, and a resumed run removes it. A power cut can leave garbage after the last sync, which a resumed
//! run removes with a warning.
//!
//! The file is synced before every checkpoint ([`Journal::sync`]), so no checkpoint is ahead of its journal.

mod follow;
mod missing;
#[cfg(test)]
pub(crate) mod testing;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use hiend_cache::{JsonError, durable, lookup, regular};
use hiend_loader::program::count;
use serde::{Deserialize, Deserializer, Serialize};

pub use follow::{Chunk, Follower};
pub use missing::{begins_again_text, missing_steps, missing_text};

/// Maximum length of a line, in bytes. A step takes about 300; a longer line means that the file is not a journal.
const MAX_LINE: u64 = 1 << 20;

/// Record of an optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Number of the step, from 1.
    pub step: u64,
    /// Position in the training, in epochs.
    pub epoch: f64,
    /// Mean loss of the batch, before the optimizer step.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Global gradient norm before clipping; absent without clipping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Number of crops in the batch.
    pub crops: usize,
    /// Throughput of this step, in crops per second.
    pub crops_per_sec: f64,
    /// Time from the end of the previous step to the end of this one, both waiting and computing, in ms.
    pub step_ms: f64,
    /// Time for which the device was idle because no batch was ready, in ms.
    pub wait_ms: f64,
    /// Time of the transfer from the loader's buffer to the device, in ms. Spent on another thread, so not part of
    /// `step_ms`.
    pub upload_ms: f64,
    /// Time of forward pass, backward pass, optimizer step and reading the loss, in ms.
    pub compute_ms: f64,
    /// Time of reading and decoding in the loader, summed over its threads, in ms.
    pub decode_ms: f64,
    /// Time of cutting and augmenting in the loader, summed over its threads, in ms.
    pub augment_ms: f64,
    /// Each rank's part of the step, in rank order; empty for a run in one process. The other times belong to rank 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankRecord>,
}

/// A rank's part of an optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankRecord {
    /// Number of the rank.
    pub rank: usize,
    /// Time for which the rank waited for its batch, in ms.
    pub wait_ms: f64,
    /// Time from the first rank's arrival at the step's exchange to this rank's, in ms. The others waited for the last
    /// rank.
    pub behind_ms: f64,
    /// Slowest stage of the rank.
    pub stage: Stage,
}

/// Stage of a rank's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading and decoding shards.
    Decode,
    /// Cutting and augmenting crops.
    Augment,
    /// Bringing batches to the device.
    Upload,
    /// Forward pass, backward pass and optimizer step.
    Compute,
}

impl Stage {
    /// All stages, in the order of a batch's way.
    pub const ALL: [Self; 4] = [Self::Decode, Self::Augment, Self::Upload, Self::Compute];

    /// Name, as in the journal.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Augment => "augment",
            Self::Upload => "upload",
            Self::Compute => "compute",
        }
    }
}

/// Record of a validation during fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Number of optimizer steps done before the validation.
    pub step: u64,
    /// Position in the training, in epochs.
    pub epoch: f64,
    /// Mean Dice over cases and classes, background included; determines the best checkpoint, as in the recipe. Null
    /// stands for NaN.
    #[serde(deserialize_with = "nan_if_null")]
    pub mean_dice: f64,
    /// Mean Dice without background; NaN if no case has another class, in which case the validation is never the best.
    #[serde(deserialize_with = "nan_if_null")]
    pub mean_fg_dice: f64,
    /// Mean Dice over cases for each class, background first; absent for a class that occurs in no case.
    pub dice_per_class: Vec<Option<f64>>,
    /// Number of cases predicted.
    pub num_cases: usize,
    /// True if this is the best validation so far.
    pub best: bool,
    /// Duration in seconds.
    pub secs: f64,
}

/// Reads null as NaN, because JSON has no NaN.
fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Entry {
    /// The run began or was resumed.
    Started {
        /// Number of optimizer steps done before.
        step: u64,
        /// Names of the devices.
        device: String,
    },
    /// An optimizer step.
    Step(StepRecord),
    /// Results of a validation.
    Validation(ValidationRecord),
    /// The run stopped.
    Stopped {
        /// Number of optimizer steps done.
        step: u64,
        /// True if a stop was requested.
        interrupted: bool,
    },
}

/// A journal opened for writing.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Length of the complete lines, in bytes.
    len: u64,
}

impl Journal {
    /// Opens `path` and makes its name durable. The lines of a `resumed` run are kept, except for an incomplete last
    /// line and garbage in the last MiB.
    ///
    /// # Errors
    /// If the file cannot be opened or read.
    pub fn open(path: &Path, resumed: bool) -> io::Result<Self> {
        let options = &mut OpenOptions::new();
        let mut file = regular::open_with(path, options.create(true).truncate(!resumed).read(true).write(true))?;
        durable::sync_dir(lookup::parent(path))?;
        let tail_start = file.metadata()?.len().saturating_sub(MAX_LINE);
        file.seek(SeekFrom::Start(tail_start))?;
        let mut tail = Vec::new();
        (&mut file).take(MAX_LINE).read_to_end(&mut tail)?;
        let Tail { kept, sound, num_garbage } = Tail::of(&tail, tail_start > 0);
        let len = tail_start + kept.len() as u64;
        if num_garbage > 0 {
            let lines = count(num_garbage, "unreadable line");
            tracing::warn!("{}: {lines} at the end removed, as a power cut can leave", path.display());
        }
        file.seek(SeekFrom::Start(tail_start + sound as u64))?;
        durable::append_to(&mut file, path, &kept[sound..])?;
        file.set_len(len)?;
        Ok(Self { file, path: path.to_owned(), len })
    }

    /// Writes a line at once, so that it survives a kill of the process.
    ///
    /// # Errors
    /// If the file cannot be written (disk full); the part of the line that was written is removed.
    pub fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if let Err(error) = durable::append_to(&mut self.file, &self.path, &line) {
            // A later line would continue an incomplete one, and neither could be read. If this fails as well, the first
            // error says more, and resuming the run removes the incomplete line.
            if self.file.set_len(self.len).is_ok() {
                let _ = self.file.seek(SeekFrom::Start(self.len));
            }
            return Err(error);
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Makes the lines written so far survive a power cut.
    ///
    /// # Errors
    /// If the file cannot be synced.
    pub fn sync(&self) -> io::Result<()> {
        durable::sync_data(&self.file, &self.path)
    }
}

/// Last part of a journal, without the remains of a kill or a power cut.
struct Tail {
    /// Bytes of the lines that are kept.
    kept: Vec<u8>,
    /// Number of bytes before the first removed line.
    sound: usize,
    /// Number of complete lines that are removed.
    num_garbage: usize,
}

impl Tail {
    /// Keeps the complete lines that are JSON objects. If `cut`, the tail starts in the middle of a line; that fragment
    /// is kept unchecked.
    fn of(tail: &[u8], cut: bool) -> Self {
        let (mut kept, mut sound, mut num_garbage) = (Vec::with_capacity(tail.len()), None, 0);
        for (number, line) in tail.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let is_complete = line.ends_with(b"\n");
            let is_object = || serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok();
            if is_complete && (cut && number == 0 || is_object()) {
                kept.extend_from_slice(line);
            } else {
                sound.get_or_insert(kept.len());
                num_garbage += usize::from(is_complete);
            }
        }
        Self { sound: sound.unwrap_or(kept.len()), kept, num_garbage }
    }
}

/// An error of reading a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read.
    #[error("{}: cannot read the journal", path.display())]
    Read {
        /// Path of the journal.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A line is not an entry.
    #[error("journal {}, line {line}: not an entry of hiend-train", path.display())]
    Line {
        /// Path of the journal.
        path: PathBuf,
        /// Number of the line, from 1.
        line: u64,
        /// The parser's error.
        #[source]
        source: JsonError,
    },
}

/// Iterator over the entries of a journal, in the order they were written; see [`read`].
#[derive(Debug)]
pub struct Entries {
    path: PathBuf,
    file: BufReader<File>,
    line: u64,
    bytes: Vec<u8>,
}

/// Reads a journal entry by entry, holding one line in memory. An incomplete last line is skipped.
///
/// # Errors
/// If the file cannot be opened.
pub fn read(path: &Path) -> Result<Entries, JournalError> {
    let file = regular::open(path).map_err(|source| JournalError::Read { path: path.to_owned(), source })?;
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
        // The end of the file, or an incomplete line: a line is written together with its end.
        let too_long = self.bytes.len() as u64 == MAX_LINE;
        if self.bytes.last() != Some(&b'\n') && !too_long {
            return None;
        }
        let entry = serde_json::from_slice(&self.bytes);
        let invalid = |error: serde_json::Error| JournalError::Line {
            path: self.path.clone(),
            line: self.line,
            source: error.into(),
        };
        Some(entry.map_err(invalid))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hiend_cache::durable::operation::{Observer, Operation, observe};

    use super::*;
    use crate::journal::testing::validation_record;

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
    fn errors_are_one_line_whatever_a_line_holds() {
        let file = file_with(b"{\"event\":\"sto\\npped\"}\n");
        let error = read(file.path()).unwrap().next().unwrap().unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(r"`sto\npped`") && !source.contains('\n'), "{source}");
    }

    #[test]
    fn incomplete_last_line_is_skipped() {
        check(b"", 0);
        check(LINES.as_bytes(), 2);
        let first = LINES.find('\n').unwrap();
        for cut in 0..LINES.len() {
            check(&LINES.as_bytes()[..cut], usize::from(cut > first));
        }
    }

    #[test]
    fn invalid_line_elsewhere_is_named() {
        let text = LINES.replace("stopped", "stepped");
        let file = file_with(text.as_bytes());
        let error = read(file.path()).unwrap().find_map(Result::err).unwrap();
        let message = format!("{:#}", anyhow::Error::from(error));
        assert!(message.contains("line 2: not an entry of hiend-train: unknown variant `stepped`"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn file_without_line_ends_is_refused_in_bounded_memory() {
        let file = file_with(&vec![b'x'; 3 * MAX_LINE as usize]);
        assert!(matches!(read(file.path()).unwrap().next(), Some(Err(JournalError::Line { line: 1, .. }))));
    }

    #[test]
    fn resumed_run_removes_an_incomplete_line() {
        let file = file_with(format!("{LINES}{{\"event\":\"st").as_bytes());
        let entry = Entry::Started { step: 2, device: "CPU".into() };
        Journal::open(file.path(), true).unwrap().write(&entry).unwrap();
        let entries: Vec<Entry> = read(file.path()).unwrap().map(Result::unwrap).collect();
        assert_eq!((entries.len(), &entries[2]), (3, &entry));
        Journal::open(file.path(), false).unwrap();
        check(&std::fs::read(file.path()).unwrap(), 0);
    }

    #[test]
    fn resumed_run_removes_garbage_and_keeps_the_lines_around_it() {
        let [first, second] = [0, 1].map(|idx| LINES.split_inclusive('\n').nth(idx).unwrap());
        let zeros = "\0".repeat(40);
        let kept = format!("{first}{second}");
        for damaged in [
            format!("{first}{zeros}{second}{second}"),
            format!("{first}{zeros}\n{second}"),
            format!("{zeros}\n{first}{second}{zeros}"),
            format!("{first}{{\"event\":\"st{zeros}\n{second}{{\"ev"),
        ] {
            let file = file_with(damaged.as_bytes());
            Journal::open(file.path(), true).unwrap();
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), kept, "{damaged:?}");
        }
        // The tail begins within a line.
        let long = format!("{}\n{zeros}\n", first.trim_end().repeat(2 * MAX_LINE as usize / first.len()));
        let file = file_with(long.as_bytes());
        Journal::open(file.path(), true).unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().len() as usize, long.len() - zeros.len() - 1);
    }

    /// Writer that lets four bytes of each write through and fails from the second write on.
    #[derive(Default)]
    struct DiskFull {
        writes: std::sync::atomic::AtomicUsize,
    }

    impl Observer for DiskFull {
        fn before(&self, _: &Operation<'_>) -> io::Result<()> {
            let earlier = self.writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if earlier > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn after(&self, _: &Operation<'_>) {}

        fn write_len(&self, _: &Path, len: usize) -> usize {
            len.min(4)
        }
    }

    #[test]
    fn line_that_does_not_fit_on_the_disk_leaves_no_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, false).unwrap();
        let entry = |step| Entry::Started { step, device: "CPU".into() };
        journal.write(&entry(1)).unwrap();
        let full = observe(&path, Arc::new(DiskFull::default()));
        assert_eq!(journal.write(&entry(2)).unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(full);
        journal.write(&entry(3)).unwrap();
        let entries: Vec<Entry> = read(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(entries, [entry(1), entry(3)]);
    }

    #[test]
    fn unmeasured_dice_survives_a_round_trip() {
        let record = ValidationRecord { mean_fg_dice: f64::NAN, ..validation_record(3, 0.25) };
        let line = serde_json::to_string(&Entry::Validation(record)).unwrap();
        let Entry::Validation(read) = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
        assert!(read.mean_fg_dice.is_nan() && (read.mean_dice - 0.25).abs() < 1e-12, "{line}");
        assert!(line.contains(r#""mean_fg_dice":null"#), "{line}");
    }
}
