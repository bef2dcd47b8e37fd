//! Blocks of heap memory for batches, reused by later batches.

#![cfg_attr(not(feature = "serve"), allow(dead_code, reason = "a client needs a part of it"))]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::batch::BatchMemory;

/// Pool of free blocks.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    /// Largest number of bytes to keep in free blocks.
    keep_bytes: u64,
    free: Mutex<Vec<Vec<u64>>>,
}

/// A block in use; dropping it returns it to its pool.
pub(crate) struct Block {
    words: Vec<u64>,
    len: usize,
    blocks: Arc<Blocks>,
    /// Value kept alive while the block is in use.
    _keep: Box<dyn Send + Sync>,
}

/// Error of the system refusing to allocate a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot allocate {bytes} bytes")]
pub(crate) struct NoMemory {
    pub(crate) bytes: usize,
}

impl Blocks {
    /// Creates an empty pool that keeps at most `keep_bytes` in free blocks.
    pub(crate) fn new(keep_bytes: u64) -> Arc<Self> {
        Arc::new(Self { keep_bytes, free: Mutex::default() })
    }

    /// Takes the smallest free block that holds `bytes` and is at most an eighth larger, or allocates one.
    ///
    /// # Errors
    /// If the system has no memory.
    pub(crate) fn take(self: &Arc<Self>, bytes: usize, keep: impl Send + Sync + 'static) -> Result<Block, NoMemory> {
        let wanted = bytes.div_ceil(size_of::<u64>());
        let found = {
            let mut free = self.lock();
            let fitting =
                free.iter().enumerate().filter(|(_, block)| (wanted..=wanted + wanted / 8).contains(&block.len()));
            let best = fitting.min_by_key(|(_, block)| block.len()).map(|(at, _)| at);
            best.map(|at| free.remove(at))
        };
        let words = match found {
            Some(words) => words,
            None => allocate(wanted).ok_or(NoMemory { bytes })?,
        };
        Ok(Block { words, len: bytes, blocks: Arc::clone(self), _keep: Box::new(keep) })
    }

    /// Frees the blocks that are not in use.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// Bytes of free blocks.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.lock().iter().map(|block| (block.len() * size_of::<u64>()) as u64).sum()
    }

    fn give_back(&self, words: Vec<u64>) {
        let mut free = self.lock();
        free.push(words);
        // The oldest go first: their size is the least likely to be asked for again.
        let bytes =
            |free: &Vec<Vec<u64>>| free.iter().map(|block| (block.len() * size_of::<u64>()) as u64).sum::<u64>();
        while bytes(&free) > self.keep_bytes {
            free.remove(0);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u64>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Allocates zeros, whose pages the system fills only when they are touched.
fn allocate(words: usize) -> Option<Vec<u64>> {
    // Reserved first, because a failed reservation is an error, while the failed allocation below would abort the process.
    let mut probe: Vec<u64> = Vec::new();
    probe.try_reserve_exact(words).ok()?;
    std::hint::black_box(&probe);
    drop(probe);
    Some(vec![0; words])
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("len", &self.len).finish_non_exhaustive()
    }
}

impl BatchMemory for Block {
    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if !self.words.is_empty() {
            self.blocks.give_back(std::mem::take(&mut self.words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_reused_within_the_limit() {
        let blocks = Blocks::new(100);
        let mut block = blocks.take(41, ()).unwrap();
        assert_eq!(block.bytes().len(), 41);
        block.bytes_mut().fill(7);
        drop(block);
        assert_eq!(blocks.free_bytes(), 48);
        // Too small for 49 bytes, and more than an eighth too large for 40 and 16.
        let others = [49, 40, 16].map(|bytes| blocks.take(bytes, ()).unwrap());
        assert_eq!(blocks.free_bytes(), 48);
        assert_eq!(blocks.take(42, ()).unwrap().bytes()[0], 7);
        drop(others);
        // 48 + 56 + 40 + 16 bytes are above the limit, so the oldest have gone.
        assert!(blocks.free_bytes() <= 100);
        blocks.clear();
        assert_eq!(blocks.free_bytes(), 0);
        assert!(blocks.take(0, ()).unwrap().bytes().is_empty());
    }

    #[test]
    fn memory_that_the_system_does_not_have_is_an_error() {
        let bytes = 1 << 60;
        assert_eq!(Blocks::new(0).take(bytes, ()).unwrap_err(), NoMemory { bytes });
    }
}
