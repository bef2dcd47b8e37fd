//! Convolutions of volumes `[N, C, X, Y, Z]`: kernels of 3 or 1 voxels per side that keep the size, and the transposed
//! kernel that doubles it.
//!
//! In f32 on the CPU each is one operation of `hiend_cpu`; for other types on the CPU, Burn's operations are used. On
//! GPUs volumes are channels-last in memory, whatever the order of their axes: kernels of 1 voxel, and transposed ones
//! whose stride equals their kernel, are then products of voxels with weights ([`super::product`]), since their windows
//! do not overlap, and kernels of 3 voxels are computed by [`volume`], with cuDNN if it is found.

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub mod volume;

use burn::backend::{DispatchDevice, TensorMetadata as _};
use burn::tensor::module::conv3d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{FloatDType, Tensor};
use hiend_cpu::conv::{
    ConvShape, bias_gradient, conv1, conv1_input_gradient, conv1_weight_gradient, conv3, conv3_input_gradient,
    conv3_weight_gradient,
};
use hiend_cpu::transposed::{up_conv2, up_conv2_input_gradient, up_conv2_weight_gradient};

use self::volume::volume_conv;
use super::fixed_order::expand;
use super::on_cpu::{CpuOperation, CpuTensor, Operand, apply, in_order, is_on_cpu, tensor, values};
use super::product::{Factors, linear};

/// Convolves `x` `[N, in, X, Y, Z]` with `weight` `[out, in, k, k, k]`, where k is 1 or 3, and adds `bias` `[out]` →
/// `[N, out, X, Y, Z]` in f32. Tensors are converted to the number type of `factors`.
#[must_use]
pub fn conv(x: Tensor<5>, weight: Tensor<5>, bias: Option<Tensor<1>>, factors: Factors) -> Tensor<5> {
    let [out_channels, .., kernel] = weight.dims();
    let on_cpu =
        factors.dtype().is_none() && is_on_cpu(&x) && is_on_cpu(&weight) && bias.as_ref().is_none_or(is_on_cpu);
    if on_cpu && let Some(kind) = Kernel::of(kernel) {
        let (x, weight) = (Operand::of(x), Operand::of(weight));
        return match bias {
            Some(bias) => apply(kind, [x, weight, Operand::of(bias)]),
            None => apply(kind, [x, weight]),
        };
    }
    let y = widen(conv_in_factors(x, weight, factors), factors);
    match bias {
        Some(bias) if is_on_flex(&y) => y + bias.reshape([1, out_channels, 1, 1, 1]),
        Some(bias) => {
            let y = channels_last(y);
            let bias = expand(bias.reshape([1, 1, 1, 1, out_channels]), y.dims());
            channels_first(y + bias)
        }
        None => y,
    }
}

/// Convolves as [`conv`] does, without a bias, and returns the result in the number type of factors, for a consumer
/// that computes in f32 but can read a shorter type.
#[must_use]
pub fn conv_in_factors(x: Tensor<5>, weight: Tensor<5>, factors: Factors) -> Tensor<5> {
    let [.., kernel] = weight.dims();
    if factors.dtype().is_none()
        && is_on_cpu(&x)
        && is_on_cpu(&weight)
        && let Some(kind) = Kernel::of(kernel)
    {
        return apply(kind, [Operand::of(x), Operand::of(weight)]);
    }
    if is_on_flex(&x) { composed(x, weight, factors) } else { by_voxels(x, weight, factors) }
}

/// Applies the transposed kernel `weight` `[in, out, 2, 2, 2]` of stride 2 to `x` `[N, in, X, Y, Z]` → `[N, out, 2X,
/// 2Y, 2Z]` in the number type of factors.
#[must_use]
pub fn up_conv(x: Tensor<5>, weight: Tensor<5>, factors: Factors) -> Tensor<5> {
    if factors.dtype().is_none() && is_on_cpu(&x) && is_on_cpu(&weight) {
        return apply(Kernel::Up, [Operand::of(x), Operand::of(weight)]);
    }
    if is_on_flex(&x) { up_composed(x, weight, factors) } else { up_by_voxels(x, weight, factors) }
}

/// Selects, from now on, Burn's convolutions for kernels of 3 voxels on NVIDIA GPUs if `burns` is set, otherwise cuDNN
/// where it is found (the default).
pub fn leave_to_burn(burns: bool) {
    #[cfg(feature = "cuda")]
    cuda::leave_to_burn(burns);
    #[cfg(not(feature = "cuda"))]
    let _ = burns;
}

/// Joins the channels of two volumes `[N, C, X, Y, Z]` of one type.
#[must_use]
pub fn join(a: Tensor<5>, b: Tensor<5>) -> Tensor<5> {
    if is_on_flex(&a) {
        return Tensor::cat(vec![a, b], 1);
    }
    channels_first(Tensor::cat(vec![channels_last(a), channels_last(b)], 4))
}

/// Returns true if `x` is on the CPU, in any type.
pub(super) fn is_on_flex(x: &Tensor<5>) -> bool {
    matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// Permutes the axes of a channels-first volume to channels-last.
pub(super) fn channels_last(x: Tensor<5>) -> Tensor<5> {
    x.permute([0, 2, 3, 4, 1])
}

/// Permutes the axes of a channels-last volume to channels-first.
pub(super) fn channels_first(x: Tensor<5>) -> Tensor<5> {
    x.permute([0, 4, 1, 2, 3])
}

/// Convolves channels-last volumes.
fn by_voxels(x: Tensor<5>, weight: Tensor<5>, factors: Factors) -> Tensor<5> {
    let [out_channels, in_channels, kernel, ..] = weight.dims();
    let x = channels_last(x);
    channels_first(if kernel == 1 {
        linear(x, weight.reshape([out_channels, in_channels]).transpose(), factors)
    } else {
        volume_conv(x, weight, factors)
    })
}

/// Applies the transposed convolution to channels-last volumes.
fn up_by_voxels(x: Tensor<5>, weight: Tensor<5>, factors: Factors) -> Tensor<5> {
    let [n, in_channels, dx, dy, dz] = x.dims();
    let [_, out_channels, ..] = weight.dims();
    // The channels of a block's voxel stay together, so that the copy below moves them as they are.
    let weight = channels_last(weight).reshape([in_channels, 8 * out_channels]);
    let blocks = linear(channels_last(x), weight, factors);
    // [N, X, Y, Z, i, j, k, out] → [N, X, i, Y, j, Z, k, out]
    let blocks = blocks.reshape([n, dx, dy, dz, 2, 2, 2, out_channels]).permute([0, 1, 4, 2, 5, 3, 6, 7]);
    channels_first(blocks.reshape([n, 2 * dx, 2 * dy, 2 * dz, out_channels]))
}

/// Burn's convolution of tensors in the number type of `factors`, differentiated by Burn.
fn composed(x: Tensor<5>, weight: Tensor<5>, factors: Factors) -> Tensor<5> {
    let [out_channels, in_channels, kernel, ..] = weight.dims();
    let (x, weight) = (narrow(x, factors), narrow(weight, factors));
    if kernel == 1 {
        let [n, _, dx, dy, dz] = x.dims();
        let weight = weight.reshape([1, out_channels, in_channels]);
        weight.matmul(x.reshape([n, in_channels, dx * dy * dz])).reshape([n, out_channels, dx, dy, dz])
    } else {
        conv3d(x, weight, None, ConvOptions::new([1; 3], [kernel / 2; 3], [1; 3], 1))
    }
}

fn up_composed(x: Tensor<5>, weight: Tensor<5>, factors: Factors) -> Tensor<5> {
    let [n, in_channels, dx, dy, dz] = x.dims();
    let [_, out_channels, ..] = weight.dims();
    let (x, weight) = (narrow(x, factors), narrow(weight, factors));
    let weight = weight.reshape([1, in_channels, out_channels * 8]).swap_dims(1, 2);
    let blocks = weight.matmul(x.reshape([n, in_channels, dx * dy * dz]));
    // [N, out, i, j, k, X, Y, Z] → [N, out, X, i, Y, j, Z, k]
    let blocks = blocks.reshape([n, out_channels, 2, 2, 2, dx, dy, dz]).permute([0, 1, 5, 2, 6, 3, 7, 4]);
    blocks.reshape([n, out_channels, 2 * dx, 2 * dy, 2 * dz])
}

fn narrow<const D: usize>(x: Tensor<D>, factors: Factors) -> Tensor<D> {
    match factors.dtype() {
        Some(dtype) => x.cast(dtype),
        None => x,
    }
}

fn widen<const D: usize>(y: Tensor<D>, factors: Factors) -> Tensor<D> {
    match factors.dtype() {
        Some(_) => y.cast(FloatDType::F32),
        None => y,
    }
}

/// Kernels of `hiend_cpu`. Inputs are `x`, the weight and, if there is one, the bias.
#[derive(Clone, Copy, Debug)]
enum Kernel {
    /// Kernel of 3×3×3 voxels.
    Cube,
    /// Kernel of one voxel.
    Point,
    /// Transposed kernel of 2×2×2 voxels with stride 2.
    Up,
}

impl Kernel {
    /// Returns the kernel of `side` voxels.
    fn of(side: usize) -> Option<Self> {
        match side {
            1 => Some(Self::Point),
            3 => Some(Self::Cube),
            _ => None,
        }
    }
}

/// Tensors kept for the gradients of a convolution.
#[derive(Clone, Debug)]
struct Saved {
    /// Input, if the weight has a gradient.
    x: Option<CpuTensor>,
    /// Weight, if the input has a gradient.
    weight: Option<CpuTensor>,
    shape: ConvShape,
    kernel: usize,
}

impl<const N: usize> CpuOperation<N> for Kernel {
    type Saved = Saved;

    fn forward(self, inputs: [CpuTensor; N], tracked: [bool; N]) -> (CpuTensor, Saved) {
        let mut inputs = inputs.into_iter().map(in_order);
        let mut next = || inputs.next().expect("two inputs at least");
        let (x, weight) = (next(), next());
        let bias = inputs.next();
        let (of_x, of_weight) = (x.shape(), weight.shape());
        let out_channels = of_weight[usize::from(matches!(self, Self::Up))];
        let shape = ConvShape { batch: of_x[0], in_channels: of_x[1], out_channels, size: [of_x[2], of_x[3], of_x[4]] };
        let (of_x, of_weight, bias) = (values(&x), values(&weight), bias.as_ref().map(values));
        let [mut dx, mut dy, mut dz] = shape.size;
        let y = match self {
            Self::Cube => conv3(of_x, of_weight, bias, shape),
            Self::Point => conv1(of_x, of_weight, bias, shape),
            Self::Up => {
                [dx, dy, dz] = [2 * dx, 2 * dy, 2 * dz];
                up_conv2(of_x, of_weight, shape)
            }
        };
        let kernel = weight.shape()[2];
        let saved = Saved { x: tracked[1].then_some(x), weight: tracked[0].then_some(weight), shape, kernel };
        (tensor(y, [shape.batch, out_channels, dx, dy, dz]), saved)
    }

    fn backward(self, saved: Saved, dy: CpuTensor, wanted: [bool; N]) -> [Option<CpuTensor>; N] {
        let Saved { x, weight, shape, kernel: k } = saved;
        let ConvShape { batch, in_channels, out_channels, size: [sx, sy, sz] } = shape;
        let dy = values(&dy);
        std::array::from_fn(|input| {
            if !wanted[input] {
                return None;
            }
            match input {
                0 => {
                    let weight = values(weight.as_ref()?);
                    let dx = match self {
                        Self::Cube => conv3_input_gradient(dy, weight, shape),
                        Self::Point => conv1_input_gradient(dy, weight, shape),
                        Self::Up => up_conv2_input_gradient(dy, weight, shape),
                    };
                    Some(tensor(dx, [batch, in_channels, sx, sy, sz]))
                }
                1 => {
                    let x = values(x.as_ref()?);
                    Some(match self {
                        Self::Cube => tensor(conv3_weight_gradient(x, dy, shape), [out_channels, in_channels, k, k, k]),
                        Self::Point => {
                            tensor(conv1_weight_gradient(x, dy, shape), [out_channels, in_channels, k, k, k])
                        }
                        Self::Up => {
                            tensor(up_conv2_weight_gradient(x, dy, shape), [in_channels, out_channels, k, k, k])
                        }
                    })
                }
                _ => Some(tensor(bias_gradient(dy, batch, out_channels), [out_channels])),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{values_and_gradients, wave};
    use burn::tensor::Device;

    /// Oracle: Burn's own convolutions.
    fn burns(x: Tensor<5>, weight: Tensor<5>, bias: Option<Tensor<1>>) -> Tensor<5> {
        let [.., kernel] = weight.dims();
        conv3d(x, weight, bias, ConvOptions::new([1; 3], [kernel / 2; 3], [1; 3], 1))
    }

    const BATCH: usize = 2;
    const SIZE: [usize; 3] = [5, 4, 9];

    fn volume(x: Tensor<3>, channels: usize) -> Tensor<5> {
        let [sx, sy, sz] = SIZE;
        x.reshape([BATCH, channels, sx, sy, sz])
    }

    fn flat(y: Tensor<5>) -> Tensor<3> {
        let [n, channels, sx, sy, sz] = y.dims();
        y.reshape([n, channels, sx * sy * sz])
    }

    /// Tolerance for sums of at most 360 products in different orders.
    const TOLERANCE: f32 = 1e-5;

    #[test]
    fn values_and_gradients_are_those_of_burn() {
        let num_voxels = SIZE.iter().product();
        for (inputs, outputs, k) in [(3, 5, 3), (3, 5, 1), (8, 4, 3)] {
            let tensors = [
                wave([BATCH, inputs, num_voxels], 0.7, 1.0),
                wave([outputs, inputs, k * k * k], 0.3, 1.0),
                wave([1, 1, outputs], 0.9, 1.0),
            ];
            let device = Device::flex();
            let run = |function: &dyn Fn(Tensor<5>, Tensor<5>, Option<Tensor<1>>) -> Tensor<5>| {
                values_and_gradients(&device, &tensors, |[x, weight, bias]| {
                    let weight = weight.reshape([outputs, inputs, k, k, k]);
                    flat(function(volume(x, inputs), weight, Some(bias.reshape([outputs]))))
                })
            };
            let ours = run(&|x, weight, bias| conv(x, weight, bias, Factors::F32));
            ours.assert_close(&run(&burns), TOLERANCE);
            for function in [composed, by_voxels] {
                let biased = |x, weight, bias: Option<Tensor<1>>| {
                    let y = function(x, weight, Factors::F32);
                    bias.map_or(y.clone(), |bias| y + bias.reshape([1, outputs, 1, 1, 1]))
                };
                ours.assert_close(&run(&biased), TOLERANCE);
            }
        }
    }

    #[test]
    fn values_and_gradients_of_the_transposed_kernel_are_those_of_burn() {
        use burn::tensor::module::conv_transpose3d;
        use burn::tensor::ops::ConvTransposeOptions;

        let (inputs, outputs) = (3, 6);
        let tensors = [wave([BATCH, inputs, SIZE.iter().product()], 0.7, 1.0), wave([inputs, outputs, 8], 0.3, 1.0)];
        let device = Device::flex();
        let run = |function: &dyn Fn(Tensor<5>, Tensor<5>) -> Tensor<5>| {
            values_and_gradients(&device, &tensors, |[x, weight]| {
                flat(function(volume(x, inputs), weight.reshape([inputs, outputs, 2, 2, 2])))
            })
        };
        let ours = run(&|x, weight| up_conv(x, weight, Factors::F32));
        let options = || ConvTransposeOptions::new([2; 3], [0; 3], [0; 3], [1; 3], 1);
        ours.assert_close(&run(&|x, weight| conv_transpose3d(x, weight, None, options())), TOLERANCE);
        ours.assert_close(&run(&|x, weight| up_composed(x, weight, Factors::F32)), TOLERANCE);
        ours.assert_close(&run(&|x, weight| up_by_voxels(x, weight, Factors::F32)), TOLERANCE);
    }

    #[test]
    fn inputs_out_of_order_and_constants_are_taken_as_they_come() {
        let device = Device::flex();
        let graph = device.clone().autodiff();
        let x = Tensor::<5>::from_data(wave([1, 4, 3, 5, 6], 0.7, 1.0), &device).swap_dims(2, 4);
        let weight = Tensor::<5>::from_data(wave([2, 4, 3, 3, 3], 0.3, 1.0), &graph).require_grad();
        let y = conv(x.clone(), weight.clone(), None, Factors::F32);
        let plain = conv(x.clone(), weight.clone().inner(), None, Factors::F32);
        assert_eq!(y.clone().inner().into_data(), plain.clone().into_data());
        let difference: f32 = (plain - burns(x, weight.clone().inner(), None)).abs().max().into_scalar();
        assert!(difference < TOLERANCE, "{difference}");
        assert!(weight.grad(&y.sum().backward()).is_some());
    }
}
