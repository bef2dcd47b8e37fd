//! Follows a journal while another thread or process writes it.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use hiend_cache::regular;

use super::{Entry, JournalError, MAX_LINE};

/// Position in a journal that may still grow.
#[derive(Clone, Debug)]
pub struct Follower {
    path: PathBuf,
    place: Place,
}

/// Position after a complete line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Number of bytes before the position.
    offset: u64,
    /// Number of lines before the position.
    lines: u64,
}

/// Entries that follow a position.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Entries, in the order in which they were written.
    pub entries: Vec<Entry>,
    /// True if no complete line followed these entries.
    pub is_last: bool,
    /// Position after these entries.
    end: Place,
}

impl Follower {
    /// Starts at the beginning of the journal at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), place: Place::default() }
    }

    /// Reads up to `max` entries without moving the position. A line without an end is not read, because it is still
    /// being written.
    ///
    /// # Errors
    /// If the file cannot be read, or a line is not an entry.
    pub fn peek(&self, max: usize) -> Result<Chunk, JournalError> {
        let failed = |source| JournalError::Read { path: self.path.clone(), source };
        let mut file = regular::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(self.place.offset)).map_err(failed)?;
        let mut file = BufReader::new(file);
        let (mut entries, mut end, mut bytes) = (Vec::new(), self.place, Vec::new());
        while entries.len() < max {
            bytes.clear();
            (&mut file).take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(failed)?;
            let len = bytes.len() as u64;
            if bytes.last() != Some(&b'\n') && len != MAX_LINE {
                return Ok(Chunk { entries, is_last: true, end });
            }
            end = Place { offset: end.offset + len, lines: end.lines + 1 };
            let entry = serde_json::from_slice(&bytes);
            let invalid = |error: serde_json::Error| JournalError::Line {
                path: self.path.clone(),
                line: end.lines,
                source: error.into(),
            };
            entries.push(entry.map_err(invalid)?);
        }
        Ok(Chunk { entries, is_last: false, end })
    }

    /// Moves the position past the entries of a chunk.
    pub fn advance(&mut self, chunk: &Chunk) {
        self.place = chunk.end;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use super::*;
    use crate::journal::Journal;
    use crate::journal::testing::step_record;

    #[test]
    fn complete_lines_are_read_once_while_the_journal_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        let mut journal = Journal::open(&path, false).unwrap();
        let mut follower = Follower::new(&path);
        let mut read = |max| {
            let chunk = follower.peek(max).unwrap();
            follower.advance(&chunk);
            let steps = chunk.entries.iter().map(|entry| match entry {
                Entry::Step(record) => record.step,
                other => panic!("{other:?}"),
            });
            (steps.collect::<Vec<_>>(), chunk.is_last)
        };
        assert_eq!(read(2), (vec![], true));
        for step in 1..=3 {
            journal.write(&Entry::Step(step_record(step, 0.5))).unwrap();
        }
        assert_eq!(read(2), (vec![1, 2], false));
        assert_eq!(read(2), (vec![3], true));
        let mut file = File::options().append(true).open(&path).unwrap();
        let line = serde_json::to_string(&Entry::Step(step_record(4, 0.5))).unwrap();
        let (first, second) = line.split_at(20);
        file.write_all(first.as_bytes()).unwrap();
        assert_eq!(read(2), (vec![], true));
        file.write_all(format!("{second}\n").as_bytes()).unwrap();
        assert_eq!(read(2), (vec![4], true));
    }

    #[test]
    fn chunk_that_was_not_advanced_over_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        Journal::open(&path, false).unwrap().write(&Entry::Step(step_record(1, 0.5))).unwrap();
        let follower = Follower::new(&path);
        assert_eq!(follower.peek(9).unwrap().entries, follower.peek(9).unwrap().entries);
        assert_eq!(follower.peek(9).unwrap().entries.len(), 1);
    }

    #[test]
    fn invalid_line_is_named_by_its_number_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        Journal::open(&path, false).unwrap().write(&Entry::Step(step_record(1, 0.5))).unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"{}\n").unwrap();
        let mut follower = Follower::new(&path);
        let chunk = follower.peek(1).unwrap();
        follower.advance(&chunk);
        let message = follower.peek(1).unwrap_err().to_string();
        assert!(message.ends_with("journal.jsonl, line 2: not an entry of hiend-train"), "{message}");
    }
}
