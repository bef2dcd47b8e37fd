//! What all commands that train have in common.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use hiend_cache::Cache;
use hiend_loader::pipeline;

use super::INTERRUPTED;
use crate::cli::RunArgs;
use crate::config::{RunConfig, TrainConfig};
use crate::device::Compute;
use crate::report::dashboard::terminal;
use crate::report::watcher::Watcher;
use crate::training::{Options, Outcome, Stop, Stream, Task, train};

/// The cache that was named.
pub fn open_cache(args: &RunArgs) -> anyhow::Result<Arc<Cache>> {
    let shards = args.shards.as_deref().expect("clap requires it");
    Ok(Arc::new(Cache::open(shards)?))
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
    compute: &Compute,
    args: &RunArgs,
    run_dir: PathBuf,
) -> anyhow::Result<ExitCode> {
    let loader = pipeline::Options {
        threads: args.threads.map_or(0, usize::from),
        memory_bytes: args.memory.as_u64(),
        ..pipeline::Options::default()
    };
    let config = task.config();
    let stream = Stream::open(cache, config.stream(), config.train().seed, &loader)?;
    let options = Options {
        run_dir,
        resume: args.resume,
        max_steps: args.max_steps,
        checkpoint_every: args.checkpoint_every,
        keep: args.keep,
        gradient_checkpointing: args.gradient_checkpointing,
        stop: listen("stopping after this step; once more to stop at once")?,
    };
    let mut watcher =
        Watcher::open(args.display, args.log_every, &options.stop)?.with_class_names(task.class_names().to_vec());
    let summary = train(task, stream, compute, &options, &mut |event| watcher.event(event))?;
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
