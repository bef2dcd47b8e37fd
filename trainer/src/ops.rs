//! Differentiable operations that Burn composes from many, done in one.
//!
//! Each computes in 32 bits or more whatever it is given, and gives its result in the type that was asked for, so that a network
//! whose matrix products are 16-bit keeps its norms and softmaxes in full. Each has a reference composed from Burn's
//! own operations, which is what runs on the CPU, and on the GPU a kernel (`kernels`) that reads its input once
//! instead of once for every elementary step, or twice where sums over rows follow. Tests compare both with the composition, values and gradients.
//!
//! With `device`, the only files that name a backend: an operation of our own has to say for which ones it is made.

pub mod adamw;
pub mod attention;
pub mod columns;
pub mod gelu;
#[cfg(feature = "cube")]
mod kernels;
pub mod layer_norm;
pub mod noise;
pub mod recompute;
pub mod residual;
#[cfg(test)]
pub(crate) mod testing;
pub mod window;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata as _};
use burn::tensor::FloatDType;

/// In f32, if it has fewer bits.
fn widened<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    match dtype_of::<B>(&x) {
        FloatDType::F16 | FloatDType::BF16 => B::float_cast(x, FloatDType::F32),
        _ => x,
    }
}

/// In `dtype`, if it is not already.
fn cast<B: Backend>(x: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    if dtype_of::<B>(&x) == dtype { x } else { B::float_cast(x, dtype) }
}

/// `bias` `[W]` as one row beside `x` `[.., W]`.
fn along_rows<B: Backend>(bias: FloatTensor<B>, x: &FloatTensor<B>) -> FloatTensor<B> {
    let mut shape = x.shape();
    let last = shape.num_dims() - 1;
    for axis in 0..last {
        shape[axis] = 1;
    }
    B::float_reshape(bias, shape)
}

fn dtype_of<B: Backend>(x: &FloatTensor<B>) -> FloatDType {
    x.dtype().into()
}
