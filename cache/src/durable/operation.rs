//! Announcements of every operation that changes files: the seam for simulated power cuts, kills and failing disks.
//!
//! An [`Observer`] is notified of each operation below a folder before it happens, may let it fail, and is notified
//! when it has succeeded. Nothing else in this crate or above it knows of observers; without one an operation costs a
//! load of an atomic integer. The campaign in the package `tests` reconstructs from these announcements every state
//! that a power cut could leave.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// An operation that changes files, or makes a change durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Creation of a file in the folder `dir`, possibly under a name that is not chosen yet.
    Create {
        /// Folder of the file.
        dir: &'a Path,
    },
    /// Appending of bytes to a file.
    Write {
        /// Path of the file.
        path: &'a Path,
        /// Number of bytes.
        len: usize,
    },
    /// Synchronization of a file's content and length.
    SyncFile {
        /// Path of the file.
        path: &'a Path,
    },
    /// Synchronization of a folder's names.
    SyncDir {
        /// Path of the folder.
        path: &'a Path,
    },
    /// Change of a file's or folder's name.
    Rename {
        /// Old path.
        from: &'a Path,
        /// New path.
        to: &'a Path,
    },
    /// Removal of a file, or of a folder with its content.
    Remove {
        /// Path of the file or folder.
        path: &'a Path,
    },
    /// Creation of a folder.
    CreateDir {
        /// Path of the folder.
        path: &'a Path,
    },
}

impl Operation<'_> {
    /// Path that decides which observers are notified; for a rename, the new path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Create { dir: path }
            | Self::Write { path, .. }
            | Self::SyncFile { path }
            | Self::SyncDir { path }
            | Self::Rename { to: path, .. }
            | Self::Remove { path }
            | Self::CreateDir { path } => path,
        }
    }
}

/// Receiver of announcements. Calls come from the threads that do the operations.
pub trait Observer: Send + Sync {
    /// Called before an operation. An error takes the place of the operation.
    ///
    /// # Errors
    /// The error that the operation fails with.
    fn before(&self, operation: &Operation<'_>) -> io::Result<()>;

    /// Called after an operation that succeeded.
    fn after(&self, operation: &Operation<'_>);

    /// Number of bytes of `len` that the next write accepts; fewer than `len` simulate a short write.
    fn write_len(&self, path: &Path, len: usize) -> usize {
        let _ = path;
        len
    }
}

/// Registration of an observer; dropping it ends the announcements.
#[derive(Debug)]
pub struct Observation {
    id: usize,
}

struct Registered {
    id: usize,
    root: PathBuf,
    observer: Arc<dyn Observer>,
}

static REGISTERED: RwLock<Vec<Registered>> = RwLock::new(Vec::new());
/// Length of [`REGISTERED`].
static NUM_REGISTERED: AtomicUsize = AtomicUsize::new(0);
static NEXT_ID: AtomicUsize = AtomicUsize::new(0);

/// Announces all later operations of this process on and below the folder `root` to an observer.
///
/// Paths are compared as they are written, so `root` must be the prefix that the operations use.
#[must_use]
pub fn observe(root: &Path, observer: Arc<dyn Observer>) -> Observation {
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
    registered.push(Registered { id, root: root.to_owned(), observer });
    NUM_REGISTERED.store(registered.len(), Ordering::Release);
    Observation { id }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let mut registered = REGISTERED.write().unwrap_or_else(PoisonError::into_inner);
        registered.retain(|other| other.id != self.id);
        NUM_REGISTERED.store(registered.len(), Ordering::Release);
    }
}

fn observer_of(path: &Path) -> Option<Arc<dyn Observer>> {
    if NUM_REGISTERED.load(Ordering::Acquire) == 0 {
        return None;
    }
    let registered = REGISTERED.read().unwrap_or_else(PoisonError::into_inner);
    registered.iter().find(|one| path.starts_with(&one.root)).map(|one| Arc::clone(&one.observer))
}

/// Performs an operation, announced before and after.
pub(super) fn announced<T, E>(operation: &Operation<'_>, act: impl FnOnce() -> Result<T, E>) -> Result<T, E>
where
    E: From<io::Error>,
{
    let Some(observer) = observer_of(operation.path()) else { return act() };
    observer.before(operation)?;
    let value = act()?;
    observer.after(operation);
    Ok(value)
}

/// Writes `bytes`, or only the first part of them if an observer shortens the write.
pub(super) fn announced_write(
    path: &Path,
    bytes: &[u8],
    write: impl FnOnce(&[u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let Some(observer) = observer_of(path) else { return write(bytes) };
    let len = observer.write_len(path, bytes.len()).min(bytes.len());
    let operation = Operation::Write { path, len };
    observer.before(&operation)?;
    let written = write(&bytes[..len])?;
    observer.after(&operation);
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::Mutex;

    use super::*;
    use crate::durable;

    /// Logs every operation and fails those from number `fail_from` on.
    struct Log {
        lines: Mutex<Vec<String>>,
        fail_from: usize,
    }

    impl Observer for Log {
        fn before(&self, operation: &Operation<'_>) -> io::Result<()> {
            let line = format!("{operation:?}");
            let mut lines = self.lines.lock().unwrap();
            lines.push(line.split([' ', '{']).next().unwrap_or_default().to_owned());
            if lines.len() > self.fail_from { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn after(&self, _: &Operation<'_>) {}

        fn write_len(&self, _: &Path, len: usize) -> usize {
            len.min(3)
        }
    }

    fn log(dir: &Path, fail_from: usize) -> (Arc<Log>, Observation) {
        let log = Arc::new(Log { lines: Mutex::default(), fail_from });
        let observation = observe(dir, Arc::clone(&log) as Arc<dyn Observer>);
        (log, observation)
    }

    #[test]
    fn every_operation_of_a_write_is_announced_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let (log, observation) = log(dir.path(), usize::MAX);
        durable::write(&dir.path().join("a"), b"12345").unwrap();
        drop(observation);
        durable::write(&dir.path().join("b"), b"12345").unwrap();
        assert_eq!(*log.lines.lock().unwrap(), ["Create", "Write", "Write", "SyncFile", "Rename", "SyncDir"]);
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"12345");
    }

    #[test]
    fn refused_operation_keeps_the_old_content() {
        for fail_from in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("f");
            std::fs::write(&path, b"old").unwrap();
            let (_, _observation) = log(dir.path(), fail_from);
            let error = durable::write_with(&path, |file| file.write_all(b"new..")).unwrap_err();
            assert_eq!((error.path.as_path(), error.source.kind()), (path.as_path(), io::ErrorKind::StorageFull));
            assert_eq!(std::fs::read(&path).unwrap(), b"old");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
