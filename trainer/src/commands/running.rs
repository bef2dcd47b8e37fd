//! What all commands that train have in common.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use hiend_cache::Cache;
use hiend_loader::pipeline;

use super::INTERRUPTED;
use crate::cli::RunArgs;
use crate::config::{RunConfig, TrainConfig};
use crate::device::{Compute, keep_kernels_in, remember_panics, settle_default};
use crate::model::precision::Precision;
use crate::report::dashboard::terminal;
use crate::report::watcher::Watcher;
use crate::training::{Outcome, Stop, Stream, Task, TrainOptions, train};

/// The cache that was named.
pub fn open_cache(args: &RunArgs) -> anyhow::Result<Arc<Cache>> {
    let shards = args.shards.as_deref().expect("clap requires it");
    Ok(Arc::new(Cache::open(shards)?))
}

/// The devices that were named: the first, and those that follow it.
pub fn open_devices(args: &RunArgs) -> anyhow::Result<(Compute, Vec<Compute>)> {
    if let Some(dir) = &args.cache_dir {
        keep_kernels_in(dir);
    }
    let devices = match args.devices.as_slice() {
        [] => vec![Compute::open(args.device)?],
        choices => Compute::open_all(choices)?,
    };
    let mut devices = devices.into_iter();
    let first = devices.next().context("--devices names none")?;
    settle_default(&first)?;
    remember_panics();
    Ok((first, devices.collect()))
}

/// What was typed replaces what the configuration says.
pub fn settle_seed(args: &RunArgs, train: &mut TrainConfig) {
    if let Some(seed) = args.seed {
        train.seed = seed;
    }
}

/// Trains, with Ctrl-C listened to and everything told on the way.
pub fn run<T: Task>(
    task: &T,
    cache: Arc<Cache>,
    (compute, others): (Compute, Vec<Compute>),
    args: &RunArgs,
    run_dir: PathBuf,
) -> anyhow::Result<ExitCode> {
    let (visits, num_ranks) = (task.config().stream().visits_per_batch, 1 + others.len());
    if !visits.is_multiple_of(num_ranks) {
        bail!("{num_ranks} devices cannot share stream.visits_per_batch = {visits} evenly");
    }
    if compute.is_cpu() && task.config().train().precision == Precision::Bf16 {
        eprintln!("warning: train.precision = \"bf16\" is for GPUs; a CPU gains nothing by it");
    }
    let loader = pipeline::LoaderOptions {
        threads: args.threads.map_or(0, usize::from),
        memory_bytes: args.memory.as_u64(),
        form: task.config().train().voxel_form(&task.config().stream().augment, compute.is_cpu()),
        ..pipeline::LoaderOptions::default()
    };
    let config = task.config();
    let stream = Stream::open(cache, config.stream(), config.train().seed, &loader)?;
    let options = TrainOptions {
        run_dir,
        resume: args.resume,
        max_steps: args.max_steps,
        checkpoint_every: args.checkpoint_every,
        keep: args.keep,
        gradient_checkpointing: args.gradient_checkpointing,
        others,
        overlap: None,
        stop: listen("stopping after this step; once more to stop at once")?,
    };
    let mut watcher =
        Watcher::open(args.display, args.log_every, &options.stop)?.with_class_names(task.class_names().to_vec());
    let summary = train(task, stream, &compute, &options, &mut |event| watcher.event(event))?;
    Ok(match summary.outcome {
        Outcome::Finished => ExitCode::SUCCESS,
        Outcome::Interrupted => ExitCode::from(INTERRUPTED),
    })
}

/// Ctrl-C asks to stop, and says so; once more ends the process.
pub fn listen(message: &'static str) -> anyhow::Result<Stop> {
    let stop = Stop::default();
    let on_signal = stop.clone();
    ctrlc::set_handler(move || {
        if on_signal.request() {
            terminal::restore();
            std::process::exit(INTERRUPTED.into());
        }
        // The dashboard says so itself.
        if !terminal::is_shown() {
            eprintln!("{message}");
        }
    })
    .context("cannot listen to Ctrl-C")?;
    Ok(stop)
}
