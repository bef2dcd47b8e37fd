//! Flags of programs that read caches: access to local shards, and the disk cache for shards in object storage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use hiend_cache::{Access, Copies, DiskCacheOptions, Location, OpenOptions};

use super::values::parse_some_bytes;

/// Flags that determine how caches are read.
#[derive(Clone, Debug, Args)]
pub struct StorageArgs {
    /// Access to shard files [default: mmap]
    #[arg(long, value_enum)]
    pub access: Option<AccessArg>,
    /// Folder that keeps copies of caches in object storage [default: `hiend/blocks` in `$XDG_CACHE_HOME` or `~/.cache`]
    #[arg(long, value_name = "DIR")]
    pub disk_cache: Option<PathBuf>,
    /// Size of the disk cache [default: 50GiB, or half of the free space if that is less]
    #[arg(long, value_name = "SIZE", value_parser = parse_some_bytes)]
    pub disk_cache_size: Option<ByteSize>,
    /// Retry time of requests.
    #[command(flatten)]
    pub retry: RetryArg,
}

/// Flag of programs that use object storage.
#[derive(Clone, Copy, Debug, Args)]
pub struct RetryArg {
    /// Seconds for which a failed request to object storage is retried [default: 180]
    #[arg(long, value_name = "SECONDS")]
    pub storage_retry: Option<u64>,
}

impl RetryArg {
    /// Time for which a failed request is retried.
    #[must_use]
    pub fn duration(self) -> Duration {
        self.storage_retry.map_or(OpenOptions::RETRY, Duration::from_secs)
    }

    /// Location of a cache whose failed requests are retried for this time.
    #[must_use]
    pub fn location(self, cache: &Path) -> Location {
        Location::from(cache).with_retry(self.duration())
    }
}

impl StorageArgs {
    /// Name of one of the flags that were given; `None` if none was.
    #[must_use]
    pub fn flag(&self) -> Option<&'static str> {
        let flags = [
            (self.disk_cache.is_some(), "--disk-cache"),
            (self.disk_cache_size.is_some(), "--disk-cache-size"),
            (self.retry.storage_retry.is_some(), "--storage-retry"),
            (self.access.is_some(), "--access"),
        ];
        flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag))
    }

    /// Name of one of the flags for object storage that were given although all caches are folders; `None` otherwise.
    #[must_use]
    pub fn flag_without_effect(&self, caches: &[PathBuf]) -> Option<&'static str> {
        let is_folder = |cache: &PathBuf| Location::from(cache).url().is_none();
        self.flag().filter(|flag| *flag != "--access" && caches.iter().all(is_folder))
    }

    /// Options for opening a cache that is read repeatedly.
    #[must_use]
    pub fn options(&self) -> OpenOptions {
        let bytes = self.disk_cache_size.map(|size| size.as_u64());
        let copies = Copies::Disk(DiskCacheOptions { dir: self.disk_cache.clone(), bytes });
        let access = self.access.map(Access::from).unwrap_or_default();
        OpenOptions { access, copies, retry: Some(self.retry.duration()) }
    }
}

/// Command-line value of [`Access`].
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        storage: StorageArgs,
    }

    #[test]
    fn help_states_the_defaults_and_given_flags_are_reported() {
        let parse = |words: &str| Cli::parse_from(["program"].into_iter().chain(words.split_whitespace())).storage;
        let none = parse("");
        assert_eq!(none.flag(), None);
        assert_eq!(none.options().access, Access::Mmap);
        assert_eq!(none.options().retry, Some(OpenOptions::RETRY));
        // The number in the help text.
        assert_eq!(OpenOptions::RETRY.as_secs(), 180);
        assert_eq!(parse("--access pread").flag(), Some("--access"));
        assert_eq!(parse("--storage-retry 180").flag(), Some("--storage-retry"));
        assert_eq!(parse("--disk-cache d").flag(), Some("--disk-cache"));
        let [folder, url] = ["cache", "s3://bucket/cache"].map(PathBuf::from);
        let given = parse("--access pread --disk-cache d");
        assert_eq!(given.flag_without_effect(std::slice::from_ref(&folder)), Some("--disk-cache"));
        assert_eq!(given.flag_without_effect(&[folder.clone(), url]), None);
        assert_eq!(parse("--access pread").flag_without_effect(&[folder]), None);
    }
}
