//! `hiend-train --shards CACHE` or `--loader URL`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use hiend_loader::program::UsageError;

use super::first_weights::{self, Before};
use super::micro_batch;
use super::ranks::{self, Rank};
use super::running::{self, Place};
use super::source::{Servers, Source, open_cache, refuse_flags_without_effect, warn_of_padding, warn_of_selection};
use crate::checkpoint::Kind;
use crate::cli::PretrainArgs;
use crate::config::RunConfig as _;
use crate::config::finetune::FinetuneConfig;
use crate::config::pretrain::{PretrainConfig, PretrainPreset};
use crate::initial_weights::Init;
use crate::model::hi_end_mae::HiEndMaeConfig;
use crate::pretrain::{Pretraining, preprocess_of, settle_preprocess};
use crate::training::{Resume, saved_config};

pub(super) fn run(args: &PretrainArgs) -> anyhow::Result<ExitCode> {
    refuse_flags_without_effect(&args.run)?;
    if args.run.shards.is_some() && !args.run.service.loader.is_empty() {
        let message = "pre-training takes all its batches from one of --shards and --loader; pass only one of them";
        return Err(UsageError::new(message).into());
    }
    ranks::run(&args.run, |mut rank| {
        let (config, place, init) = resolve(args, &rank)?;
        first_weights::note_if_unused(args.init.as_deref(), &place, &rank)?;
        let mut config = running::settle(&args.run, config)?;
        running::settle_paths(&mut config)?;
        let source = match Servers::connect(&args.run, &config, &mut rank) {
            Ok(Some(servers)) => {
                servers.warn_of_selection(&rank);
                Source::Servers(Box::new(servers))
            }
            Ok(None) => {
                let began = place.cases()?;
                let cache = open_cache(&args.run, began.as_ref(), &rank)?;
                let cache = cache.context("clap requires --shards or --loader")?;
                warn_of_selection(&cache, &config.stream, &rank);
                if began.is_none() {
                    warn_of_padding(&cache, &config.stream, &rank);
                }
                Source::Shards(cache)
            }
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
        let preprocess = preprocess_of(source.manifest())?;
        for warning in init.remarks_on_scans(&preprocess, config.stream.window) {
            rank.note(format_args!("warning: {warning}"));
        }
        config.train.micro_batch = micro_batch::settle(&Pretraining::new(&config), &rank, &args.run, &place)?;
        running::run(&Pretraining { config: &config, init: Some(&init) }, source, rank, &args.run, place)
    })
}

/// Determines the configuration, the run's folder and the initial weights from flags, files and the device.
fn resolve(args: &PretrainArgs, rank: &Rank) -> anyhow::Result<(PretrainConfig, Place, Init)> {
    if let Some(path) = &args.run.config {
        let (text, name) = running::read_config(path)?;
        let config = PretrainConfig::parse(&text, &path.display().to_string())
            .map_err(|error| running::of_another_command::<FinetuneConfig>(error, &text, "hiend-train finetune"))?;
        let place = Place::of(&args.run, &name)?;
        let init = init(args, &place, rank)?;
        return Ok((config, place, init));
    }
    let default = if rank.compute.is_cpu() { PretrainPreset::Tiny } else { PretrainPreset::VitLP12 };
    let preset = args.preset.unwrap_or(default);
    let place = Place::of(&args.run, preset.name())?;
    let init = init(args, &place, rank)?;
    if place.resume != Resume::Begin && args.preset.is_none() {
        // The run's folder has its configuration.
        return Ok((saved_config(&place.run_dir, Kind::Pretrain, place.resume)?, place, init));
    }
    let mut config = preset.config();
    if args.preset.is_none() {
        running::announce_preset(preset.name(), rank)?;
        // No model was chosen but the one of the weights; the masks remain the preset's.
        if let Some(sizes) = init.sizes() {
            let model = HiEndMaeConfig { mask_ratio: config.model.mask_ratio, ..sizes.clone() };
            if model != config.model {
                rank.print(format_args!(
                    "sizes of the model of --init: embed_dim {}, depth {}, num_heads {}, patch_size {}",
                    model.embed_dim, model.depth, model.num_heads, model.patch_size
                ))?;
                config.model = model;
            }
        }
        config.validate(preset.name())?;
    }
    Ok((config, place, init))
}

/// Reads the initial weights; without `--init`, draws random ones. A run that was killed before its first checkpoint
/// begins again with its initial weights; weights from `--init` have to be named again.
fn init(args: &PretrainArgs, place: &Place, rank: &Rank) -> anyhow::Result<Init> {
    match first_weights::read(args.init.as_deref(), place, rank)? {
        Some(init) => Ok(init),
        None => match Before::of(place)? {
            Some(Before::Given(_)) => Err(first_weights::absent(place)),
            Some(Before::Random) | None => Ok(Init::Random),
        },
    }
}
