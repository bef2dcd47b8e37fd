//! Options for opening a cache: access to local files, and the copies kept of objects.

use std::time::Duration;

use crate::storage::Access;

/// Options for opening a cache. No option changes the voxels that are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Access to shard files, and to the files of the disk cache.
    pub access: Access,
    /// Copies kept of a cache in object storage.
    pub copies: Copies,
    /// Time for which a failed request to object storage is retried; `None` for that of the [`Location`](crate::Location).
    pub retry: Option<Duration>,
}

/// Copies kept of the bytes that were fetched from object storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copies {
    /// Copies on a local disk, for streams: blocks are fetched once and read in every epoch.
    #[cfg(feature = "object-store")]
    Disk(crate::disk_cache::DiskCacheOptions),
    /// Copies in up to 256 MiB of memory, for programs that read a cache once.
    Memory,
}

impl Default for Copies {
    fn default() -> Self {
        #[cfg(feature = "object-store")]
        return Self::Disk(crate::disk_cache::DiskCacheOptions::default());
        #[cfg(not(feature = "object-store"))]
        return Self::Memory;
    }
}

impl OpenOptions {
    /// Options for reading a cache once, with positioned reads and without a disk cache.
    #[must_use]
    pub fn for_one_pass() -> Self {
        Self { access: Access::Pread, copies: Copies::Memory, retry: None }
    }
}

impl From<Access> for OpenOptions {
    fn from(access: Access) -> Self {
        Self { access, ..Self::default() }
    }
}
