//! Small checkpoints for tests.

use std::path::PathBuf;

use burn::tensor::Device;

use super::{Best, CheckpointError, Checkpoints, Kind, State};
use crate::config::pretrain::PretrainPreset;
use crate::model::{block::Mlp, init::WeightInit};

/// Creates a model of two layers with weights determined by `seed`.
pub(super) fn mlp(seed: u64) -> Mlp {
    Mlp::init(4, 2, &mut WeightInit::new(seed, &Device::flex().autodiff()))
}

/// Saves the model with seed `step` as the checkpoint of `step`.
pub(super) fn save(checkpoints: &Checkpoints, step: u64) -> Result<PathBuf, CheckpointError> {
    save_with(checkpoints, step, None)
}

/// Saves as [`save`] does, and records the best validation so far.
pub(super) fn save_with(checkpoints: &Checkpoints, step: u64, best: Option<Best>) -> Result<PathBuf, CheckpointError> {
    let config = PretrainPreset::Tiny.config();
    let model = mlp(step);
    let optimizer = config.optim.init(&model);
    let state = State { best, ..State::new(Kind::Pretrain, step, Some(0.5), &config, "digest") };
    checkpoints.save(&state, &model, Some(&mlp(step + 1)), &optimizer)
}

/// Weights of a model's first layer.
pub(super) fn weights(model: &Mlp) -> Vec<f32> {
    model.fc1.weight.val().into_data().try_to_vec().unwrap()
}
