//! Checks of the paths that results go to, before any work is done.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::case::shown;

/// Error of a path to which results cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// Something that is not a folder, at the path of a folder or above it.
    #[error("{} is not a folder; choose another path for the results", at_fault(path, place))]
    NotAFolder {
        /// Requested path.
        path: PathBuf,
        /// The path itself or a path above it that is not a folder.
        place: PathBuf,
    },
    /// A folder at the path of a file.
    #[error("{}: a folder; expected the name of a file to write", shown(path))]
    NotAFile {
        /// Requested path.
        path: PathBuf,
    },
    /// A file in a folder that does not exist.
    #[error("{}: the folder {} does not exist; create it, or choose another path", shown(path), shown(folder))]
    NoFolder {
        /// Requested path.
        path: PathBuf,
        /// The missing folder.
        folder: PathBuf,
    },
    /// A link whose target is missing.
    #[error("{} is a link to something that is missing", at_fault(path, place))]
    Dangling {
        /// Requested path.
        path: PathBuf,
        /// The path itself or a path above it that is the link.
        place: PathBuf,
    },
    /// A path that cannot be accessed.
    #[error("{}: cannot access this path", shown(path))]
    Unreadable {
        /// Path that cannot be accessed.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The place at fault, after the requested path if that is another one.
fn at_fault(path: &Path, place: &Path) -> String {
    if path == place { shown(path) } else { format!("{}: {}", shown(path), shown(place)) }
}

/// Kind of thing that exists at a path.
enum Place {
    Nothing,
    Folder,
    Other,
}

fn look(asked: &Path, place: &Path) -> Result<Place, DestinationError> {
    match std::fs::metadata(place) {
        Ok(data) if data.is_dir() => Ok(Place::Folder),
        Ok(_) => Ok(Place::Other),
        Err(err) if err.kind() == ErrorKind::NotFound && place.symlink_metadata().is_ok() => {
            Err(DestinationError::Dangling { path: asked.to_owned(), place: place.to_owned() })
        }
        // Below a file; the file itself is met further up.
        Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Place::Nothing),
        Err(source) => Err(DestinationError::Unreadable { path: place.to_owned(), source }),
    }
}

/// Checks that `path` is a folder or can become one, that is, the nearest existing path above it is a folder.
///
/// Writes nothing, so missing permissions and a full disk are only noticed later.
///
/// # Errors
/// If the path leads to something other than a folder, or cannot be accessed.
pub fn check_output_folder(path: &Path) -> Result<(), DestinationError> {
    for place in path.ancestors().filter(|place| !place.as_os_str().is_empty()) {
        match look(path, place)? {
            Place::Nothing => {}
            Place::Folder => return Ok(()),
            Place::Other => {
                return Err(DestinationError::NotAFolder { path: path.to_owned(), place: place.to_owned() });
            }
        }
    }
    Ok(())
}

/// Checks that `path` can be written as a file: it is not a folder, and its folder exists. An existing file is accepted
/// and would be replaced.
///
/// # Errors
/// If the path is a folder or a link to something that is missing, its folder does not exist, or it cannot be accessed.
pub fn check_output_file(path: &Path) -> Result<(), DestinationError> {
    match look(path, path)? {
        Place::Folder => return Err(DestinationError::NotAFile { path: path.to_owned() }),
        Place::Other => return Ok(()),
        Place::Nothing => {}
    }
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    check_output_folder(folder).map_err(|err| match err {
        DestinationError::NotAFolder { place, .. } => DestinationError::NotAFolder { path: path.to_owned(), place },
        DestinationError::Dangling { place, .. } => DestinationError::Dangling { path: path.to_owned(), place },
        other => other,
    })?;
    match look(path, folder)? {
        Place::Nothing => Err(DestinationError::NoFolder { path: path.to_owned(), folder: folder.to_owned() }),
        Place::Folder | Place::Other => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of an error without the path of the temporary folder.
    fn text(result: Result<(), DestinationError>, dir: &Path) -> Option<String> {
        let dir = format!("{}/", dir.display());
        result.err().map(|err| err.to_string().replace(&dir, ""))
    }

    #[test]
    fn a_folder_may_exist_or_be_created() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"").unwrap();
        let check = |name: &str| text(check_output_folder(&dir.path().join(name)), dir.path());
        assert_eq!(check(""), None);
        assert_eq!(check("new/and/deeper"), None);
        assert_eq!(check("file").unwrap(), "file is not a folder; choose another path for the results");
        assert_eq!(check("file/a/b").unwrap(), "file/a/b: file is not a folder; choose another path for the results");
        assert!(check_output_folder(Path::new("a folder that is not here")).is_ok());
    }

    #[test]
    fn a_file_needs_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"").unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let check = |name: &str| text(check_output_file(&dir.path().join(name)), dir.path());
        for name in ["file", "new", "folder/new"] {
            assert_eq!(check(name), None, "{name}");
        }
        assert_eq!(check("folder").unwrap(), "folder: a folder; expected the name of a file to write");
        assert_eq!(
            check("none/new").unwrap(),
            "none/new: the folder none does not exist; create it, or choose another path"
        );
        assert!(check("file/new").unwrap().starts_with("file/new: file is not a folder"));
        assert!(check_output_file(Path::new("a file that is not here")).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn links_to_nothing_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("gone", dir.path().join("link")).unwrap();
        let check = |check: fn(&Path) -> Result<(), DestinationError>, name: &str| {
            text(check(&dir.path().join(name)), dir.path()).unwrap()
        };
        for found in [check(check_output_folder, "link"), check(check_output_file, "link")] {
            assert_eq!(found, "link is a link to something that is missing");
        }
        assert_eq!(check(check_output_file, "link/a"), "link/a: link is a link to something that is missing");
    }
}
