//! The common part of all commands that train.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use hiend_cache::{durable, lookup};
use hiend_loader::program::on_interrupt;

use super::INTERRUPTED;
use super::observer::Observer;
use super::signals::{BatchSignals, REQUEUE};
use super::source::Source;
use crate::checkpoint;
use crate::cli::{ResumeArg, RunArgs};
use crate::config::RunConfig;
use crate::device::{Compute, keep_kernels_in, remember_panics, settle_default};
use crate::model::precision::Precision;
use crate::ops::product::Factors;
use crate::report::dashboard::terminal;
use crate::report::watcher::Watcher;
use crate::training::headspace::{HeadspaceOptions, measure};
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

/// The devices of a run, and the signals that were blocked before they were opened.
pub(super) struct Devices {
    pub first: Compute,
    pub others: Vec<Compute>,
    signals: BatchSignals,
    /// Request to stop, once signals raise it.
    stop: Option<Stop>,
}

impl Devices {
    /// Makes Ctrl-C and the batch system's signals request a stop, from the first call on.
    fn stop(&mut self) -> anyhow::Result<Stop> {
        if let Some(stop) = &self.stop {
            return Ok(stop.clone());
        }
        let stop = listen("stopping after this step; press Ctrl-C again to stop at once")?;
        self.signals.handle(&stop)?;
        Ok(self.stop.insert(stop).clone())
    }
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
    Ok(Devices { first, others: devices.collect(), signals, stop: None })
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
    source: Source,
    mut devices: Devices,
    args: &RunArgs,
    Place { run_dir, resume }: Place,
) -> anyhow::Result<ExitCode> {
    let (visits, num_ranks) = (task.config().stream().visits_per_batch, 1 + devices.others.len());
    if !visits.is_multiple_of(num_ranks) {
        bail!("{num_ranks} devices cannot share stream.visits_per_batch = {visits} evenly");
    }
    announce_precision(&devices.first, task.config().train().precision);
    let observer = Observer::start(args)?;
    let stream = observer.watch(source.stream(args, task.config(), &devices.first)?);
    let stop = devices.stop()?;
    if let Some(steps) = args.headspace {
        return headspace(task, &stream, &devices, args, steps, stop);
    }
    let smoke = if args.smoke { Some(smoke_folder(&run_dir)?) } else { None };
    let options = TrainOptions {
        run_dir: smoke.as_ref().map_or(run_dir, |folder| folder.path().join("run")),
        resume,
        max_steps: if args.smoke { Some(SMOKE_STEPS) } else { args.max_steps },
        checkpoint_every: args.checkpoint_every,
        keep: args.keep,
        gradient_checkpointing: args.gradient_checkpointing,
        others: devices.others,
        overlap: None,
        stop,
    };
    let mut watcher =
        Watcher::open(args.display, args.log_every, &options.stop)?.with_class_names(task.class_names().to_vec());
    let result = train(task, stream, &devices.first, &options, &mut |event| {
        observer.event(event);
        watcher.event(event);
    });
    drop(watcher);
    let outcome = result?.outcome;
    if let Some(folder) = smoke {
        folder.close().context("cannot remove the folder of the smoke test")?;
        if outcome == Outcome::Finished {
            super::print("smoke test passed; its folder was removed")?;
        }
    }
    Ok(match outcome {
        Outcome::Finished => ExitCode::SUCCESS,
        Outcome::Interrupted if devices.signals.received() => ExitCode::from(REQUEUE),
        Outcome::Interrupted => ExitCode::from(INTERRUPTED),
    })
}

/// Says how the precision of the configuration is computed, where that is not evident.
fn announce_precision(compute: &Compute, precision: Precision) {
    if compute.is_cpu() && precision != Precision::F32 {
        let name = precision.name();
        super::note(format_args!("warning: train.precision = \"{name}\" is for GPUs; it is not faster on a CPU"));
    }
    if let Some(line) = products_line(compute, precision.factors()) {
        super::note(line);
    }
}

/// Measures the cost of the data and prints it.
fn headspace<T: Task>(
    task: &T,
    stream: &Stream,
    devices: &Devices,
    args: &RunArgs,
    steps: u32,
    stop: Stop,
) -> anyhow::Result<ExitCode> {
    let options = HeadspaceOptions { steps: steps as usize, gradient_checkpointing: args.gradient_checkpointing, stop };
    match measure(task, stream, &devices.first, &options)? {
        Some(headspace) => {
            super::print(headspace)?;
            Ok(ExitCode::SUCCESS)
        }
        None => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// Makes a temporary folder next to the run's, on the same file system.
fn smoke_folder(run_dir: &Path) -> anyhow::Result<tempfile::TempDir> {
    let parent = run_dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let make = || {
        durable::create_dir_all(parent)?;
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
