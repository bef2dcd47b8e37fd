//! Pre-training model: encoder over visible patches, decoder that attends to its layers, loss over masked patches.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::block::{BlockConfig, linear_params};
use super::decoder::{Decoder, DecoderConfig};
use super::encoder::{Encoder, EncoderConfig, EncoderOutput};
use super::init::WeightInit;
use super::masking::{MaskIndices, num_visible};
use super::patch_embed::{grid_of, patchify};
use super::pos_embed::PosEmbed;
use super::precision::Precision;
use crate::loss::masked_mse::{denormalise_patches, masked_mse};
use crate::ops::fixed_order::expand;

/// Epsilon of all layer norms in pre-training.
const NORM_EPSILON: f64 = 1e-6;

/// Sizes of a Hi-End-MAE, except the crop size, which is passed to [`Self::init`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HiEndMaeConfig {
    /// Side of a patch, in voxels; divides the sides of the crop.
    pub patch_size: usize,
    /// Width of the encoder's tokens, a multiple of 6 and of `num_heads`.
    pub embed_dim: usize,
    /// Number of blocks of the encoder.
    pub depth: usize,
    /// Number of attention heads of the encoder.
    pub num_heads: usize,
    /// Indices of the encoder layers that the decoder attends to, from 0, ascending; the decoder has one
    /// cross-attention block for each.
    pub taps: Vec<usize>,
    /// Width of the decoder's tokens, a multiple of 6 and of `decoder_num_heads`.
    pub decoder_embed_dim: usize,
    /// Number of self-attention blocks of the decoder.
    pub decoder_self_depth: usize,
    /// Number of attention heads of the decoder.
    pub decoder_num_heads: usize,
    /// Width of the MLPs' hidden layers, as a multiple of the token width.
    pub mlp_ratio: usize,
    /// Fraction of the patches hidden from the encoder.
    pub mask_ratio: f64,
}

/// Error of sizes that are invalid or do not match each other.
#[derive(Debug, thiserror::Error)]
#[error("model.{key}: {reason}")]
pub struct ModelConfigError {
    /// Key of the invalid setting.
    pub key: &'static str,
    /// Reason, in one line.
    pub reason: String,
}

impl HiEndMaeConfig {
    /// Returns the sizes of the paper's model: patch 12, 96³ crops, 368 million parameters.
    #[must_use]
    pub fn vit_l_p12() -> Self {
        Self {
            patch_size: 12,
            embed_dim: 1536,
            depth: 12,
            num_heads: 16,
            taps: vec![3, 6, 9],
            decoder_embed_dim: 528,
            decoder_self_depth: 2,
            decoder_num_heads: 16,
            mlp_ratio: 4,
            mask_ratio: 0.75,
        }
    }

    /// Returns the sizes of the paper's model with patches of 16 voxels.
    #[must_use]
    pub fn vit_l_p16() -> Self {
        Self { patch_size: 16, ..Self::vit_l_p12() }
    }

    /// Returns the sizes of the paper's base model.
    #[must_use]
    pub fn vit_b_p16() -> Self {
        Self {
            patch_size: 16,
            embed_dim: 768,
            num_heads: 12,
            decoder_embed_dim: 384,
            decoder_num_heads: 12,
            ..Self::vit_l_p12()
        }
    }

    /// Returns the sizes of a model for CPUs, which is not in the paper: 3.0 GFLOP per forward pass of a 96³ crop.
    #[must_use]
    pub fn tiny() -> Self {
        Self { embed_dim: 192, num_heads: 4, decoder_embed_dim: 96, decoder_num_heads: 4, ..Self::vit_l_p12() }
    }

    /// Checks that the sizes match each other and crops of `crop_size`.
    ///
    /// # Errors
    /// The first setting that does not fit, with the reason.
    pub fn validate(&self, crop_size: [usize; 3]) -> Result<(), ModelConfigError> {
        let fail = |key, reason: String| Err(ModelConfigError { key, reason });
        for (key, value) in [
            ("patch_size", self.patch_size),
            ("embed_dim", self.embed_dim),
            ("depth", self.depth),
            ("num_heads", self.num_heads),
            ("decoder_embed_dim", self.decoder_embed_dim),
            ("decoder_num_heads", self.decoder_num_heads),
            ("mlp_ratio", self.mlp_ratio),
        ] {
            if value == 0 {
                return fail(key, "must be at least 1".into());
            }
        }
        if let Some(side) = crop_size.iter().find(|&&side| side == 0 || !side.is_multiple_of(self.patch_size)) {
            return fail("patch_size", format!("{} does not divide the crop's side {side}", self.patch_size));
        }
        for (key, dim, heads) in [
            ("embed_dim", self.embed_dim, self.num_heads),
            ("decoder_embed_dim", self.decoder_embed_dim, self.decoder_num_heads),
        ] {
            if !dim.is_multiple_of(6) || !dim.is_multiple_of(heads) {
                return fail(key, format!("{dim} must be a multiple of 6 and of its {heads} heads"));
            }
        }
        if !self.taps.is_sorted_by(|a, b| a < b) || self.taps.last().is_some_and(|&tap| tap >= self.depth) {
            return fail("taps", format!("{:?} must ascend and stay below the depth {}", self.taps, self.depth));
        }
        let num_patches = grid_of(crop_size, self.patch_size).iter().product();
        let visible = if self.mask_ratio.is_finite() { num_visible(num_patches, self.mask_ratio) } else { 0 };
        if !(0.0..1.0).contains(&self.mask_ratio) || visible == 0 || visible == num_patches {
            return fail(
                "mask_ratio",
                format!("{} leaves {visible} of {num_patches} patches visible", self.mask_ratio),
            );
        }
        Ok(())
    }

    /// Configuration of the encoder for crops of `crop_size`.
    #[must_use]
    pub fn encoder(&self, crop_size: [usize; 3]) -> EncoderConfig {
        EncoderConfig {
            patch_size: self.patch_size,
            in_channels: 1,
            grid: grid_of(crop_size, self.patch_size),
            depth: self.depth,
            block: self.block(self.embed_dim, self.num_heads),
            cls_token: true,
            trained_positions: false,
            taps: self.taps.clone(),
        }
    }

    fn decoder(&self) -> DecoderConfig {
        DecoderConfig {
            self_depth: self.decoder_self_depth,
            cross_depth: self.taps.len(),
            block: self.block(self.decoder_embed_dim, self.decoder_num_heads),
            patch_width: self.patch_size.pow(3),
        }
    }

    fn block(&self, dim: usize, num_heads: usize) -> BlockConfig {
        BlockConfig { dim, num_heads, mlp_ratio: self.mlp_ratio, norm_epsilon: NORM_EPSILON }
    }

    /// Initialises a model for crops of `crop_size`.
    ///
    /// # Panics
    /// If the sizes do not fit together, which [`Self::validate`] reports as an error.
    pub fn init(&self, crop_size: [usize; 3], weights: &mut WeightInit) -> HiEndMae {
        let encoder = self.encoder(crop_size);
        HiEndMae {
            encoder_to_decoder: (0..=self.taps.len())
                .map(|_| weights.linear(self.embed_dim, self.decoder_embed_dim))
                .collect(),
            mask_token: weights.token(self.decoder_embed_dim),
            decoder_pos_embed: PosEmbed::init(encoder.grid, self.decoder_embed_dim, false, weights),
            encoder: encoder.init(weights),
            decoder: self.decoder().init(weights),
            patch_size: self.patch_size,
            precision: weights.precision(),
        }
    }

    /// Minimum number of values that the backward pass keeps for a crop of `crop_size`: those of the blocks, and for
    /// each hidden patch the prediction, its target and its gradient. With `recompute`, blocks keep only their inputs.
    #[must_use]
    pub fn kept_values(&self, crop_size: [usize; 3], recompute: bool) -> usize {
        let encoder = self.encoder(crop_size);
        let num_patches = encoder.num_patches();
        let visible = num_visible(num_patches, self.mask_ratio);
        encoder.kept_values(visible + 1, recompute)
            + self.decoder().kept_values(num_patches, recompute)
            + 3 * (num_patches - visible) * self.patch_size.pow(3)
    }

    /// Number of parameters for crops of `crop_size`, including the two fixed position tables. Allocates nothing.
    #[must_use]
    pub fn num_params(&self, crop_size: [usize; 3]) -> usize {
        let encoder = self.encoder(crop_size);
        encoder.num_params()
            + (self.taps.len() + 1) * linear_params(self.embed_dim, self.decoder_embed_dim)
            + self.decoder_embed_dim
            + encoder.num_patches() * self.decoder_embed_dim
            + self.decoder().num_params()
    }
}

/// Patches of crops with their reconstruction, for pictures.
#[derive(Debug)]
pub struct Reconstruction {
    /// All patches of the crops, `[N, L, p³]`.
    pub target: Tensor<3>,
    /// Reconstruction of each patch, in voxel values, `[N, L, p³]`.
    pub pred: Tensor<3>,
}

/// Masked autoencoder whose decoder attends to several layers of the encoder.
#[derive(Module, Debug)]
pub struct HiEndMae {
    /// Encoder of the visible patches.
    pub encoder: Encoder,
    /// Linear maps from the encoder's width to the decoder's: one for each tap in ascending order, then one for the
    /// normalised output.
    pub encoder_to_decoder: Vec<Linear>,
    /// Token that replaces each masked patch, `[1, 1, decoder_embed_dim]`.
    pub mask_token: Param<Tensor<3>>,
    /// Fixed positions of the decoder's tokens.
    pub decoder_pos_embed: PosEmbed,
    /// Decoder of all tokens.
    pub decoder: Decoder,
    patch_size: usize,
    #[module(skip)]
    precision: Precision,
}

impl HiEndMae {
    /// Computes the loss `[1]` of crops `[N, 1, X, Y, Z]` under a mask.
    ///
    /// The head is applied only to masked tokens, because no others enter the loss.
    #[must_use]
    pub fn forward(&self, images: Tensor<5>, mask: &MaskIndices) -> Tensor<1> {
        let patches = patchify(images, self.patch_size);
        let tokens = self.decode(self.encode(patches.clone(), mask), mask);
        let pred = self.decoder.predict(tokens.narrow(1, 1 + mask.num_visible, mask.num_masked));
        masked_mse(pred, mask.masked(patches))
    }

    /// Reconstructs all patches of crops `[N, 1, X, Y, Z]`, including visible ones.
    #[must_use]
    pub fn reconstruct(&self, images: Tensor<5>, mask: &MaskIndices) -> Reconstruction {
        let target = patchify(images, self.patch_size);
        let tokens = self.decode(self.encode(target.clone(), mask), mask);
        let pred = self.decoder.predict(tokens.narrow(1, 1, mask.num_visible + mask.num_masked));
        Reconstruction { pred: denormalise_patches(mask.restore(pred), target.clone()), target }
    }

    /// Encodes the visible patches among `patches` `[N, L, p³]`.
    #[must_use]
    pub fn encode(&self, patches: Tensor<3>, mask: &MaskIndices) -> EncoderOutput {
        self.encoder.forward_visible(mask.visible(patches), mask.visible_patches.clone())
    }

    /// Attention weights of the decoder's tokens over the encoder's: `[N, num_heads, 1 + L, 1 + num_visible]` for every
    /// cross-attention block in order. Tokens are in the mask's shuffled order, class token first.
    #[must_use]
    pub fn cross_attention(&self, images: Tensor<5>, mask: &MaskIndices) -> Vec<Tensor<4>> {
        let (tokens, contexts) = self.decoder_input(self.encode(patchify(images, self.patch_size), mask), mask);
        self.decoder.cross_attention(tokens, contexts)
    }

    /// Computes the output tokens of the decoder, `[N, 1 + L, dim]`, in shuffled order: class token, visible, masked.
    fn decode(&self, encoded: EncoderOutput, mask: &MaskIndices) -> Tensor<3> {
        let (tokens, contexts) = self.decoder_input(encoded, mask);
        self.decoder.forward(tokens, contexts)
    }

    /// Computes the input tokens of the decoder, and the mapped encoder layers `[N, 1 + num_visible, dim]` in the order
    /// in which it attends to them.
    fn decoder_input(&self, encoded: EncoderOutput, mask: &MaskIndices) -> (Tensor<3>, Vec<Tensor<3>>) {
        let n = mask.num_crops;
        let (last, tap_maps) = self.encoder_to_decoder.split_last().expect("made with one map more than taps");
        let map = |layer: &Linear, x| self.precision.linear(layer, x);
        let seen = self.precision.widen(map(last, encoded.norm));
        let [_, num_seen, dim] = seen.dims();
        let positions = self.decoder_pos_embed.rows(mask.shuffled_patches.clone(), n);
        // Positions are added before joining, so that the class token's zeros need no tensor of their own.
        let cls = seen.clone().narrow(1, 0, 1);
        let visible = seen.narrow(1, 1, num_seen - 1) + positions.clone().narrow(1, 0, mask.num_visible);
        let masked = expand(self.mask_token.val(), [n, mask.num_masked, dim])
            + positions.narrow(1, mask.num_visible, mask.num_masked);
        let contexts = tap_maps.iter().zip(encoded.taps).map(|(layer, tap)| map(layer, tap)).rev().collect();
        (Tensor::cat(vec![cls, visible, masked], 1), contexts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const CROP: [usize; 3] = [96; 3];

    #[test]
    fn the_papers_model_has_the_papers_parameters() {
        assert_eq!(HiEndMaeConfig::vit_l_p12().num_params(CROP), 367_973_472);
    }

    #[test]
    fn num_params_counts_the_parameters_of_a_model() {
        let config = HiEndMaeConfig { embed_dim: 48, decoder_embed_dim: 36, ..HiEndMaeConfig::tiny() };
        let model = config.init([24, 36, 48], &mut WeightInit::new(0, &Device::flex()));
        assert_eq!(model.num_params(), config.num_params([24, 36, 48]));
    }

    #[test]
    fn presets_are_valid() {
        for config in [
            HiEndMaeConfig::vit_l_p12(),
            HiEndMaeConfig::vit_l_p16(),
            HiEndMaeConfig::vit_b_p16(),
            HiEndMaeConfig::tiny(),
        ] {
            config.validate(CROP).unwrap();
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let check = |change: fn(&mut HiEndMaeConfig), crop_size, expected: &str| {
            let mut config = HiEndMaeConfig::tiny();
            change(&mut config);
            let message = config.validate(crop_size).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
        };
        check(|_| (), [96, 96, 100], "model.patch_size: 12 does not divide");
        check(|c| c.embed_dim = 190, CROP, "model.embed_dim: 190");
        check(|c| c.taps = vec![3, 12], CROP, "model.taps:");
        check(|c| c.mask_ratio = 1.0, CROP, "model.mask_ratio: 1 leaves 0");
        check(|c| c.mask_ratio = f64::NAN, CROP, "model.mask_ratio:");
        check(|c| c.depth = 0, CROP, "model.depth:");
    }
}
