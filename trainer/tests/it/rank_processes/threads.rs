//! Tests that the number of threads that compute changes no bit.

use std::fs;

use hiend_trainer::config::RunConfig as _;

use super::{Folder, finetuning, pretraining, succeed};

/// Threads of the two runs that are compared: one, and a number that divides no dimension of the models.
const THREADS: [&str; 2] = ["1", "5"];

#[test]
fn pre_training_gives_the_same_bits_with_any_number_of_threads() {
    let folder = Folder::new(2);
    let mut config = pretraining();
    // Large enough for products, attention and elementwise passes to be divided among threads.
    config.model.embed_dim = 96;
    config.model.num_heads = 4;
    config.model.decoder_embed_dim = 48;
    config.stream.crop_size = [48; 3];
    config.stream.visits_per_batch = 2;
    config.train.micro_batch = None;
    fs::write(folder.at("pretrain.toml"), config.to_toml()).unwrap();
    for threads in THREADS {
        let mut command = folder.pretrain(threads, &["--device", "cpu", "--max-steps", "3"]);
        command.env("RAYON_NUM_THREADS", threads);
        succeed(command);
    }
    let [one, more] = THREADS.map(|run| folder.losses(run));
    assert_eq!(one.len(), 3);
    assert_eq!(one, more);
}

#[test]
fn fine_tuning_and_validation_give_the_same_bits_with_any_number_of_threads() {
    let folder = Folder::new(4);
    let mut config = finetuning();
    config.model.feature_size = 8;
    config.stream.crop_size = [32; 3];
    config.train.micro_batch = None;
    fs::write(folder.at("finetune.toml"), config.to_toml()).unwrap();
    for threads in THREADS {
        let mut command = folder.program(threads, "finetune", &["--init", "none", "--device", "cpu"]);
        command.env("RAYON_NUM_THREADS", threads);
        succeed(command);
    }
    let [one, more] = THREADS.map(|run| folder.losses(run));
    assert_eq!(one.len(), 4);
    assert_eq!(one, more);
    let [one, more] = THREADS.map(|run| format!("{:?}", folder.validations(run)));
    assert_eq!(one, more);
}
