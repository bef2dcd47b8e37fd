//! Small steps shared by the composed references of the operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata as _};
use burn::tensor::FloatDType;

/// Converts `x` to f32 if its type has 16 bits; returns `x` itself otherwise.
pub(super) fn widened<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    match dtype_of::<B>(&x) {
        FloatDType::F16 | FloatDType::BF16 => B::float_cast(x, FloatDType::F32),
        _ => x,
    }
}

/// Converts `x` to `dtype`, without a copy if it has that type.
pub(super) fn cast<B: Backend>(x: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    if dtype_of::<B>(&x) == dtype { x } else { B::float_cast(x, dtype) }
}

/// Reshapes `bias` `[W]` to `[1, .., W]`, so that it broadcasts over the rows of `x` `[.., W]`.
pub(super) fn along_rows<B: Backend>(bias: FloatTensor<B>, x: &FloatTensor<B>) -> FloatTensor<B> {
    let mut shape = x.shape();
    let last = shape.num_dims() - 1;
    for axis in 0..last {
        shape[axis] = 1;
    }
    B::float_reshape(bias, shape)
}

/// Element type of `x`.
pub(super) fn dtype_of<B: Backend>(x: &FloatTensor<B>) -> FloatDType {
    x.dtype().into()
}
