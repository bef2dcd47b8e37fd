//! The common part of all commands that train.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use hiend_cache::{Cache, lookup};
use hiend_loader::pipeline;
use hiend_loader::program::on_interrupt;

use super::INTERRUPTED;
use super::signals::{BatchSignals, REQUEUE};
use crate::checkpoint;
use crate::cli::{ResumeArg, RunArgs};
use crate::config::RunConfig;
use crate::device::{Compute, keep_kernels_in, remember_panics, settle_default};
use crate::model::precision::Precision;
use crate::ops::product::Factors;
use crate::report::dashboard::terminal;
use crate::report::watcher::Watcher;
use crate::training::{CHECKPOINTS, CONFIG, Outcome, Resume, Stop, Stream, Task, TrainOptions, train};
#[cfg(feature = "cuda")]
use crate::vendor;

/// Optimizer steps of `--smoke`.
const SMOKE_STEPS: u64 = 2;

/// The run's folder and the state to start from.
pub(super) struct Place {
    pub run_dir: PathBuf,
    pub resume: Resume,
}

impl Place {
    /// Determines the folder of the run called `name`, and what `--resume` and `--resume-from` mean there.
    pub(super) fn of(args: &RunArgs, name: &str) -> anyhow::Result<Self> {
        let run_dir = args.run_dir(name);
        let resume = match (args.resume_from, args.resume) {
            (Some(step), _) => Resume::Step(step),
            (None, None) => Resume::Begin,
            (None, Some(ResumeArg::Always)) => Resume::Newest,
            (None, Some(ResumeArg::Auto)) => {
                let config = run_dir.join(CONFIG);
                let begun = lookup::exists(&config)? || !checkpoint::all(&run_dir.join(CHECKPOINTS))?.is_empty();
                Resume::from(begun)
            }
        };
        Ok(Self { run_dir, resume })
    }
}

/// Opens the cache named by `--shards`.
pub(super) fn open_cache(args: &RunArgs) -> anyhow::Result<Arc<Cache>> {
    let shards = args.shards.as_deref().expect("clap requires it");
    Ok(Arc::new(Cache::open_with(shards, args.access.into())?))
}

/// The devices of a run, and the signals that were blocked before they were opened.
pub(super) struct Devices {
    pub first: Compute,
    pub others: Vec<Compute>,
    signals: BatchSignals,
}

/// Opens the devices that were named: the first, and those that follow it.
pub(super) fn open_devices(args: &RunArgs) -> anyhow::Result<Devices> {
    let signals = BatchSignals::block()?;
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
    Ok(Devices { first, others: devices.collect(), signals })
}

/// Reads a configuration file; returns its text and its name without extension.
pub(super) fn read_config(path: &Path) -> anyhow::Result<(String, String)> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((text, name))
}

/// Says which preset is used when none was named.
pub(super) fn announce_preset(name: &str, compute: &Compute) -> anyhow::Result<()> {
    super::print(format_args!("preset {name} (the default on {compute}; --preset or --config choose another)"))?;
    Ok(())
}

/// Replaces values of the configuration by `--set` and `--seed`.
pub(super) fn settle<C: RunConfig>(args: &RunArgs, config: C) -> anyhow::Result<C> {
    let seed = args.seed.map(|seed| ("train.seed".to_owned(), seed.to_string()));
    let settings: Vec<_> = args.set.iter().cloned().chain(seed).collect();
    Ok(config.with_settings(&settings)?)
}

/// Trains, with Ctrl-C handled and events displayed.
pub(super) fn run<T: Task>(
    task: &T,
    cache: Arc<Cache>,
    Devices { first: compute, others, signals }: Devices,
    args: &RunArgs,
    Place { run_dir, resume }: Place,
) -> anyhow::Result<ExitCode> {
    let (visits, num_ranks) = (task.config().stream().visits_per_batch, 1 + others.len());
    if !visits.is_multiple_of(num_ranks) {
        bail!("{num_ranks} devices cannot share stream.visits_per_batch = {visits} evenly");
    }
    let precision = task.config().train().precision;
    if compute.is_cpu() && precision != Precision::F32 {
        let name = precision.name();
        super::note(format_args!("warning: train.precision = \"{name}\" is for GPUs; it is not faster on a CPU"));
    }
    if let Some(line) = products_line(&compute, precision.factors()) {
        super::note(line);
    }
    let loader = pipeline::LoaderOptions {
        threads: args.threads.map_or(0, usize::from),
        memory_bytes: args.memory.as_u64(),
        form: task.config().train().voxel_form(&task.config().stream().augment, compute.is_cpu()),
        ..pipeline::LoaderOptions::default()
    };
    let config = task.config();
    let stream = Stream::open(cache, config.stream(), config.train().seed, &loader)?;
    let smoke = if args.smoke { Some(smoke_folder(&run_dir)?) } else { None };
    let options = TrainOptions {
        run_dir: smoke.as_ref().map_or(run_dir, |folder| folder.path().join("run")),
        resume,
        max_steps: if args.smoke { Some(SMOKE_STEPS) } else { args.max_steps },
        checkpoint_every: args.checkpoint_every,
        keep: args.keep,
        gradient_checkpointing: args.gradient_checkpointing,
        others,
        overlap: None,
        stop: listen("stopping after this step; press Ctrl-C again to stop at once")?,
    };
    signals.handle(&options.stop)?;
    let mut watcher =
        Watcher::open(args.display, args.log_every, &options.stop)?.with_class_names(task.class_names().to_vec());
    let summary = train(task, stream, &compute, &options, &mut |event| watcher.event(event))?;
    drop(watcher);
    if let Some(folder) = smoke {
        folder.close().context("cannot remove the folder of the smoke test")?;
        if summary.outcome == Outcome::Finished {
            super::print("smoke test passed; its folder was removed")?;
        }
    }
    Ok(match summary.outcome {
        Outcome::Finished => ExitCode::SUCCESS,
        Outcome::Interrupted if signals.received() => ExitCode::from(REQUEUE),
        Outcome::Interrupted => ExitCode::from(INTERRUPTED),
    })
}

/// Makes a temporary folder next to the run's, on the same file system.
fn smoke_folder(run_dir: &Path) -> anyhow::Result<tempfile::TempDir> {
    let parent = run_dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let make = || {
        std::fs::create_dir_all(parent)?;
        tempfile::Builder::new().prefix("smoke-").tempdir_in(parent)
    };
    make().with_context(|| parent.display().to_string())
}

/// Makes Ctrl-C request a stop; another one ends the process.
pub(super) fn listen(message: &'static str) -> anyhow::Result<Stop> {
    let stop = Stop::default();
    let on_signal = stop.clone();
    let first = move || {
        if on_signal.request() {
            // The dashboard's key or another signal has requested the stop already.
            terminal::restore();
            std::process::exit(INTERRUPTED.into());
        }
        // The dashboard shows it itself.
        if !terminal::is_shown() {
            super::note(message);
        }
    };
    on_interrupt(first, terminal::restore)?;
    Ok(stop)
}

/// One line that says how products are computed on `compute`; `None` where nothing decides it, as on the CPU.
fn products_line(compute: &Compute, factors: Factors) -> Option<String> {
    if !compute.is_cuda() {
        return None;
    }
    #[cfg(feature = "cuda")]
    {
        let form = match factors {
            Factors::F32 => "32-bit factors in full",
            Factors::Tf32 => "32-bit factors rounded to TF32",
            Factors::Bf16 => "bf16 factors, 32-bit sums",
        };
        Some(match vendor::cublaslt::library() {
            Ok(found) => {
                let version = found.version.as_deref().unwrap_or("of an unknown version");
                format!("products by cuBLASLt {version} ({}): {form}", found.path.display())
            }
            Err(reason) => {
                let rounded = if factors == Factors::F32 { ", 32-bit factors rounded to TF32" } else { "" };
                format!(
                    "warning: products by built-in kernels, slower and tuned before the first update{rounded}: {reason}"
                )
            }
        })
    }
    #[cfg(not(feature = "cuda"))]
    {
        let _ = factors;
        None
    }
}
