//! UNETR: the segmentation network that fine-tuning builds on a pre-trained encoder.
//!
//! The encoder sees all patches, without a class token and with a trained position table. Its three tapped layers and
//! its normed output, as volumes of tokens, enter a convolutional decoder that doubles the size three times, to 8
//! voxels per patch, and then interpolates to the crop. Hatamizadeh et al., *UNETR*, 2021, arXiv 2103.10504, with the
//! last stage modified as in Hi-End-MAE for patches of 12 voxels.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::block::BlockConfig;
use super::conv_block::{BasicBlock, Conv, ProjectionBlock, ResBlock, ResizeBlock, UpBlock};
use super::encoder::{Encoder, EncoderConfig};
use super::hi_end_mae::{HiEndMaeConfig, ModelConfigError};
use super::init::WeightInit;
use super::patch_embed::{grid_of, patchify};

/// Epsilon of the encoder's layer norms in fine-tuning; pre-training has 1e-6.
const NORM_EPSILON: f64 = 1e-5;

/// Sizes of a UNETR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetrConfig {
    /// Number of channels of the image.
    pub in_channels: usize,
    /// Number of classes, background included: the number of channels of the logits.
    pub num_classes: usize,
    /// Size of the crop in voxels; a multiple of `patch_size` along each axis.
    pub crop_size: [usize; 3],
    /// Side of a patch, in voxels.
    pub patch_size: usize,
    /// Width of the tokens, a multiple of 6 and of `num_heads`.
    pub embed_dim: usize,
    /// Number of blocks of the encoder.
    pub depth: usize,
    /// Number of attention heads of the encoder.
    pub num_heads: usize,
    /// Width of the MLPs' hidden layers, as a multiple of `embed_dim`.
    pub mlp_ratio: usize,
    /// Indices of the encoder layers that the decoder reads, from 0, ascending.
    pub taps: [usize; 3],
    /// Number of channels at full resolution; each coarser stage has twice as many.
    pub feature_size: usize,
}

impl UnetrConfig {
    /// Returns the sizes of a network for the encoder of `pretrained`, with the recipe's 32 features.
    ///
    /// # Errors
    /// If the pre-training model does not have three taps.
    pub fn for_encoder_of(
        pretrained: &HiEndMaeConfig,
        crop_size: [usize; 3],
        num_classes: usize,
    ) -> Result<Self, ModelConfigError> {
        let taps = pretrained.taps.as_slice().try_into().ok().ok_or_else(|| ModelConfigError {
            key: "taps",
            reason: format!("UNETR reads three encoder layers, not {}", pretrained.taps.len()),
        })?;
        Ok(Self {
            in_channels: 1,
            num_classes,
            crop_size,
            patch_size: pretrained.patch_size,
            embed_dim: pretrained.embed_dim,
            depth: pretrained.depth,
            num_heads: pretrained.num_heads,
            mlp_ratio: pretrained.mlp_ratio,
            taps,
            feature_size: 32,
        })
    }

    /// Checks that the sizes match each other.
    ///
    /// # Errors
    /// The first setting that does not fit, with the reason.
    pub fn validate(&self) -> Result<(), ModelConfigError> {
        let fail = |key, reason: String| Err(ModelConfigError { key, reason });
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("patch_size", self.patch_size),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("mlp_ratio", self.mlp_ratio),
            ("feature_size", self.feature_size),
        ] {
            if value == 0 {
                return fail(key, "must be at least 1".into());
            }
        }
        if !(2..=256).contains(&self.num_classes) {
            return fail("num_classes", format!("{} is not between 2 and 256", self.num_classes));
        }
        if let Some(side) = self.crop_size.iter().find(|&&side| side == 0 || !side.is_multiple_of(self.patch_size)) {
            return fail("crop_size", format!("{side} is not a multiple of the patch's {} voxels", self.patch_size));
        }
        if !self.embed_dim.is_multiple_of(6) || !self.embed_dim.is_multiple_of(self.num_heads) {
            let (dim, heads) = (self.embed_dim, self.num_heads);
            return fail("embed_dim", format!("{dim} must be a multiple of 6 and of its {heads} heads"));
        }
        if !self.taps.is_sorted_by(|a, b| a < b) || self.taps[2] >= self.depth {
            return fail("taps", format!("{:?} must ascend and stay below the depth {}", self.taps, self.depth));
        }
        Ok(())
    }

    /// Initialises a network; pre-trained weights, if any, replace those of the encoder afterwards.
    ///
    /// DIFFERENCE: without pre-training, the position table starts as the sine-cosine table and linear maps as in
    /// pre-training (Xavier), where MONAI samples both from a normal distribution of standard deviation 0.02.
    ///
    /// # Panics
    /// If the sizes do not fit together, which [`Self::validate`] reports as an error.
    pub fn init(&self, weights: &mut WeightInit) -> Unetr {
        let (dim, features) = (self.embed_dim, self.feature_size);
        Unetr {
            vit: self.encoder().init(weights),
            encoder1: BasicBlock { layer: ResBlock::init(self.in_channels, features, weights) },
            encoder2: ProjectionBlock::init(dim, 2 * features, 2, weights),
            encoder3: ProjectionBlock::init(dim, 4 * features, 1, weights),
            encoder4: ProjectionBlock::init(dim, 8 * features, 0, weights),
            decoder5: UpBlock::init(dim, 8 * features, weights),
            decoder4: UpBlock::init(8 * features, 4 * features, weights),
            decoder3: UpBlock::init(4 * features, 2 * features, weights),
            decoder2: ResizeBlock::init(2 * features, features, weights),
            out: Conv::init(features, self.num_classes, 1, true, weights),
            patch_size: self.patch_size,
        }
    }

    /// Number of the encoder's parameters.
    #[must_use]
    pub fn num_encoder_params(&self) -> usize {
        self.encoder().num_params()
    }

    /// Minimum number of values that the backward pass keeps for a crop: those of the encoder; at the crop's full
    /// resolution, `8 · feature_size` values per voxel (of 15 in total) for the inputs of convolutions and norms; and
    /// the logits and their gradient. With `recompute`, the encoder's blocks keep only their inputs.
    #[must_use]
    pub fn kept_values(&self, recompute: bool) -> usize {
        let encoder = self.encoder();
        let num_voxels: usize = self.crop_size.iter().product();
        encoder.kept_values(encoder.num_patches(), recompute)
            + num_voxels * (8 * self.feature_size + 2 * self.num_classes)
    }

    fn encoder(&self) -> EncoderConfig {
        EncoderConfig {
            patch_size: self.patch_size,
            in_channels: self.in_channels,
            grid: grid_of(self.crop_size, self.patch_size),
            depth: self.depth,
            block: BlockConfig {
                dim: self.embed_dim,
                num_heads: self.num_heads,
                mlp_ratio: self.mlp_ratio,
                norm_epsilon: NORM_EPSILON,
            },
            cls_token: false,
            trained_positions: true,
            taps: self.taps.to_vec(),
        }
    }
}

/// Vision transformer with a convolutional decoder. Fields are named as in the reference's state dict.
#[derive(Module, Debug)]
pub struct Unetr {
    /// Encoder of all patches.
    pub vit: Encoder,
    /// Branch of the image at full resolution.
    pub encoder1: BasicBlock,
    /// Branch of the first tap, up-sampled to 8 voxels per patch.
    pub encoder2: ProjectionBlock,
    /// Branch of the second tap, up-sampled to 4 voxels per patch.
    pub encoder3: ProjectionBlock,
    /// Branch of the third tap, up-sampled to 2 voxels per patch.
    pub encoder4: ProjectionBlock,
    /// Stage that up-samples to 2 voxels per patch.
    pub decoder5: UpBlock,
    /// Stage that up-samples to 4 voxels per patch.
    pub decoder4: UpBlock,
    /// Stage that up-samples to 8 voxels per patch.
    pub decoder3: UpBlock,
    /// Stage that resizes to the size of the crop.
    pub decoder2: ResizeBlock,
    /// 1×1×1 convolution from features to classes.
    pub out: Conv,
    patch_size: usize,
}

impl Unetr {
    /// Number of channels of the images.
    #[must_use]
    pub fn in_channels(&self) -> usize {
        let [_, in_channels, ..] = self.encoder1.layer.conv1.weight.dims();
        in_channels
    }

    /// Number of classes, background included.
    #[must_use]
    pub fn num_classes(&self) -> usize {
        let [num_classes, ..] = self.out.weight.dims();
        num_classes
    }

    /// Computes the logits `[N, classes, X, Y, Z]` of crops `[N, C, X, Y, Z]`.
    ///
    /// # Panics
    /// If the crops have another size than the position table.
    #[must_use]
    pub fn forward(&self, images: Tensor<5>) -> Tensor<5> {
        self.out.forward(self.features(images))
    }

    /// Computes the features `[N, feature_size, X, Y, Z]` from which the last convolution computes logits.
    ///
    /// # Panics
    /// See [`Self::forward`].
    #[must_use]
    pub fn features(&self, images: Tensor<5>) -> Tensor<5> {
        let [_, _, dx, dy, dz] = images.dims();
        let grid = grid_of([dx, dy, dz], self.patch_size);
        let encoded = self.vit.forward(patchify(images.clone(), self.patch_size));
        let [tap2, tap3, tap4] = <[Tensor<3>; 3]>::try_from(encoded.taps).expect("made with three taps");
        let branch4 = self.encoder4.forward(token_volume(tap4, grid));
        let branch3 = self.encoder3.forward(token_volume(tap3, grid));
        let branch2 = self.encoder2.forward(token_volume(tap2, grid));
        let branch1 = self.encoder1.layer.forward(images);
        let x = self.decoder5.forward(token_volume(encoded.norm, grid), branch4);
        let x = self.decoder4.forward(x, branch3);
        let x = self.decoder3.forward(x, branch2);
        self.decoder2.forward(x, branch1)
    }
}

/// Rearranges tokens `[N, L, E]` to a volume `[N, E, gx, gy, gz]`.
fn token_volume(tokens: Tensor<3>, grid: [usize; 3]) -> Tensor<5> {
    let [n, _, dim] = tokens.dims();
    let [gx, gy, gz] = grid;
    tokens.swap_dims(1, 2).reshape([n, dim, gx, gy, gz])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn small() -> UnetrConfig {
        UnetrConfig {
            embed_dim: 12,
            num_heads: 2,
            depth: 4,
            taps: [1, 2, 3],
            feature_size: 2,
            ..UnetrConfig::for_encoder_of(&HiEndMaeConfig::tiny(), [24, 12, 36], 3).unwrap()
        }
    }

    #[test]
    fn logits_have_the_size_of_the_crop() {
        let config = small();
        config.validate().unwrap();
        let device = Device::flex();
        let model = config.init(&mut WeightInit::new(0, &device));
        assert_eq!(model.forward(Tensor::ones([2, 1, 24, 12, 36], &device)).dims(), [2, 3, 24, 12, 36]);
    }

    /// Compares in f64, where differences have enough digits; the golden gradients are f32 sums of a million terms.
    #[test]
    fn gradients_are_those_of_finite_differences() {
        use crate::label_space::LabelSpace;
        use crate::loss::class_map::ClassMap;
        use crate::loss::dice_ce::dice_ce;
        use burn::module::{ModuleMapper, ModuleVisitor, Param};
        use burn::optim::GradientsParams;
        use burn::tensor::{FloatDType, TensorData};

        /// Converts each parameter to f64 and moves it by `distance` along a direction given by its position.
        struct Moved {
            distance: f64,
            num_seen: usize,
        }
        fn direction(start: usize, len: usize) -> Vec<f64> {
            (start..start + len).map(|i| ((i * 7919 + 13) % 1009) as f64 / 504.0 - 1.0).collect()
        }
        impl ModuleMapper for Moved {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|old| {
                    let (dims, device) = (old.dims(), old.device());
                    let len = dims.iter().product();
                    let data = TensorData::new(direction(self.num_seen, len), dims);
                    self.num_seen += len;
                    let along = Tensor::from_data(data, (&device, FloatDType::F64.into()));
                    (old.cast(FloatDType::F64) + along * self.distance).detach().require_grad()
                })
            }
        }
        struct Slope<'a> {
            grads: &'a GradientsParams,
            num_seen: usize,
            sum: f64,
        }
        impl ModuleVisitor for Slope<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let grad: Vec<f64> = self.grads.get::<D>(param.id).unwrap().into_data().try_to_vec().unwrap();
                let along = direction(self.num_seen, grad.len());
                self.num_seen += grad.len();
                self.sum += grad.iter().zip(along).map(|(g, a)| g * a).sum::<f64>();
            }
        }

        let device = Device::flex().autodiff();
        let model = small().init(&mut WeightInit::new(0, &device));
        let len = 24 * 12 * 36;
        let image: Vec<f64> = (0..len).map(|i| (f64::from(i) * 0.37).sin()).collect();
        let image = Tensor::from_data(TensorData::new(image, [1, 1, 24, 12, 36]), (&device, FloatDType::F64.into()));
        let labels: Vec<u8> = (0..len).map(|i| (i / 50 % 3) as u8).collect();
        let labels = ClassMap::upload(&labels, 1, [24, 12, 36], LabelSpace::new(3), &Device::flex()).unwrap();
        let moved = |distance| model.clone().map(&mut Moved { distance, num_seen: 0 });
        let loss_of = |model: &Unetr| dice_ce(model.forward(image.clone()), &labels).total();
        let value = |distance| loss_of(&moved(distance)).into_data().try_to_vec::<f64>().unwrap()[0];

        let here = moved(0.0);
        let grads = GradientsParams::from_grads(loss_of(&here).backward(), &here);
        let mut slope = Slope { grads: &grads, num_seen: 0, sum: 0.0 };
        here.visit(&mut slope);
        // So small that hardly any activation crosses the kink of its leaky ReLU.
        let distance = 1e-8;
        let difference = (value(distance) - value(-distance)) / (2.0 * distance);
        let error = (slope.sum - difference).abs() / difference.abs();
        assert!(error < 1e-5, "slope {}, by differences {difference}: {error:e}", slope.sum);
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let check = |change: fn(&mut UnetrConfig), expected: &str| {
            let mut config = small();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        };
        check(|c| c.crop_size = [24, 13, 24], "model.crop_size: 13");
        check(|c| c.num_classes = 1, "model.num_classes: 1");
        check(|c| c.taps = [1, 2, 4], "model.taps:");
        check(|c| c.feature_size = 0, "model.feature_size:");
    }
}
