//! Shard writer: cases, directory and footer, to a `target` that appears complete or not at all.

use std::path::PathBuf;

use super::layout::{HEADER_LEN, footer_bytes, header_bytes};
use super::reader::Shard;
use super::target::Target;
use crate::damage::{CaseIndexError, ShardError};
use crate::encode::EncodedCase;
use crate::error::{CaseError, Error, FileError, Result};
use crate::index::Entry;
use crate::location::Location;
use crate::place::Place;
use crate::record::{CaseRecord, Directory};

pub use super::target::remove_stale;

/// Length in bytes of the pieces in which cases are copied from shard to shard.
const COPY_LEN: u64 = 8 << 20;

/// A shard being written. Dropping it without [`ShardWriter::finish`] leaves no file.
pub struct ShardWriter {
    location: Location,
    target: Target,
    offset: u64,
    directory: Option<Directory>,
}

impl ShardWriter {
    /// Creates a shard. `generation` decides which record of a case is live, see [`super`]; `worker` only makes the
    /// names of several writers differ.
    ///
    /// # Errors
    /// If the file or object cannot be created.
    pub fn create(at: impl Into<Location>, generation: u64, worker: u32) -> Result<Self> {
        let location = at.into();
        let target = Target::create(&Place::of(&location)?, generation, worker)?;
        let mut writer = Self { location, target, offset: 0, directory: None };
        writer.write(&header_bytes(generation))?;
        debug_assert_eq!(writer.offset, HEADER_LEN as u64);
        Ok(writer)
    }

    /// Number of bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.offset
    }

    /// Returns `true` if no case has been written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directory.is_none()
    }

    /// Appends a case.
    ///
    /// # Errors
    /// If writing fails (disk full), or the case has another chunk shape than those before it.
    pub fn push(&mut self, case: EncodedCase) -> Result<()> {
        let EncodedCase { mut record, chunk, data, entries, occupancy } = case;
        self.check_chunk(&record, chunk)?;
        let start = self.offset;
        let absolute = |entry: Entry| match entry {
            Entry::Coded { offset, len, crc32c } => Entry::Coded { offset: start + offset, len, crc32c },
            constant @ Entry::Constant(_) => constant,
        };
        let mut index: Vec<u8> = entries.into_iter().flat_map(|entry| absolute(entry).to_bytes()).collect();
        index.extend_from_slice(&occupancy);
        record.span.offset = start;
        record.span.data_len = data.len() as u64;
        self.write(&data)?;
        self.write_index(record, chunk, &index)
    }

    /// Appends record `idx` of another shard; copies its chunks without decoding them.
    ///
    /// Checksums of chunks are copied too, so that damage in the old shard remains detectable.
    ///
    /// # Errors
    /// If the record cannot be read, its index is damaged, or writing fails.
    pub(crate) fn push_copy(&mut self, shard: &Shard, idx: usize) -> Result<()> {
        let mut record = shard.cases()[idx].clone();
        let chunk = shard.chunk();
        self.check_chunk(&record, chunk)?;
        let mut scratch = Vec::new();
        let index = shard.read_index(&record, &mut scratch)?;
        let (from, start) = (record.span.offset, self.offset);
        if index.first_offset().is_some_and(|first| first < from) {
            let reason = ShardError::Case { case: record.key(), error: CaseIndexError::BeforeCase };
            return Err(Error::BadShard { path: shard.path().to_owned(), reason });
        }
        let moved = |entry: &Entry| match *entry {
            Entry::Coded { offset, len, crc32c } => Entry::Coded { offset: offset - from + start, len, crc32c },
            constant @ Entry::Constant(_) => constant,
        };
        let arrays = std::iter::once(&index.image).chain(&index.label);
        let mut bytes: Vec<u8> =
            arrays.flat_map(|array| &array.entries).flat_map(|entry| moved(entry).to_bytes()).collect();
        bytes.extend_from_slice(&index.occupancy.to_bytes(&index.grid));
        let (mut at, end) = (from, record.span.index_offset());
        while at < end {
            let len = (end - at).min(COPY_LEN);
            let piece = usize::try_from(len).unwrap_or(usize::MAX);
            shard.storage().with_bytes(at, piece, &mut scratch, |bytes| self.write(bytes))??;
            at += len;
        }
        record.span.offset = start;
        self.write_index(record, chunk, &bytes)
    }

    /// Writes directory and footer, syncs a file, and names the shard.
    ///
    /// Returns its path or URL; `None` if no case was written, and then no file remains.
    ///
    /// # Errors
    /// If writing, syncing or naming fails; no shard remains then either.
    pub fn finish(self) -> Result<Option<PathBuf>> {
        Ok(self.finish_with_len()?.map(|(path, _)| path))
    }

    /// Finishes as [`Self::finish`] does, and also returns the length of the shard in bytes.
    pub(crate) fn finish_with_len(mut self) -> Result<Option<(PathBuf, u64)>> {
        let Some(directory) = self.directory.take() else { return Ok(None) };
        let failed = FileError::at(self.location.as_path(), "write a shard in this folder");
        let bytes = serde_json::to_vec(&directory).map_err(|err| failed(err.into()))?;
        let footer = footer_bytes(self.offset, &bytes);
        self.write(&bytes)?;
        self.write(&footer)?;
        let Self { target, offset, .. } = self;
        Ok(Some((target.finish()?, offset)))
    }

    /// Appends the index of the case whose data was just written, and its record.
    fn write_index(&mut self, mut record: CaseRecord, chunk: [usize; 3], index: &[u8]) -> Result<()> {
        record.span.index_len = index.len() as u64;
        record.span.index_crc32c = crc32c::crc32c(index);
        self.write(index)?;
        self.directory.get_or_insert_with(|| Directory { chunk, cases: Vec::new() }).cases.push(record);
        Ok(())
    }

    /// Checks that a case has the chunk shape of the cases before it.
    fn check_chunk(&self, record: &CaseRecord, chunk: [usize; 3]) -> Result<()> {
        match &self.directory {
            Some(directory) if directory.chunk != chunk => {
                let reason = CaseError::ChunkShape { chunk, expected: directory.chunk };
                Err(Error::BadCase { case: record.key(), reason })
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.target.write(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writer_without_cases_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
        assert!(writer.is_empty());
        assert_eq!(writer.len(), HEADER_LEN as u64);
        assert_eq!(writer.finish().unwrap(), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
