//! Files under temporary names, locked by their writers.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::TEMPORARY_SUFFIX;
use super::operation::{Operation, announced, announced_write};

/// A locked file under a temporary name. Dropping it removes the file, unless the file was renamed to a permanent name.
#[derive(Debug)]
pub(crate) struct TemporaryFile {
    file: NamedTempFile,
}

/// A temporary file that could not be renamed, with the reason.
#[derive(Debug)]
pub(crate) struct Unnamed {
    /// The system's reason.
    pub(crate) error: io::Error,
    /// The file, still under its temporary name.
    pub(crate) file: TemporaryFile,
}

impl TemporaryFile {
    /// Creates a file whose mode is left to the umask.
    pub(crate) fn create(dir: &Path, prefix: &str) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(prefix).suffix(TEMPORARY_SUFFIX);
        // By default, only the owner could read the file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        loop {
            let file = announced(&Operation::Create { dir }, || builder.tempfile_in(dir).map_err(without_path))?;
            // The lock keeps `remove_stale` away. That function may have come between creation and lock: then the name
            // is gone and another file is created. A file system without locks has no such race, because nothing is
            // removed.
            if file.as_file().lock().is_err() || std::fs::symlink_metadata(file.path()).is_ok() {
                return Ok(Self { file });
            }
        }
    }

    /// Temporary path.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Syncs content and length.
    pub(crate) fn sync_all(&self) -> io::Result<()> {
        announced(&Operation::SyncFile { path: self.path() }, || self.file.as_file().sync_all())
    }

    /// Gives the file its name, replacing a file that has it.
    pub(crate) fn persist(self, path: &Path) -> Result<(), Unnamed> {
        self.name(path, |file| file.persist(path))
    }

    /// Gives the file its name, unless another file has it.
    pub(crate) fn persist_noclobber(self, path: &Path) -> Result<(), Unnamed> {
        self.name(path, |file| file.persist_noclobber(path))
    }

    fn name(
        self,
        path: &Path,
        rename: impl FnOnce(NamedTempFile) -> Result<File, tempfile::PersistError>,
    ) -> Result<(), Unnamed> {
        let from = self.path().to_owned();
        let mut file = Some(self.file);
        let mut unnamed = None;
        let renamed = announced(&Operation::Rename { from: &from, to: path }, || {
            rename(file.take().expect("renamed once")).map(drop).map_err(|err| {
                unnamed = Some(err.file);
                err.error
            })
        });
        renamed.map_err(|error| Unnamed {
            error,
            file: Self { file: file.or(unnamed).expect("a file that was not renamed is still there") },
        })
    }
}

impl Write for TemporaryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { file } = self;
        let path = file.path().to_owned();
        announced_write(&path, bytes, |bytes| file.as_file_mut().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

impl Seek for TemporaryFile {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.as_file_mut().seek(to)
    }
}

/// Strips the temporary path that `tempfile` adds to the system's error; callers name the target.
fn without_path(err: io::Error) -> io::Error {
    let cause = err.get_ref().and_then(|inner| inner.source()?.downcast_ref::<io::Error>()?.raw_os_error());
    cause.map_or(err, io::Error::from_raw_os_error)
}
