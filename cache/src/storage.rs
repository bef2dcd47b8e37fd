//! Bytes of a shard: memory-mapped, read on demand, or fetched from object storage.
//!
//! A map suits local disks and shared page caches; positioned reads (`pread`) suit network file systems, where each
//! page fault of a map would become a 4 KiB request. An object is read block by block through a cache
//! (`crate::object`).
//!
//! A file that is truncated while it is mapped, or a disk that fails below the map, is reported as an error of the read
//! in progress and of every later read of that file (see `crate::map`).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::FileError;
use crate::map::Map;
#[cfg(feature = "object-store")]
use crate::object::RemoteFile;
use crate::regular;

/// Access to shard files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Map the files into memory.
    #[default]
    Mmap,
    /// Read each range with one positioned read.
    Pread,
}

/// A shard's file or object, open for reading at any offset.
#[derive(Debug)]
pub struct Storage {
    path: PathBuf,
    bytes: Bytes,
    len: u64,
}

#[derive(Debug)]
enum Bytes {
    Map(Map),
    File(File),
    #[cfg(feature = "object-store")]
    Object(Box<RemoteFile>),
}

impl Storage {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be opened or mapped, or is not a regular file.
    pub fn open(path: &Path, access: Access) -> Result<Self, FileError> {
        let file = regular::open(path).map_err(FileError::at(path, "open"))?;
        let len = file.metadata().map_err(FileError::at(path, "read the size"))?.len();
        let bytes = match access {
            Access::Mmap if len > 0 => Bytes::Map(Map::new(&file).map_err(FileError::at(path, "map into memory"))?),
            _ => Bytes::File(file),
        };
        Ok(Self { path: path.to_owned(), bytes, len })
    }

    /// Reads an object.
    #[cfg(feature = "object-store")]
    pub(crate) fn of_object(object: RemoteFile) -> Self {
        Self { path: object.url().to_owned(), len: object.len(), bytes: Bytes::Object(Box::new(object)) }
    }

    /// The object in object storage; `None` for a local file.
    #[cfg(feature = "object-store")]
    pub(crate) fn object(&self) -> Option<&RemoteFile> {
        if let Bytes::Object(object) = &self.bytes { Some(object) } else { None }
    }

    /// Path of the file, or URL of the object.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes when it was opened.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns `true` if the file is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Calls `visit` with `len` bytes from `offset`, borrowed from the map or read into `scratch`.
    ///
    /// # Errors
    /// If the range runs past the end of the file or reading fails. A map whose file was truncated fails after `visit`
    /// has seen zeros in place of the missing bytes; its result is dropped.
    pub fn with_bytes<R>(
        &self,
        offset: u64,
        len: usize,
        scratch: &mut Vec<u8>,
        visit: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, FileError> {
        let failed = || FileError::at(&self.path, "read");
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.len);
        let (Some(_), Ok(start)) = (end, usize::try_from(offset)) else {
            let reason = "the range runs past the end of the file";
            return Err(failed()(io::Error::new(io::ErrorKind::UnexpectedEof, reason)));
        };
        match &self.bytes {
            Bytes::Map(map) => {
                let result = visit(&map.bytes()[start..start + len]);
                map.check().map_err(failed())?;
                Ok(result)
            }
            Bytes::File(file) => {
                scratch.resize(len, 0);
                read_exact_at(file, scratch, offset).map_err(truncated).map_err(failed())?;
                Ok(visit(scratch))
            }
            #[cfg(feature = "object-store")]
            Bytes::Object(object) => object.with_bytes(offset, len, scratch, visit),
        }
    }

    /// Forgets copies of a range of an object whose bytes turned out to be wrong, so that it is fetched again. Returns
    /// `false` for a file, of which there are no copies.
    pub(crate) fn discard(&self, offset: u64, len: u64) -> bool {
        #[cfg(feature = "object-store")]
        if let Bytes::Object(object) = &self.bytes {
            object.discard(&(offset..offset.saturating_add(len)));
            return true;
        }
        let _ = (offset, len);
        false
    }

    /// Advises the system that a range of a mapped file will be read soon.
    pub fn will_need(&self, offset: u64, len: usize) {
        if let (Bytes::Map(map), Ok(start)) = (&self.bytes, usize::try_from(offset)) {
            map.will_need(start, len);
        }
    }
}

/// Says of a file that ends too early that it was truncated: its length was known when it was opened.
fn truncated(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::UnexpectedEof {
        return error;
    }
    io::Error::new(io::ErrorKind::UnexpectedEof, "truncated while it was open")
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: [Access; 2] = [Access::Mmap, Access::Pread];

    fn read(storage: &Storage, offset: u64, len: usize) -> Result<Vec<u8>, FileError> {
        storage.with_bytes(offset, len, &mut Vec::new(), <[u8]>::to_vec)
    }

    #[test]
    fn both_kinds_of_access_read_the_same_ranges() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        for access in ACCESS {
            let storage = Storage::open(&path, access).unwrap();
            assert_eq!((storage.len(), storage.is_empty()), (10, false));
            assert_eq!(read(&storage, 3, 4).unwrap(), b"3456");
            assert_eq!(read(&storage, 0, 10).unwrap(), b"0123456789");
            assert_eq!(read(&storage, 10, 0).unwrap(), b"");
            for (offset, len) in [(7, 4), (11, 0), (u64::MAX, 2)] {
                let error = read(&storage, offset, len).unwrap_err();
                assert_eq!((error.path.as_path(), error.source.kind()), (path.as_path(), io::ErrorKind::UnexpectedEof));
            }
            storage.will_need(0, 1 << 30);
            storage.will_need(1 << 30, 1);
        }
    }

    #[test]
    fn empty_file_is_opened_and_has_no_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for access in ACCESS {
            let storage = Storage::open(file.path(), access).unwrap();
            assert!(storage.is_empty());
            assert_eq!(read(&storage, 0, 0).unwrap(), b"");
            assert!(read(&storage, 0, 1).is_err());
        }
    }

    #[test]
    fn truncated_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        // Longer than the largest page, so that the end is beyond the last page of the truncated file.
        let content: Vec<u8> = (0..=250).cycle().take(200_000).collect();
        for access in ACCESS {
            std::fs::write(&path, &content).unwrap();
            let storage = Storage::open(&path, access).unwrap();
            assert_eq!(read(&storage, 199_000, 1000).unwrap(), &content[199_000..]);
            File::options().write(true).open(&path).unwrap().set_len(10).unwrap();
            for _ in 0..2 {
                let error = read(&storage, 150_000, 50_000).unwrap_err();
                assert_eq!(error.path, path, "{access:?}");
                assert_eq!(error.source.kind(), io::ErrorKind::UnexpectedEof, "{access:?}: {:?}", error.source);
                assert!(
                    error.source.to_string().starts_with("truncated while it was "),
                    "{access:?}: {}",
                    error.source
                );
            }
        }
    }
}
