//! The bytes of a disk cache: counted, reserved, and freed by evicting the blocks used least recently.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use super::{TEMPORARY_PREFIX, sufficient_bytes};
use crate::durable;
use crate::error::FileError;
use crate::lock::FileLock;
use crate::object::BlockKey;
use crate::regular;

/// Folder of the blocks.
pub(super) const BLOCKS: &str = "blocks";
/// Folder of blocks being written.
pub(super) const TMP: &str = "tmp";
/// Folder of the locks of processes at work.
pub(super) const USERS: &str = "users";
/// File that holds the number of bytes of all blocks; locked while the number changes.
pub(super) const USAGE: &str = "usage";
/// Fraction of the capacity that an eviction leaves in use, in tenths.
const KEPT_TENTHS: u64 = 9;

/// The space of a disk cache.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    /// Size of the cache in bytes.
    bytes: u64,
    /// Bytes that each process may keep mapped.
    mapped_bytes: u64,
    /// Bytes of blocks that this process needs at a time.
    required: AtomicU64,
    /// `true` once a lack of room was reported.
    is_told: AtomicBool,
}

/// A block's file.
struct BlockFile {
    path: PathBuf,
    key: BlockKey,
    len: u64,
    last_use: SystemTime,
}

/// Announcement of this process as one that uses the cache. Dropping it removes its file.
#[derive(Debug)]
pub(super) struct User {
    lock: FileLock,
}

impl Drop for User {
    fn drop(&mut self) {
        // If the file stays, other processes find it without a lock.
        let _ = std::fs::remove_file(self.lock.path());
    }
}

/// Announces this process as one that uses the cache.
pub(super) fn enter(dir: &Path) -> Result<User, FileError> {
    let users = dir.join(USERS);
    loop {
        let file = tempfile::Builder::new()
            .prefix("user-")
            .suffix(".lock")
            .tempfile_in(&users)
            .map_err(FileError::at(&users, "create a file in"))?;
        let (_, path) = file.keep().map_err(|err| FileError::at(&users, "create a file in")(err.error))?;
        // Another process may take the file for that of a dead one before it is locked.
        if let Some(lock) = FileLock::try_exclusive(&path)? {
            return Ok(User { lock });
        }
    }
}

/// Removes what killed processes left, and counts the bytes of all blocks.
pub(super) fn recount(dir: &Path) -> Result<u64, FileError> {
    let _lock = FileLock::exclusive(&dir.join(USAGE))?;
    // The only files that are written in the folder itself are markers.
    durable::remove_stale(dir)?;
    durable::remove_stale_named(&dir.join(TMP), TEMPORARY_PREFIX)?;
    let used = block_files(dir)?.iter().map(|block| block.len).sum();
    write_usage(dir, used)?;
    Ok(used)
}

impl Space {
    pub(super) fn new(dir: &Path, bytes: u64, mapped_bytes: u64) -> Self {
        Self { dir: dir.to_owned(), bytes, mapped_bytes, required: AtomicU64::new(0), is_told: AtomicBool::new(false) }
    }

    /// Bytes that blocks may take when `users` processes use the cache.
    pub(super) fn room(&self, users: u64) -> u64 {
        self.bytes.saturating_sub(self.mapped_bytes.saturating_mul(users))
    }

    /// Notes that this process needs `bytes` bytes of blocks at the same time.
    pub(super) fn require(&self, bytes: u64) {
        self.required.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Returns `true` once a warning was logged that processes that joined later leave too little room.
    #[cfg(test)]
    pub(super) fn has_told(&self) -> bool {
        self.is_told.load(Ordering::Relaxed)
    }

    /// Logs a warning, once, if `users` processes leave less room than this process needs.
    fn compare(&self, room: u64, users: u64) {
        let required = self.required.load(Ordering::Relaxed);
        if room < required && !self.is_told.swap(true, Ordering::Relaxed) {
            let (dir, needed) = (self.dir.display(), sufficient_bytes(required, users));
            tracing::warn!(
                "{dir}: {users} processes leave {room} bytes of the disk cache for blocks, but {required} are needed at a \
                 time, and blocks are fetched again and again; a size of {needed} bytes or more would do"
            );
        }
    }

    /// Reserves `len` bytes for a block to be written, evicting other blocks first if there is no room; calls
    /// `on_evicted` for each evicted block.
    pub(super) fn reserve(&self, len: u64, on_evicted: impl Fn(BlockKey)) -> Result<(), FileError> {
        let _lock = FileLock::exclusive(&self.dir.join(USAGE))?;
        let mut used = read_usage(&self.dir);
        let users = num_users(&self.dir)?;
        let room = self.room(users);
        self.compare(room, users);
        if used.is_none_or(|used| used.saturating_add(len) > room) {
            let kept = (room / 10 * KEPT_TENTHS).min(room.saturating_sub(len));
            used = Some(self.evict_to(kept, on_evicted)?);
        }
        write_usage(&self.dir, used.unwrap_or_default().saturating_add(len))
    }

    /// Evicts the least recently used blocks until at most `kept` bytes remain; returns the bytes that remain.
    fn evict_to(&self, kept: u64, on_evicted: impl Fn(BlockKey)) -> Result<u64, FileError> {
        let mut blocks = block_files(&self.dir)?;
        let mut used: u64 = blocks.iter().map(|block| block.len).sum();
        blocks.sort_by_key(|block| block.last_use);
        for BlockFile { path, key, len, .. } in blocks {
            if used <= kept {
                break;
            }
            match durable::remove_file(&path) {
                Ok(()) => {}
                Err(err) if err.source.kind() == io::ErrorKind::NotFound => {}
                Err(err) => return Err(err),
            }
            on_evicted(key);
            used -= len;
            // Succeeds for the last block of an object.
            let _ = path.parent().map(std::fs::remove_dir);
        }
        Ok(used)
    }
}

/// Reads the last recorded number of bytes; `None` if it was never written or is incomplete.
fn read_usage(dir: &Path) -> Option<u64> {
    let content = regular::read(&dir.join(USAGE)).ok()?;
    Some(u64::from_le_bytes(content.try_into().ok()?))
}

fn write_usage(dir: &Path, bytes: u64) -> Result<(), FileError> {
    // Written in place, because the file is the lock. A torn write has another length or counts what an eviction corrects.
    let path = dir.join(USAGE);
    let write = || durable::append_to(&mut File::create(&path)?, &path, &bytes.to_le_bytes());
    write().map_err(FileError::at(&path, "write"))
}

/// Number of processes that use the cache, this one included; removes the files of dead ones.
pub(super) fn num_users(dir: &Path) -> Result<u64, FileError> {
    let users = dir.join(USERS);
    let mut count = 0;
    for entry in std::fs::read_dir(&users).map_err(FileError::at(&users, "list"))? {
        let path = entry.map_err(FileError::at(&users, "list"))?.path();
        let Ok(file) = regular::open(&path) else { continue };
        match file.try_lock() {
            // No process holds the lock.
            Ok(()) => {
                let _ = std::fs::remove_file(&path);
            }
            Err(TryLockError::WouldBlock) => count += 1,
            // A file system without locks does not distinguish live processes from dead ones.
            Err(TryLockError::Error(_)) => {}
        }
    }
    Ok(count.max(1))
}

/// Files of all blocks. Anything else in the folder is left alone.
fn block_files(dir: &Path) -> Result<Vec<BlockFile>, FileError> {
    let mut blocks = Vec::new();
    for group in folders(&dir.join(BLOCKS))? {
        for folder in folders(&group)? {
            let Some(object) = hex_name(&folder, 32) else { continue };
            for entry in entries(&folder)? {
                let path = entry.path();
                let Some(number) = hex_name(&path, 8).and_then(|number| u32::try_from(number).ok()) else { continue };
                // Evicted by another process in the meantime.
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.is_file() {
                    let last_use = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    let key = BlockKey { object, number };
                    blocks.push(BlockFile { path, key, len: metadata.len(), last_use });
                }
            }
        }
    }
    Ok(blocks)
}

/// Folders in a folder, links excluded.
fn folders(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let entries = entries(dir)?;
    let is_folder = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    Ok(entries.into_iter().filter(is_folder).map(|entry| entry.path()).collect())
}

/// Entries of a folder; none if another process has removed it.
fn entries(dir: &Path) -> Result<Vec<std::fs::DirEntry>, FileError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<_>>().map_err(FileError::at(dir, "list")),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(FileError::at(dir, "list")(err)),
    }
}

/// Value of a name of `digits` lower-case hex digits.
fn hex_name(path: &Path, digits: usize) -> Option<u128> {
    let name = path.file_name()?.to_str()?;
    let is_hex = name.len() == digits && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    if is_hex { u128::from_str_radix(name, 16).ok() } else { None }
}
