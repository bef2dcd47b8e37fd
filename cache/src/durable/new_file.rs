//! A file that is written under a temporary name and then takes its own.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{TEMPORARY_PREFIX, TemporaryFile, sync_dir};
use crate::error::FileError;
use crate::lookup;

/// A file being written under a temporary name. Dropping it without [`NewFile::commit`] removes it.
#[derive(Debug)]
pub struct NewFile {
    file: TemporaryFile,
    pub(super) target: PathBuf,
}

impl NewFile {
    /// Creates a temporary file in the folder of `path`.
    ///
    /// # Errors
    /// If the file cannot be created, or `path` is something other than a file.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let target = match lookup::metadata(path)? {
            Some(metadata) if !metadata.is_file() => {
                let reason = "exists and is not a regular file";
                return Err(FileError::at(path, "replace")(io::Error::new(io::ErrorKind::InvalidInput, reason)));
            }
            Some(_) if path.is_symlink() => std::fs::canonicalize(path).map_err(FileError::at(path, "look up"))?,
            _ => path.to_owned(),
        };
        let file =
            TemporaryFile::create(lookup::parent(&target), TEMPORARY_PREFIX).map_err(FileError::at(path, "create"))?;
        Ok(Self { file, target })
    }

    /// Path of the temporary file.
    pub(super) fn temporary_path(&self) -> &Path {
        self.file.path()
    }

    /// Syncs the file, renames it onto its name and syncs the folder.
    ///
    /// # Errors
    /// If one of these fails; the previous content is untouched unless only the last one did.
    pub fn commit(self) -> Result<(), FileError> {
        self.file.sync_all().map_err(FileError::at(&self.target, "sync"))?;
        self.file.persist(&self.target).map_err(|err| FileError::at(&self.target, "replace")(err.error))?;
        sync_dir(lookup::parent(&self.target))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl io::Seek for NewFile {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
