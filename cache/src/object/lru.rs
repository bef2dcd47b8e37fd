//! Blocks held by the process; the least recently used are dropped first.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::block::{Block, BlockKey};

/// Number of parts, each with a lock of its own, so that decoding threads rarely meet.
const PARTS: usize = 16;

/// Blocks by key, up to a number of bytes.
#[derive(Debug)]
pub(crate) struct Lru {
    parts: [Mutex<Part>; PARTS],
    /// Largest number of bytes of each part.
    part_bytes: u64,
}

#[derive(Debug, Default)]
struct Part {
    entries: HashMap<BlockKey, Entry>,
    bytes: u64,
    /// Number of uses so far, a clock that orders the uses.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    block: Arc<Block>,
    last_use: u64,
    /// Time at which the owner last recorded the use elsewhere.
    recorded: Instant,
}

impl Lru {
    /// Creates an empty collection of at most `bytes` bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { parts: std::array::from_fn(|_| Mutex::default()), part_bytes: bytes / PARTS as u64 }
    }

    /// Finds a block. Also returns `true` if its use was last recorded at least `record_after_secs` ago, so that it is recorded
    /// again.
    pub(crate) fn get(&self, key: BlockKey, record_after_secs: u64) -> Option<(Arc<Block>, bool)> {
        let mut part = self.part(key);
        part.uses += 1;
        let uses = part.uses;
        let entry = part.entries.get_mut(&key)?;
        entry.last_use = uses;
        let is_due = entry.recorded.elapsed().as_secs() >= record_after_secs;
        if is_due {
            entry.recorded = Instant::now();
        }
        Some((Arc::clone(&entry.block), is_due))
    }

    /// Inserts a block and drops the least recently used ones if the limit is exceeded.
    pub(crate) fn insert(&self, key: BlockKey, block: Arc<Block>) {
        let len = block.bytes().len() as u64;
        let mut part = self.part(key);
        part.uses += 1;
        let last_use = part.uses;
        part.remove(key);
        part.bytes += len;
        part.entries.insert(key, Entry { block, last_use, recorded: Instant::now() });
        if part.bytes <= self.part_bytes {
            return;
        }
        // Makes room for more than this block, because looking for the oldest ones takes a pass over all.
        let mut by_use: Vec<(u64, BlockKey)> = part.entries.iter().map(|(&key, entry)| (entry.last_use, key)).collect();
        by_use.sort_unstable_by_key(|&(last_use, _)| last_use);
        for (_, oldest) in by_use {
            if part.bytes <= self.part_bytes / 8 * 7 || oldest == key {
                break;
            }
            part.remove(oldest);
        }
    }

    /// Drops a block.
    pub(crate) fn remove(&self, key: BlockKey) {
        self.part(key).remove(key);
    }

    fn part(&self, key: BlockKey) -> MutexGuard<'_, Part> {
        let number = (key.object as usize).wrapping_add(key.number as usize) % PARTS;
        self.parts[number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn remove(&mut self, key: BlockKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.block.bytes().len() as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> BlockKey {
        // Multiples of `PARTS`, so that all keys fall into one part.
        BlockKey { object: 5, number: number * u32::try_from(PARTS).unwrap() }
    }

    fn block() -> Arc<Block> {
        Arc::new(Block::Owned(vec![0; 10].into()))
    }

    #[test]
    fn blocks_used_least_recently_are_dropped_first() {
        let lru = Lru::new(80 * PARTS as u64);
        for number in 0..8 {
            lru.insert(key(number), block());
        }
        assert!(lru.get(key(0), 60).is_some());
        lru.insert(key(8), block());
        let held: Vec<u32> = (0..9).filter(|&number| lru.get(key(number), 60).is_some()).collect();
        assert_eq!(held, [0, 3, 4, 5, 6, 7, 8]);
        lru.remove(key(8));
        assert!(lru.get(key(8), 60).is_none());
        assert!(lru.part(key(0)).bytes == 60);
    }

    #[test]
    fn newest_block_is_held_even_if_it_is_too_large() {
        let lru = Lru::new(0);
        lru.insert(key(0), block());
        assert!(lru.get(key(0), 60).is_some());
        lru.insert(key(1), block());
        assert!(lru.get(key(0), 60).is_none());
        assert!(lru.get(key(1), 60).is_some());
    }

    #[test]
    fn use_is_recorded_when_due() {
        let lru = Lru::new(1 << 20);
        lru.insert(key(0), block());
        assert!(!lru.get(key(0), 3600).unwrap().1);
        assert!(lru.get(key(0), 0).unwrap().1);
    }
}
