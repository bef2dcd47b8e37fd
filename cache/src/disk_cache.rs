//! Disk cache: blocks of objects on a local disk, bounded in bytes and shared by processes.
//!
//! ```text
//!   DIR/hiend-disk-cache     marker: this folder belongs to the cache; nothing is ever evicted in a folder without it
//!   DIR/usage                number of bytes of all blocks, and the lock around every change of it
//!   DIR/users/*.lock         one file per process at work, locked by it
//!   DIR/tmp/                 blocks being written
//!   DIR/blocks/XX/OBJECT/NUMBER
//! ```
//! # Guarantees
//! - A block appears complete by a rename, or not at all. Any process may be killed at any time: what it leaves behind is
//!   a temporary file without a lock, which the next process removes, and a usage that counts too much, which the next
//!   eviction counts again.
//! - Nothing here has to be intact: blocks are counted again whenever a process opens the cache, and a damaged marker is
//!   written again in a folder that holds nothing else than a disk cache does.
//! - Blocks are not synced. After a power cut one may hold other bytes; every byte of a shard is covered by a checksum, so
//!   that the reader finds it, discards the block and fetches it again.
//! - The name of a block contains the object's version, so that an object that was replaced never gets old bytes.
//! - All blocks together take at most the size of the cache, less what the processes at work may still have mapped of
//!   evicted blocks ([`DiskCache::mapped_bytes`] each). Room is made before a block is written. The blocks used least
//!   recently are evicted first; the time of a file's last change is the time of its last use, to the minute.
//! - A block that is evicted while it is mapped stays readable until it is unmapped. Where the file system has no locks,
//!   the bound holds for a single process only.
//! - A block that cannot be written, because the disk is full for example, is kept in memory among the mapped ones. The
//!   first such failure is logged.

mod marker;
mod space;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use crate::durable::{self, TemporaryFile};
pub use crate::error::DiskCacheError;
use crate::error::FileError;
use crate::map::Map;
use crate::object::{Block, BlockKey, BlockStore, Lru};
use crate::regular;
use crate::storage::Access;
use crate::user_cache;
use space::{Space, User};

/// Length of a block in bytes: two columns of chunks in a typical case, a few milliseconds on a typical link.
const BLOCK_LEN: u64 = 512 << 10;
/// Largest default size in bytes.
const DEFAULT_BYTES: u64 = 50 << 30;
/// Largest number of bytes that a process keeps mapped.
const MOST_MAPPED: u64 = 256 << 20;
/// Share of the cache that a process may keep mapped, as a divisor.
const MAPPED_DIVISOR: u64 = 16;
/// Prefix of temporary files.
const TEMPORARY_PREFIX: &str = ".block-";
/// Seconds after which a further use of a mapped block is recorded.
const RECORD_AFTER_SECS: u64 = 60;

/// Folder and size of a disk cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskCacheOptions {
    /// Folder; `None` for `hiend/blocks` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub dir: Option<PathBuf>,
    /// Size in bytes; `None` for 50 GiB or half of the free space, whichever is less.
    pub bytes: Option<u64>,
}

/// An open disk cache.
#[derive(Debug)]
pub struct DiskCache {
    dir: PathBuf,
    bytes: u64,
    access: Access,
    space: Space,
    /// Blocks that are mapped now, or that could not be written.
    mapped: Lru,
    /// `true` once a block could not be written.
    has_failed: AtomicBool,
    /// Announces to other processes that this one is at work.
    _user: User,
}

/// Disk caches that this process has open, by folder.
static OPEN: Mutex<Vec<(PathBuf, Weak<DiskCache>)>> = Mutex::new(Vec::new());

impl DiskCache {
    /// Opens a disk cache, and creates its folder if there is none. A cache that this process has open is shared.
    ///
    /// # Errors
    /// If the folder holds something else or cannot be written, or the size is too small for a few blocks.
    pub fn open(options: &DiskCacheOptions, access: Access) -> Result<Arc<Self>, DiskCacheError> {
        let dir = options.dir.clone().or_else(|| user_cache::folder("blocks")).ok_or(DiskCacheError::NoFolder)?;
        durable::create_dir_all(&dir)?;
        let dir = std::fs::canonicalize(&dir).map_err(FileError::at(&dir, "look up"))?;
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, cache)| cache.strong_count() > 0);
        if let Some(cache) = open.iter().find(|(other, _)| *other == dir).and_then(|(_, cache)| cache.upgrade()) {
            return match options.bytes {
                Some(bytes) if bytes != cache.bytes => Err(DiskCacheError::OtherSize { dir, open: cache.bytes, bytes }),
                _ => Ok(cache),
            };
        }
        marker::claim(&dir)?;
        let user = space::enter(&dir)?;
        let taken = space::recount(&dir)?;
        let bytes = match options.bytes {
            Some(bytes) => bytes,
            None => default_bytes(&dir, taken)?,
        };
        let mapped_bytes = mapped_bytes(bytes);
        let space = Space::new(&dir, bytes, mapped_bytes);
        let mapped = Lru::new(mapped_bytes);
        let cache = Self { bytes, access, space, mapped, has_failed: AtomicBool::new(false), _user: user, dir };
        cache.check_room(BLOCK_LEN)?;
        cache.space.require(BLOCK_LEN);
        let cache = Arc::new(cache);
        open.push((cache.dir.clone(), Arc::downgrade(&cache)));
        Ok(cache)
    }

    /// Path of the folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Number of bytes of evicted blocks that each process may keep mapped.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        mapped_bytes(self.bytes)
    }

    /// Number of bytes of blocks that a single process can keep.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.bytes - self.mapped_bytes()
    }

    /// Checks that the cache can keep `bytes` bytes at a time, next to what each process that uses it now may keep mapped.
    /// Processes that come later and leave less room than that cause a warning.
    ///
    /// Evicts blocks beyond the size, if there are any: it may be smaller than before, and a power cut may have undone
    /// evictions.
    ///
    /// # Errors
    /// If the cache is smaller, with the size that would do; if a block cannot be evicted.
    pub fn require(&self, bytes: u64) -> Result<(), DiskCacheError> {
        self.check_room(bytes)?;
        self.space.require(bytes);
        Ok(self.space.reserve(0, |evicted| self.mapped.remove(evicted))?)
    }

    /// Checks that the cache can keep `bytes` bytes at a time.
    fn check_room(&self, bytes: u64) -> Result<(), DiskCacheError> {
        let users = space::num_users(&self.dir)?;
        if bytes <= self.space.room(users) {
            return Ok(());
        }
        let needed = sufficient_bytes(bytes, users);
        Err(DiskCacheError::TooSmall { dir: self.dir.clone(), bytes: self.bytes, needed, users })
    }

    /// Upper bound on the bytes of the blocks that a range of `len` bytes occupies, for any offset of the range.
    #[must_use]
    pub fn bytes_of_range(len: u64) -> u64 {
        len.div_ceil(BLOCK_LEN).saturating_add(1).saturating_mul(BLOCK_LEN)
    }

    fn path_of(&self, key: BlockKey) -> PathBuf {
        let object = format!("{:032x}", key.object);
        self.dir.join(space::BLOCKS).join(&object[..2]).join(&object).join(format!("{:08x}", key.number))
    }

    fn write(&self, key: BlockKey, bytes: &[u8]) -> Result<(), FileError> {
        self.space.reserve(bytes.len() as u64, |evicted| self.mapped.remove(evicted))?;
        let path = self.path_of(key);
        let folder = path.parent().unwrap_or(&self.dir);
        let tmp = self.dir.join(space::TMP);
        let write = || {
            std::fs::create_dir_all(folder)?;
            let mut file = TemporaryFile::create(&tmp, TEMPORARY_PREFIX)?;
            file.write_all(bytes)?;
            match file.persist(&path) {
                Ok(()) => Ok(()),
                // An eviction removed the folder, which was empty.
                Err(err) if err.error.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(folder)?;
                    err.file.persist(&path).map_err(|err| err.error)
                }
                Err(err) => Err(err.error),
            }
        };
        write().map_err(FileError::at(&path, "write this block of the disk cache"))
    }
}

fn mapped_bytes(bytes: u64) -> u64 {
    (bytes / MAPPED_DIVISOR).min(MOST_MAPPED)
}

/// Size of a cache that leaves room for `bytes` bytes when `users` processes use it.
fn sufficient_bytes(bytes: u64, users: u64) -> u64 {
    let most = bytes.saturating_add(MOST_MAPPED.saturating_mul(users));
    match MAPPED_DIVISOR.checked_sub(users) {
        Some(left) if left > 0 => bytes.saturating_mul(MAPPED_DIVISOR).div_ceil(left).min(most),
        _ => most,
    }
}

/// Default size, given the bytes that blocks take already.
fn default_bytes(dir: &Path, used: u64) -> Result<u64, FileError> {
    let disk = rustix::fs::statvfs(dir).map_err(|err| FileError::at(dir, "find the free space of")(err.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(used);
    Ok((free / 2).min(DEFAULT_BYTES))
}

impl BlockStore for DiskCache {
    fn block_len(&self) -> u64 {
        BLOCK_LEN
    }

    fn contains(&self, key: BlockKey, len: usize) -> bool {
        if self.mapped.get(key, u64::MAX).is_some() {
            return true;
        }
        // A block that cannot be looked up is fetched again.
        std::fs::metadata(self.path_of(key)).is_ok_and(|metadata| metadata.len() == len as u64)
    }

    fn get(&self, key: BlockKey, len: usize) -> Result<Option<Arc<Block>>, FileError> {
        if let Some((block, is_due)) = self.mapped.get(key, RECORD_AFTER_SECS) {
            if is_due && let Ok(file) = regular::open(&self.path_of(key)) {
                record_use(&file);
            }
            return Ok(Some(block));
        }
        let path = self.path_of(key);
        let file = match regular::open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(FileError::at(path, "open")(err)),
        };
        let Some(block) = load(&file, len, self.access).map_err(FileError::at(&path, "read"))? else {
            // The file was not renamed into place by this crate, or its content was lost in a power cut.
            self.discard(key);
            return Ok(None);
        };
        record_use(&file);
        let block = Arc::new(block);
        self.mapped.insert(key, Arc::clone(&block));
        Ok(Some(block))
    }

    fn put(&self, key: BlockKey, bytes: &[u8]) {
        let Err(err) = self.write(key, bytes) else { return };
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            let FileError { path, source, .. } = &err;
            tracing::warn!(
                "{}: the disk cache cannot be written, blocks that do not fit in memory are fetched again: {}: {source}",
                self.dir.display(),
                path.display()
            );
        }
        self.mapped.insert(key, Arc::new(Block::Owned(bytes.into())));
    }

    fn discard(&self, key: BlockKey) {
        self.mapped.remove(key);
        // A file that cannot be removed fails its check again when it is read.
        let _ = durable::remove_file(&self.path_of(key));
    }

    fn held_bytes(&self) -> u64 {
        self.mapped_bytes()
    }
}

/// Block of `len` bytes in an open file; `None` if the file has another length. The path is not looked up again, because
/// another process may have evicted the block.
fn load(mut file: &File, len: usize, access: Access) -> io::Result<Option<Block>> {
    if file.metadata()?.len() != len as u64 {
        return Ok(None);
    }
    let block = match access {
        Access::Mmap => Block::Mapped(Map::new(file)?),
        Access::Pread => {
            let mut bytes = Vec::with_capacity(len);
            file.read_to_end(&mut bytes)?;
            Block::Owned(bytes.into())
        }
    };
    // A file that was truncated or extended since then is not a valid block.
    Ok((block.bytes().len() == len).then_some(block))
}

/// Records that a block is used now. If recording fails, the block may be evicted earlier.
fn record_use(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

#[cfg(test)]
mod tests;
