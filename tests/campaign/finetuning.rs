//! Power cuts and failing disks during fine-tuning: the attacks of [`checkpoints`](crate::checkpoints) on a run that
//! validates after every step, so that its best checkpoint changes and is kept.

use hiend_loader::pipeline::StreamConfig;
use hiend_loader::split::{Part, ShotSplit, Split};
use hiend_trainer::config::RunConfig as _;
use hiend_trainer::config::finetune::{FinetuneConfig, UnetrSettings};
use hiend_trainer::finetune::Finetuning;
use hiend_trainer::initial_weights::Init;

use crate::checkpoints::{Data, Lab};
use crate::effort::seeds;

/// Lab with one case to train on and one to validate on.
fn lab() -> Lab<Finetuning> {
    let tiny = include_str!("../../configs/finetune/tiny.toml");
    let mut config = FinetuneConfig::parse(tiny, "configs/finetune/tiny.toml").unwrap();
    config.classes = ["background", "plane"].map(str::to_owned).to_vec();
    config.model = UnetrSettings {
        patch_size: 8,
        embed_dim: 12,
        depth: 3,
        num_heads: 2,
        mlp_ratio: 4,
        taps: [0, 1, 2],
        feature_size: 2,
    };
    let one_shot = |part| Split::Shots(ShotSplit { shots: 1, part, seed: 0 });
    config.stream = StreamConfig {
        crop_size: [16; 3],
        crops_per_visit: 1,
        visits_per_batch: 1,
        split: one_shot(Part::Train),
        ..config.stream
    };
    config.train.ema_decay = Some(0.9);
    let validation = config.validation.as_mut().unwrap();
    validation.every = 1;
    validation.overlap = 0.0;
    validation.split = one_shot(Part::Validation);
    let data = Data::new(true);
    let task = Finetuning::new(config, &data.cache, Init::Random).unwrap();
    Lab::new(data, task)
}

#[test]
fn power_cut_loses_no_checkpoint_of_a_fine_tuning_that_was_reported() {
    assert_eq!(lab().failures(seeds(100), 25, None), Vec::<String>::new());
}

#[test]
fn failing_disk_loses_no_checkpoint_of_a_fine_tuning_that_was_reported() {
    lab().survive_failing_operations(seeds(8));
}
