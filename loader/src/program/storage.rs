//! Flags of programs that read caches: access to local shards, and the disk cache for shards in object storage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use hiend_cache::{Access, Copies, DiskCacheOptions, Location, OpenOptions};

use super::UsageError;
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
        self.storage_retry.map_or(Location::RETRY, Duration::from_secs)
    }

    /// Location of a cache whose failed requests are retried for this time.
    #[must_use]
    pub fn location(self, cache: &Path) -> Location {
        Location::from(cache).with_retry(self.duration())
    }

    /// Refuses the flag for a cache in a folder, where it has no effect.
    ///
    /// # Errors
    /// If the flag is given and the cache is in a folder.
    pub fn check(self, cache: &Path) -> Result<(), UsageError> {
        refuse_for_folders(self.flag(), [cache])
    }

    fn flag(self) -> Option<&'static str> {
        self.storage_retry.map(|_| "--storage-retry")
    }
}

/// Refuses a given flag about object storage if all caches are in folders. Text that is not a valid location is left to
/// the error of opening it.
fn refuse_for_folders<'a>(flag: Option<&str>, caches: impl IntoIterator<Item = &'a Path>) -> Result<(), UsageError> {
    let Some(flag) = flag else { return Ok(()) };
    let is_folder = |cache: &Path| Location::parse(cache.as_os_str()).is_ok_and(|location| location.folder().is_some());
    if !caches.into_iter().all(is_folder) {
        return Ok(());
    }
    Err(UsageError::new(format!(
        "{flag} has no effect on caches in folders; it is for object storage, such as s3://BUCKET/PREFIX"
    )))
}

impl StorageArgs {
    /// Name of one of the flags that were given; `None` if none was.
    #[must_use]
    pub fn flag(&self) -> Option<&'static str> {
        let flags = [
            (self.disk_cache.is_some(), "--disk-cache"),
            (self.disk_cache_size.is_some(), "--disk-cache-size"),
            (self.access.is_some(), "--access"),
        ];
        flags.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag)).or(self.retry.flag())
    }

    /// Refuses flags about object storage if all caches are in folders, where they have no effect.
    ///
    /// # Errors
    /// If such a flag is given and no cache is in object storage.
    pub fn check<'a>(&self, caches: impl IntoIterator<Item = &'a Path>) -> Result<(), UsageError> {
        let of_objects = Self { access: None, ..self.clone() };
        refuse_for_folders(of_objects.flag(), caches)
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
        assert_eq!(none.options().retry, Some(Location::RETRY));
        // The number in the help text.
        assert_eq!(Location::RETRY.as_secs(), 180);
        assert_eq!(parse("--access pread").flag(), Some("--access"));
        assert_eq!(parse("--storage-retry 180").flag(), Some("--storage-retry"));
        assert_eq!(parse("--disk-cache d").flag(), Some("--disk-cache"));
    }

    #[test]
    fn flags_about_object_storage_are_refused_where_all_caches_are_in_folders() {
        let refused = |words: &str, caches: &[&str]| {
            let storage = Cli::parse_from(["program"].into_iter().chain(words.split_whitespace())).storage;
            storage.check(caches.iter().map(Path::new)).err().map(|error| error.to_string()).unwrap_or_default()
        };
        for flag in ["--disk-cache", "--disk-cache-size", "--storage-retry"] {
            // `1` is a folder, a size and a time.
            let words = format!("--access pread {flag} 1");
            assert!(refused(&words, &["a", "/b"]).starts_with(&format!("{flag} has no effect")), "{flag}");
            assert_eq!(refused(&words, &["a", "s3://bucket/b"]), "", "{flag}");
            assert_eq!(refused(&words, &["s3:/bucket/b"]), "", "{flag}");
        }
        assert_eq!(refused("--access pread", &["a"]), "");
        let retry = RetryArg { storage_retry: Some(1) };
        assert!(retry.check(Path::new("a")).is_err() && retry.check(Path::new("gs://b")).is_ok());
        assert!(RetryArg { storage_retry: None }.check(Path::new("a")).is_ok());
    }
}
