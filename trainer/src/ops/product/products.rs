//! Products without derivatives: by Burn, by NVIDIA's library where it computes them, and by [`hiend_cpu`] for f32 on
//! the CPU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Flex, TensorMetadata as _};
use burn::tensor::{FloatDType, Shape};
use hiend_cpu::product;

use super::Factors;
#[cfg(feature = "cuda")]
use super::cuda;
use crate::ops::cast;
use crate::ops::columns::ColumnSums as _;
use crate::ops::cpu::{self, CpuTensor};

/// Products without derivatives, for each backend. Factors already have their number type.
pub trait Products: Backend {
    /// Computes `x` `[.., K]` times `weight` `[K, N]`, plus a bias `[N]` of the same type → `[.., N]` of that type.
    #[must_use]
    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        factors: Factors,
    ) -> FloatTensor<Self> {
        let _ = factors;
        burns::forward::<Self>(x, weight, bias)
    }

    /// Gradient of `x`, in `dtype`: `dy` `[.., N]` times the transposed weight.
    #[must_use]
    fn input_gradient(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        factors: Factors,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        let _ = factors;
        burns::input_gradient::<Self>(weight, dy, dtype)
    }

    /// Gradients of weight and bias, in `dtype`: the transposed `x` times `dy`, over all rows; and, if `with_bias`, the
    /// sum of the rows of `dy`.
    #[must_use]
    fn weight_gradient(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        factors: Factors,
        dtype: FloatDType,
        with_bias: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        let _ = factors;
        burns::weight_gradient::<Self>(x, dy, dtype, with_bias)
    }

    /// Computes `a` `[N, H, R, K]` times `b` `[N, H, K, C]` → `[N, H, R, C]` in the type of both, with rows without
    /// gaps.
    #[must_use]
    fn of_heads(a: FloatTensor<Self>, b: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        let _ = factors;
        Self::float_matmul(a, b)
    }
}

/// Burn's products.
mod burns {
    use super::{Backend, FloatDType, FloatTensor, bias_gradient, cast};

    pub(super) fn forward<B: Backend>(
        x: FloatTensor<B>,
        weight: FloatTensor<B>,
        bias: Option<FloatTensor<B>>,
    ) -> FloatTensor<B> {
        B::linear(x, weight, bias)
    }

    pub(super) fn input_gradient<B: Backend>(
        weight: FloatTensor<B>,
        dy: FloatTensor<B>,
        dtype: FloatDType,
    ) -> FloatTensor<B> {
        cast::<B>(B::linear_x_backward(weight, dy), dtype)
    }

    pub(super) fn weight_gradient<B: Backend>(
        x: FloatTensor<B>,
        dy: FloatTensor<B>,
        dtype: FloatDType,
        with_bias: bool,
    ) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        let weight = cast::<B>(B::linear_weight_backward(x, dy.clone()), dtype);
        (weight, with_bias.then(|| bias_gradient::<B>(dy, dtype)))
    }

    #[cfg(feature = "cuda")]
    pub(super) fn plus_bias<B: Backend>(y: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
        let bias = crate::ops::along_rows::<B>(bias, &y);
        B::float_add(y, bias)
    }
}

impl Products for Flex {
    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        _: Factors,
    ) -> FloatTensor<Self> {
        if !cpu::all_f32([&x, &weight]) || bias.as_ref().is_some_and(|bias| !cpu::all_f32([bias])) {
            return burns::forward::<Self>(x, weight, bias);
        }
        let ([x, weight], bias) = ([x, weight].map(cpu::in_order), bias.map(cpu::in_order));
        let (sizes, shape) = sizes_of(&x, &weight);
        let [x, weight] = [&x, &weight].map(cpu::values);
        cpu::tensor(product::forward(x, weight, bias.as_ref().map(cpu::values), sizes), shape)
    }

    fn input_gradient(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        _: Factors,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        if !cpu::all_f32([&weight, &dy]) {
            return burns::input_gradient::<Self>(weight, dy, dtype);
        }
        let [weight, dy] = [weight, dy].map(cpu::in_order);
        let [k, n] = weight.shape().dims();
        let mut shape = dy.shape();
        let last = shape.num_dims() - 1;
        let m = shape.num_elements() / n;
        shape[last] = k;
        let dx = product::input_gradient(cpu::values(&weight), cpu::values(&dy), [m, k, n]);
        cast::<Self>(cpu::tensor(dx, shape), dtype)
    }

    fn weight_gradient(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        _: Factors,
        dtype: FloatDType,
        with_bias: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        if !cpu::all_f32([&x, &dy]) {
            return burns::weight_gradient::<Self>(x, dy, dtype, with_bias);
        }
        let [x, dy] = [x, dy].map(cpu::in_order);
        let (k, n) = (cpu::width(&x), cpu::width(&dy));
        let m = x.shape().num_elements() / k;
        let dw = product::weight_gradient(cpu::values(&x), cpu::values(&dy), [m, k, n]);
        let bias = with_bias.then(|| cast::<Self>(Self::column_sums(dy), dtype));
        (cast::<Self>(cpu::tensor(dw, [k, n]), dtype), bias)
    }
}

/// Sizes of the product of `x` `[.., K]` and `weight` `[K, N]`, and shape of the result.
fn sizes_of(x: &CpuTensor, weight: &CpuTensor) -> ([usize; 3], Shape) {
    let [k, n] = weight.shape().dims();
    let mut shape = x.shape();
    let last = shape.num_dims() - 1;
    assert_eq!(shape[last], k, "width of the input and rows of the weight");
    let m = shape.num_elements() / k;
    shape[last] = n;
    ([m, k, n], shape)
}

#[cfg(feature = "cube")]
impl Products for burn::backend::Cube {
    fn forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Option<FloatTensor<Self>>,
        factors: Factors,
    ) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if let Some(bias) = &bias {
            if let Some(y) = cuda::forward_biased(&x, &weight, bias, factors) {
                return y;
            }
            if let Some(y) = cuda::forward(&x, &weight, factors) {
                return burns::plus_bias::<Self>(y, bias.clone());
            }
        } else if let Some(y) = cuda::forward(&x, &weight, factors) {
            return y;
        }
        let _ = factors;
        burns::forward::<Self>(x, weight, bias)
    }

    fn input_gradient(
        weight: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        factors: Factors,
        dtype: FloatDType,
    ) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if let Some(dx) = cuda::input_gradient(&weight, &dy, factors, dtype) {
            return dx;
        }
        let _ = factors;
        burns::input_gradient::<Self>(weight, dy, dtype)
    }

    fn weight_gradient(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        factors: Factors,
        dtype: FloatDType,
        with_bias: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>) {
        #[cfg(feature = "cuda")]
        if let Some((weight, bias)) = cuda::weight_gradient(&x, &dy, factors, dtype, with_bias) {
            let sums = || cast::<Self>(crate::ops::kernels::columns::sums(dy), dtype);
            return (weight, with_bias.then(|| bias.unwrap_or_else(sums)));
        }
        let _ = factors;
        burns::weight_gradient::<Self>(x, dy, dtype, with_bias)
    }

    fn of_heads(a: FloatTensor<Self>, b: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        #[cfg(feature = "cuda")]
        if let Some(product) = cuda::of_heads(&a, &b, factors) {
            return product;
        }
        let _ = factors;
        crate::ops::kernels::heads::product(a, b)
    }
}

/// Sum of the rows of `dy`, in `dtype`.
pub(super) fn bias_gradient<B: Backend>(dy: FloatTensor<B>, dtype: FloatDType) -> FloatTensor<B> {
    cast::<B>(B::linear_bias_backward(dy), dtype)
}
