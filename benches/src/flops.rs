//! Number of floating-point operations in a model's matrix products; a multiplication and an addition count as two.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sizes of models and batches"
)]

use hiend_trainer::model::hi_end_mae::HiEndMaeConfig;
use hiend_trainer::model::patch_embed::grid_of;

/// Number of operations in the forward pass of one crop. The backward pass takes twice as many.
#[must_use]
pub fn forward(model: &HiEndMaeConfig, crop_size: [usize; 3]) -> f64 {
    let all: usize = grid_of(crop_size, model.patch_size).iter().product();
    let patch = model.patch_size.pow(3);
    // Tokens of the encoder and of the decoder, class token included.
    let visible = (all as f64 * (1.0 - model.mask_ratio)) as usize;
    let (n, m) = (visible + 1, all + 1);
    let (wide, narrow, hidden) = (model.embed_dim, model.decoder_embed_dim, model.mlp_ratio);
    let block = |tokens: usize, dim: usize| (8 + 4 * hidden) * tokens * dim * dim + 4 * tokens * tokens * dim;
    let cross = block(m, narrow) + 4 * m * narrow * narrow + 4 * n * narrow * narrow + 4 * m * n * narrow;
    let encoder = 2 * visible * patch * wide + model.depth * block(n, wide);
    let between = (model.taps.len() + 1) * 2 * n * wide * narrow;
    let decoder = model.decoder_self_depth * block(m, narrow) + model.taps.len() * cross + 2 * m * narrow * patch;
    (encoder + between + decoder) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_paper_takes_113_8_gflop_per_crop() {
        let gflop = forward(&HiEndMaeConfig::vit_l_p12(), [96; 3]) / 1e9;
        assert!((gflop - 113.8).abs() < 0.1, "{gflop}");
    }
}
