//! `hiend-train --shards CACHE`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::running;
use crate::cli::PretrainArgs;
use crate::config::RunConfig as _;
use crate::config::pretrain::{PretrainConfig, PretrainPreset};
use crate::device::Compute;
use crate::pretrain::Pretraining;
use crate::training::saved_config;

pub fn run(args: &PretrainArgs) -> anyhow::Result<ExitCode> {
    let (compute, others) = running::open_devices(&args.run)?;
    let (mut config, run_dir) = resolve(args, &compute)?;
    running::settle_seed(&args.run, &mut config.train);
    let cache = running::open_cache(&args.run)?;
    running::run(&Pretraining { config: &config }, cache, (compute, others), &args.run, run_dir)
}

/// The configuration and the run's folder, from flags, files and the device.
fn resolve(args: &PretrainArgs, compute: &Compute) -> anyhow::Result<(PretrainConfig, PathBuf)> {
    let (config, name) = if let Some(path) = &args.run.config {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        (PretrainConfig::parse(&text, &path.display().to_string())?, name.unwrap_or_default())
    } else if let Some(preset) = args.preset {
        (preset.config(), preset.name().to_owned())
    } else if let (true, Some(run_dir)) = (args.run.resume, &args.run.run_dir) {
        // The run knows what it is.
        (saved_config(run_dir)?, String::new())
    } else {
        let preset = if compute.is_cpu() { PretrainPreset::Tiny } else { PretrainPreset::VitLP12 };
        println!("preset {} (the default on {compute}; --preset or --config choose another)", preset.name());
        (preset.config(), preset.name().to_owned())
    };
    Ok((config, args.run.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(name))))
}
