//! Steps of pre-training.

use anyhow::Context as _;
use hiend_trainer::config::pretrain::PretrainPreset;
use hiend_trainer::device::Compute;
use hiend_trainer::feed::{Feed, FeedConfig};
use hiend_trainer::model::precision::Precision;
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::testing::SyntheticStream;
use hiend_trainer::training::Task as _;
use hiend_trainer::training::replica::Replica;

use super::Cli;
use super::peer::Peer;
use super::unetr::{Pair, compare};

/// Number of crops in a batch.
const CROPS: usize = 4;

/// Steps of `tiny` with a batch that stays in memory, optimizer included.
pub(super) fn run(cli: &Cli, peer: Option<&Peer>) -> anyhow::Result<()> {
    let mut config = PretrainPreset::Tiny.config();
    config.train.precision = Precision::F32;
    config.stream.crops_per_visit = 1;
    config.stream.visits_per_batch = CROPS;
    let crop_size = config.stream.crop_size;
    let task = Pretraining::new(&config);
    let compute = Compute::cpu();
    let stream = SyntheticStream { seed: 0, crop_size, crops: CROPS, steps_per_epoch: 1 }.stream();
    let source = (stream.open)(0, (0, 1)).map_err(|error| anyhow::anyhow!(error))?;
    let feed = FeedConfig { start_step: 0, crop_size, micro_batch: None };
    let batch = Feed::start(source, task.targets(), compute.raw().clone(), feed)?.next_batch()?.context("no batch")?;
    let (mut replica, _) = Replica::on(&task, &compute, false, None)?;
    let mut failure = None;
    let mut step = || {
        if let Err(error) = replica.step(&task, Some(&batch), config.optim.lr, None) {
            failure = Some(error);
        }
    };
    // The first step creates the optimizer's moments.
    step();
    let what = format!("step of tiny, {CROPS} crops of 96³");
    let arguments = vec!["pretrain".to_owned(), "--batch".to_owned(), CROPS.to_string()];
    compare(
        &Pair { what: &what, script: "torch_pretrain.py", arguments, name: "the same model" },
        cli,
        peer,
        &mut step,
    )?;
    failure.map_or(Ok(()), |error| Err(error.into()))
}
