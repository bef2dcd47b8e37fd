//! Turns of the threads that assemble batches: a free buffer first, then the next step.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::batch::PooledBuffer;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::channel::{Receiver, Sender};
use crate::sync::{Mutex, PoisonError};

/// Voxel and label buffers of one batch.
pub(super) type Loan<V> = (PooledBuffer<V>, PooledBuffer<u8>);

/// Access of one assembler to the buffers and steps that all assemblers of a stream share.
pub(super) struct Turns<V> {
    /// Pools of voxel and label buffers, and the free buffers in them.
    pub(super) pools: (Sender<Vec<V>>, Sender<Vec<u8>>),
    pub(super) free: (Receiver<Vec<V>>, Receiver<Vec<u8>>),
    /// Steps that no assembler has begun yet.
    pub(super) rest: Arc<Mutex<Range<u64>>>,
    /// True once the stream has been dropped.
    pub(super) stop: Arc<AtomicBool>,
}

impl<V> Turns<V> {
    /// Takes a free buffer and then the next step, so that the oldest step in progress always has a buffer. Also
    /// returns the seconds waited; `None` when the stream is over.
    pub(super) fn begin(&self) -> Option<(u64, Loan<V>, f64)> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if rest.is_empty() {
            return None;
        }
        // The others wait for the lock, which does not mean that buffers are missing; so the clock starts here.
        let waiting = Instant::now();
        let images = PooledBuffer::on_loan(self.free.0.recv().ok()?, self.pools.0.clone());
        let labels = PooledBuffer::on_loan(self.free.1.recv().ok()?, self.pools.1.clone());
        if self.stop.load(Ordering::Relaxed) {
            // The buffers return to their pools and wake the next assembler that waits.
            return None;
        }
        let step = rest.next()?;
        Some((step, (images, labels), waiting.elapsed().as_secs_f64()))
    }
}
