//! A location as the rest of this crate uses it: a folder or a bucket's prefix with shards and small files.
//!
//! Local files are written through [`durable`]; an object store itself makes an object appear complete or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::durable::{self, TemporaryFile};
use crate::error::{FileError, Result};
use crate::location::Location;
use crate::lookup;
use crate::naming;
#[cfg(feature = "object-store")]
use crate::object::{Bucket, Object};
use crate::regular;

/// A folder, or a prefix of a bucket.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Folder(PathBuf),
    #[cfg(feature = "object-store")]
    Bucket(Bucket),
}

/// A file or object in a place.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Name in the place.
    pub(crate) name: String,
    /// Time of the last change, by the clock of the file server or object store.
    pub(crate) modified: SystemTime,
}

impl Location {
    /// Creates the folder and its missing parents, durably. In object storage, only checks that the location is
    /// writable.
    ///
    /// # Errors
    /// If the folder cannot be created, the URL is not valid, or it names a web server.
    pub fn create(&self) -> Result<()> {
        Ok(Place::of(self)?.create_folder("")?)
    }
}

impl Place {
    /// Connects to a bucket, or remembers a folder's path; looks nothing up.
    ///
    /// # Errors
    /// If the URL is not valid or the environment does not say how to connect.
    pub(crate) fn of(location: &Location) -> Result<Self> {
        Self::with_retry(location, location.retry())
    }

    /// Connects as [`Self::of`] does, and retries failed requests for `retry`.
    pub(crate) fn with_retry(location: &Location, retry: Duration) -> Result<Self> {
        location.check()?;
        match location.folder() {
            Some(folder) => Ok(Self::Folder(folder.to_owned())),
            #[cfg(feature = "object-store")]
            None => Ok(Self::Bucket(Bucket::open(location, retry)?)),
            #[cfg(not(feature = "object-store"))]
            None => {
                let _ = retry;
                Err(crate::error::LocationError::Unsupported { url: location.to_string() }.into())
            }
        }
    }

    /// Reads a small file; `None` if there is none of this name.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        match self {
            Self::Folder(dir) => {
                let path = dir.join(name);
                match regular::read(&path) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(err) => Err(FileError::at(path, "read")(err)),
                }
            }
            #[cfg(feature = "object-store")]
            Self::Bucket(bucket) => Ok(bucket.read(name)?.map(|(bytes, _)| bytes.into())),
        }
    }

    /// Writes a small file, replacing any file of this name.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        match self {
            Self::Folder(dir) => durable::write(&dir.join(name), bytes),
            #[cfg(feature = "object-store")]
            Self::Bucket(bucket) => bucket.write(name, bytes),
        }
    }

    /// Creates a small file; returns `false` if the name is taken. `bytes` must differ from what any other process writes.
    pub(crate) fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, FileError> {
        match self {
            Self::Folder(dir) => {
                let path = dir.join(name);
                let folder = path.parent().unwrap_or(dir);
                let failed = || FileError::at(path.as_path(), "create");
                let mut file = TemporaryFile::create(folder, durable::TEMPORARY_PREFIX).map_err(failed())?;
                io::Write::write_all(&mut file, bytes).map_err(failed())?;
                Ok(matches!(naming::rename_new(file, &path)?, naming::Renamed::Done))
            }
            #[cfg(feature = "object-store")]
            Self::Bucket(bucket) => bucket.create(name, bytes),
        }
    }

    /// Removes a file; returns `false` if there was none.
    pub(crate) fn remove(&self, name: &str) -> Result<bool, FileError> {
        match self {
            Self::Folder(dir) => {
                let path = dir.join(name);
                match durable::remove_file(&path) {
                    Ok(()) => Ok(true),
                    Err(err) if err.source.kind() == io::ErrorKind::NotFound => Ok(false),
                    Err(err) => Err(err),
                }
            }
            #[cfg(feature = "object-store")]
            Self::Bucket(bucket) => bucket.remove(name),
        }
    }

    /// Gives a file another name.
    pub(crate) fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        match self {
            Self::Folder(dir) => durable::rename(&dir.join(from), &dir.join(to)),
            #[cfg(feature = "object-store")]
            Self::Bucket(bucket) => bucket.rename(from, to),
        }
    }

    /// Returns `true` if there is a file of this name.
    pub(crate) fn exists(&self, name: &str) -> Result<bool, FileError> {
        match self {
            Self::Folder(dir) => lookup::exists(&dir.join(name)),
            #[cfg(feature = "object-store")]
            Self::Bucket(bucket) => Ok(bucket.find(name)?.is_some()),
        }
    }

    /// Creates a folder in the place, where folders exist; an empty name stands for the place itself.
    pub(crate) fn create_folder(&self, folder: &str) -> Result<(), FileError> {
        match self {
            Self::Folder(dir) => durable::create_dir_all(&dir.join(folder)),
            #[cfg(feature = "object-store")]
            Self::Bucket(bucket) => bucket.refuse_read_only(folder, "write"),
        }
    }

    /// Files directly below a folder of the place; empty if the folder does not exist.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<Named>, FileError> {
        match self {
            Self::Folder(dir) => list_folder(&dir.join(folder)),
            #[cfg(feature = "object-store")]
            Self::Bucket(bucket) => {
                let named = |Object { name, modified, .. }| Named { name, modified };
                Ok(bucket.list(folder)?.into_iter().map(named).collect())
            }
        }
    }
}

fn list_folder(dir: &Path) -> Result<Vec<Named>, FileError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(FileError::at(dir, "list")(err)),
    };
    let mut named = Vec::new();
    for entry in entries {
        let entry = entry.map_err(FileError::at(dir, "list"))?;
        let modified = match entry.metadata().and_then(|metadata| metadata.modified()) {
            Ok(modified) => modified,
            // Removed in the meantime.
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(FileError::at(entry.path(), "look up")(err)),
        };
        named.push(Named { name: entry.file_name().to_string_lossy().into_owned(), modified });
    }
    Ok(named)
}
