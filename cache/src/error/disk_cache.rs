//! Errors of disk caches that cannot be used.

use std::path::PathBuf;

use super::FileError;

/// A disk cache that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskCacheError {
    /// A folder that is not empty and not a disk cache.
    #[error(
        "{}: holds files and is not a disk cache (no valid file {marker} in it); expected a new or an empty folder",
        dir.display()
    )]
    NotOurs {
        /// Path of the folder.
        dir: PathBuf,
        /// Name of the file that marks the folder of a disk cache.
        marker: &'static str,
    },
    /// A disk cache of another version of this program.
    #[error("{}: a disk cache of another version; expected a new or an empty folder", dir.display())]
    Version {
        /// Path of the folder.
        dir: PathBuf,
    },
    /// No folder was named, and the environment names none.
    #[error("no folder for the disk cache: none was named, and the variables XDG_CACHE_HOME and HOME are not set")]
    NoFolder,
    /// A size that is too small for the blocks that are needed at a time.
    #[error(
        "{}: a disk cache of {bytes} bytes is too small{}: at least {needed} bytes are needed at a time",
        dir.display(),
        of_users(*users)
    )]
    TooSmall {
        /// Path of the folder.
        dir: PathBuf,
        /// Size of the cache in bytes.
        bytes: u64,
        /// Smallest sufficient size in bytes.
        needed: u64,
        /// Number of processes that use it, this one included.
        users: u64,
    },
    /// A folder that this process has open with another size.
    #[error("{}: already open in this process with a size of {open} bytes; cannot open it with {bytes}", dir.display())]
    OtherSize {
        /// Path of the folder.
        dir: PathBuf,
        /// Size of the open cache in bytes.
        open: u64,
        /// Requested size in bytes.
        bytes: u64,
    },
    /// The operating system refused to read or write the folder.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Returns the clause of an error text that names the number of processes; empty for one.
fn of_users(users: u64) -> String {
    if users == 1 { String::new() } else { format!(" for the {users} processes that use it") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_state_what_is_expected_and_name_no_flag_of_a_program() {
        let dir = || PathBuf::from("blocks");
        let too_small = |users| DiskCacheError::TooSmall { dir: dir(), bytes: 7, needed: 9, users };
        let texts = [
            (
                DiskCacheError::NotOurs { dir: dir(), marker: "mark" },
                "(no valid file mark in it); expected a new or an empty",
            ),
            (DiskCacheError::Version { dir: dir() }, "blocks: a disk cache of another version; expected"),
            (DiskCacheError::NoFolder, "XDG_CACHE_HOME and HOME"),
            (too_small(1), "7 bytes is too small: at least 9 bytes are needed at a time"),
            (too_small(2), "too small for the 2 processes that use it: at least 9 bytes"),
            (DiskCacheError::OtherSize { dir: dir(), open: 7, bytes: 9 }, "a size of 7 bytes; cannot open it with 9"),
        ];
        for (error, expected) in texts {
            let text = error.to_string();
            assert!(text.contains(expected), "{text}");
            assert!(!text.contains("--"), "{text}");
        }
    }
}
