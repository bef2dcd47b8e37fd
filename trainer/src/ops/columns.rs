//! Sums over all rows: the gradient of a bias.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata as _};
use burn::tensor::Shape;

use super::primitive::widened;

/// Column sums, for each backend.
pub trait ColumnSums: Backend {
    /// The sum of `x` `[.., W]`, of any type, over all rows: `[W]` in f32.
    #[must_use]
    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let shape = x.shape();
        let width = shape[shape.num_dims() - 1];
        let rows = Self::float_reshape(widened::<Self>(x), Shape::from([shape.num_elements() / width, width]));
        Self::float_reshape(Self::float_sum_dim(rows, 0), Shape::from([width]))
    }
}

impl ColumnSums for Flex {}

#[cfg(feature = "cube")]
impl ColumnSums for burn::backend::Cube {
    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::columns::sums(x)
    }
}
