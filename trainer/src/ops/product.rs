//! Matrix products of tokens with weights, and of heads with heads, each with one derivative.
//!
//! On the CPU, products of f32 are computed by [`hiend_cpu`]; other types there, and GPUs without NVIDIA's library, use
//! Burn's products. On CUDA they are computed by cuBLASLt ([`crate::vendor`]): an H100 made 416 to 804 TFLOP/s with it,
//! and 30 to 146 with Burn's own kernels after tuning them. Weights and biases arrive in 32 bits and are converted
//! here, so that the library can write their gradients directly in 32 bits; Burn's products first round these to 16
//! bits.
//!
//! Sums are 32-bit whatever the factors are.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod products;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::{DType, FloatDType, Tensor, module};

pub use self::products::Products;
use super::narrowed::KeptNarrowed;
use super::{cast, dtype_of};

/// Form in which products take their factors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Factors {
    /// 32 bits, not rounded. `CubeCL`'s own kernels, which are used if the library is missing, round to TF32
    /// nevertheless.
    #[default]
    F32,
    /// 32 bits, rounded to TF32 (10 bits of fraction) on GPUs that have units for it, and not rounded elsewhere.
    Tf32,
    /// 16 bits, of which 8 are the exponent.
    Bf16,
}

impl Factors {
    /// Type to which tensors are converted; `None` if they are used unchanged.
    #[must_use]
    pub fn dtype(self) -> Option<FloatDType> {
        match self {
            Self::F32 | Self::Tf32 => None,
            Self::Bf16 => Some(FloatDType::BF16),
        }
    }
}

/// Computes `x` `[.., K]` times `weight` `[K, N]` → `[.., N]` in the number type of factors.
///
/// Both are converted to that type; their gradients have the original types. For types other than f32 on the CPU this
/// is Burn's linear map with Burn's derivative.
#[must_use]
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, factors: Factors) -> Tensor<D> {
    if is_burns(&x, factors) { composed(x, weight, None, factors) } else { by_node(x, weight, None, factors) }
}

/// Computes `x` `[.., K]` times `weight` `[K, N]` plus `bias` `[N]` → `[.., N]` in the number type of factors; see
/// [`linear`].
#[must_use]
pub fn affine<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>, factors: Factors) -> Tensor<D> {
    if is_burns(&x, factors) {
        composed(x, weight, Some(bias), factors)
    } else {
        by_node(x, weight, Some(bias), factors)
    }
}

/// Returns true if the product of `x` is left to Burn, its derivative included.
fn is_burns<const D: usize>(x: &Tensor<D>, factors: Factors) -> bool {
    let on_cpu = matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_));
    on_cpu && (x.dtype() != DType::F32 || factors.dtype().is_some())
}

/// Burn's linear map of tensors in the number type of `factors`, differentiated by Burn.
fn composed<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>, factors: Factors) -> Tensor<D> {
    match factors.dtype() {
        Some(dtype) => module::linear(x.cast(dtype), weight.cast(dtype), bias.map(|bias| bias.cast(dtype))),
        None => module::linear(x, weight, bias),
    }
}

/// Computes the product as one operation with one derivative.
fn by_node<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>, factors: Factors) -> Tensor<D> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => <Dispatch as Product>::affine_map(x, weight, bias.into_dispatch(), factors),
        None => <Dispatch as Product>::linear_map(x, weight, factors),
    })
}

/// Gradient of `x` in [`linear`]: `dy` `[.., N]` times the transposed `weight` `[K, N]` → `[.., K]` in the type of
/// `dy`. For measurements; it has no derivative.
#[must_use]
pub fn input_gradient<const D: usize>(weight: Tensor<2>, dy: Tensor<D>, factors: Factors) -> Tensor<D> {
    let (weight, dy) = (weight.without_autodiff().into_dispatch(), dy.without_autodiff().into_dispatch());
    Tensor::from_dispatch(<Dispatch as Product>::gradient_of_input(weight, dy, factors))
}

/// Gradient of `weight` in [`linear`]: the transposed `x` `[.., K]` times `dy` `[.., N]` → `[K, N]` in f32. For
/// measurements; it has no derivative.
#[must_use]
pub fn weight_gradient<const D: usize>(x: Tensor<D>, dy: Tensor<D>, factors: Factors) -> Tensor<2> {
    let (x, dy) = (x.without_autodiff().into_dispatch(), dy.without_autodiff().into_dispatch());
    Tensor::from_dispatch(<Dispatch as Product>::gradient_of_weight(x, dy, factors, false))
}

/// Gradient of `weight` as in [`weight_gradient`], computed together with that of a bias, which is dropped. For
/// measurements; it has no derivative.
#[must_use]
pub fn weight_gradient_with_bias<const D: usize>(x: Tensor<D>, dy: Tensor<D>, factors: Factors) -> Tensor<2> {
    let (x, dy) = (x.without_autodiff().into_dispatch(), dy.without_autodiff().into_dispatch());
    Tensor::from_dispatch(<Dispatch as Product>::gradient_of_weight(x, dy, factors, true))
}

/// Computes, from now on, the gradients of biases in passes of their own on NVIDIA GPUs if `separate` is set, otherwise in
/// the products that compute the gradients of weights, where the library can (the default). For measurements.
pub fn separate_bias_gradients(separate: bool) {
    #[cfg(feature = "cuda")]
    cuda::separate_bias_gradients(separate);
    #[cfg(not(feature = "cuda"))]
    let _ = separate;
}

/// Differentiable product, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait Product: Backend {
    /// Computes `x` `[.., K]` times `weight` `[K, N]`, in the type of `factors`.
    fn linear_map(x: FloatTensor<Self>, weight: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self>;

    /// Computes `x` `[.., K]` times `weight` `[K, N]` plus `bias` `[N]`, in the type of `factors`.
    fn affine_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        factors: Factors,
    ) -> FloatTensor<Self>;

    /// Gradient of the input; see [`input_gradient`].
    fn gradient_of_input(weight: FloatTensor<Self>, dy: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self>;

    /// Gradient of the weight; see [`weight_gradient`], and, if `with_bias`, [`weight_gradient_with_bias`].
    fn gradient_of_weight(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        factors: Factors,
        with_bias: bool,
    ) -> FloatTensor<Self>;
}

/// Products without a derivative.
impl<B: Products + KeptNarrowed> Product for B {
    fn linear_map(x: FloatTensor<Self>, weight: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        forward::<Self>(x, weight, None, factors)
    }

    fn affine_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        factors: Factors,
    ) -> FloatTensor<Self> {
        forward::<Self>(x, weight, Some(bias), factors)
    }

    fn gradient_of_input(weight: FloatTensor<Self>, dy: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        let dtype = dtype_of::<Self>(&dy);
        Self::input_gradient(weight, dy, factors, dtype)
    }

    fn gradient_of_weight(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        factors: Factors,
        with_bias: bool,
    ) -> FloatTensor<Self> {
        Self::weight_gradient(x, dy, factors, FloatDType::F32, with_bias).0
    }
}

/// Converts `x` to the number type of factors.
fn narrow<B: Backend>(x: FloatTensor<B>, factors: Factors) -> FloatTensor<B> {
    match factors.dtype() {
        Some(dtype) => cast::<B>(x, dtype),
        None => x,
    }
}

/// Converts a weight to the number type of factors; the copy is `kept` for the optimizer step to rewrite, if the weight
/// is to be trained.
fn narrow_weight<B: KeptNarrowed>(weight: FloatTensor<B>, factors: Factors, kept: bool) -> FloatTensor<B> {
    match factors.dtype() {
        Some(dtype) if dtype_of::<B>(&weight) == dtype => weight,
        Some(dtype) if kept => B::kept_narrowed(weight, dtype),
        Some(dtype) => B::narrowed(weight, dtype),
        None => weight,
    }
}

/// Converts both factors to their number type and multiplies them.
fn forward<B: Products + KeptNarrowed>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    factors: Factors,
) -> FloatTensor<B> {
    let (x, weight) = (narrow::<B>(x, factors), narrow_weight::<B>(weight, factors, false));
    B::forward(x, weight, bias.map(|bias| narrow::<B>(bias, factors)), factors)
}

/// Tensors that the backward pass needs.
#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    /// Converted input, if the weight or the bias has a gradient, with the type of the weight's gradient.
    x: Option<(FloatTensor<B>, FloatDType)>,
    /// Converted weight, if the input has a gradient, with the type of the input's gradient.
    weight: Option<(FloatTensor<B>, FloatDType)>,
    factors: Factors,
}

/// Tensors whose gradients are wanted.
#[derive(Clone, Copy)]
struct Tracked {
    x: bool,
    weight: bool,
    bias: bool,
}

/// Computes the product as [`forward`] does, and the tensors that its derivative needs.
fn saving<B: Products + KeptNarrowed>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: Option<FloatTensor<B>>,
    factors: Factors,
    tracked: Tracked,
) -> (Saved<B>, FloatTensor<B>) {
    let (x_dtype, weight_dtype) = (dtype_of::<B>(&x), dtype_of::<B>(&weight));
    let (x, weight) = (narrow::<B>(x, factors), narrow_weight::<B>(weight, factors, tracked.weight));
    let saved = Saved {
        x: (tracked.weight || tracked.bias).then(|| (x.clone(), weight_dtype)),
        weight: tracked.x.then(|| (weight.clone(), x_dtype)),
        factors,
    };
    (saved, forward::<B>(x, weight, bias, factors))
}

/// Derivative of the product, whose parents are the input, the weight and, if there is one, the bias.
#[derive(Debug)]
struct Derivative;

impl<B: Products, const N: usize> Backward<B, N> for Derivative {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Saved { x, weight, factors } = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let parent = |number: usize| ops.parents.get(number).and_then(|node| Some(node.as_ref()?.id));
        if let (Some(node), Some((weight, dtype))) = (parent(0), weight) {
            grads.register::<B>(node, B::input_gradient(weight, dy.clone(), factors, dtype));
        }
        let Some((x, dtype)) = x else { return };
        match (parent(1), parent(2)) {
            (Some(node), bias_node) => {
                let (weight, bias) = B::weight_gradient(x, dy, factors, dtype, bias_node.is_some());
                grads.register::<B>(node, weight);
                if let (Some(node), Some(bias)) = (bias_node, bias) {
                    grads.register::<B>(node, bias);
                }
            }
            (None, Some(node)) => grads.register::<B>(node, products::bias_gradient::<B>(dy, dtype)),
            (None, None) => {}
        }
    }
}

impl<B: Products + KeptNarrowed, C: CheckpointStrategy> Product for Autodiff<B, C> {
    fn linear_map(x: FloatTensor<Self>, weight: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        let tracked = Tracked { x: x.is_tracked(), weight: weight.is_tracked(), bias: false };
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match Derivative.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (saved, y) = saving::<B>(x, weight, None, factors, tracked);
                prepared.finish(saved, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::linear_map(x, weight, factors)),
        }
    }

    fn affine_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        factors: Factors,
    ) -> FloatTensor<Self> {
        let tracked = Tracked { x: x.is_tracked(), weight: weight.is_tracked(), bias: bias.is_tracked() };
        let nodes = [x.node(), weight.node(), bias.node()];
        let (x, weight, bias) = (x.into_primitive(), weight.into_primitive(), bias.into_primitive());
        match Derivative.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (saved, y) = saving::<B>(x, weight, Some(bias), factors, tracked);
                prepared.finish(saved, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::affine_map(x, weight, bias, factors)),
        }
    }

    fn gradient_of_input(_: FloatTensor<Self>, _: FloatTensor<Self>, _: Factors) -> FloatTensor<Self> {
        unreachable!("`input_gradient` takes tensors off the graph first")
    }

    fn gradient_of_weight(_: FloatTensor<Self>, _: FloatTensor<Self>, _: Factors, _: bool) -> FloatTensor<Self> {
        unreachable!("`weight_gradient` takes tensors off the graph first")
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{Outcome, on_devices, values_and_gradients, wave};
    use burn::backend::Flex;
    use burn::tensor::{Device, TensorData};

    fn inputs([n, l, k, columns]: [usize; 4]) -> [TensorData; 3] {
        [wave([n, l, k], 0.7, 2.0), wave([1, k, columns], 0.3, 0.5), wave([1, 1, columns], 0.9, 1.0)]
    }

    const SIZES: [[usize; 4]; 4] = [[2, 5, 8, 12], [3, 17, 11, 33], [1, 1, 64, 16], [2, 64, 96, 128]];

    /// Compares values and gradients of the operation with those of the composition of Burn's operations.
    fn check(device: &Device, factors: Factors, tolerance: f32) {
        if factors.dtype().is_some_and(|dtype| !device.supports_dtype(dtype)) {
            return;
        }
        for sizes in SIZES {
            let [_, _, k, columns] = sizes;
            let [x, weight, bias] = inputs(sizes);
            let all = [x.clone(), weight.clone(), bias];
            let biased = |device: &Device, map: &dyn Fn(Tensor<3>, Tensor<2>, Tensor<1>) -> Tensor<3>| {
                values_and_gradients(device, &all, |[x, weight, bias]| {
                    map(x, weight.reshape([k, columns]), bias.reshape([columns])).cast(FloatDType::F32)
                })
            };
            // On the CPU, because a device's own products would be tuned, one form after another.
            let cpu = Device::flex();
            let ours = biased(device, &|x, weight, bias| by_node(x, weight, Some(bias), factors));
            ours.assert_close(&biased(&cpu, &|x, weight, bias| composed(x, weight, Some(bias), factors)), tolerance);

            let both = [x, weight];
            let plain = |device: &Device, map: &dyn Fn(Tensor<3>, Tensor<2>) -> Tensor<3>| {
                values_and_gradients(device, &both, |[x, weight]| {
                    map(x, weight.reshape([k, columns])).cast(FloatDType::F32)
                })
            };
            let ours = plain(device, &|x, weight| by_node(x, weight, None, factors));
            ours.assert_close(&plain(&cpu, &|x, weight| composed(x, weight, None, factors)), tolerance);
        }
    }

    /// Tolerance for f32. A GPU's kernels round factors to TF32: 10 bits of fraction, an error of 5e-4 each. On the CPU
    /// only the order of sums differs, because Burn adds the gradients of a weight sequence by sequence.
    fn f32_tolerance(device: &Device) -> f32 {
        if *device == Device::flex() { 1e-6 } else { 2e-3 }
    }

    fn f32_products_are_burns_linear_map(device: &Device) {
        check(device, Factors::F32, f32_tolerance(device));
    }

    fn tf32_products_are_burns_linear_map(device: &Device) {
        check(device, Factors::Tf32, f32_tolerance(device));
    }

    fn sixteen_bit_products_are_burns_linear_map(device: &Device) {
        // Burn rounds each sequence's gradient of the weight to 8 bits and adds those in 16; and sums have other orders.
        check(device, Factors::Bf16, 1e-2);
    }

    fn gradients_alone_are_those_of_the_operation(device: &Device) {
        for [n, l, k, columns] in SIZES {
            let load = |device: &Device| {
                let load = |shape: [usize; 3], frequency| Tensor::<3>::from_data(wave(shape, frequency, 1.0), device);
                let weight = load([1, k, columns], 0.3).reshape([k, columns]);
                (load([n, l, k], 0.7), weight, load([n, l, columns], 1.3))
            };
            let (x, weight, dy) = load(device);
            let dx = input_gradient(weight, dy.clone(), Factors::F32);
            let dw = weight_gradient(x.clone(), dy.clone(), Factors::F32);
            let dw_of_both = weight_gradient_with_bias(x, dy, Factors::F32);
            let (x, weight, dy) = load(&Device::flex());
            let expected = module::linear(dy.clone(), weight.transpose(), None);
            let tolerance = f32_tolerance(device);
            Outcome::of(dx).assert_close(&Outcome::of(expected), tolerance);
            let [x, dy] = [x.reshape([n * l, k]), dy.reshape([n * l, columns])];
            let expected = x.transpose().matmul(dy);
            let expected = Outcome::of(expected.unsqueeze::<3>());
            for dw in [dw, dw_of_both] {
                Outcome::of(dw.unsqueeze::<3>()).assert_close(&expected, tolerance);
            }
        }
    }

    on_devices!(
        f32_products_are_burns_linear_map,
        tf32_products_are_burns_linear_map,
        sixteen_bit_products_are_burns_linear_map,
        gradients_alone_are_those_of_the_operation,
    );

    #[cfg(test)]
    #[test]
    fn gradients_have_the_types_that_tensors_came_in() {
        let device = Device::flex().autodiff();
        let [x, weight, bias] = inputs([2, 5, 8, 12]);
        let x = Tensor::<3>::from_data(x, &device).cast(FloatDType::BF16).detach().require_grad();
        let weight = Tensor::<3>::from_data(weight, &device).reshape([8, 12]).detach().require_grad();
        let bias = Tensor::<3>::from_data(bias, &device).reshape([12]).detach().require_grad();
        let y = by_node(x.clone(), weight.clone(), Some(bias.clone()), Factors::Bf16);
        assert_eq!(FloatDType::from(y.dtype()), FloatDType::BF16);
        let grads = y.cast(FloatDType::F32).sum().backward();
        assert_eq!(FloatDType::from(x.grad(&grads).unwrap().dtype()), FloatDType::BF16);
        assert_eq!(FloatDType::from(weight.grad(&grads).unwrap().dtype()), FloatDType::F32);
        assert_eq!(FloatDType::from(bias.grad(&grads).unwrap().dtype()), FloatDType::F32);
    }

    #[cfg(test)]
    #[test]
    fn constants_get_no_gradient_and_cost_none() {
        let device = Device::flex().autodiff();
        let [x, weight, bias] = inputs([2, 5, 8, 12]);
        let load = |data, tracked: bool| {
            let x = Tensor::<3>::from_data(data, &device);
            if tracked { x.require_grad() } else { x }
        };
        // Every combination of tracked tensors but none at all.
        for tracked in 1..8u32 {
            let is = |bit: u32| tracked & (1 << bit) != 0;
            let (x, weight, bias) = (load(x.clone(), is(0)), load(weight.clone(), is(1)), load(bias.clone(), is(2)));
            let flat = bias.clone().reshape([12]);
            let y = by_node(x.clone(), weight.clone().reshape([8, 12]), Some(flat), Factors::F32);
            let grads = y.sum().backward();
            for (bit, tensor) in [x, weight, bias].into_iter().enumerate() {
                assert_eq!(tensor.grad(&grads).is_some(), is(bit as u32), "{tracked:b} {bit}");
            }
        }
    }

    #[cfg(test)]
    #[test]
    fn products_of_heads_are_the_definition() {
        let device = Device::flex();
        let float = |data| Tensor::<4>::from_data(data, &device);
        let (a, b) = (float(wave([2, 3, 5, 7], 0.7, 2.0)), float(wave([2, 3, 4, 7], 0.3, 1.0)));
        let primitive = |x: Tensor<4>| x.try_into_primitive::<Flex>().unwrap();
        let product = Flex::of_heads(primitive(a.clone()), primitive(b.clone().swap_dims(2, 3)), Factors::F32);
        let product = Tensor::<4>::from_primitive::<Flex>(product);
        let expected = (a.unsqueeze_dim::<5>(3) * b.unsqueeze_dim::<5>(2)).sum_dim(4).squeeze_dim::<4>(4);
        let difference: f32 = (product - expected).abs().max().into_scalar();
        assert!(difference < 1e-5, "{difference}");
    }
}
