//! Batch memory that returns to its pool when a batch is dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;

use crate::sync::channel::Sender;

/// Memory on loan, returned when it is dropped.
///
/// Holds values of `T` in a vector from a pool, or in memory of another kind, such as a slot of shared memory.
#[derive(Debug)]
pub struct PooledBuffer<T> {
    memory: Memory<T>,
    len: usize,
}

#[derive(Debug)]
enum Memory<T> {
    /// A vector, and the pool that it returns to.
    Vector(Vec<T>, Option<Sender<Vec<T>>>),
    /// Memory that returns to its owner when dropped.
    Lent(Box<dyn BatchMemory>),
}

/// Memory for the voxels or the labels of a batch, provided by another owner than the stream.
///
/// Both methods return the same bytes, aligned to [`BATCH_ALIGNMENT`]. Dropping the value returns the memory.
pub trait BatchMemory: fmt::Debug + Send + Sync {
    /// All bytes.
    fn bytes(&self) -> &[u8];

    /// All bytes, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Alignment of a [`BatchMemory`] in bytes.
pub const BATCH_ALIGNMENT: usize = 8;

impl<T> PooledBuffer<T> {
    /// Wraps a vector that is sent back to `pool` when the buffer is dropped.
    #[must_use]
    pub fn on_loan(data: Vec<T>, pool: Sender<Vec<T>>) -> Self {
        Self { len: data.len(), memory: Memory::Vector(data, Some(pool)) }
    }

    /// Wraps a vector that belongs to no pool, for tests and tools.
    #[must_use]
    pub fn unpooled(data: Vec<T>) -> Self {
        Self { len: data.len(), memory: Memory::Vector(data, None) }
    }

    /// Wraps memory of another owner. Its length is the number of values that fit.
    #[must_use]
    pub fn lent(memory: Box<dyn BatchMemory>) -> Self {
        Self { len: memory.bytes().len() / size_of::<T>().max(1), memory: Memory::Lent(memory) }
    }

    /// Sets the length to `len`, growing a vector that is too small. Contents are unspecified.
    ///
    /// # Panics
    /// If memory of another owner is too small.
    pub fn set_len(&mut self, len: usize)
    where
        T: Clone + Default,
    {
        match &mut self.memory {
            Memory::Vector(data, _) => {
                if data.len() < len {
                    // A vector would double its capacity, beyond the memory plan.
                    data.reserve_exact(len - data.len());
                    data.resize(len, T::default());
                }
            }
            Memory::Lent(memory) => {
                let held = memory.bytes().len() / size_of::<T>().max(1);
                assert!(len <= held, "{len} values in memory lent for {held}");
            }
        }
        self.len = len;
    }

    /// Hides all values from `len` on; the memory keeps its size for the next loan.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl<T: Pod> Deref for PooledBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.memory {
            Memory::Vector(data, _) => &data[..self.len],
            Memory::Lent(memory) => bytemuck::cast_slice(&memory.bytes()[..self.len * size_of::<T>()]),
        }
    }
}

impl<T: Pod> DerefMut for PooledBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.memory {
            Memory::Vector(data, _) => &mut data[..self.len],
            Memory::Lent(memory) => bytemuck::cast_slice_mut(&mut memory.bytes_mut()[..self.len * size_of::<T>()]),
        }
    }
}

impl<T> Drop for PooledBuffer<T> {
    fn drop(&mut self) {
        if let Memory::Vector(data, Some(pool)) = &mut self.memory {
            // At the end of a run the pool may be gone already; the memory is then freed here.
            let _ = pool.try_send(std::mem::take(data));
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
        assert!(matches!(&buffer.memory, Memory::Vector(data, None) if data.capacity() == 6));
    }

    #[derive(Debug)]
    struct Words(Vec<u64>);

    impl BatchMemory for Words {
        fn bytes(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
        fn bytes_mut(&mut self) -> &mut [u8] {
            bytemuck::cast_slice_mut(&mut self.0)
        }
    }

    #[test]
    fn lent_memory_is_seen_as_values() {
        let mut buffer = PooledBuffer::<u16>::lent(Box::new(Words(vec![0; 2])));
        assert_eq!(buffer.len(), 8);
        buffer.set_len(5);
        buffer.copy_from_slice(&[1, 2, 3, 4, 5]);
        buffer.truncate(3);
        assert_eq!(*buffer, [1, 2, 3]);
    }

    #[test]
    #[should_panic(expected = "lent for 4")]
    fn lent_memory_does_not_grow() {
        PooledBuffer::<f32>::lent(Box::new(Words(vec![0; 2]))).set_len(5);
    }
}
