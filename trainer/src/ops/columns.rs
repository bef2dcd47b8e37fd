//! Sums over all rows of a tensor, which are the gradient of a bias, and over all its values. On GPUs the shape alone
//! decides the order of additions: the same input gives the same bits.

use burn::backend::ops::FloatTensorOps as _;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata as _};
use burn::tensor::Shape;

use super::cpu;
use super::primitive::widened;

/// Column sums and total, for each backend.
pub trait ColumnSums: Backend {
    /// Sums `x` `[.., W]`, of any type, over all rows: `[W]` in f32.
    #[must_use]
    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Sums all values of `x`: `[1]`, in f32 on a GPU and in the type of `x` on the CPU.
    #[must_use]
    fn total(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Sums `x` over the leading axes that have length 1 in `shape`, which is otherwise its own.
    #[must_use]
    fn leading_sums(x: FloatTensor<Self>, shape: Shape) -> FloatTensor<Self>;
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

    fn total(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_sum(x)
    }

    /// Sums axis by axis, in the order of Burn's own derivative of an expansion.
    fn leading_sums(mut x: FloatTensor<Self>, shape: Shape) -> FloatTensor<Self> {
        for axis in 0..shape.num_dims() {
            if x.shape()[axis] != shape[axis] {
                x = Self::float_sum_dim(x, axis);
            }
        }
        x
    }
}

/// Number of rows up to which columns are summed as they are: few columns are few cubes in the second stage.
#[cfg(feature = "cube")]
const MOST_ROWS: usize = 1 << 17;

/// Number of columns up to which neighbouring rows are joined to one where there are more rows.
#[cfg(feature = "cube")]
const MOST_COLUMNS: usize = 1024;

/// Sums the rows of `width` values that `x` consists of: `[width]` in f32.
#[cfg(feature = "cube")]
fn sums_of_rows<B: ColumnSums>(x: FloatTensor<B>, width: usize) -> FloatTensor<B> {
    let rows = x.shape().num_elements() / width;
    let most = (MOST_COLUMNS / width).max(1).ilog2();
    let joined = if rows > MOST_ROWS { 1 << rows.trailing_zeros().min(most) } else { 1 };
    let sums = B::column_sums(B::float_reshape(x, Shape::from([rows / joined, joined * width])));
    if joined == 1 { sums } else { B::column_sums(B::float_reshape(sums, Shape::from([joined, width]))) }
}

#[cfg(feature = "cube")]
impl ColumnSums for burn::backend::Cube {
    fn column_sums(x: FloatTensor<Self>) -> FloatTensor<Self> {
        super::kernels::columns::sums(x)
    }

    fn total(x: FloatTensor<Self>) -> FloatTensor<Self> {
        sums_of_rows::<Self>(x, 1)
    }

    fn leading_sums(x: FloatTensor<Self>, shape: Shape) -> FloatTensor<Self> {
        Self::float_reshape(sums_of_rows::<Self>(x, shape.num_elements()), shape)
    }
}
