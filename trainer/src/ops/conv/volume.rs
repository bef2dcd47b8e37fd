//! Convolutions of 3×3×3 voxels over channels-last volumes `[N, X, Y, Z, C]`, as one operation with one derivative.
//!
//! Channels come last because that is the order in which matrix units read them: from volumes with channels first, cuDNN's
//! engines for an H100 make two transposed copies per convolution (680 MB of scratch memory for four crops of 64 channels at
//! 96³), from these none.
//!
//! Sums of 16-bit types are 32-bit; results and gradients are rounded once. The gradient of the weight is rounded to
//! the type of the factors as well: cuDNN has no engine that writes it in f32.

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{FloatDType, Shape, Tensor};

use crate::ops::product::Factors;
use crate::ops::{cast, dtype_of};

/// Permutation from channels-last to channels-first, for volumes and filters.
const CHANNELS_FIRST: [usize; 5] = [0, 4, 1, 2, 3];
/// Permutation from channels-first to channels-last, for volumes and filters.
const CHANNELS_LAST: [usize; 5] = [0, 2, 3, 4, 1];

/// Convolves `x` `[N, X, Y, Z, in]` with `weight` `[out, in, 3, 3, 3]`, padded with zeros → `[N, X, Y, Z, out]` in the
/// number type of factors. Gradients have the types of their tensors.
#[must_use]
pub fn volume_conv(x: Tensor<5>, weight: Tensor<5>, factors: Factors) -> Tensor<5> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as VolumeConv>::volume_conv(x, weight, factors))
}

/// Differentiable convolution, for each backend.
#[backend_extension(Flex, Cube: cfg(feature = "cube"), Autodiff)]
pub trait VolumeConv: Backend {
    /// Convolves a volume; see the function [`volume_conv`].
    fn volume_conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self>;
}

/// Convolutions without derivatives, for each backend. Volumes and filters already have the number type of factors.
pub trait Convolutions: Backend {
    /// Copies `x`, if necessary, so that its values are in the order of its axes.
    #[must_use]
    fn ordered(x: FloatTensor<Self>) -> FloatTensor<Self> {
        x
    }

    /// Convolves `x` `[N, X, Y, Z, in]` with `filter` `[out, 3, 3, 3, in]` → `[N, X, Y, Z, out]`.
    #[must_use]
    fn convolved(x: FloatTensor<Self>, filter: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        let _ = factors;
        burns::convolved::<Self>(x, filter)
    }

    /// Gradient of the volume: `[N, X, Y, Z, in]` in the type of `dy` `[N, X, Y, Z, out]`.
    #[must_use]
    fn volume_gradient(filter: FloatTensor<Self>, dy: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        let _ = factors;
        burns::volume_gradient::<Self>(filter, dy)
    }

    /// Gradient of the filter, `[out, 3, 3, 3, in]` in the type of `dy`.
    #[must_use]
    fn filter_gradient(x: FloatTensor<Self>, dy: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        let _ = factors;
        burns::filter_gradient::<Self>(x, dy)
    }
}

/// Burn's convolutions.
mod burns {
    use super::{Backend, CHANNELS_FIRST, CHANNELS_LAST, ConvOptions, FloatTensor, Shape, dtype_of};
    use burn::backend::TensorMetadata as _;

    fn options() -> ConvOptions<3> {
        ConvOptions::new([1; 3], [1; 3], [1; 3], 1)
    }

    fn first<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        B::float_permute(x, &CHANNELS_FIRST)
    }

    fn last<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
        B::float_permute(x, &CHANNELS_LAST)
    }

    /// Tensor of zeros that takes no memory, for uses that read only the shape.
    fn shaped<B: Backend>(shape: [usize; 5], like: &FloatTensor<B>) -> FloatTensor<B> {
        let zero = B::float_zeros(Shape::from([1; 5]), &like.device(), dtype_of::<B>(like));
        B::float_expand(zero, Shape::from(shape))
    }

    pub(super) fn convolved<B: Backend>(x: FloatTensor<B>, filter: FloatTensor<B>) -> FloatTensor<B> {
        last::<B>(B::conv3d(first::<B>(x), first::<B>(filter), None, options()))
    }

    pub(super) fn volume_gradient<B: Backend>(filter: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
        let ([n, dx, dy_, dz, _], [.., inputs]) = (dy.shape().dims(), filter.shape().dims::<5>());
        let x = shaped::<B>([n, inputs, dx, dy_, dz], &dy);
        last::<B>(B::conv3d_x_backward(x, first::<B>(filter), first::<B>(dy), options()))
    }

    pub(super) fn filter_gradient<B: Backend>(x: FloatTensor<B>, dy: FloatTensor<B>) -> FloatTensor<B> {
        let ([.., inputs], [.., outputs]) = (x.shape().dims::<5>(), dy.shape().dims::<5>());
        let weight = shaped::<B>([outputs, inputs, 3, 3, 3], &dy);
        last::<B>(B::conv3d_weight_backward(first::<B>(x), weight, first::<B>(dy), options()))
    }
}

impl Convolutions for Flex {}

#[cfg(feature = "cube")]
impl Convolutions for burn::backend::Cube {
    fn ordered(x: FloatTensor<Self>) -> FloatTensor<Self> {
        burn_cubecl::kernel::into_contiguous(x)
    }

    #[cfg(feature = "cuda")]
    fn convolved(x: FloatTensor<Self>, filter: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        super::cuda::convolved(&x, &filter, factors).unwrap_or_else(|| burns::convolved::<Self>(x, filter))
    }

    #[cfg(feature = "cuda")]
    fn volume_gradient(filter: FloatTensor<Self>, dy: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        super::cuda::volume_gradient(&filter, &dy, factors)
            .unwrap_or_else(|| burns::volume_gradient::<Self>(filter, dy))
    }

    #[cfg(feature = "cuda")]
    fn filter_gradient(x: FloatTensor<Self>, dy: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        super::cuda::filter_gradient(&x, &dy, factors).unwrap_or_else(|| burns::filter_gradient::<Self>(x, dy))
    }
}

/// Tensors that the backward pass needs.
#[derive(Clone, Debug)]
struct Saved<B: Backend> {
    /// Volume in the number type of factors, if the weight has a gradient.
    x: Option<FloatTensor<B>>,
    /// Filter in the number type of factors, if the volume has a gradient.
    filter: Option<FloatTensor<B>>,
    /// Types of volume and weight before their conversion.
    dtypes: [FloatDType; 2],
    factors: Factors,
}

fn narrowed<B: Backend>(x: FloatTensor<B>, factors: Factors) -> FloatTensor<B> {
    match factors.dtype() {
        Some(dtype) => cast::<B>(x, dtype),
        None => x,
    }
}

/// Computes the convolution, and the tensors that its derivative needs for those of volume and weight that are
/// `tracked`.
fn forward<B: Convolutions>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    factors: Factors,
    tracked: [bool; 2],
) -> (FloatTensor<B>, Saved<B>) {
    let dtypes = [dtype_of::<B>(&x), dtype_of::<B>(&weight)];
    let x = B::ordered(narrowed::<B>(x, factors));
    let filter = B::ordered(B::float_permute(narrowed::<B>(weight, factors), &CHANNELS_LAST));
    let y = B::convolved(x.clone(), filter.clone(), factors);
    let saved = Saved { x: tracked[1].then_some(x), filter: tracked[0].then_some(filter), dtypes, factors };
    (y, saved)
}

impl VolumeConv for Flex {
    fn volume_conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        forward::<Self>(x, weight, factors, [false; 2]).0
    }
}

#[cfg(feature = "cube")]
impl VolumeConv for burn::backend::Cube {
    fn volume_conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        forward::<Self>(x, weight, factors, [false; 2]).0
    }
}

/// Derivative of the convolution, whose parents are volume and weight.
#[derive(Debug)]
struct Derivative;

impl<B: Convolutions> Backward<B, 2> for Derivative {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Saved { x, filter, dtypes: [x_dtype, weight_dtype], factors } = ops.state;
        let dy = B::ordered(narrowed::<B>(grads.consume::<B>(&ops.node), factors));
        let [x_node, weight_node] = ops.parents;
        if let (Some(node), Some(filter)) = (x_node, filter) {
            let dx = B::volume_gradient(filter, dy.clone(), factors);
            grads.register::<B>(node.id, cast::<B>(dx, x_dtype));
        }
        if let (Some(node), Some(x)) = (weight_node, x) {
            let dw = B::float_permute(B::filter_gradient(x, dy, factors), &CHANNELS_FIRST);
            grads.register::<B>(node.id, cast::<B>(dw, weight_dtype));
        }
    }
}

impl<B: VolumeConv + Convolutions, C: CheckpointStrategy> VolumeConv for Autodiff<B, C> {
    fn volume_conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, factors: Factors) -> FloatTensor<Self> {
        let tracked = [x.is_tracked(), weight.is_tracked()];
        let nodes = [x.node(), weight.node()];
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match Backward::<B, 2>::prepare::<C>(Derivative, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => {
                let (y, saved) = forward::<B>(x, weight, factors, tracked);
                prepared.finish(saved, y)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(B::volume_conv(x, weight, factors)),
        }
    }
}

#[cfg(any(test, feature = "device-tests"))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, clippy::wildcard_imports, reason = "tests that run on devices"))]
pub(crate) mod tests {
    use super::*;
    use crate::ops::testing::{Outcome, on_devices, values_and_gradients, wave};
    use burn::tensor::Device;
    use burn::tensor::module::conv3d;

    const BATCH: usize = 2;

    /// Computes value and gradients of `function` for a volume and a weight.
    fn outcome(
        device: &Device,
        [inputs, outputs]: [usize; 2],
        size: [usize; 3],
        function: impl Fn(Tensor<5>, Tensor<5>) -> Tensor<5>,
    ) -> Outcome {
        let [sx, sy, sz] = size;
        let tensors = [wave([BATCH, sx * sy * sz, inputs], 0.7, 1.0), wave([outputs, inputs, 27], 0.3, 1.0)];
        values_and_gradients(device, &tensors, |[x, weight]| {
            let y = function(x.reshape([BATCH, sx, sy, sz, inputs]), weight.reshape([outputs, inputs, 3, 3, 3]));
            y.cast(FloatDType::F32).reshape([BATCH, sx * sy * sz, outputs])
        })
    }

    /// Burn's convolution of tensors in the number type of `factors`, differentiated by Burn.
    fn composed(x: Tensor<5>, weight: Tensor<5>, factors: Factors) -> Tensor<5> {
        let (x, weight) = match factors.dtype() {
            Some(dtype) => (x.cast(dtype), weight.cast(dtype)),
            None => (x, weight),
        };
        let y = conv3d(x.permute([0, 4, 1, 2, 3]), weight, None, ConvOptions::new([1; 3], [1; 3], [1; 3], 1));
        y.permute([0, 2, 3, 4, 1])
    }

    /// Numbers of channels: multiples of eight, as in UNETR, a single channel, and odd numbers.
    const CHANNELS: [[usize; 2]; 4] = [[3, 5], [8, 16], [1, 8], [32, 24]];

    fn check(device: &Device, factors: Factors, tolerance: f32) {
        if factors.dtype().is_some_and(|dtype| !device.supports_dtype(dtype)) {
            return;
        }
        for channels in CHANNELS {
            let size = [5, 4, 9];
            let ours = outcome(device, channels, size, |x, weight| volume_conv(x, weight, factors));
            // On the CPU and in f32: a device's own convolution would have to be tuned and would be no more exact.
            let reference = outcome(&Device::flex(), channels, size, |x, weight| composed(x, weight, Factors::F32));
            ours.assert_close(&reference, tolerance);
        }
    }

    /// Tolerance for sums of at most 864 products in another order; a GPU without cuDNN also rounds each factor to
    /// TF32, by 5e-4.
    fn f32_tolerance(device: &Device) -> f32 {
        if *device == Device::flex() { 1e-5 } else { 2e-3 }
    }

    fn f32_convolutions_are_those_of_burn(device: &Device) {
        check(device, Factors::F32, f32_tolerance(device));
    }

    fn tf32_convolutions_are_those_of_burn(device: &Device) {
        check(device, Factors::Tf32, f32_tolerance(device));
    }

    fn sixteen_bit_convolutions_are_those_of_burn(device: &Device) {
        // Factors and results are rounded to 8 bits: 2e-3 of each, of the largest value here.
        check(device, Factors::Bf16, 2e-2);
    }

    fn volumes_with_channels_first_are_taken_as_they_come(device: &Device) {
        let x = Tensor::<5>::from_data(wave([2, 8, 3, 5, 6], 0.7, 1.0), device).permute([0, 2, 3, 4, 1]);
        let weight = Tensor::<5>::from_data(wave([4, 8, 3, 3, 3], 0.3, 1.0), device);
        let ordered = Tensor::<5>::from_data(x.clone().into_data(), device);
        let flat = |y: Tensor<5>| Outcome::of(y.reshape([2, 90, 4]));
        let view = flat(volume_conv(x, weight.clone(), Factors::F32));
        view.assert_close(&flat(volume_conv(ordered, weight, Factors::F32)), f32_tolerance(device));
    }

    on_devices!(
        f32_convolutions_are_those_of_burn,
        tf32_convolutions_are_those_of_burn,
        sixteen_bit_convolutions_are_those_of_burn,
        volumes_with_channels_first_are_taken_as_they_come,
    );

    #[cfg(test)]
    #[test]
    fn constants_get_no_gradient_and_gradients_have_the_types_of_their_tensors() {
        let device = Device::flex();
        let graph = device.clone().autodiff();
        let (x, weight) = (wave([1, 3, 4, 5, 8], 0.7, 1.0), wave([4, 8, 3, 3, 3], 0.3, 1.0));
        for tracked in [[true, false], [false, true], [true, true]] {
            let load = |data, is_tracked: bool| {
                let x = Tensor::<5>::from_data(data, &graph);
                if is_tracked { x.require_grad() } else { x }
            };
            let (x, weight) = (load(x.clone(), tracked[0]), load(weight.clone(), tracked[1]));
            let y = volume_conv(x.clone(), weight.clone(), Factors::Bf16);
            assert_eq!(FloatDType::from(y.dtype()), FloatDType::BF16);
            let grads = y.cast(FloatDType::F32).sum().backward();
            for (tensor, is_tracked) in [x, weight].into_iter().zip(tracked) {
                let dtype = tensor.grad(&grads).map(|grad| FloatDType::from(grad.dtype()));
                assert_eq!(dtype, is_tracked.then_some(FloatDType::F32));
            }
        }
    }
}
