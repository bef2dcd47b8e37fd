//! Flags of programs that read caches: access to local shards, and the disk cache for those in object storage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use hiend_cache::{Access, Copies, DiskCacheOptions, Location, OpenOptions};

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
    /// Time for which requests are repeated.
    #[command(flatten)]
    pub retry: RetryArg,
}

/// Flag of programs that use object storage.
#[derive(Clone, Copy, Debug, Args)]
pub struct RetryArg {
    /// Seconds for which a request to object storage is repeated before it fails
    #[arg(long, value_name = "SECONDS", default_value_t = OpenOptions::RETRY.as_secs())]
    pub storage_retry: u64,
}

impl RetryArg {
    /// Time for which a request is repeated.
    #[must_use]
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.storage_retry)
    }

    /// Location of a cache whose requests are repeated for this time.
    #[must_use]
    pub fn location(self, cache: &Path) -> Location {
        Location::from(cache).with_retry(self.duration())
    }
}

impl StorageArgs {
    /// Flag of the disk cache that was given, if one was.
    #[must_use]
    pub fn disk_cache_flag(&self) -> Option<&'static str> {
        let flags =
            [(self.disk_cache.is_some(), "--disk-cache"), (self.disk_cache_size.is_some(), "--disk-cache-size")];
        flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }

    /// Options for opening a cache that is read again and again.
    #[must_use]
    pub fn options(&self) -> OpenOptions {
        let bytes = self.disk_cache_size.map(|size| size.as_u64());
        let copies = Copies::Disk(DiskCacheOptions { dir: self.disk_cache.clone(), bytes });
        OpenOptions { access: self.access.into(), copies, retry: Some(self.retry.duration()) }
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
