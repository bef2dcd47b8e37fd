//! Models of the buffers of batches.

#[path = "../../../loader/src/batch/pool.rs"]
mod pool;

pub use pool::{BATCH_ALIGNMENT, BatchMemory, PooledBuffer};
