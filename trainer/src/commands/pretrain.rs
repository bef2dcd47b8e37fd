//! `hiend-train --shards CACHE`.

use std::process::ExitCode;

use super::ranks::{self, Rank};
use super::running::{self, Place};
use super::source::{Source, open_cache};
use crate::checkpoint::Kind;
use crate::cli::PretrainArgs;
use crate::config::RunConfig as _;
use crate::config::pretrain::{PretrainConfig, PretrainPreset};
use crate::pretrain::Pretraining;
use crate::training::{Resume, saved_config};

pub(super) fn run(args: &PretrainArgs) -> anyhow::Result<ExitCode> {
    ranks::run(&args.run, |rank| {
        let (config, place) = resolve(args, &rank)?;
        let config = running::settle(&args.run, config)?;
        let source = Source::Shards(open_cache(&args.run)?);
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
