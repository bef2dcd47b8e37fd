//! Temporary files that killed processes left.

use std::io;
use std::path::Path;

use super::{TEMPORARY_PREFIX, TEMPORARY_SUFFIX, remove_file};
use crate::error::FileError;
use crate::lookup;
use crate::regular;

/// Removes the temporary files that killed processes left in `dir`; returns their number.
///
/// # Errors
/// If the folder cannot be listed or a file cannot be removed.
pub fn remove_stale(dir: &Path) -> Result<usize, FileError> {
    remove_stale_named(dir, TEMPORARY_PREFIX)
}

/// Removes the temporary files that killed processes left next to `path`, a file that is about to be written.
///
/// They only take space, so an error here is ignored. A folder that cannot be written fails the write.
pub fn remove_stale_beside(path: &Path) {
    let _ = remove_stale(lookup::parent(path));
}

/// Returns `true` if a file's name is that of a temporary file of this module.
#[cfg(feature = "object-store")]
pub(crate) fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX))
}

/// Removes the temporary files with a certain prefix that no process is writing.
pub(crate) fn remove_stale_named(dir: &Path, prefix: &str) -> Result<usize, FileError> {
    let mut removed = 0;
    for entry in std::fs::read_dir(dir).map_err(FileError::at(dir, "list"))? {
        let path = entry.map_err(FileError::at(dir, "list"))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((random, extension)) = name.strip_prefix(prefix).and_then(|rest| rest.split_once('.')) else {
            continue;
        };
        // A writer at work holds the lock of the temporary file. Without locks on the file system the file stays.
        let is_stale = if TEMPORARY_SUFFIX.strip_prefix('.') == Some(extension) {
            is_unlocked(&path)
        } else {
            let temporary = dir.join(format!("{prefix}{random}{TEMPORARY_SUFFIX}"));
            !lookup::exists(&temporary)? || is_unlocked(&temporary)
        };
        if !is_stale {
            continue;
        }
        match remove_file(&path) {
            Ok(()) => removed += 1,
            Err(err) if err.source.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
    }
    Ok(removed)
}

/// Returns `true` if no process holds the lock of a file.
fn is_unlocked(path: &Path) -> bool {
    regular::open(path).is_ok_and(|file| file.try_lock().is_ok())
}
