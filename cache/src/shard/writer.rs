//! Writes a shard under a temporary name and gives it its own when everything is on disk.
//!
//! A process that is killed leaves at most a `.tmp` file, which no reader looks at and which the next run removes:
//! a writer that is alive holds a lock on its file.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::record::Directory;
use super::{EXTENSION, HEADER_LEN, Shard, footer_bytes, header_bytes};
use crate::durable;
use crate::encode::EncodedCase;
use crate::error::{Error, Result};
use crate::index::Entry;

const TEMPORARY_PREFIX: &str = ".shard-";
/// Records are copied from shard to shard in pieces of so many bytes.
const COPY_LEN: u64 = 8 << 20;

/// A shard being written. Dropping it without [`ShardWriter::finish`] removes what was written.
pub struct ShardWriter {
    dir: PathBuf,
    file: BufWriter<NamedTempFile>,
    offset: u64,
    generation: u64,
    worker: u32,
    directory: Option<Directory>,
}

impl ShardWriter {
    /// Begins a shard in `dir`. `generation` decides which record of a case counts, see [`super`]; `worker` only makes
    /// the names of several writers differ.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(dir: &Path, generation: u64, worker: u32) -> Result<Self> {
        let file = durable::temporary(dir, TEMPORARY_PREFIX).map_err(Error::io(dir, "create a file in this folder"))?;
        let mut writer = Self {
            dir: dir.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            offset: 0,
            generation,
            worker,
            directory: None,
        };
        writer.write(&header_bytes(generation))?;
        debug_assert_eq!(writer.offset, HEADER_LEN as u64);
        Ok(writer)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.offset
    }

    /// Whether no case was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directory.is_none()
    }

    /// Appends a case.
    ///
    /// # Errors
    /// If writing fails (disk full), or the case was encoded with other chunks than those before it.
    pub fn push(&mut self, case: EncodedCase) -> Result<()> {
        let EncodedCase { mut record, chunk, data, entries, occupancy } = case;
        if self.directory.as_ref().is_some_and(|directory| directory.chunk != chunk) {
            let reason = format!("chunks of {chunk:?} differ from the shard's");
            return Err(Error::BadCase { case: record.key(), reason });
        }
        let start = self.offset;
        let absolute = |entry: Entry| match entry {
            Entry::Coded { offset, len, crc32c } => Entry::Coded { offset: start + offset, len, crc32c },
            constant @ Entry::Constant(_) => constant,
        };
        let mut index: Vec<u8> = entries.into_iter().flat_map(|entry| absolute(entry).to_bytes()).collect();
        index.extend_from_slice(&occupancy);
        record.span.offset = start;
        record.span.data_len = data.len() as u64;
        record.span.index_len = index.len() as u64;
        record.span.index_crc32c = crc32c::crc32c(&index);
        self.write(&data)?;
        self.write(&index)?;
        self.directory.get_or_insert_with(|| Directory { chunk, cases: Vec::new() }).cases.push(record);
        Ok(())
    }

    /// Appends record `idx` of another shard as it stands: chunks are copied, not decoded.
    ///
    /// Checksums of chunks are copied too, so damage in the old shard stays damage that is found.
    ///
    /// # Errors
    /// If the record cannot be read, its index is damaged, or writing fails.
    pub(crate) fn push_copy(&mut self, shard: &Shard, idx: usize) -> Result<()> {
        let mut record = shard.cases()[idx].clone();
        let chunk = shard.chunk();
        if self.directory.as_ref().is_some_and(|directory| directory.chunk != chunk) {
            let reason = format!("chunks of {chunk:?} differ from the shard's");
            return Err(Error::BadCase { case: record.key(), reason });
        }
        let mut scratch = Vec::new();
        let index = shard.read_index(&record, &mut scratch)?;
        let (from, start) = (record.span.offset, self.offset);
        let moved = |entry: &Entry| match *entry {
            Entry::Coded { offset, len, crc32c } => Entry::Coded { offset: offset - from + start, len, crc32c },
            constant @ Entry::Constant(_) => constant,
        };
        if index.first_offset().is_some_and(|first| first < from) {
            let reason = format!("case {}: chunks lie before the case", record.key());
            return Err(Error::BadShard { path: shard.path().to_owned(), reason });
        }
        let arrays = std::iter::once(&index.image).chain(&index.label);
        let mut bytes: Vec<u8> =
            arrays.flat_map(|array| &array.entries).flat_map(|entry| moved(entry).to_bytes()).collect();
        bytes.extend_from_slice(&index.occupancy.to_bytes(&index.grid));
        let (mut at, end) = (from, record.span.index_offset());
        while at < end {
            let len = (end - at).min(COPY_LEN);
            let piece = usize::try_from(len).unwrap_or(usize::MAX);
            let read = shard.storage().read(at, piece, &mut scratch).map_err(Error::io(shard.path(), "read"))?;
            self.write(read)?;
            at += len;
        }
        record.span.offset = start;
        record.span.index_len = bytes.len() as u64;
        record.span.index_crc32c = crc32c::crc32c(&bytes);
        self.write(&bytes)?;
        self.directory.get_or_insert_with(|| Directory { chunk, cases: Vec::new() }).cases.push(record);
        Ok(())
    }

    /// Writes directory and footer, waits until everything is on disk, and names the shard.
    ///
    /// Returns its path; `None` if no case was written, and then nothing is left behind.
    ///
    /// # Errors
    /// If writing, syncing or renaming fails; nothing is left behind then either.
    pub fn finish(mut self) -> Result<Option<PathBuf>> {
        let Some(directory) = self.directory.take() else { return Ok(None) };
        let bytes = serde_json::to_vec(&directory).map_err(|err| self.error()(err.into()))?;
        let footer = footer_bytes(self.offset, &bytes);
        self.write(&bytes)?;
        self.write(&footer)?;
        let failed = self.error();
        let Self { dir, file, generation, worker, .. } = self;
        let mut file = file.into_inner().map_err(|err| failed(err.into_error()))?;
        file.as_file().sync_all().map_err(Error::io(&dir, "write a shard to disk in this folder"))?;
        for sequence in 0u32.. {
            let path = dir.join(format!("g{generation:04}-w{worker:03}-{sequence:04}.{EXTENSION}"));
            match file.persist_noclobber(&path) {
                Ok(_) => {
                    durable::sync_dir(&dir)?;
                    return Ok(Some(path));
                }
                Err(err) if err.error.kind() == std::io::ErrorKind::AlreadyExists => file = err.file,
                Err(err) => return Err(Error::io(path, "name the finished shard")(err.error)),
            }
        }
        unreachable!("four billion shards of one generation")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let failed = self.error();
        self.file.write_all(bytes).map_err(failed)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn error(&self) -> impl Fn(std::io::Error) -> Error + use<> {
        let path = self.dir.clone();
        move |source| Error::io(&path, "write a shard in this folder")(source)
    }
}

/// Removes the unfinished shards that killed writers left in `dir`; returns their number.
///
/// # Errors
/// If the folder cannot be listed or a file cannot be removed.
pub fn remove_stale(dir: &Path) -> Result<usize> {
    Ok(durable::remove_stale_named(dir, TEMPORARY_PREFIX)?)
}
