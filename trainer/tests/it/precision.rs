//! Tests that products with 16-bit factors are close to 32-bit products, but different.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use hiend_trainer::config::pretrain::{PretrainConfig, PretrainPreset};
use hiend_trainer::device::Compute;
use hiend_trainer::model::hi_end_mae::HiEndMaeConfig;
use hiend_trainer::model::init::WeightInit;
use hiend_trainer::model::precision::Precision;
use hiend_trainer::model::unetr::UnetrConfig;
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::{Summary, TrainOptions, TrainingError};

const STREAM: SyntheticStream = SyntheticStream { seed: 3, crop_size: [16; 3], crops: 4, steps_per_epoch: 4 };

fn config(precision: Precision) -> PretrainConfig {
    let mut config = PretrainPreset::Tiny.config();
    config.model.patch_size = 4;
    config.model.embed_dim = 48;
    config.model.depth = 4;
    config.model.taps = vec![1, 2];
    config.model.num_heads = 2;
    config.model.decoder_embed_dim = 24;
    config.model.decoder_num_heads = 2;
    config.model.decoder_self_depth = 1;
    config.stream.crop_size = [16; 3];
    config.optim.lr = 1e-3;
    config.schedule.warmup = 2;
    config.schedule.total = 40;
    config.train.precision = precision;
    config
}

fn run(precision: Precision, run_dir: &Path, steps: u64, resume: bool) -> Result<Summary, TrainingError> {
    let options = TrainOptions { max_steps: Some(steps), resume: resume.into(), ..TrainOptions::new(run_dir) };
    pretrain(&config(precision), STREAM.stream(), &Compute::cpu(), &options, &mut |_| ())
}

#[test]
fn bf16_losses_follow_those_of_f32_and_cannot_be_mixed_with_them() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let full = run(Precision::F32, dirs[0].path(), 20, false).unwrap().losses;
    let short = run(Precision::Bf16, dirs[1].path(), 20, false).unwrap().losses;
    let error = full.iter().zip(&short).fold(0f64, |most, (a, b)| most.max((a - b).abs() / a));
    println!("20 losses: {error:.1e} at most");
    assert!(error > 1e-7 && error < 0.01, "{full:?} and {short:?}");
    let error = run(Precision::F32, dirs[1].path(), 21, true).unwrap_err().to_string();
    let expected = "cannot resume: train.precision is \"f32\" now, but was \"bf16\" when the run began; take";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn unetr_in_bf16_gives_nearly_the_logits_of_f32() {
    let config = UnetrConfig {
        embed_dim: 48,
        num_heads: 4,
        depth: 4,
        taps: [1, 2, 3],
        feature_size: 4,
        ..UnetrConfig::for_encoder_of(&HiEndMaeConfig::tiny(), [24; 3], 3).unwrap()
    };
    let device = Device::flex();
    let logits = |precision| -> Vec<f32> {
        let model = config.init(&mut WeightInit::new(5, &device).with_precision(precision));
        let image: Vec<f32> = (0..24 * 24 * 24).map(|i| (i as f32 * 0.37).sin()).collect();
        let image = Tensor::from_data(TensorData::new(image, [1, 1, 24, 24, 24]), &device);
        model.forward(image).into_data().try_to_vec().unwrap()
    };
    let (full, short) = (logits(Precision::F32), logits(Precision::Bf16));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v * v)).sum::<f64>().sqrt();
    let error = norm(&mut full.iter().zip(&short).map(|(a, b)| a - b)) / norm(&mut full.iter().copied());
    println!("logits: {error:.1e}");
    assert!(error > 1e-7 && error < 0.03, "{error}");
}
