//! Advisory locks between processes, one file per lock.
//!
//! The system releases a lock when its process ends, however it ends; the file stays and means nothing by itself.
//! Some network file systems have no locks. To remain usable there, a lock is granted without excluding other processes,
//! and [`FileLock::is_effective`] returns `false`.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::FileError;
use crate::regular;

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
    effective: bool,
    /// Id of the process that took the lock.
    owner: u32,
}

impl FileLock {
    /// Waits until no other process holds the lock, then holds it alone.
    ///
    /// # Errors
    /// If the lock file cannot be created or locked.
    pub fn exclusive(path: &Path) -> Result<Self, FileError> {
        Self::waiting(path, File::lock)
    }

    /// Waits until no other process holds the lock alone, then shares it.
    ///
    /// # Errors
    /// If the lock file cannot be created or locked.
    pub fn shared(path: &Path) -> Result<Self, FileError> {
        Self::waiting(path, File::lock_shared)
    }

    /// Shares the lock, or returns `None` if another process or handle holds it alone.
    ///
    /// # Errors
    /// If the lock file cannot be created or locked.
    pub(crate) fn try_shared(path: &Path) -> Result<Option<Self>, FileError> {
        Self::try_hold(path, File::try_lock_shared)
    }

    /// Holds the lock alone, or returns `None` if another process or handle holds it.
    ///
    /// # Errors
    /// If the lock file cannot be created or locked.
    pub fn try_exclusive(path: &Path) -> Result<Option<Self>, FileError> {
        Self::try_hold(path, File::try_lock)
    }

    /// Returns `true` if the file system has locks, so that this one excludes other processes.
    #[must_use]
    pub fn is_effective(&self) -> bool {
        self.effective
    }

    /// Path of the lock file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Turns a shared lock into one held alone, unless others share it: then it stays shared and the answer is `false`.
    ///
    /// The change is not atomic: another process may have held the lock alone in between.
    ///
    /// # Errors
    /// If the system fails to lock the file.
    pub(crate) fn try_upgrade(&self) -> Result<bool, FileError> {
        if !self.effective {
            return Ok(true);
        }
        self.file.unlock().map_err(FileError::at(&self.path, "unlock"))?;
        if let Attempt::Taken = attempt(&self.file, &self.path, File::try_lock)? {
            wait(&self.file, &self.path, File::lock_shared)?;
            return Ok(false);
        }
        Ok(true)
    }

    fn waiting(path: &Path, lock: fn(&File) -> io::Result<()>) -> Result<Self, FileError> {
        let file = open(path)?;
        let effective = wait(&file, path, lock)?;
        Ok(Self::held(file, path, effective))
    }

    fn try_hold(path: &Path, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Option<Self>, FileError> {
        let file = open(path)?;
        let effective = match attempt(&file, path, lock)? {
            Attempt::Held => true,
            Attempt::Unsupported => false,
            Attempt::Taken => return Ok(None),
        };
        Ok(Some(Self::held(file, path, effective)))
    }

    fn held(file: File, path: &Path, effective: bool) -> Self {
        Self { file, path: path.to_owned(), effective, owner: std::process::id() }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing the file would not do at once: a process that another thread starts at this moment has a copy of it until
        // it executes its program. A process that was forked with the lock must not end it for the one that took it.
        if self.effective && self.owner == std::process::id() {
            // Closing the file releases the lock in the end.
            let _ = self.file.unlock();
        }
    }
}

/// Outcome of an attempt to take a lock.
enum Attempt {
    Held,
    Taken,
    Unsupported,
}

fn open(path: &Path) -> Result<File, FileError> {
    regular::open_with(path, File::options().create(true).append(true))
        .map_err(FileError::at(path, "open the lock file"))
}

/// Waits for a lock; returns `false` where the file system has none.
fn wait(file: &File, path: &Path, lock: fn(&File) -> io::Result<()>) -> Result<bool, FileError> {
    loop {
        match lock(file) {
            Ok(()) => return Ok(true),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if unsupported(&err) => return Ok(false),
            Err(err) => return Err(FileError::at(path, "lock")(err)),
        }
    }
}

fn attempt(file: &File, path: &Path, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Attempt, FileError> {
    match lock(file) {
        Ok(()) => Ok(Attempt::Held),
        Err(TryLockError::WouldBlock) => Ok(Attempt::Taken),
        Err(TryLockError::Error(err)) if unsupported(&err) => Ok(Attempt::Unsupported),
        Err(TryLockError::Error(err)) => Err(FileError::at(path, "lock")(err)),
    }
}

/// Returns `true` for the errors of file systems without locks.
fn unsupported(err: &io::Error) -> bool {
    // NFS without a lock service answers ENOLCK, for which the standard library has no kind.
    #[cfg(unix)]
    if err.raw_os_error() == Some(libc::ENOLCK) {
        return true;
    }
    err.kind() == io::ErrorKind::Unsupported
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusive_lock_excludes_and_is_released_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let held = FileLock::try_exclusive(&path).unwrap().unwrap();
        assert!(held.is_effective());
        assert_eq!(held.path(), path);
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(held);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
    }

    #[test]
    fn dropped_lock_is_released_although_a_starting_process_has_a_copy_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let held = FileLock::exclusive(&path).unwrap();
        // A copy that a process has between its fork and the execution of its program.
        let copy = held.file.try_clone().unwrap();
        drop(held);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
        drop(copy);
    }

    #[test]
    fn forked_process_does_not_release_the_lock_of_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let held = FileLock::exclusive(&path).unwrap();
        // The lock as a forked process has it: with another owner.
        let owner = held.owner.wrapping_add(1);
        drop(FileLock { file: held.file.try_clone().unwrap(), path: path.clone(), effective: true, owner });
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(held);
    }

    #[test]
    fn shared_lock_is_upgraded_only_when_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".lock");
        let (first, second) = (FileLock::shared(&path).unwrap(), FileLock::shared(&path).unwrap());
        assert!(!first.try_upgrade().unwrap());
        assert!(FileLock::try_exclusive(&path).unwrap().is_none(), "it is still shared");
        assert!(FileLock::try_shared(&path).unwrap().is_some());
        drop(second);
        assert!(first.try_upgrade().unwrap());
        assert!(FileLock::try_shared(&path).unwrap().is_none(), "it is held alone");
        drop(first);
        assert!(FileLock::exclusive(&path).is_ok());
    }

    #[test]
    fn lock_in_a_missing_folder_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/.lock");
        assert_eq!(FileLock::exclusive(&path).unwrap_err().path, path);
        assert_eq!(FileLock::try_exclusive(&path).unwrap_err().path, path);
    }

    #[cfg(unix)]
    #[test]
    fn only_missing_lock_support_is_tolerated() {
        for code in [libc::ENOLCK, libc::ENOSYS, libc::EOPNOTSUPP] {
            assert!(unsupported(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::EIO, libc::EACCES, libc::EBADF] {
            assert!(!unsupported(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }
}
