//! Descriptors of cuDNN's graph interface: tensors, operations, and the graphs that they form.
//!
//! A descriptor is a [`Draft`] while its attributes are set and a [`Descriptor`] once it is final. The library checks
//! the type and number of every attribute's values, so that a wrong value is an error rather than undefined behaviour.
//! Descriptors keep the descriptors that they refer to alive.

mod constants;

use std::ffi::c_int;
use std::rc::Rc;

use super::{Cudnn, CudnnError, Handle, Raw, Target, opened};

pub use constants::{
    Attribute, ConvolutionMode, DataType, HeuristicMode, Kind, KnobType, NumericalNote, PointwiseMode,
    ReductionOperator,
};

/// Value of an attribute: plain data of a type that the library has a number for.
///
/// # Safety
/// Values have the size and the layout of the library's type of this number.
pub unsafe trait Value: Copy {
    /// Number of the type in the library.
    const TYPE: c_int;
}

/// Value that the library may write.
///
/// # Safety
/// Any bits are a value of the type.
pub unsafe trait Readable: Value + Default {}

macro_rules! values {
    ($($type:ty = $number:literal),* $(,)?) => {
        $(
            // SAFETY: numbers and types are those of the library's header, whose enumerations have the size of a `c_int`.
            unsafe impl Value for $type {
                const TYPE: c_int = $number;
            }
        )*
    };
}

values! {
    DataType = 1, bool = 2, i64 = 3, f32 = 4, f64 = 5, ConvolutionMode = 7, HeuristicMode = 8, KnobType = 9,
    NumericalNote = 11, PointwiseMode = 14, ReductionOperator = 18, i32 = 23, u8 = 24,
}

// SAFETY: any bits are an integer.
unsafe impl Readable for i64 {}
// SAFETY: as above.
unsafe impl Readable for i32 {}
// SAFETY: as above.
unsafe impl Readable for u8 {}
// SAFETY: a struct of one integer.
unsafe impl Readable for KnobType {}
// SAFETY: as above.
unsafe impl Readable for NumericalNote {}

const HANDLE: c_int = 0;
const VOID_PTR: c_int = 6;
const BACKEND_DESCRIPTOR: c_int = 15;

/// A descriptor of the library, destroyed when dropped.
struct Owned {
    raw: Raw,
    library: &'static Cudnn,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created by `Draft::new`, destroyed once. Nothing can be done about a failure.
        let _ = unsafe { (self.library.functions.destroy_descriptor)(self.raw) };
    }
}

/// A descriptor whose attributes are being set.
pub struct Draft {
    owned: Owned,
    held: Vec<Descriptor>,
}

impl Draft {
    /// Creates a descriptor without attributes.
    ///
    /// # Errors
    /// If the library is not there, or does not know the kind.
    pub fn new(kind: Kind) -> Result<Self, CudnnError> {
        const CALL: &str = "cudnnBackendCreateDescriptor";
        let library = opened()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is written.
        library.check(CALL, unsafe { (library.functions.create_descriptor)(kind as c_int, &raw mut raw) })?;
        Ok(Self { owned: Owned { raw, library }, held: Vec::new() })
    }

    /// Sets an attribute to `values`.
    ///
    /// # Errors
    /// If the descriptor has no such attribute, or it takes no such values.
    pub fn set<T: Value>(self, attribute: Attribute, values: &[T]) -> Result<Self, CudnnError> {
        // SAFETY: the type is that of the values.
        unsafe { self.set_raw(attribute, T::TYPE, values) }
    }

    /// Sets an attribute to final descriptors, which are kept alive.
    ///
    /// # Errors
    /// If the descriptor has no such attribute, or it takes no such descriptors.
    pub fn set_descriptors(mut self, attribute: Attribute, descriptors: &[&Descriptor]) -> Result<Self, CudnnError> {
        let raw: Vec<Raw> = descriptors.iter().map(|descriptor| descriptor.raw()).collect();
        self.held.extend(descriptors.iter().map(|&descriptor| descriptor.clone()));
        // SAFETY: the descriptors are alive, and stay so as long as this one.
        unsafe { self.set_raw(attribute, BACKEND_DESCRIPTOR, &raw) }
    }

    /// Sets an attribute to a handle.
    ///
    /// # Errors
    /// If the descriptor has no such attribute.
    pub fn set_handle(self, attribute: Attribute, handle: &Handle) -> Result<Self, CudnnError> {
        // SAFETY: handles are never destroyed.
        unsafe { self.set_raw(attribute, HANDLE, &[handle.raw]) }
    }

    /// Sets an attribute to addresses.
    ///
    /// # Errors
    /// If the descriptor has no such attribute.
    pub(super) fn set_pointers(self, attribute: Attribute, pointers: &[u64]) -> Result<Self, CudnnError> {
        // SAFETY: addresses are as wide as pointers, and not followed before the descriptor is executed, which is unsafe.
        unsafe { self.set_raw(attribute, VOID_PTR, pointers) }
    }

    /// # Safety
    /// `values` are of the type with this number.
    unsafe fn set_raw<T>(self, attribute: Attribute, number: c_int, values: &[T]) -> Result<Self, CudnnError> {
        let Owned { raw, library } = self.owned;
        let count = values.len() as i64;
        // SAFETY: the descriptor is alive, and the library copies as many values as the call says.
        let status = unsafe {
            (library.functions.set_attribute)(raw, attribute as c_int, number, count, values.as_ptr().cast())
        };
        library.check("cudnnBackendSetAttribute", status).map_err(|error| error.about(attribute))?;
        Ok(self)
    }

    /// Finalizes the descriptor; the library checks all attributes together.
    ///
    /// # Errors
    /// If an attribute is missing, or they do not fit each other.
    pub fn finalize(self) -> Result<Descriptor, CudnnError> {
        let Owned { raw, library } = self.owned;
        // SAFETY: the descriptor is alive.
        library.check("cudnnBackendFinalize", unsafe { (library.functions.finalize)(raw) })?;
        Ok(self.filled())
    }

    /// Converts to a final descriptor, for one that the library has filled itself.
    fn filled(self) -> Descriptor {
        Descriptor(Rc::new(Finished { owned: self.owned, _held: self.held }))
    }
}

struct Finished {
    owned: Owned,
    /// Descriptors referred to; dropped after this one.
    _held: Vec<Descriptor>,
}

/// A final descriptor; clones share it.
#[derive(Clone)]
pub struct Descriptor(Rc<Finished>);

impl Descriptor {
    pub(super) fn raw(&self) -> Raw {
        self.0.owned.raw
    }

    /// Reads up to `most` values of an attribute.
    ///
    /// # Errors
    /// If the descriptor has no such attribute.
    pub fn get<T: Readable>(&self, attribute: Attribute, most: usize) -> Result<Vec<T>, CudnnError> {
        let mut values = vec![T::default(); most];
        // SAFETY: any bits are a value of the type.
        let count = unsafe { self.get_raw(attribute, T::TYPE, &mut values) }?;
        values.truncate(count);
        Ok(values)
    }

    /// Reads the value of an attribute that has exactly one.
    ///
    /// # Errors
    /// If the descriptor has no such attribute.
    pub fn value<T: Readable>(&self, attribute: Attribute) -> Result<T, CudnnError> {
        let values = self.get(attribute, 1)?;
        values.into_iter().next().ok_or_else(|| CudnnError::refused(format!("cuDNN gives no value of {attribute:?}")))
    }

    /// Reads up to `most` descriptors of an attribute, all of one kind.
    ///
    /// # Errors
    /// If the descriptor has no such attribute.
    pub fn descriptors(&self, attribute: Attribute, kind: Kind, most: usize) -> Result<Vec<Self>, CudnnError> {
        let mut drafts = (0..most).map(|_| Draft::new(kind)).collect::<Result<Vec<_>, _>>()?;
        let mut raw: Vec<Raw> = drafts.iter().map(|draft| draft.owned.raw).collect();
        // SAFETY: the library fills the descriptors that it is given; they are alive.
        let count = unsafe { self.get_raw(attribute, BACKEND_DESCRIPTOR, &mut raw) }?;
        drafts.truncate(count);
        let filled = drafts.into_iter().map(|mut draft| {
            draft.held.push(self.clone());
            draft.filled()
        });
        Ok(filled.collect())
    }

    /// Reads values of an attribute into `values`; returns the number of values written.
    ///
    /// # Safety
    /// The library may write values of the type with this number over `values`.
    unsafe fn get_raw<T>(&self, attribute: Attribute, number: c_int, values: &mut [T]) -> Result<usize, CudnnError> {
        let Owned { raw, library } = self.0.owned;
        let mut count = 0;
        // SAFETY: the descriptor is alive, and the library writes no more values than there is room for.
        let status = unsafe {
            (library.functions.get_attribute)(
                raw,
                attribute as c_int,
                number,
                values.len() as i64,
                &raw mut count,
                values.as_mut_ptr().cast(),
            )
        };
        library.check("cudnnBackendGetAttribute", status).map_err(|error| error.about(attribute))?;
        // The count is the number available, which may exceed the number requested.
        Ok(usize::try_from(count).unwrap_or(0).min(values.len()))
    }
}

impl CudnnError {
    /// Adds the name of the attribute to the error of a call.
    fn about(self, attribute: Attribute) -> Self {
        match self {
            Self::Failed { call, code, status, reason } => {
                Self::Failed { call, code, status, reason: format!(" ({attribute:?}){reason}") }
            }
            own => own,
        }
    }
}

/// Place where the values of a graph's tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Device memory.
    Memory,
    /// Nowhere: the tensor exists only within the graph.
    Virtual,
    /// Host memory: a single value, read when a plan is queued.
    Value,
}

/// A tensor of a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Identifier within the graph, by which a plan receives the tensor's memory.
    pub uid: i64,
    /// Type of the values.
    pub dtype: DataType,
    /// Lengths of the axes.
    pub dims: Vec<i64>,
    /// Distances between neighbours along each axis, in values.
    pub strides: Vec<i64>,
    /// Place of the tensor's values: memory, host or the graph itself.
    pub place: Place,
    /// Power of two that divides the address in bytes.
    pub alignment: i64,
}

impl Tensor {
    /// Creates a tensor in device memory, aligned to 16 bytes.
    #[must_use]
    pub fn new(uid: i64, dtype: DataType, dims: &[i64], strides: &[i64]) -> Self {
        let (dims, strides) = (dims.to_vec(), strides.to_vec());
        Self { uid, dtype, dims, strides, place: Place::Memory, alignment: 16 }
    }

    /// Creates a contiguous tensor in device memory, with the last axis fastest.
    #[must_use]
    pub fn contiguous(uid: i64, dtype: DataType, dims: &[i64]) -> Self {
        Self::new(uid, dtype, dims, &contiguous_strides(dims))
    }

    /// Moves the tensor to another place.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        // Values on the host are aligned as their type is.
        let alignment = if place == Place::Value { self.dtype.bytes() } else { self.alignment };
        Self { place, alignment, ..self }
    }

    /// Creates the tensor's descriptor.
    ///
    /// # Errors
    /// If the library refuses the tensor.
    pub fn descriptor(&self) -> Result<Descriptor, CudnnError> {
        Draft::new(Kind::Tensor)?
            .set(Attribute::TensorUniqueId, &[self.uid])?
            .set(Attribute::TensorDataType, &[self.dtype])?
            .set(Attribute::TensorByteAlignment, &[self.alignment])?
            .set(Attribute::TensorDimensions, &self.dims)?
            .set(Attribute::TensorStrides, &self.strides)?
            .set(Attribute::TensorIsVirtual, &[self.place == Place::Virtual])?
            .set(Attribute::TensorIsByValue, &[self.place == Place::Value])?
            .finalize()
    }
}

/// Strides of a tensor without gaps, with the last axis fastest.
#[must_use]
pub fn contiguous_strides(dims: &[i64]) -> Vec<i64> {
    (0..dims.len()).map(|axis| dims[axis + 1..].iter().product()).collect()
}

/// Creates the graph of `operations`, which are connected by the tensors that they share.
///
/// # Errors
/// If the operations are not a graph.
pub fn operation_graph(target: &Target, operations: &[Descriptor]) -> Result<Descriptor, CudnnError> {
    let operations: Vec<&Descriptor> = operations.iter().collect();
    let draft = Draft::new(Kind::OperationGraph)?.set_descriptors(Attribute::OperationGraphOps, &operations)?;
    match target {
        Target::Device(handle) => draft.set_handle(Attribute::OperationGraphHandle, handle)?.finalize(),
        Target::Described(_) => draft.finalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_strides_are_products_of_the_later_axes() {
        assert_eq!(contiguous_strides(&[2, 3, 4, 5]), [60, 20, 5, 1]);
        assert_eq!(contiguous_strides(&[7]), [1]);
        let tensor = Tensor::contiguous(3, DataType::Half, &[2, 3]).at(Place::Value);
        assert_eq!((tensor.strides, tensor.alignment), (vec![3, 1], 2));
    }
}
