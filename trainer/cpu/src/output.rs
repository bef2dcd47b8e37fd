//! Buffers that several threads fill in disjoint pieces, without being cleared first.
#![allow(unsafe_code, reason = "threads write disjoint parts of one allocation through a shared pointer")]

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An uninitialised buffer of floats. Threads write each element exactly once; [`Blank::finish`] then converts it to a
/// vector.
#[derive(Debug)]
pub struct Blank {
    values: Vec<MaybeUninit<f32>>,
    start: *mut MaybeUninit<f32>,
    num_written: AtomicUsize,
}

// SAFETY: `start` points into `values`, which the struct owns and does not touch until `finish`. Callers of `write` promise
// that concurrent writes are disjoint.
unsafe impl Sync for Blank {}
// SAFETY: nothing in the struct belongs to a thread.
unsafe impl Send for Blank {}

impl Blank {
    /// Creates a buffer of `len` uninitialised floats.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let mut values = Vec::with_capacity(len);
        // SAFETY: the capacity is `len`, and `MaybeUninit` needs no initialisation.
        unsafe { values.set_len(len) };
        let start = values.as_mut_ptr();
        Self { values, start, num_written: AtomicUsize::new(0) }
    }

    /// Number of floats.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns true if the length of the buffer is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Creates a writer for one thread's part.
    #[must_use]
    pub fn part(&self) -> Part<'_> {
        Part { whole: self, num_written: 0 }
    }

    /// Converts the buffer to a vector, once every element is written.
    ///
    /// # Panics
    /// If the number of floats written is not the buffer's length.
    #[must_use]
    pub fn finish(self) -> Vec<f32> {
        let Self { values, num_written, .. } = self;
        assert_eq!(num_written.into_inner(), values.len(), "every element is written exactly once");
        let mut values = std::mem::ManuallyDrop::new(values);
        // SAFETY: pointer, length and capacity are those of a live vector whose elements are all initialised: as many were
        // written as there are, and no caller writes one twice.
        unsafe { Vec::from_raw_parts(values.as_mut_ptr().cast(), values.len(), values.capacity()) }
    }
}

/// Writer of some elements of a [`Blank`], used by one thread.
#[derive(Debug)]
pub struct Part<'a> {
    whole: &'a Blank,
    num_written: usize,
}

impl Part<'_> {
    /// Writes `values` from index `at` on.
    ///
    /// # Safety
    /// No element is written twice, by this part or by another.
    ///
    /// # Panics
    /// If the range runs past the end of the buffer.
    #[inline]
    pub unsafe fn write(&mut self, at: usize, values: &[f32]) {
        let end = at.checked_add(values.len());
        assert!(end.is_some_and(|end| end <= self.whole.len()), "the part lies inside the buffer");
        // SAFETY: the range is inside the allocation, and by the contract no other thread writes it. `values` is a
        // reference to initialised floats, so it cannot overlap the buffer.
        unsafe {
            let to = self.whole.start.add(at).cast::<f32>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
        self.num_written += values.len();
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.whole.num_written.fetch_add(self.num_written, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_two_threads_become_one_vector() {
        let blank = Blank::new(5);
        std::thread::scope(|scope| {
            // SAFETY: the threads write disjoint ranges.
            scope.spawn(|| unsafe { blank.part().write(0, &[1.0, 2.0]) });
            // SAFETY: as above.
            scope.spawn(|| unsafe { blank.part().write(2, &[3.0, 4.0, 5.0]) });
        });
        assert_eq!(blank.finish(), [1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    #[should_panic(expected = "every element is written")]
    fn a_gap_is_found() {
        let blank = Blank::new(3);
        // SAFETY: one write only.
        unsafe { blank.part().write(0, &[1.0]) };
        let _ = blank.finish();
    }
}
