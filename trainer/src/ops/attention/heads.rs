//! Parts of attention, for each backend: cutting heads out of tokens, products, softmax, joining heads.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata as _};
use burn::tensor::{FloatDType, Shape};

use super::part::{Padding, Part};
use crate::ops::columns::ColumnSums;
use crate::ops::product::{Factors, Products};
use crate::ops::{along_rows, cast, dtype_of, widened};

/// Parts of attention, for each backend.
pub trait HeadOps: ColumnSums + Products {
    /// Padding with which this backend multiplies fastest.
    #[must_use]
    fn padding(dtype: FloatDType) -> Padding {
        let _ = dtype;
        Padding { tokens: 1, width: 1 }
    }

    /// Cuts heads out of `x` `[N, L, parts · heads · width]`, plus a bias `[parts · heads · width]` in f32 if there is one
    /// → `[N, heads, L', width']`, padded with zeros.
    fn split_heads(x: FloatTensor<Self>, bias: Option<FloatTensor<Self>>, part: Part) -> FloatTensor<Self> {
        let Part { number, parts, heads, padding } = part;
        let [n, l, width] = dims(&x);
        let (dim, width) = (width / parts, width / parts / heads);
        let own = number * dim..(number + 1) * dim;
        let mut x = Self::float_slice(x, &[full(n), full(l), own.clone().into()]);
        if let Some(bias) = bias {
            let dtype = dtype_of::<Self>(&x);
            let bias = along_rows::<Self>(Self::float_slice(bias, &[own.into()]), &x);
            x = cast::<Self>(Self::float_add(widened::<Self>(x), bias), dtype);
        }
        let x = Self::float_permute(Self::float_reshape(x, Shape::from([n, l, heads, width])), &[0, 2, 1, 3]);
        let (rows, columns) = (l.next_multiple_of(padding.tokens), width.next_multiple_of(padding.width));
        if (rows, columns) == (l, width) {
            return x;
        }
        let zeros = Self::float_zeros(Shape::from([n, heads, rows, columns]), &x.device(), dtype_of::<Self>(&x));
        Self::float_slice_assign(zeros, &[full(n), full(heads), full(l), full(width)], x)
    }

    /// Joins the first `tokens` rows and `width` columns of each of `parts`, `[N, heads, L', width']` →
    /// `[N, tokens, parts · heads · width]`.
    #[must_use]
    fn join_heads(parts: Vec<FloatTensor<Self>>, tokens: usize, width: usize) -> FloatTensor<Self> {
        let join = |x: FloatTensor<Self>| {
            let [n, heads, _, _] = dims(&x);
            let x = Self::float_slice(x, &[full(n), full(heads), full(tokens), full(width)]);
            Self::float_reshape(Self::float_permute(x, &[0, 2, 1, 3]), Shape::from([n, tokens, heads * width]))
        };
        Self::float_cat(parts.into_iter().map(join).collect(), 2)
    }

    /// Softmax over the first `keys` columns of `scale · x`; zeros in the other columns.
    fn softmax_of(x: FloatTensor<Self>, keys: usize, scale: f64) -> FloatTensor<Self> {
        let [n, heads, l, columns] = dims(&x);
        let dtype = dtype_of::<Self>(&x);
        let only = |x| Self::float_slice(x, &[full(n), full(heads), full(l), full(keys)]);
        let mut inner = widened::<Self>(if keys < columns { only(x.clone()) } else { x.clone() });
        #[expect(clippy::float_cmp, reason = "exactly one needs no pass over the matrix")]
        if scale != 1.0 {
            inner = Self::float_mul_scalar(inner, scale.into());
        }
        let y = cast::<Self>(Self::softmax(inner, 3), dtype);
        if keys == columns {
            return y;
        }
        let zeros = Self::float_zeros(x.shape(), &x.device(), dtype);
        Self::float_slice_assign(zeros, &[full(n), full(heads), full(l), full(keys)], y)
    }

    /// Gradient of the input of [`Self::softmax_of`], given its result `y` and the result's gradient `dy`; zero in
    /// padded columns, where `y` is zero.
    fn softmax_of_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        let dtype = dtype_of::<Self>(&y);
        let (y, dy) = (widened::<Self>(y), widened::<Self>(dy));
        let common = Self::float_sum_dim(Self::float_mul(dy.clone(), y.clone()), 3);
        let mut dx = Self::float_mul(Self::float_sub(dy, common), y);
        #[expect(clippy::float_cmp, reason = "exactly one needs no pass over the matrix")]
        if scale != 1.0 {
            dx = Self::float_mul_scalar(dx, scale.into());
        }
        cast::<Self>(dx, dtype)
    }

    /// Computes `a · bᵀ`, head by head.
    fn times_transposed(a: FloatTensor<Self>, b: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        Self::of_heads(a, Self::float_swap_dims(b, 2, 3), factors)
    }

    /// Computes `aᵀ · b`, head by head.
    fn transposed_times(a: FloatTensor<Self>, b: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        Self::of_heads(Self::float_swap_dims(a, 2, 3), b, factors)
    }
}

impl HeadOps for Flex {}

#[cfg(feature = "cube")]
impl HeadOps for burn::backend::Cube {
    /// Returns padding of rows to multiples of 16 bytes and heads to the tile width of the matrix units.
    fn padding(dtype: FloatDType) -> Padding {
        match dtype {
            FloatDType::F16 | FloatDType::BF16 => Padding { tokens: 8, width: 16 },
            _ => Padding { tokens: 4, width: 8 },
        }
    }

    fn split_heads(x: FloatTensor<Self>, bias: Option<FloatTensor<Self>>, part: Part) -> FloatTensor<Self> {
        crate::ops::kernels::heads::split(x, bias, part)
    }

    fn join_heads(parts: Vec<FloatTensor<Self>>, tokens: usize, width: usize) -> FloatTensor<Self> {
        crate::ops::kernels::heads::join(parts, tokens, width)
    }

    fn softmax_of(x: FloatTensor<Self>, keys: usize, scale: f64) -> FloatTensor<Self> {
        crate::ops::kernels::softmax::forward(x, keys, scale)
    }

    fn softmax_of_backward(y: FloatTensor<Self>, dy: FloatTensor<Self>, scale: f64) -> FloatTensor<Self> {
        crate::ops::kernels::softmax::backward(y, dy, scale)
    }
}

/// Sizes of a tensor.
pub(super) fn dims<const D: usize>(x: &impl burn::backend::TensorMetadata) -> [usize; D] {
    x.shape().dims()
}

/// Slice that selects all of an axis of `len` values.
pub(super) fn full(len: usize) -> burn::tensor::Slice {
    (0..len).into()
}
