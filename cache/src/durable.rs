//! Durable writes: a file appears under its name complete and synced to disk, or not at all.
//!
//! Every function follows the same order: write under a temporary name in the target's folder, sync the file, rename
//! it onto its name, sync the folder. After a crash or a power cut the name holds the old content or the new content.
//! Without the last operation, a file that was reported as written could be gone; without the first two, it could be
//! empty.
//!
//! - The mode of a new file is 0666 less the umask, as for any file a program creates.
//! - An error removes the temporary file. A killed process leaves it behind: [`remove_stale`] finds it by its name and
//!   by the lock that its writer no longer holds.
//! - A symbolic link is followed: its target is replaced and the link stays. Devices, pipes and sockets are refused,
//!   because a rename would replace them with a plain file.
//!
//! ```
//! use hiend_cache::durable;
//! use std::io::Write as _;
//!
//! let dir = tempfile::tempdir()?;
//! let path = dir.path().join("run/config.toml");
//! durable::create_dir_all(path.parent().unwrap())?;
//! durable::write(&path, b"steps = 4\n")?;
//! durable::write_with(&path, |file| writeln!(file, "steps = {}", 5))?;
//! assert_eq!(std::fs::read_to_string(&path)?, "steps = 5\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod new_file;
pub mod operation;
mod stale;
mod temporary;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use crate::error::FileError;
use crate::lookup;
pub use new_file::NewFile;
use operation::{Operation, announced};
#[cfg(feature = "object-store")]
pub(crate) use stale::is_temporary;
pub(crate) use stale::remove_stale_named;
pub use stale::{remove_stale, remove_stale_beside};
pub(crate) use temporary::{TemporaryFile, Unnamed};

/// Prefix of temporary file names. Short and fixed, so that a name of the maximum length can still be written.
pub(crate) const TEMPORARY_PREFIX: &str = ".hiend-";
/// Suffix of temporary file names.
const TEMPORARY_SUFFIX: &str = ".tmp";
/// Buffer of [`write_with`] in bytes.
const BUFFER_LEN: usize = 1 << 18;

/// Replaces the content of `path` with `bytes`.
///
/// # Errors
/// If the file cannot be written; the previous content is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let mut file = NewFile::create(path)?;
    file.write_all(bytes).map_err(FileError::at(path, "write"))?;
    file.commit()
}

/// Replaces the content of `path` with what `write` writes to the buffered file.
///
/// # Errors
/// If the file cannot be written or `write` fails; the previous content is then untouched.
pub fn write_with<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<NewFile>) -> io::Result<T>,
) -> Result<T, FileError> {
    let mut file = BufWriter::with_capacity(BUFFER_LEN, NewFile::create(path)?);
    let value = write(&mut file).map_err(FileError::at(path, "write"))?;
    let file = file.into_inner().map_err(|err| FileError::at(path, "write")(err.into_error()))?;
    file.commit()?;
    Ok(value)
}

/// Replaces the content of `path` with the file that `write` creates under the temporary path it is given.
///
/// For libraries that open the path themselves. The temporary path has the extension of `path`, by which some of them
/// choose a format.
///
/// # Errors
/// If the file cannot be written or `write` fails; the previous content is then untouched.
pub fn write_path<T>(path: &Path, write: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, FileError> {
    // The lock keeps `remove_stale` away from the file that `write` creates and may replace meanwhile.
    let lock = NewFile::create(path)?;
    let partial = lock.temporary_path().with_extension(ending(&lock.target));
    let written = write(&partial)
        .map_err(FileError::at(path, "write"))
        .and_then(|value| open_and_sync(&partial).map(|()| value).map_err(FileError::at(path, "sync")))
        .and_then(|value| rename(&partial, &lock.target).map(|()| value));
    if written.is_err() {
        // The first failure is the one to report; a remainder is removed by `remove_stale`.
        let _ = remove_file(&partial);
    }
    written
}

/// Extension of a file's name in lower case, with the one before it for `.nii.gz` and its like.
fn ending(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let mut parts = name.rsplit('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("gz"), Some(inner), Some(_)) => format!("{inner}.gz"),
        (Some(last), Some(_), _) => last.to_owned(),
        _ => "partial".into(),
    }
}

/// Creates a folder and its missing parents, each of them durably.
///
/// # Errors
/// If a folder cannot be created, or something that is not a folder has its name.
pub fn create_dir_all(path: &Path) -> Result<(), FileError> {
    let mut missing = Vec::new();
    for folder in path.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
        if lookup::exists(folder)? {
            break;
        }
        missing.push(folder);
    }
    for folder in missing.into_iter().rev() {
        match create_dir(folder) {
            Ok(()) => {}
            // Another process was faster.
            Err(err) if err.source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(err) => return Err(err),
        }
        sync_dir(lookup::parent(folder))?;
    }
    if lookup::is_dir(path)? {
        return Ok(());
    }
    Err(FileError::at(path, "create this folder")(io::ErrorKind::NotADirectory.into()))
}

/// Creates a folder below an existing one. Its name is durable once that one is synced.
///
/// # Errors
/// If the folder cannot be created, or its name is taken.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    announced(&Operation::CreateDir { path }, || std::fs::create_dir(path))
        .map_err(FileError::at(path, "create this folder"))
}

/// Removes a file. The removal is durable once its folder is synced.
///
/// # Errors
/// If the system refuses it; the source's kind is `NotFound` for a file that is not there.
pub fn remove_file(path: &Path) -> Result<(), FileError> {
    announced(&Operation::Remove { path }, || std::fs::remove_file(path)).map_err(FileError::at(path, "remove"))
}

/// Removes a folder and everything in it. The removal is durable once the folder above is synced.
///
/// # Errors
/// If the system refuses it; a part of the content may be gone then.
pub fn remove_dir_all(path: &Path) -> Result<(), FileError> {
    announced(&Operation::Remove { path }, || std::fs::remove_dir_all(path)).map_err(FileError::at(path, "remove"))
}

/// Appends bytes to a file that is open for writing at its end; `path` is the file's name.
///
/// # Errors
/// If the system refuses it; a part of the bytes may be in the file then.
pub fn append_to(file: &mut File, path: &Path, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match operation::announced_write(path, bytes, |bytes| file.write(bytes)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

/// Syncs the content and length of an open file; `path` is its name.
///
/// # Errors
/// If the file cannot be synced.
pub fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    announced(&Operation::SyncFile { path }, || file.sync_data())
}

/// Renames a file or folder, whose content is synced, and syncs the folders of both names.
///
/// # Errors
/// If the system refuses the rename or a folder cannot be synced.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    announced(&Operation::Rename { from, to }, || std::fs::rename(from, to))
        .map_err(FileError::at(to, "rename a file to this name"))?;
    let (from, to) = (lookup::parent(from), lookup::parent(to));
    sync_dir(to)?;
    if from == to { Ok(()) } else { sync_dir(from) }
}

/// Syncs a file's content and length.
///
/// # Errors
/// If the file cannot be opened or synced.
pub fn sync_file(path: &Path) -> Result<(), FileError> {
    open_and_sync(path).map_err(FileError::at(path, "sync"))
}

fn open_and_sync(path: &Path) -> io::Result<()> {
    announced(&Operation::SyncFile { path }, || File::open(path).and_then(|file| file.sync_all()))
}

/// Syncs a folder's list of names: files that were created, renamed or removed in it.
///
/// File systems that cannot sync a folder (some network ones) are left to themselves; so is Windows, which has no
/// handle for it.
///
/// # Errors
/// If the folder cannot be opened or synced.
pub fn sync_dir(path: &Path) -> Result<(), FileError> {
    if !cfg!(unix) {
        return Ok(());
    }
    match announced(&Operation::SyncDir { path }, || File::open(path).and_then(|folder| folder.sync_all())) {
        Err(err) if matches!(err.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result.map_err(FileError::at(path, "sync this folder")),
    }
}

/// Writes `num_bytes` zeros to a temporary file in `dir`, syncs it and removes it. Unlike reading the free space, this
/// also meets quotas and missing permissions. [`remove_stale`] removes what a killed process leaves behind.
///
/// # Errors
/// If the system refuses the file or its bytes.
pub fn probe(dir: &Path, num_bytes: u64) -> Result<(), FileError> {
    let write = || {
        let mut file = TemporaryFile::create(dir, TEMPORARY_PREFIX)?;
        let block = vec![0; usize::try_from(num_bytes).unwrap_or(usize::MAX).min(BUFFER_LEN)];
        let mut left = num_bytes;
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            file.write_all(&block[..len])?;
            left -= len as u64;
        }
        file.sync_all()
    };
    write().map_err(FileError::at(dir, "write to this folder"))
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

    fn failure<T>(_: T) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }

    #[test]
    fn every_way_of_writing_replaces_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for content in ["first", "second, longer", "3"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            write_with(&path, |file| write!(file, "{content}+")).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{content}+"));
            write_path(&path, |temporary| std::fs::write(temporary, format!("{content}-"))).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{content}-"));
        }
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn failed_write_keeps_the_content_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write(&path, b"old").unwrap();
        for error in [
            write_with(&path, |file| failure(write!(file, "half"))).unwrap_err(),
            write_path(&path, |temporary| failure(std::fs::write(temporary, "half"))).unwrap_err(),
        ] {
            assert_eq!(error.path, path);
            assert_eq!(error.source.kind(), io::ErrorKind::StorageFull);
            assert_eq!(error.to_string(), format!("{}: cannot write", path.display()));
        }
        drop(NewFile::create(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(dir.path()), ["f"]);
    }

    #[test]
    fn missing_folder_is_an_error_that_names_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("absent/f");
        for result in [write(&path, b""), sync_dir(path.parent().unwrap()), sync_file(&path)] {
            let error = result.unwrap_err();
            assert!(error.path.starts_with(dir.path().join("absent")), "{error}");
            assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn longest_file_name_is_writable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n".repeat(255));
        write(&path, b"x").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
    }

    #[cfg(unix)]
    #[test]
    fn mode_is_that_of_an_ordinary_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (ours, plain) = (dir.path().join("ours"), dir.path().join("plain"));
        write(&ours, b"").unwrap();
        std::fs::write(&plain, b"").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[cfg(unix)]
    #[test]
    fn link_stays_and_its_target_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("elsewhere");
        std::fs::create_dir(&folder).unwrap();
        let (target, link) = (folder.join("target"), dir.path().join("link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(write(&link, b"new").is_err(), "a dangling link is not written through");
        write(&target, b"old").unwrap();
        write(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(
            (names(dir.path()), names(&folder)),
            (vec!["elsewhere".into(), "link".into()], vec!["target".into()])
        );
    }

    #[cfg(unix)]
    #[test]
    fn socket_and_folder_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [socket.as_path(), dir.path()] {
            let error = write(path, b"x").unwrap_err();
            assert!(error.source.to_string().contains("not a regular file"), "{error}");
        }
        drop(listener);
        assert_eq!(names(dir.path()), ["socket"]);
    }

    #[test]
    fn folders_are_created_once_and_never_over_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep).unwrap();
        create_dir_all(&deep).unwrap();
        assert!(deep.is_dir());
        let file = dir.path().join("a/f");
        write(&file, b"x").unwrap();
        for path in [file.clone(), file.join("below")] {
            assert!(create_dir_all(&path).is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }

    #[test]
    fn renamed_folder_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("partial"), dir.path().join("x/whole"));
        create_dir_all(&from).unwrap();
        create_dir_all(to.parent().unwrap()).unwrap();
        write(&from.join("f"), b"x").unwrap();
        rename(&from, &to).unwrap();
        assert_eq!(std::fs::read(to.join("f")).unwrap(), b"x");
        assert!(rename(&from, &to).unwrap_err().path.ends_with("whole"));
    }

    #[test]
    fn stale_temporaries_are_removed_and_live_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let live = NewFile::create(&path).unwrap();
        let live_sibling = live.temporary_path().with_extension("nii.gz");
        for name in [".hiend-killed.tmp", ".hiend-killed.nii.gz", ".hiend-older.nii", ".other.tmp"] {
            std::fs::write(dir.path().join(name), b"half").unwrap();
        }
        std::fs::write(&live_sibling, b"half").unwrap();
        assert_eq!(remove_stale(dir.path()).unwrap(), 3);
        std::fs::remove_file(live_sibling).unwrap();
        live.commit().unwrap();
        assert_eq!(names(dir.path()), [".other.tmp", "f"]);
    }
}
