//! NumPy arrays that are views of a batch's buffers. The only module of this crate with `unsafe` code.

#![expect(unsafe_code, reason = "an array that borrows memory is made with a pointer to it")]

use numpy::ndarray::ArrayViewMut5;
use numpy::{Element, PyArray5};
use pyo3::prelude::*;

/// Voxels that a Python object owns, crop after crop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voxels<T> {
    first: *mut T,
    shape: [usize; 5],
}

// SAFETY: a pointer to voxels of the loader's buffers, which belong to no thread. `view` is the only access, and needs
// the interpreter.
unsafe impl<T: Send> Send for Voxels<T> {}
// SAFETY: as above; nothing is read or written through a shared reference.
unsafe impl<T: Send> Sync for Voxels<T> {}

impl<T: Element> Voxels<T> {
    /// Takes the address of `values`, which hold crops of shape `shape`.
    ///
    /// # Panics
    /// If the shape has another number of voxels.
    pub(crate) fn new(values: &mut [T], shape: [usize; 5]) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "a batch's buffer holds its crops");
        Self { first: values.as_mut_ptr(), shape }
    }

    /// Creates a writable array of the voxels that keeps `owner` alive.
    ///
    /// # Safety
    /// `owner` must own the values given to [`Self::new`], neither move nor free them while it lives, and read or write
    /// them only where Python code was instructed not to do so at the same time.
    pub(crate) unsafe fn view(self, owner: Bound<'_, PyAny>) -> Bound<'_, PyArray5<T>> {
        // SAFETY: `first` points to as many initialised values as the shape has, in memory that the caller promises to
        // be alive. The view is used for its pointer, shape and strides alone.
        let view = unsafe { ArrayViewMut5::from_shape_ptr(self.shape, self.first) };
        // SAFETY: the array holds a reference to `owner`, which keeps the memory where it is.
        unsafe { PyArray5::borrow_from_array(&view, owner) }
    }
}
