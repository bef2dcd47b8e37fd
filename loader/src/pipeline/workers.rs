//! Threads that decode and augment, with their buffers. Several loaders may share them.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Error;
use crate::budget::ByteBudget;
use crate::stats::Stats;
use crate::visit::Visitor;

/// Threads that make batches, their buffers, and the spill of visits that need more than a thread keeps.
///
/// A thread keeps the buffers of the largest visit that it made for any loader; [`super::MemoryPlan::visitor_bytes`]
/// bounds them.
pub struct Workers {
    pub(super) pool: rayon::ThreadPool,
    pub(super) spill: ByteBudget,
    /// Idle visitors, with the bytes that each holds.
    visitors: Mutex<Vec<(Visitor, u64)>>,
    /// True if the visitors' memory is counted for the loader that uses them; false if several loaders share them.
    counted: bool,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("threads", &self.num_threads()).finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts `threads` threads that several loaders share; 0 stands for one per core. `spill_bytes` bounds the memory
    /// that visits take beyond what the threads keep.
    ///
    /// # Errors
    /// If the system provides no threads.
    pub fn new(threads: usize, spill_bytes: u64) -> Result<Self, Error> {
        let threads = if threads == 0 { crate::budget::cores() } else { threads };
        Ok(Self { counted: false, ..Self::of_one_loader(threads, spill_bytes)? })
    }

    /// Starts the threads of a single loader.
    pub(super) fn of_one_loader(threads: usize, spill_bytes: u64) -> Result<Self, Error> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("loader-{number}"))
            .build()
            .map_err(|err| Error::NoThreads { reason: err.to_string() })?;
        Ok(Self { pool, spill: ByteBudget::new(spill_bytes), visitors: Mutex::default(), counted: true })
    }

    /// Number of threads.
    #[must_use]
    pub fn num_threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Takes a visitor; also returns the bytes counted for it so far.
    pub(super) fn borrow_visitor(&self) -> (Visitor, u64) {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Counts the bytes to which a visitor has grown. A visitor that grew into the spill is dropped, which frees the
    /// spill for the next visit.
    pub(super) fn return_visitor(&self, stats: &Stats, visitor: Visitor, held: u64, spilled: bool) {
        let now = visitor.buffer_bytes();
        if self.counted {
            stats.hold(now.saturating_sub(held));
        }
        if spilled {
            drop(visitor);
            if self.counted {
                stats.release(now.max(held));
            }
        } else {
            if self.counted {
                stats.release(held.saturating_sub(now));
            }
            self.visitors.lock().unwrap_or_else(PoisonError::into_inner).push((visitor, now));
        }
    }
}
