//! The convolutional parts of UNETR: residual blocks, up-sampling blocks and trilinear resizing.
//!
//! Structure and parameter names are those of MONAI's UNETR with residual blocks, so that exporting is renaming
//! only. All convolutions but the last two are without bias, since an instance norm follows.
//!
//! Convolutions with kernels of 1 voxel, and transposed convolutions whose stride equals their kernel, are computed as
//! matrix products: their windows do not overlap, and the backends have no fast kernel for the transposed kind.

use burn::module::{Module, Param};
use burn::tensor::activation::leaky_relu;
use burn::tensor::module::conv3d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};

use super::init::WeightInit;
use super::precision::Precision;

/// Added to the variance by the instance norm.
const NORM_EPSILON: f64 = 1e-5;
/// Slope of the leaky rectifier below zero.
const NEGATIVE_SLOPE: f64 = 0.01;

/// A convolution of stride 1 that keeps the size: a kernel of 1 or 3 voxels a side, padded with zeros.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[out, in, k, k, k]`.
    pub weight: Param<Tensor<5>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    precision: Precision,
}

impl Conv {
    /// Initialises weights and bias uniformly within one over the root of the fan-in, the reference's default for
    /// convolutions.
    pub fn init(in_channels: usize, out_channels: usize, kernel: usize, bias: bool, weights: &mut WeightInit) -> Self {
        let bound = 1.0 / ((in_channels * kernel.pow(3)) as f64).sqrt();
        Self {
            weight: weights.uniform([out_channels, in_channels, kernel, kernel, kernel], bound),
            bias: bias.then(|| weights.uniform([out_channels], bound)),
            precision: weights.precision(),
        }
    }

    /// `[N, in, X, Y, Z]` → `[N, out, X, Y, Z]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [out_channels, in_channels, kernel, ..] = self.weight.dims();
        let p = self.precision;
        let (x, weight) = (p.narrow(x), p.narrow(self.weight.val()));
        let y = p.widen(if kernel == 1 {
            let [n, _, dx, dy, dz] = x.dims();
            let weight = weight.reshape([1, out_channels, in_channels]);
            weight.matmul(x.reshape([n, in_channels, dx * dy * dz])).reshape([n, out_channels, dx, dy, dz])
        } else {
            conv3d(x, weight, None, ConvOptions::new([1; 3], [kernel / 2; 3], [1; 3], 1))
        });
        match &self.bias {
            Some(bias) => y + bias.val().reshape([1, out_channels, 1, 1, 1]),
            None => y,
        }
    }
}

/// A transposed convolution with kernel and stride 2, which turns each voxel into a block of 2×2×2.
#[derive(Module, Debug)]
pub struct UpConv {
    /// `[in, out, 2, 2, 2]`.
    pub weight: Param<Tensor<5>>,
    #[module(skip)]
    precision: Precision,
}

impl UpConv {
    /// Initialises weights uniformly, bounded as in [`Conv::init`] with the reference's fan-in of a transposed
    /// convolution, `8·out`.
    pub fn init(in_channels: usize, out_channels: usize, weights: &mut WeightInit) -> Self {
        let bound = 1.0 / ((out_channels * 8) as f64).sqrt();
        let weight = weights.uniform([in_channels, out_channels, 2, 2, 2], bound);
        Self { weight, precision: weights.precision() }
    }

    /// `[N, in, X, Y, Z]` → `[N, out, 2X, 2Y, 2Z]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let [n, in_channels, dx, dy, dz] = x.dims();
        let [_, out_channels, ..] = self.weight.dims();
        let p = self.precision;
        let (x, weight) = (p.narrow(x), p.narrow(self.weight.val()));
        let weight = weight.reshape([1, in_channels, out_channels * 8]).swap_dims(1, 2);
        let blocks = p.widen(weight.matmul(x.reshape([n, in_channels, dx * dy * dz])));
        // [N, out, i, j, k, X, Y, Z] → [N, out, X, i, Y, j, Z, k]
        blocks.reshape([n, out_channels, 2, 2, 2, dx, dy, dz]).permute([0, 1, 5, 2, 6, 3, 7, 4]).reshape([
            n,
            out_channels,
            2 * dx,
            2 * dy,
            2 * dz,
        ])
    }
}

/// Residual block: two 3×3×3 convolutions with instance norms and a residual path.
#[derive(Module, Debug)]
pub struct ResBlock {
    /// First convolution, `in` to `out` channels.
    pub conv1: Conv,
    /// Second convolution, `out` to `out` channels.
    pub conv2: Conv,
    /// 1×1×1 convolution of the residual path, if the number of channels changes.
    pub conv3: Option<Conv>,
}

impl ResBlock {
    /// Initialises a block from `in_channels` to `out_channels`.
    pub fn init(in_channels: usize, out_channels: usize, weights: &mut WeightInit) -> Self {
        Self {
            conv1: Conv::init(in_channels, out_channels, 3, false, weights),
            conv2: Conv::init(out_channels, out_channels, 3, false, weights),
            conv3: (in_channels != out_channels).then(|| Conv::init(in_channels, out_channels, 1, false, weights)),
        }
    }

    /// `[N, in, X, Y, Z]` → `[N, out, X, Y, Z]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let y = leaky_relu(instance_norm(self.conv1.forward(x.clone())), NEGATIVE_SLOPE);
        let y = instance_norm(self.conv2.forward(y));
        let residual = match &self.conv3 {
            Some(conv3) => instance_norm(conv3.forward(x)),
            None => x,
        };
        leaky_relu(y + residual, NEGATIVE_SLOPE)
    }
}

/// Branch at full resolution: one residual block over the image itself.
#[derive(Module, Debug)]
pub struct BasicBlock {
    /// Residual block.
    pub layer: ResBlock,
}

/// Branch of an encoder layer, up-sampled to the size at which the decoder reads it.
#[derive(Module, Debug)]
pub struct ProjectionBlock {
    /// First doubling, from the encoder's width.
    pub transp_conv_init: UpConv,
    /// Further doublings, each followed by a residual block.
    pub blocks: Vec<(UpConv, ResBlock)>,
}

impl ProjectionBlock {
    /// Initialises a branch that doubles the size `1 + num_blocks` times.
    pub fn init(in_channels: usize, out_channels: usize, num_blocks: usize, weights: &mut WeightInit) -> Self {
        Self {
            transp_conv_init: UpConv::init(in_channels, out_channels, weights),
            blocks: (0..num_blocks)
                .map(|_| {
                    let up = UpConv::init(out_channels, out_channels, weights);
                    (up, ResBlock::init(out_channels, out_channels, weights))
                })
                .collect(),
        }
    }

    /// `[N, in, X, Y, Z]` → `[N, out, 2ⁿX, 2ⁿY, 2ⁿZ]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let x = self.transp_conv_init.forward(x);
        self.blocks.iter().fold(x, |x, (up, block)| block.forward(up.forward(x)))
    }
}

/// Stage of the decoder: doubles the size, joins the encoder's branch, convolves.
#[derive(Module, Debug)]
pub struct UpBlock {
    /// Up-sampling of the coarser stage.
    pub transp_conv: UpConv,
    /// Convolutions over the joined channels, twice `out` to `out`.
    pub conv_block: ResBlock,
}

impl UpBlock {
    /// Initialises a stage from `in_channels` to `out_channels`; the joined branch has `out_channels`.
    pub fn init(in_channels: usize, out_channels: usize, weights: &mut WeightInit) -> Self {
        Self {
            transp_conv: UpConv::init(in_channels, out_channels, weights),
            conv_block: ResBlock::init(2 * out_channels, out_channels, weights),
        }
    }

    /// `[N, in, X, Y, Z]` and the branch `[N, out, 2X, 2Y, 2Z]` → `[N, out, 2X, 2Y, 2Z]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>, branch: Tensor<5>) -> Tensor<5> {
        self.conv_block.forward(Tensor::cat(vec![self.transp_conv.forward(x), branch], 1))
    }
}

/// Last stage of the decoder: resizes to the crop, convolves, joins the branch at full resolution, convolves.
///
/// Doubling cannot take 64 voxels to 96, so the size is interpolated.
#[derive(Module, Debug)]
pub struct ResizeBlock {
    /// 3×3×3 convolution with bias, after resizing.
    pub conv3d: Conv,
    /// Convolutions over the joined channels, twice `out` to `out`.
    pub conv_block: ResBlock,
}

impl ResizeBlock {
    /// Initialises a stage from `in_channels` to `out_channels`; the joined branch has `out_channels`.
    pub fn init(in_channels: usize, out_channels: usize, weights: &mut WeightInit) -> Self {
        Self {
            conv3d: Conv::init(in_channels, out_channels, 3, true, weights),
            conv_block: ResBlock::init(2 * out_channels, out_channels, weights),
        }
    }

    /// `[N, in, x, y, z]` and the branch `[N, out, X, Y, Z]` → `[N, out, X, Y, Z]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>, branch: Tensor<5>) -> Tensor<5> {
        let [_, _, dx, dy, dz] = branch.dims();
        let x = self.conv3d.forward(trilinear(x, [dx, dy, dz]));
        self.conv_block.forward(Tensor::cat(vec![x, branch], 1))
    }
}

/// Instance norm without parameters: zero mean and unit (biased) variance of each case and channel over its voxels.
#[must_use]
pub fn instance_norm(x: Tensor<5>) -> Tensor<5> {
    let dims @ [n, c, dx, dy, dz] = x.dims();
    let x = x.reshape([n * c, dx * dy * dz]);
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().square().mean_dim(1);
    (centred / (variance + NORM_EPSILON).sqrt()).reshape(dims)
}

/// Resizes `[N, C, x, y, z]` to `size`, linear along each axis, with voxel centres (not corners) aligned to the box.
///
/// Each axis is one matrix product, which has a derivative on every backend, unlike their interpolation.
#[must_use]
pub fn trilinear(x: Tensor<5>, size: [usize; 3]) -> Tensor<5> {
    let [n, c, dx, dy, dz] = x.dims();
    let (device, dtype) = (x.device().inner(), x.dtype());
    let matrix = |from, to| interpolation(from, to, &device).cast(dtype);
    let [sx, sy, sz] = size;
    let x = x.reshape([n * c * dx * dy, dz]).matmul(matrix(dz, sz).transpose());
    let x = matrix(dy, sy).unsqueeze::<3>().matmul(x.reshape([n * c * dx, dy, sz]));
    let x = matrix(dx, sx).unsqueeze::<3>().matmul(x.reshape([n * c, dx, sy * sz]));
    x.reshape([n, c, sx, sy, sz])
}

/// Matrix `[to, from]` that resizes one axis.
fn interpolation(from: usize, to: usize, device: &Device) -> Tensor<2> {
    let mut matrix = vec![0_f32; to * from];
    for i in 0..to {
        // Outside the first and the last centre the edge value holds.
        let at = ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, (from - 1) as f64);
        let below = at.floor() as usize;
        let above = (below + 1).min(from - 1);
        let share = at - below as f64;
        matrix[i * from + below] += (1.0 - share) as f32;
        matrix[i * from + above] += share as f32;
    }
    Tensor::from_data(TensorData::new(matrix, [to, from]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(shape: [usize; 5]) -> Tensor<5> {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| ((i * 37) % 101) as f32 / 50.0).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn values(x: Tensor<5>) -> Vec<f32> {
        x.into_data().try_to_vec().unwrap()
    }

    fn check_close(got: Tensor<5>, want: Tensor<5>) {
        assert_eq!(got.dims(), want.dims());
        for (got, want) in values(got).iter().zip(values(want)) {
            assert!((got - want).abs() < 1e-4, "{got}, expected {want}");
        }
    }

    #[test]
    fn matrix_products_equal_the_convolutions_they_replace() {
        use burn::tensor::module::conv_transpose3d;
        use burn::tensor::ops::ConvTransposeOptions;

        let mut weights = WeightInit::new(1, &Device::flex());
        let x = numbered([2, 3, 2, 4, 5]);
        let up = UpConv::init(3, 6, &mut weights);
        let options = ConvTransposeOptions::new([2; 3], [0; 3], [0; 3], [1; 3], 1);
        check_close(up.forward(x.clone()), conv_transpose3d(x.clone(), up.weight.val(), None, options));

        let point = Conv::init(3, 4, 1, true, &mut weights);
        let bias = point.bias.as_ref().map(Param::val);
        let options = ConvOptions::new([1; 3], [0; 3], [1; 3], 1);
        check_close(point.forward(x.clone()), conv3d(x, point.weight.val(), bias, options));
    }

    #[test]
    fn resizing_keeps_a_constant_and_a_ramp() {
        let constant = Tensor::<5>::full([1, 2, 3, 4, 5], 2.5, &Device::flex());
        check_close(trilinear(constant, [6, 4, 7]), Tensor::full([1, 2, 6, 4, 7], 2.5, &Device::flex()));

        let ramp = Tensor::<5>::from_data(TensorData::new(vec![0_f32, 1.0], [1, 1, 1, 1, 2]), &Device::flex());
        assert_eq!(values(trilinear(ramp, [1, 1, 4])), [0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn instance_norm_has_zero_mean_and_unit_variance() {
        let normed = values(instance_norm(numbered([2, 2, 4, 4, 4])));
        for channel in normed.chunks_exact(64) {
            let mean = channel.iter().sum::<f32>() / 64.0;
            let variance = channel.iter().map(|v| v * v).sum::<f32>() / 64.0;
            assert!(mean.abs() < 1e-5 && (variance - 1.0).abs() < 1e-3, "mean {mean}, variance {variance}");
        }
    }
}
