//! Blocks of objects: the seam between fetching bytes and keeping them.

use std::fmt;
use std::sync::Arc;

use super::block::{Block, BlockKey};
use super::lru::Lru;
use crate::error::FileError;

/// A store that keeps blocks for a while. Any block may disappear at any time; a block that is present is complete.
pub(crate) trait BlockStore: fmt::Debug + Send + Sync {
    /// Length in bytes of every block except an object's last one.
    fn block_len(&self) -> u64;

    /// Returns `true` if the block is present now.
    fn contains(&self, key: BlockKey, len: usize) -> bool;

    /// The block of `len` bytes; `None` if it is not present.
    ///
    /// # Errors
    /// If it is there but cannot be read.
    fn get(&self, key: BlockKey, len: usize) -> Result<Option<Arc<Block>>, FileError>;

    /// Keeps a block if it fits.
    fn put(&self, key: BlockKey, bytes: &[u8]);

    /// Forgets a block whose bytes turned out to be wrong.
    fn discard(&self, key: BlockKey);

    /// Largest number of bytes of blocks that the process has mapped or in memory.
    fn held_bytes(&self) -> u64;
}

/// Blocks kept in memory, for programs that read a cache once.
#[derive(Debug)]
pub(crate) struct MemoryBlocks {
    lru: Lru,
}

impl MemoryBlocks {
    /// Length of a block in bytes: what a link of 1 Gbit/s carries in the time of a usual answer.
    const BLOCK_LEN: u64 = 2 << 20;
    /// Largest number of bytes kept: two blocks for each of 64 threads.
    const BYTES: u64 = 256 << 20;

    /// Creates an empty store.
    pub(crate) fn new() -> Self {
        Self { lru: Lru::new(Self::BYTES) }
    }
}

impl BlockStore for MemoryBlocks {
    fn block_len(&self) -> u64 {
        Self::BLOCK_LEN
    }

    fn contains(&self, key: BlockKey, _: usize) -> bool {
        self.lru.get(key, u64::MAX).is_some()
    }

    fn get(&self, key: BlockKey, _: usize) -> Result<Option<Arc<Block>>, FileError> {
        Ok(self.lru.get(key, u64::MAX).map(|(block, _)| block))
    }

    fn put(&self, key: BlockKey, bytes: &[u8]) {
        self.lru.insert(key, Arc::new(Block::Owned(bytes.into())));
    }

    fn discard(&self, key: BlockKey) {
        self.lru.remove(key);
    }

    fn held_bytes(&self) -> u64 {
        Self::BYTES
    }
}
