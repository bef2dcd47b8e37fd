//! Convolutional parts of UNETR: residual blocks and up-sampling blocks.
//!
//! Structure and parameter names are those of MONAI's UNETR with residual blocks, so that exporting only renames
//! tensors. All convolutions except the last two have no bias, because an instance norm follows.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::init::WeightInit;
use super::precision::Precision;
use crate::ops::conv::{conv, conv_in_factors, join, up_conv};
use crate::ops::instance_norm::{Branch, NormLeaky};
use crate::ops::trilinear::trilinear;

/// Constants of the instance norms and rectifiers of the residual blocks.
const NORM_LEAKY: NormLeaky = NormLeaky { epsilon: 1e-5, slope: 0.01 };

/// A convolution of stride 1 that keeps the size: a kernel of 1 or 3 voxels per side, padded with zeros.
#[derive(Module, Debug)]
pub struct Conv {
    /// Kernel, `[out, in, k, k, k]`.
    pub weight: Param<Tensor<5>>,
    /// Bias, `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    precision: Precision,
}

impl Conv {
    /// Initialises weights and bias uniformly within the reciprocal square root of the fan-in, the reference's default
    /// for convolutions.
    pub fn init(in_channels: usize, out_channels: usize, kernel: usize, bias: bool, weights: &mut WeightInit) -> Self {
        let bound = 1.0 / ((in_channels * kernel.pow(3)) as f64).sqrt();
        Self {
            weight: weights.uniform([out_channels, in_channels, kernel, kernel, kernel], bound),
            bias: bias.then(|| weights.uniform([out_channels], bound)),
            precision: weights.precision(),
        }
    }

    /// Applies the convolution: `[N, in, X, Y, Z]` → `[N, out, X, Y, Z]`, in f32.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        conv(x, self.weight.val(), self.bias.as_ref().map(Param::val), self.precision.factors())
    }

    /// Applies a convolution without bias and returns the result in the number type of its factors. The values equal
    /// those of [`Self::forward`], because sums are rounded to that type in any case.
    fn forward_in_factors(&self, x: Tensor<5>) -> Tensor<5> {
        debug_assert!(self.bias.is_none(), "a bias is added in f32");
        conv_in_factors(x, self.weight.val(), self.precision.factors())
    }
}

/// A transposed convolution with kernel and stride 2, which turns each voxel into a block of 2×2×2.
#[derive(Module, Debug)]
pub struct UpConv {
    /// Kernel, `[in, out, 2, 2, 2]`.
    pub weight: Param<Tensor<5>>,
    #[module(skip)]
    precision: Precision,
}

impl UpConv {
    /// Initialises weights uniformly, bounded as in [`Conv::init`], with the reference's fan-in of a transposed
    /// convolution, `8·out`.
    pub fn init(in_channels: usize, out_channels: usize, weights: &mut WeightInit) -> Self {
        let bound = 1.0 / ((out_channels * 8) as f64).sqrt();
        let weight = weights.uniform([in_channels, out_channels, 2, 2, 2], bound);
        Self { weight, precision: weights.precision() }
    }

    /// Applies the convolution: `[N, in, X, Y, Z]` → `[N, out, 2X, 2Y, 2Z]`, in the number type of its factors.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        up_conv(x, self.weight.val(), self.precision.factors())
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

    /// Applies the block: `[N, in, X, Y, Z]` in f32 or the number type of factors → `[N, out, X, Y, Z]` in f32.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let y = self.conv1.forward_in_factors(x.clone());
        // Narrowed here, as the convolution would narrow it.
        let y = match self.conv2.precision.factors().dtype() {
            Some(dtype) => NORM_LEAKY.forward_in(y, Branch::None, dtype),
            None => NORM_LEAKY.forward(y, Branch::None),
        };
        let y = self.conv2.forward_in_factors(y);
        let residual = match &self.conv3 {
            Some(conv3) => Branch::Normed(conv3.forward_in_factors(x)),
            None => Branch::Plain(x),
        };
        NORM_LEAKY.forward(y, residual)
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

    /// Applies the branch: `[N, in, X, Y, Z]` → `[N, out, 2ⁿX, 2ⁿY, 2ⁿZ]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>) -> Tensor<5> {
        let x = self.transp_conv_init.forward(x);
        self.blocks.iter().fold(x, |x, (up, block)| block.forward(up.forward(x)))
    }
}

/// Joins the channels of two volumes, in the number type to which the convolutions that follow would convert them.
fn join_channels(a: Tensor<5>, b: Tensor<5>, precision: Precision) -> Tensor<5> {
    join(precision.narrow(a), precision.narrow(b))
}

/// Stage of the decoder: doubles the size, joins the encoder's branch, and convolves.
#[derive(Module, Debug)]
pub struct UpBlock {
    /// Up-sampling of the coarser stage.
    pub transp_conv: UpConv,
    /// Residual block over the joined channels, from 2 · `out` to `out` channels.
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

    /// Applies the stage to `[N, in, X, Y, Z]` and the branch `[N, out, 2X, 2Y, 2Z]` → `[N, out, 2X, 2Y, 2Z]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>, branch: Tensor<5>) -> Tensor<5> {
        self.conv_block.forward(join_channels(self.transp_conv.forward(x), branch, self.transp_conv.precision))
    }
}

/// Last stage of the decoder: resizes to the crop, convolves, joins the branch at full resolution, and convolves again.
///
/// Doubling cannot turn 64 voxels into 96, so the volume is resized by interpolation.
#[derive(Module, Debug)]
pub struct ResizeBlock {
    /// 3×3×3 convolution with bias, after resizing.
    pub conv3d: Conv,
    /// Residual block over the joined channels, from 2 · `out` to `out` channels.
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

    /// Applies the stage to `[N, in, x, y, z]` and the branch `[N, out, X, Y, Z]` → `[N, out, X, Y, Z]`.
    #[must_use]
    pub fn forward(&self, x: Tensor<5>, branch: Tensor<5>) -> Tensor<5> {
        let [_, _, dx, dy, dz] = branch.dims();
        let x = self.conv3d.forward(trilinear(x, [dx, dy, dz]));
        self.conv_block.forward(join_channels(x, branch, self.conv3d.precision))
    }
}
