//! Counter of memory, in place of the loader's statistics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Memory in use, in bytes. Not modelled, because no thread waits for it.
#[derive(Debug, Default)]
pub struct Stats {
    memory_bytes: AtomicU64,
    peak: AtomicU64,
}

impl Stats {
    /// Counts `bytes` as in use.
    pub fn hold(&self, bytes: u64) {
        let now = self.memory_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Counts `bytes` as free again.
    pub fn release(&self, bytes: u64) {
        let before = self.memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "{bytes} of {before} bytes released");
    }

    /// Bytes currently in use, and their maximum so far.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.memory_bytes.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }
}
