//! Small steps that the operations' composed references share.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata as _};
use burn::tensor::FloatDType;

/// `x` in f32 if its type has 16 bits; otherwise `x` itself.
pub(super) fn widened<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    match dtype_of::<B>(&x) {
        FloatDType::F16 | FloatDType::BF16 => B::float_cast(x, FloatDType::F32),
        _ => x,
    }
}

/// `x` in `dtype`, without a copy if it has that type.
pub(super) fn cast<B: Backend>(x: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    if dtype_of::<B>(&x) == dtype { x } else { B::float_cast(x, dtype) }
}

/// `bias` `[W]` reshaped to `[1, .., W]`, so that it broadcasts over the rows of `x` `[.., W]`.
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
