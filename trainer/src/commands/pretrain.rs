//! `hiend-train --shards CACHE` or `--loader URL`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use hiend_loader::program::UsageError;

use super::micro_batch;
use super::ranks::{self, Rank};
use super::running::{self, Place};
use super::source::{Source, open_cache, refuse_flags_without_effect};
use crate::checkpoint::Kind;
use crate::cli::PretrainArgs;
use crate::config::RunConfig as _;
use crate::config::pretrain::{PretrainConfig, PretrainPreset};
use crate::pretrain::{Pretraining, settle_preprocess};
use crate::training::{Resume, saved_config};

pub(super) fn run(args: &PretrainArgs) -> anyhow::Result<ExitCode> {
    refuse_flags_without_effect(&args.run)?;
    if args.run.shards.is_some() && !args.run.service.loader.is_empty() {
        let message = "pre-training takes all its batches from one of --shards and --loader; pass only one of them";
        return Err(UsageError::new(message).into());
    }
    ranks::run(&args.run, |mut rank| {
        let (config, place) = resolve(args, &rank)?;
        let mut config = running::settle(&args.run, config)?;
        let source = match rank.connect(&args.run, &config) {
            Ok(Some(servers)) => Source::Servers(Box::new(servers)),
            Ok(None) => Source::Shards(open_cache(&args.run)?.context("clap requires --shards or --loader")?),
            Err(error) => return rank.unless_stopped(error),
        };
        settle_preprocess(&mut config, source.manifest())?;
        let is_hu = config.preprocess.as_ref().is_none_or(|preprocess| preprocess.normalize.is_hu());
        if let Some(preset) = args.preset.filter(|preset| preset.is_for_zscores() && is_hu) {
            bail!(
                "--preset {}: made for z-scores, and the cache holds HU; convert the data with --normalize zscore, or choose \
                 a preset for CT, such as {}",
                preset.name(),
                PretrainPreset::VitBP16.name()
            );
        }
        config.train.micro_batch = micro_batch::settle(&Pretraining { config: &config }, &rank, &args.run, &place)?;
        running::run(&Pretraining { config: &config }, source, rank, &args.run, place)
    })
}

/// Determines the configuration and the run's folder from flags, files and the device.
fn resolve(args: &PretrainArgs, rank: &Rank) -> anyhow::Result<(PretrainConfig, Place)> {
    if let Some(path) = &args.run.config {
        let (text, name) = running::read_config(path)?;
        return Ok((PretrainConfig::parse(&text, &path.display().to_string())?, Place::of(&args.run, &name)?));
    }
    let default = if rank.compute.is_cpu() { PretrainPreset::Tiny } else { PretrainPreset::VitLP12 };
    let preset = args.preset.unwrap_or(default);
    let place = Place::of(&args.run, preset.name())?;
    if place.resume != Resume::Begin && args.preset.is_none() {
        // The run's folder has its configuration.
        return Ok((saved_config(&place.run_dir, Kind::Pretrain, place.resume)?, place));
    }
    if args.preset.is_none() {
        running::announce_preset(preset.name(), rank)?;
    }
    Ok((preset.config(), place))
}
