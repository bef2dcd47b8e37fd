//! The bytes of a shard file: memory-mapped, or read on demand. The only module with `unsafe` code.
//!
//! A map is right for local disks and shared page caches; positioned reads (`pread`) are right for network file
//! systems, where each page fault of a map would become a 4 KiB request.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How shard files are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Map the files into memory.
    #[default]
    Mmap,
    /// Read each piece with one positioned read.
    Pread,
}

/// A shard file open for reading at any offset.
#[derive(Debug)]
pub struct Storage {
    bytes: Bytes,
    len: u64,
}

#[derive(Debug)]
enum Bytes {
    Map(Mmap),
    File(File),
}

impl Storage {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be opened or mapped.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let len = file.metadata().map_err(Error::io(path, "read the size"))?.len();
        let bytes = match access {
            Access::Mmap if len > 0 => Bytes::Map(map(&file).map_err(Error::io(path, "map into memory"))?),
            _ => Bytes::File(file),
        };
        Ok(Self { bytes, len })
    }

    /// Length of the file in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `len` bytes from `offset` on, borrowed from the map or read into `scratch`.
    ///
    /// # Errors
    /// If the range reaches past the end of the file, or reading fails.
    pub fn read<'a>(&'a self, offset: u64, len: usize, scratch: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.len);
        let (Some(_), Ok(start)) = (end, usize::try_from(offset)) else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the range reaches past the end of the file"));
        };
        match &self.bytes {
            Bytes::Map(map) => Ok(&map[start..start + len]),
            Bytes::File(file) => {
                scratch.resize(len, 0);
                read_exact_at(file, scratch, offset)?;
                Ok(scratch)
            }
        }
    }

    /// Tells the system that a range will be wanted soon. Never fails: it is advice.
    pub fn will_need(&self, offset: u64, len: usize) {
        #[cfg(unix)]
        if let (Bytes::Map(map), Ok(start)) = (&self.bytes, usize::try_from(offset)) {
            let len = len.min(map.len().saturating_sub(start));
            if len > 0 {
                let _ = map.advise_range(memmap2::Advice::WillNeed, start, len);
            }
        }
        #[cfg(not(unix))]
        let _ = (offset, len);
    }
}

#[expect(unsafe_code, reason = "mapping a file is unsafe: another process could cut it short under us")]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: shards are write-once. They get their name by a rename after everything is on disk, and no code of ours
    // opens a named shard for writing, so the mapped bytes don't change while we hold the map. Somebody else who
    // truncates a shard in place would have the reading process killed by SIGBUS; ARCHITECTURE.md says not to.
    unsafe { Mmap::map(file) }
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

    #[test]
    fn both_ways_read_the_same_and_refuse_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        for access in [Access::Mmap, Access::Pread] {
            let storage = Storage::open(&path, access).unwrap();
            let mut scratch = Vec::new();
            assert_eq!(storage.read(3, 4, &mut scratch).unwrap(), b"3456");
            assert_eq!(storage.read(10, 0, &mut scratch).unwrap(), b"");
            for (offset, len) in [(7, 4), (11, 0), (u64::MAX, 2)] {
                assert!(storage.read(offset, len, &mut scratch).is_err());
            }
            storage.will_need(0, 1 << 30);
        }
    }
}
