//! Looks up paths and distinguishes an absent one from one that cannot be examined.
//!
//! [`Path::exists`], [`Path::is_file`] and [`Path::is_dir`] answer `false` for a folder without permission, a disk that
//! fails and a link whose target is unmounted. A program that acts on that answer converts cases again without their
//! labels or drops them from a cache. Here only a name that does not exist is absent; everything else is an error.

use std::fs::Metadata;
use std::io;
use std::path::Path;

use crate::error::FileError;

/// Metadata of the file or folder at `path`, following links; `None` if nothing has this name.
///
/// # Errors
/// If the path cannot be looked up: no permission, a failing disk, a file where a folder should be, a dangling
/// symbolic link at the path or above it.
pub fn metadata(path: &Path) -> Result<Option<Metadata>, FileError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => absent(path),
        Err(err) => Err(FileError::at(path, "look up")(err)),
    }
}

/// Returns `true` if `path` names anything.
///
/// # Errors
/// If the path cannot be looked up, see [`metadata`].
pub fn exists(path: &Path) -> Result<bool, FileError> {
    Ok(metadata(path)?.is_some())
}

/// Returns `true` if `path` names a regular file or a link to one.
///
/// # Errors
/// If the path cannot be looked up, see [`metadata`].
pub fn is_file(path: &Path) -> Result<bool, FileError> {
    Ok(metadata(path)?.is_some_and(|metadata| metadata.is_file()))
}

/// Returns `true` if `path` names a folder or a link to one.
///
/// # Errors
/// If the path cannot be looked up, see [`metadata`].
pub fn is_dir(path: &Path) -> Result<bool, FileError> {
    Ok(metadata(path)?.is_some_and(|metadata| metadata.is_dir()))
}

/// Folder of a path: `.` for a bare name, for which [`Path::parent`] returns an empty path.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Distinguishes a missing name from a dangling link on the way to it.
fn absent(path: &Path) -> Result<Option<Metadata>, FileError> {
    for place in path.ancestors().filter(|place| !place.as_os_str().is_empty()) {
        match std::fs::symlink_metadata(place) {
            Ok(found) if found.is_symlink() => {
                return match std::fs::metadata(place) {
                    Ok(_) => Ok(None),
                    Err(err) => Err(FileError::at(place, "follow this symbolic link")(err)),
                };
            }
            Ok(_) => return Ok(None),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(FileError::at(place, "look up")(err)),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &Path, expected: [bool; 3]) {
        let found = [exists(path).unwrap(), is_file(path).unwrap(), is_dir(path).unwrap()];
        assert_eq!(found, expected, "{}", path.display());
    }

    fn check_error(path: &Path, named: &Path) {
        for result in [exists(path), is_file(path), is_dir(path)] {
            let error = result.unwrap_err();
            assert_eq!(error.path, named, "{error}");
        }
    }

    #[test]
    fn files_folders_and_missing_names_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, b"").unwrap();
        check(&file, [true, true, false]);
        check(dir.path(), [true, false, true]);
        check(&dir.path().join("absent"), [false; 3]);
        check(&dir.path().join("absent/below"), [false; 3]);
        check(Path::new("a bare name that is not there"), [false; 3]);
    }

    #[test]
    fn place_below_a_file_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let below = file.path().join("below");
        check_error(&below, &below);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_dangling_or_circular_ones_are_errors() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        symlink(at("folder"), at("to folder")).unwrap();
        symlink(at("unmounted"), at("dangling")).unwrap();
        symlink(at("circle"), at("circle")).unwrap();
        check(&at("to folder"), [true, false, true]);
        check(&at("to folder/absent"), [false; 3]);
        check_error(&at("dangling"), &at("dangling"));
        check_error(&at("dangling/labelsTr/x"), &at("dangling"));
        check_error(&at("circle"), &at("circle"));
    }
}
