//! Column sums over all rows, which are the gradient of a bias.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata as _};
use burn::tensor::Shape;

use super::cpu;
use super::primitive::widened;

/// Column sums, for each backend.
pub trait ColumnSums: Backend {
    /// Sums `x` `[.., W]`, of any type, over all rows: `[W]` in f32.
    #[must_use]
    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Computes column sums with the backend's own operations.
fn composed<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let shape = x.shape();
    let width = shape[shape.num_dims() - 1];
    let rows = B::float_reshape(widened::<B>(x), Shape::from([shape.num_elements() / width, width]));
    B::float_reshape(B::float_sum_dim(rows, 0), Shape::from([width]))
}

impl ColumnSums for Flex {
    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if !cpu::all_f32([&x]) {
            return composed::<Self>(x);
        }
        let (x, width) = (cpu::in_order(x.clone()), cpu::width(&x));
        cpu::tensor(hiend_cpu::columns::sums(cpu::values(&x), width), [width])
    }
}

#[cfg(feature = "cube")]
impl ColumnSums for burn::backend::Cube {
    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::columns::sums(x)
    }
}
