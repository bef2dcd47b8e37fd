//! Shard writer: writes under a temporary name and names the shard once everything is on disk.
//!
//! A process that is killed leaves at most a `.tmp` file. No reader opens it, and the next run removes it: a writer at
//! work holds a lock on its file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::layout::{EXTENSION, HEADER_LEN, footer_bytes, header_bytes};
use super::reader::Shard;
use crate::damage::{CaseIndexError, ShardError};
use crate::durable;
use crate::encode::EncodedCase;
use crate::error::{CaseError, Error, FileError, Result};
use crate::index::Entry;
use crate::lookup;
use crate::record::{CaseRecord, Directory};

const TEMPORARY_PREFIX: &str = ".shard-";
/// Prefix of the files that reserve a shard's name, see [`reserve_and_rename`].
const RESERVATION_PREFIX: &str = ".name-";
/// Buffer of the writer in bytes.
const BUFFER_LEN: usize = 1 << 20;
/// Length in bytes of the pieces in which cases are copied from shard to shard.
const COPY_LEN: u64 = 8 << 20;

/// A shard being written. Dropping it without [`ShardWriter::finish`] removes the file.
pub struct ShardWriter {
    dir: PathBuf,
    file: BufWriter<NamedTempFile>,
    offset: u64,
    generation: u64,
    worker: u32,
    directory: Option<Directory>,
}

impl ShardWriter {
    /// Creates a shard in `dir`. `generation` decides which record of a case counts, see [`super`]; `worker` only keeps
    /// the names of several writers apart.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(dir: &Path, generation: u64, worker: u32) -> Result<Self> {
        let file =
            durable::temporary(dir, TEMPORARY_PREFIX).map_err(FileError::at(dir, "create a file in this folder"))?;
        let mut writer = Self {
            dir: dir.to_owned(),
            file: BufWriter::with_capacity(BUFFER_LEN, file),
            offset: 0,
            generation,
            worker,
            directory: None,
        };
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

    /// Writes directory and footer, syncs the file, and names the shard.
    ///
    /// Returns its path; `None` if no case was written, and then no file remains.
    ///
    /// # Errors
    /// If writing, syncing or renaming fails; no file remains then either.
    pub fn finish(mut self) -> Result<Option<PathBuf>> {
        let Some(directory) = self.directory.take() else { return Ok(None) };
        let bytes = serde_json::to_vec(&directory).map_err(|err| self.error()(err.into()))?;
        let footer = footer_bytes(self.offset, &bytes);
        self.write(&bytes)?;
        self.write(&footer)?;
        let failed = self.error();
        let Self { dir, file, generation, worker, .. } = self;
        let mut file = file.into_inner().map_err(|err| failed(err.into_error()))?;
        file.as_file().sync_all().map_err(FileError::at(&dir, "sync a shard in this folder"))?;
        for sequence in 0u32.. {
            let path = dir.join(format!("g{generation:04}-w{worker:03}-{sequence:04}.{EXTENSION}"));
            match rename_new(file, &path)? {
                Renamed::Done => {
                    durable::sync_dir(&dir)?;
                    return Ok(Some(path));
                }
                Renamed::Taken(back) => file = back,
            }
        }
        unreachable!("a folder holds fewer than four billion shards of one generation")
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
        let failed = self.error();
        self.file.write_all(bytes).map_err(failed)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn error(&self) -> impl FnOnce(io::Error) -> Error + use<> {
        let dir = self.dir.clone();
        move |source| FileError { path: dir, action: "write a shard in this folder", source }.into()
    }
}

/// Outcome of giving a file a name that must be new.
#[derive(Debug)]
enum Renamed {
    Done,
    /// Another file has the name.
    Taken(NamedTempFile),
}

/// Gives a synced file a name that no other file has.
fn rename_new(file: NamedTempFile, path: &Path) -> Result<Renamed, FileError> {
    match file.persist_noclobber(path) {
        Ok(_) => Ok(Renamed::Done),
        Err(err) if err.error.kind() == io::ErrorKind::AlreadyExists => Ok(Renamed::Taken(err.file)),
        // The system can do neither: no RENAME_NOREPLACE and no hard links, as on some network file systems.
        Err(err) if lacks_exclusive_rename(&err.error) => reserve_and_rename(err.file, path),
        Err(err) => Err(FileError::at(path, "name the finished shard")(err.error)),
    }
}

/// Returns `true` for the errors of `link` on file systems without hard links.
fn lacks_exclusive_rename(err: &io::Error) -> bool {
    #[cfg(unix)]
    if matches!(err.raw_os_error(), Some(libc::EPERM | libc::EMLINK | libc::EINVAL | libc::ENOSYS)) {
        return true;
    }
    err.kind() == io::ErrorKind::Unsupported
}

/// Replacement for [`rename_new`] on file systems that can only rename over an existing file.
///
/// A file whose creation is exclusive reserves the name among writers that do the same, and keeps it until the shard has
/// it. A writer killed in between leaves an empty reservation; others then take the next name.
fn reserve_and_rename(file: NamedTempFile, path: &Path) -> Result<Renamed, FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let reservation = path.with_file_name(format!("{RESERVATION_PREFIX}{name}"));
    match File::options().write(true).create_new(true).open(&reservation) {
        Ok(_) => {}
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Ok(Renamed::Taken(file)),
        Err(err) => return Err(FileError::at(reservation, "create")(err)),
    }
    let renamed = match lookup::exists(path) {
        Ok(true) => Ok(Renamed::Taken(file)),
        Ok(false) => match file.persist(path) {
            Ok(_) => Ok(Renamed::Done),
            Err(err) => Err(FileError::at(path, "name the finished shard")(err.error)),
        },
        Err(err) => Err(err),
    };
    std::fs::remove_file(&reservation).map_err(FileError::at(&reservation, "remove"))?;
    renamed
}

/// Removes the unfinished shards that killed writers left in `dir`; returns their number.
///
/// # Errors
/// If the folder cannot be listed or a file cannot be removed.
pub fn remove_stale(dir: &Path) -> Result<usize> {
    Ok(durable::remove_stale_named(dir, TEMPORARY_PREFIX)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn temporary(dir: &Path, content: &[u8]) -> NamedTempFile {
        let mut file = durable::temporary(dir, TEMPORARY_PREFIX).unwrap();
        file.write_all(content).unwrap();
        file
    }

    /// Both ways of naming a shard keep an existing file and hand the new one back.
    #[test]
    fn existing_name_is_taken_and_a_new_one_is_given() {
        for rename in [rename_new as fn(NamedTempFile, &Path) -> Result<Renamed, FileError>, reserve_and_rename] {
            let dir = tempfile::tempdir().unwrap();
            let [first, second] = ["a.shard", "b.shard"].map(|name| dir.path().join(name));
            assert!(matches!(rename(temporary(dir.path(), b"1"), &first).unwrap(), Renamed::Done));
            let Renamed::Taken(file) = rename(temporary(dir.path(), b"2"), &first).unwrap() else { panic!("replaced") };
            assert!(matches!(rename(file, &second).unwrap(), Renamed::Done));
            assert_eq!(names(dir.path()), ["a.shard", "b.shard"]);
            assert_eq!((std::fs::read(first).unwrap(), std::fs::read(second).unwrap()), (b"1".to_vec(), b"2".to_vec()));
        }
    }

    #[test]
    fn reserved_name_is_left_to_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.shard");
        std::fs::write(dir.path().join(".name-a.shard"), b"").unwrap();
        assert!(matches!(reserve_and_rename(temporary(dir.path(), b"1"), &path).unwrap(), Renamed::Taken(_)));
        assert_eq!(names(dir.path()), [".name-a.shard"]);
    }

    #[test]
    fn writer_without_cases_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let writer = ShardWriter::create(dir.path(), 1, 0).unwrap();
        assert!(writer.is_empty());
        assert_eq!(writer.len(), HEADER_LEN as u64);
        assert_eq!(writer.finish().unwrap(), None);
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }

    #[test]
    fn stale_shards_are_removed_and_live_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let live = ShardWriter::create(dir.path(), 1, 0).unwrap();
        std::fs::write(dir.path().join(".shard-killed.tmp"), b"half").unwrap();
        std::fs::write(dir.path().join("g0001-w000-0000.shard"), b"finished").unwrap();
        assert_eq!(remove_stale(dir.path()).unwrap(), 1);
        assert_eq!(names(dir.path()).len(), 2);
        drop(live);
        assert_eq!(names(dir.path()), ["g0001-w000-0000.shard"]);
    }
}
