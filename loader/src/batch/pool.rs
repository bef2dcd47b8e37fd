//! Batch memory that returns to its pool when a batch is dropped.

use std::ops::{Deref, DerefMut};

/// A vector on loan from a pool; dropping it returns the memory.
#[derive(Debug)]
pub struct PooledBuffer<T> {
    data: Vec<T>,
    len: usize,
    pool: Option<flume::Sender<Vec<T>>>,
}

impl<T> PooledBuffer<T> {
    /// Wraps a vector that is sent back to `pool` when the buffer is dropped.
    #[must_use]
    pub fn on_loan(data: Vec<T>, pool: flume::Sender<Vec<T>>) -> Self {
        Self { len: data.len(), data, pool: Some(pool) }
    }

    /// Wraps a vector that belongs to no pool, for tests and tools.
    #[must_use]
    pub fn unpooled(data: Vec<T>) -> Self {
        Self { len: data.len(), data, pool: None }
    }

    /// Sets the length to `len`, growing the memory if it is too small. Contents are unspecified.
    pub fn set_len(&mut self, len: usize)
    where
        T: Clone + Default,
    {
        if self.data.len() < len {
            // A vector would double its capacity, beyond the memory plan.
            self.data.reserve_exact(len - self.data.len());
            self.data.resize(len, T::default());
        }
        self.len = len;
    }

    /// Hides all values from `len` on; the memory keeps its size for the next loan.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl<T> Deref for PooledBuffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[..self.len]
    }
}

impl<T> DerefMut for PooledBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[..self.len]
    }
}

impl<T> Drop for PooledBuffer<T> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            // At the end of a run the pool may be gone already; the memory is then freed here.
            let _ = pool.try_send(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_buffer_returns_to_its_pool_whole() {
        let (sender, receiver) = flume::bounded(1);
        let mut buffer = PooledBuffer::on_loan(vec![1.0f32; 4], sender);
        buffer.truncate(3);
        assert_eq!(*buffer, [1.0; 3]);
        assert!(receiver.try_recv().is_err());
        drop(buffer);
        assert_eq!(receiver.try_recv().unwrap(), [1.0; 4]);
    }

    #[test]
    fn length_is_set_within_the_memory_and_beyond_it() {
        let mut buffer = PooledBuffer::unpooled(vec![7u16; 4]);
        buffer.truncate(2);
        buffer.set_len(3);
        assert_eq!(*buffer, [7; 3]);
        buffer.set_len(6);
        assert_eq!(*buffer, [7, 7, 7, 7, 0, 0]);
        assert_eq!(buffer.data.capacity(), 6);
    }
}
