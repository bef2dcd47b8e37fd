//! Names for finished files that no other file has.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::durable::{self, TemporaryFile, Unnamed};
use crate::error::FileError;
use crate::lookup;

/// Prefix of the files and objects that reserve a name.
pub(crate) const RESERVATION_PREFIX: &str = ".name-";

/// Outcome of giving a file a name that must be new.
#[derive(Debug)]
pub(crate) enum Renamed {
    Done,
    /// Another file has the name.
    Taken(TemporaryFile),
}

/// Gives a synced file a name that no other file has.
pub(crate) fn rename_new(file: TemporaryFile, path: &Path) -> Result<Renamed, FileError> {
    match file.persist_noclobber(path) {
        Ok(()) => Ok(Renamed::Done),
        Err(err) if err.error.kind() == io::ErrorKind::AlreadyExists => Ok(Renamed::Taken(err.file)),
        // The system can do neither: no RENAME_NOREPLACE and no hard links, as on some network file systems.
        Err(err) if lacks_exclusive_rename(&err.error) => reserve_and_rename(err.file, path),
        Err(err) => Err(FileError::at(path, "name the finished file")(err.error)),
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
fn reserve_and_rename(file: TemporaryFile, path: &Path) -> Result<Renamed, FileError> {
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
            Ok(()) => Ok(Renamed::Done),
            Err(Unnamed { error, .. }) => Err(FileError::at(path, "name the finished file")(error)),
        },
        Err(err) => Err(err),
    };
    durable::remove_file(&reservation)?;
    renamed
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn temporary(dir: &Path, content: &[u8]) -> TemporaryFile {
        let mut file = TemporaryFile::create(dir, ".new-").unwrap();
        file.write_all(content).unwrap();
        file
    }

    /// Both ways of naming a shard keep an existing file and hand back the new one.
    #[test]
    fn existing_name_is_taken_and_a_new_one_is_given() {
        for rename in [rename_new as fn(TemporaryFile, &Path) -> Result<Renamed, FileError>, reserve_and_rename] {
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
}
