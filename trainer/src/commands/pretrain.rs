//! `hiend-train --shards CACHE`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use hiend_cache::Cache;
use hiend_loader::pipeline;

use super::INTERRUPTED;
use crate::cli::PretrainArgs;
use crate::config::{Preset, PretrainConfig};
use crate::device::{Compute, settle_default};
use crate::pretrain::{Options, Outcome, Stop, Stream, pretrain, saved_config};
use crate::report::dashboard::terminal;
use crate::report::watcher::Watcher;

pub fn run(args: &PretrainArgs) -> anyhow::Result<ExitCode> {
    let compute = Compute::open(args.device)?;
    settle_default(&compute)?;
    let (config, run_dir) = resolve(args, &compute)?;
    let shards = args.shards.as_deref().expect("clap requires it");
    let stream = open_stream(shards, &config, args)?;

    let stop = Stop::default();
    let on_signal = stop.clone();
    ctrlc::set_handler(move || {
        if on_signal.request() {
            terminal::restore();
            std::process::exit(INTERRUPTED.into());
        }
        // The dashboard says so itself.
        if !terminal::is_shown() {
            eprintln!("stopping after this step; once more to stop at once");
        }
    })
    .context("cannot listen to Ctrl-C")?;

    let mut watcher = Watcher::open(args.display, args.log_every, &stop)?;
    let options = Options {
        run_dir,
        resume: args.resume,
        max_steps: args.max_steps,
        checkpoint_every: args.checkpoint_every,
        keep: args.keep,
        stop,
    };
    let summary = pretrain(&config, stream, &compute, &options, &mut |event| watcher.event(event))?;
    Ok(match summary.outcome {
        Outcome::Finished => ExitCode::SUCCESS,
        Outcome::Interrupted => ExitCode::from(INTERRUPTED),
    })
}

/// The configuration and the run's folder, from flags, files and the device.
fn resolve(args: &PretrainArgs, compute: &Compute) -> anyhow::Result<(PretrainConfig, PathBuf)> {
    let (mut config, name) = if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        (PretrainConfig::parse(&text, &path.display().to_string())?, name.unwrap_or_default())
    } else if let Some(preset) = args.preset {
        (preset.config(), preset.name().to_owned())
    } else if let (true, Some(run_dir)) = (args.resume, &args.run_dir) {
        // The run knows what it is.
        (saved_config(run_dir)?, String::new())
    } else {
        let preset = if compute.is_cpu() { Preset::Tiny } else { Preset::VitLP12 };
        println!("preset {} (the default on {compute}; --preset or --config choose another)", preset.name());
        (preset.config(), preset.name().to_owned())
    };
    if let Some(seed) = args.seed {
        config.train.seed = seed;
    }
    let run_dir = args.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(name));
    Ok((config, run_dir))
}

/// The cache at `shards` as a stream of batches.
fn open_stream(shards: &Path, config: &PretrainConfig, args: &PretrainArgs) -> anyhow::Result<Stream> {
    let cache = Arc::new(Cache::open(shards)?);
    let options = pipeline::Options {
        threads: args.threads.map_or(0, usize::from),
        memory_bytes: args.memory.as_u64(),
        ..pipeline::Options::default()
    };
    Ok(Stream::open(cache, config, &options)?)
}
