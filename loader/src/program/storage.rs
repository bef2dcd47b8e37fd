//! Flags of programs that read caches: access to local shards, and the disk cache for those in object storage.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use hiend_cache::{Access, Copies, DiskCacheOptions, OpenOptions};

use super::values::parse_bytes;

/// Flags that say how caches are read.
#[derive(Clone, Debug, Args)]
pub struct StorageArgs {
    /// Access to shard files
    #[arg(long, value_enum, default_value = "mmap")]
    pub access: AccessArg,
    /// Folder that keeps copies of caches in object storage [default: `hiend/blocks` in `$XDG_CACHE_HOME` or `~/.cache`]
    #[arg(long, value_name = "DIR")]
    pub disk_cache: Option<PathBuf>,
    /// Size of the disk cache [default: 50GiB, or half of the free space if that is less]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub disk_cache_size: Option<ByteSize>,
    /// Seconds for which a request to object storage is repeated before it fails
    #[arg(long, value_name = "SECONDS", default_value_t = OpenOptions::RETRY.as_secs())]
    pub storage_retry: u64,
}

impl StorageArgs {
    /// Options for opening a cache that is read again and again.
    #[must_use]
    pub fn options(&self) -> OpenOptions {
        let bytes = self.disk_cache_size.map(|size| size.as_u64());
        let copies = Copies::Disk(DiskCacheOptions { dir: self.disk_cache.clone(), bytes });
        OpenOptions { access: self.access.into(), copies, retry: Duration::from_secs(self.storage_retry) }
    }
}

/// [`Access`] as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessArg {
    /// Memory maps
    Mmap,
    /// Positioned reads, for network file systems
    Pread,
}

impl From<AccessArg> for Access {
    fn from(arg: AccessArg) -> Self {
        match arg {
            AccessArg::Mmap => Self::Mmap,
            AccessArg::Pread => Self::Pread,
        }
    }
}
