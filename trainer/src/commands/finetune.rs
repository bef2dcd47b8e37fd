//! `hiend-train finetune --shards CACHE --init FROM`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use hiend_loader::split::{FoldSplit, Part, ShotSplit, Split};

use super::running;
use crate::cli::FinetuneArgs;
use crate::config::RunConfig as _;
use crate::config::finetune::{FinetuneConfig, FinetunePreset};
use crate::device::Compute;
use crate::finetune::{Finetuning, Init};
use crate::training::{Task as _, saved_config};

pub fn run(args: &FinetuneArgs) -> anyhow::Result<ExitCode> {
    let (compute, others) = running::open_devices(&args.run)?;
    // A run that goes on has its weights; what it began with need not be there any more.
    let init = match &args.init {
        Some(path) if !args.run.resume && path != Path::new("none") => Init::read(path)?,
        _ => Init::Random,
    };
    let (mut config, run_dir) = resolve(args, &compute, &init)?;
    running::settle_seed(&args.run, &mut config.train);
    split(args, &mut config)?;
    let cache = running::open_cache(&args.run)?;
    let task = Finetuning::new(config, &cache, init)?;
    for warning in &task.warnings {
        eprintln!("warning: {warning}");
    }
    println!(
        "{} classes: {}; {} cases to validate on",
        task.config().classes.len(),
        task.config().classes.join(", "),
        task.num_validation_cases()
    );
    running::run(&task, cache, (compute, others), &args.run, run_dir)
}

/// The configuration and the run's folder, from flags, files, the pre-trained model and the device.
fn resolve(args: &FinetuneArgs, compute: &Compute, init: &Init) -> anyhow::Result<(FinetuneConfig, PathBuf)> {
    let folder = |name: &str| {
        let given = args.run.run_dir.clone();
        given.unwrap_or_else(|| Path::new("runs").join(format!("finetune-{name}")))
    };
    if let Some(path) = &args.run.config {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        return Ok((FinetuneConfig::parse(&text, &path.display().to_string())?, folder(&name)));
    }
    if let (true, Some(run_dir)) = (args.run.resume, &args.run.run_dir) {
        // The run knows what it is.
        return Ok((saved_config(run_dir)?, run_dir.clone()));
    }
    let preset = args.preset.unwrap_or_else(|| {
        let preset = if compute.is_cpu() { FinetunePreset::Tiny } else { FinetunePreset::Recipe };
        println!("preset {} (the default on {compute}; --preset or --config choose another)", preset.name());
        preset
    });
    let run_dir = folder(preset.name());
    if args.run.resume {
        return Ok((saved_config(&run_dir)?, run_dir));
    }
    let mut config = preset.config();
    // A preset is about data and course; the encoder's sizes are those that were pre-trained.
    if let Some(sizes) = init.sizes() {
        let Some(model) = config.model.with_encoder_of(sizes) else {
            bail!("the pre-trained model hands on {} layers; UNETR takes in three", sizes.taps.len());
        };
        if model != config.model {
            println!(
                "sizes of the pre-trained encoder: width {}, {} blocks, {} heads, patches of {}",
                model.embed_dim, model.depth, model.num_heads, model.patch_size
            );
            config.model = model;
        }
    }
    config.validate(preset.name())?;
    Ok((config, run_dir))
}

/// The cases to train and to validate on, where flags say so.
fn split(args: &FinetuneArgs, config: &mut FinetuneConfig) -> anyhow::Result<()> {
    let split = |part| match (args.fold, args.shots) {
        (Some((fold, of)), _) => Some(Split::Fold(FoldSplit { fold, of, part, seed: 0 })),
        (None, Some(shots)) => Some(Split::Shots(ShotSplit { shots, part, seed: 0 })),
        (None, None) => None,
    };
    if args.no_validation {
        config.stream.split = Split::default();
        config.validation = None;
    }
    if let (Some(train), Some(held_out)) = (split(Part::Train), split(Part::Validation)) {
        let Some(validation) = &mut config.validation else {
            bail!("--fold and --shots need a [validation] in the configuration");
        };
        config.stream.split = train;
        validation.split = held_out;
    }
    config.validate("command line")?;
    Ok(())
}
