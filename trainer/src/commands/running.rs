//! Common part of all training commands.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use hiend_cache::{FileError, durable, lookup};
use hiend_loader::program::{Panicked, check_output_folder, count, take_panicked};
use hiend_loader::split::{FileSplit, ListSplit, Split};

use super::observer::Observer;
use super::ranks::Rank;
use super::source::Source;
use super::tracking::Tracking;
use super::{INTERRUPTED, precision};
use crate::checkpoint;
use crate::cli::{ResumeArg, RunArgs};
use crate::config::{self, ConfigError, RunConfig};
use crate::device::Compute;
use crate::distributed::{Cause, is_restart};
use crate::feed::FeedError;
use crate::report::watcher::Watcher;
use crate::schedule::{Every, Unit};
use crate::training::headspace::{HeadspaceOptions, measure};
use crate::training::{
    CHECKPOINTS, CONFIG, Outcome, Resume, RunCases, Stop, Stream, Summary, Task, TrainOptions, TrainingError,
    is_stopped, train,
};

/// Number of optimizer steps of `--smoke`.
const SMOKE_STEPS: u64 = 2;

/// Folder of the run, and the state to start from.
pub(super) struct Place {
    pub run_dir: PathBuf,
    pub resume: Resume,
}

impl Place {
    /// Determines the folder of the run called `name`, and the effect of `--resume` and `--resume-from` there.
    ///
    /// # Errors
    /// If the path leads to something other than a folder, or cannot be looked up.
    pub(super) fn of(args: &RunArgs, name: &str) -> anyhow::Result<Self> {
        let run_dir = args.run_dir(name);
        // Only the first rank may be able to write there.
        check_output_folder(&run_dir)?;
        let resume = match (args.resume_from, args.resume) {
            // The run has begun: whatever it began from, the newest checkpoint is later.
            _ if is_restart() => Resume::Newest,
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

    /// Cases with which a run that is resumed began; `None` if it recorded none.
    ///
    /// # Errors
    /// If the record cannot be read or is damaged.
    pub(super) fn cases(&self) -> anyhow::Result<Option<RunCases>> {
        match self.resume {
            Resume::Begin => Ok(None),
            Resume::Newest | Resume::Step(_) => Ok(RunCases::read(&self.run_dir)?),
        }
    }

    /// Returns `true` if the folder holds a checkpoint, which a run that was killed early does not.
    ///
    /// # Errors
    /// If the folder cannot be looked up.
    pub(super) fn has_checkpoint(&self) -> anyhow::Result<bool> {
        Ok(!checkpoint::all(&self.run_dir.join(CHECKPOINTS))?.is_empty())
    }
}

/// Reads a configuration file; returns its text and its name without extension.
pub(super) fn read_config(path: &Path) -> anyhow::Result<(String, String)> {
    let text = config::read_text(path).map_err(FileError::at(path, "read"))?;
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((text, name))
}

/// Error of a configuration, which says that it is one of `command` if it is valid for that.
pub(super) fn of_another_command<C: RunConfig>(error: ConfigError, text: &str, command: &str) -> anyhow::Error {
    match C::parse(text, "") {
        Ok(_) => anyhow!("{error}; this is a configuration of `{command}`"),
        Err(_) => error.into(),
    }
}

/// Prints which preset is used if none was named.
pub(super) fn announce_preset(name: &str, rank: &Rank) -> anyhow::Result<()> {
    let compute = &rank.compute;
    rank.print(format_args!("preset {name} (the default on {compute}; --preset or --config choose another)"))
}

/// Overrides values of the configuration with `--set` and `--seed`.
pub(super) fn settle<C: RunConfig>(args: &RunArgs, config: C) -> anyhow::Result<C> {
    let seed = args.seed.map(|seed| ("train.seed".to_owned(), seed.to_string()));
    let settings: Vec<_> = args.set.iter().cloned().chain(seed).collect();
    Ok(config.with_settings(&settings).map_err(|error| error.of_one_setting(&settings))?)
}

/// Makes the paths of lists and splits files absolute, so that the run can be resumed from any folder.
pub(super) fn settle_paths<C: RunConfig>(config: &mut C) -> anyhow::Result<()> {
    for split in config.splits_mut() {
        let path = match split {
            Split::List(ListSplit { list }) => list,
            Split::File(FileSplit { splits, .. }) => splits,
            _ => continue,
        };
        let absolute = std::path::absolute(&*path).map_err(FileError::at(path.as_path(), "look up"))?;
        // TOML holds text, so that any other path stays as it is.
        if absolute.to_str().is_some() {
            *path = absolute;
        }
    }
    Ok(())
}

/// Trains, handling Ctrl-C and displaying events.
pub(super) fn run<T: Task>(
    task: &T,
    source: Source,
    mut rank: Rank,
    args: &RunArgs,
    Place { run_dir, resume }: Place,
) -> anyhow::Result<ExitCode> {
    let (visits, (_, num_ranks)) = (task.config().stream().visits_per_batch, rank.share());
    if !visits.is_multiple_of(num_ranks) {
        let shared = visits.next_multiple_of(num_ranks);
        bail!(
            "{num_ranks} ranks cannot share stream.visits_per_batch = {visits} evenly; choose another number of devices, or \
             --set stream.visits_per_batch={shared}"
        );
    }
    precision::announce(&rank, task.config().train());
    warn_of_shortage(task, &rank, args);
    let observer = Observer::start(args, rank.is_first())?;
    let remark_on_foreground = task.config().stream().remark_on_foreground(source.manifest());
    let stream = observer.watch(source.stream(args, task.config(), &rank)?);
    let total = task.config().schedule().total_steps(stream.steps_per_epoch);
    if let Some(max_steps) = args.max_steps.filter(|&max| max > total) {
        rank.note(format_args!("warning: --max-steps {max_steps} has no effect: the schedule ends after step {total}"));
    }
    let passes = many_passes(task.config(), resume, stream.num_cases, stream.steps_per_epoch);
    for line in remark_on_foreground.into_iter().chain(passes).chain(idle_steps(task.config(), resume)) {
        rank.note(format_args!("warning: {line}"));
    }
    let stop = rank.stop();
    if let Some(steps) = args.headspace {
        if rank.group.is_some() {
            bail!("--headspace measures one process; add --ranks none");
        }
        return headspace(task, &stream, &rank, args, steps, stop);
    }
    let tracking = Tracking::prepare::<T>(args, &run_dir, resume, &stream.digest, &rank)?;
    let smoke = if args.smoke { Some(smoke_folder(&run_dir)?) } else { None };
    let options = TrainOptions {
        run_dir: smoke.as_ref().map_or(run_dir, |folder| folder.path().join("run")),
        resume,
        max_steps: if args.smoke { Some(SMOKE_STEPS) } else { args.max_steps },
        checkpoint_every: args.checkpoint_every,
        keep: args.keep,
        gradient_checkpointing: args.gradient_checkpointing,
        group: rank.group.clone(),
        overlap: None,
        other_rounding: args.other_rounding,
        stop,
    };
    let result = if rank.is_first() {
        train_displayed(task, stream, &rank.compute, args, &options, &observer, tracking)?
    } else {
        train(task, stream, &rank.compute, &options, &mut |_| ())
    };
    let way_on = if args.smoke { "nothing was kept" } else { "the same command with --resume continues" };
    let panicked = take_panicked();
    let Summary { outcome, step: last_step, .. } = match result {
        Ok(summary) => summary,
        Err(error) => return failed(error, &rank, &options.stop, panicked, way_on),
    };
    if let Some(folder) = smoke {
        folder.close().context("cannot remove the folder of the smoke test")?;
        if outcome == Outcome::Finished {
            rank.print("smoke test passed; its folder was removed")?;
        }
    }
    match (outcome, panicked) {
        (Outcome::Finished, None) => Ok(ExitCode::SUCCESS),
        (Outcome::Finished, Some(panicked)) => bail!("{panicked}; all steps of the run were done"),
        (Outcome::Interrupted, Some(panicked)) if !args.smoke => {
            bail!("{panicked}; saved after step {last_step}; {way_on}")
        }
        (Outcome::Interrupted, panicked) => stopped(&rank, panicked, way_on),
    }
}

/// Trains, and shows, records and tracks the events of the run.
///
/// # Errors
/// If the display cannot be opened; nothing is trained then.
fn train_displayed<T: Task>(
    task: &T,
    stream: Stream,
    compute: &Compute,
    args: &RunArgs,
    options: &TrainOptions,
    observer: &Observer,
    mut tracking: Option<Tracking>,
) -> io::Result<Result<Summary, TrainingError>> {
    let mut watcher =
        Watcher::open(args.display, args.log_every, &options.stop)?.with_class_names(task.class_names().to_vec());
    let result = train(task, stream, compute, options, &mut |event| {
        observer.event(event);
        if let Some(tracking) = &mut tracking {
            tracking.event(event);
        }
        watcher.event(event);
    });
    // The last lines of the display come before those about tracking.
    drop(watcher);
    if let Some(tracking) = tracking {
        tracking.finish(&result);
    }
    Ok(result)
}

/// Ends a run whose training failed: as one that was asked to stop if that is the reason, otherwise with the error.
fn failed(
    error: TrainingError,
    rank: &Rank,
    stop: &Stop,
    panicked: Option<Panicked>,
    way_on: &str,
) -> anyhow::Result<ExitCode> {
    let line = match error {
        // The steps that were done are saved.
        TrainingError::Feed(FeedError::Source { step, source }) if is_stopped(&source) => {
            format!("stopped while waiting for the batch of step {step}; {way_on}")
        }
        TrainingError::Rank { failure, .. } if matches!(failure.cause, Cause::Stopped(_)) => {
            format!("{failure}; {way_on}")
        }
        error if stop.is_requested() && error.is_stop() => {
            format!("stopped while servers or object storage did not answer; {way_on}")
        }
        error => {
            let error = anyhow::Error::from(error);
            return Err(match panicked {
                Some(panicked) => error.context(panicked),
                None => error,
            });
        }
    };
    stopped(rank, panicked, line)
}

/// Ends a run that was asked to stop: with `line` and the exit code of the request, or with an error if a panic on another
/// thread requested it.
fn stopped(rank: &Rank, panicked: Option<Panicked>, line: impl Display) -> anyhow::Result<ExitCode> {
    if let Some(panicked) = panicked {
        bail!("{panicked}; {line}");
    }
    rank.note(line);
    Ok(rank.signals.interrupted())
}

/// Number of passes over the cases per epoch above which it is reported.
const MANY_PASSES: f64 = 1.1;

/// Returns a warning line if an epoch of the schedule is clearly more than one pass over the cases: an epoch consists
/// of whole batches, and its last batch may mostly belong to the next pass. `None` for a resumed run, which keeps its
/// original settings.
fn many_passes<C: RunConfig>(config: &C, resume: Resume, num_cases: usize, steps_per_epoch: u64) -> Option<String> {
    if resume != Resume::Begin {
        return None;
    }
    let (schedule, visits) = (config.schedule(), config.stream().visits_per_batch);
    let passes = steps_per_epoch as f64 * visits as f64 / num_cases as f64;
    let is_longer = schedule.unit == Unit::Epoch && num_cases > 0 && passes >= MANY_PASSES;
    is_longer.then(|| {
        format!(
            "stream.visits_per_batch = {visits} for {}: each of the {} epochs is {} and {passes:.1} passes over the cases; lower \
             visits_per_batch, or set schedule.unit = \"step\"",
            count(num_cases, "case"),
            schedule.total,
            count(steps_per_epoch, "step")
        )
    })
}

/// Largest number of epochs of a run of which one without training is reported.
const FEW_EPOCHS: u64 = 10;

/// Returns a warning line if many steps have the learning rate 0 and change no weights. `None` for a resumed run, which
/// keeps its original settings.
fn idle_steps<C: RunConfig>(config: &C, resume: Resume) -> Option<String> {
    if resume != Resume::Begin {
        return None;
    }
    let schedule = config.schedule();
    if config.optim().lr <= 0.0 {
        return Some("optim.lr is 0: no step changes the weights".to_owned());
    }
    let is_idle = (schedule.unit, schedule.rate_changes) == (Unit::Epoch, Every::Epoch)
        && schedule.warmup > 0
        && schedule.total <= FEW_EPOCHS;
    is_idle.then(|| {
        let epochs = count(schedule.total, "epoch");
        format!(
            "schedule.warmup: in the first of {epochs}, the rate is 0 and changes no weights; set schedule.warmup to 0"
        )
    })
}

/// Warns if a step on the CPU cannot fit into memory, because the system would then kill the process during the step.
fn warn_of_shortage<T: Task>(task: &T, rank: &Rank, args: &RunArgs) {
    let (config, (_, num_ranks)) = (task.config(), rank.share());
    let Some(limit) = rank.host_memory().filter(|_| rank.compute.is_cpu()) else { return };
    let crops = config.stream().crops_per_batch() / num_ranks;
    let at_a_time = config.train().crops_at_a_time().map_or(crops, |part| part.min(crops));
    let kept = task.kept_values(args.gradient_checkpointing);
    if let Some(line) = kept.shortage(at_a_time, config.train().precision, args.gradient_checkpointing, limit) {
        rank.note(format_args!("warning: {line}"));
    }
}

/// Measures the cost of the data and prints the result.
fn headspace<T: Task>(
    task: &T,
    stream: &Stream,
    rank: &Rank,
    args: &RunArgs,
    steps: u32,
    stop: Stop,
) -> anyhow::Result<ExitCode> {
    let options = HeadspaceOptions { steps: steps as usize, gradient_checkpointing: args.gradient_checkpointing, stop };
    match measure(task, stream, &rank.compute, &options)? {
        Some(headspace) => {
            super::print_text(headspace)?;
            Ok(ExitCode::SUCCESS)
        }
        None => Ok(ExitCode::from(INTERRUPTED)),
    }
}

/// Creates a temporary folder next to the run's folder, on the same file system.
fn smoke_folder(run_dir: &Path) -> anyhow::Result<tempfile::TempDir> {
    let parent = lookup::parent(run_dir);
    durable::create_dir_all(parent)?;
    let made = tempfile::Builder::new().prefix("smoke-").tempdir_in(parent);
    Ok(made.map_err(FileError::at(parent, "create a folder in it"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::finetune::{FinetuneConfig, FinetunePreset};
    use crate::config::pretrain::{PretrainConfig, PretrainPreset};
    use crate::schedule::ScheduleConfig;

    #[test]
    fn configuration_in_utf_16_is_refused_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, b"\xff\xfes\0e\0e\0d\0").unwrap();
        let error = format!("{:#}", read_config(&path).unwrap_err());
        assert_eq!(error, format!("{}: cannot read: not UTF-8; save the file as text in UTF-8", path.display()));
    }

    #[test]
    fn a_configuration_of_another_command_is_told() {
        let text = FinetunePreset::Tiny.config().to_toml();
        let error = PretrainConfig::parse(&text, "x.toml").unwrap_err();
        let error = of_another_command::<FinetuneConfig>(error, &text, "hiend-train finetune").to_string();
        assert!(error.starts_with("x.toml: unknown key `"), "{error}");
        assert!(error.ends_with("; this is a configuration of `hiend-train finetune`"), "{error}");
        let error = PretrainConfig::parse("a = 1", "x.toml").unwrap_err();
        let error = of_another_command::<FinetuneConfig>(error, "a = 1", "hiend-train finetune").to_string();
        assert!(!error.contains("configuration of"), "{error}");
    }

    #[test]
    fn rates_of_zero_are_told() {
        let mut config = PretrainPreset::Tiny.config();
        let idle = |config: &PretrainConfig| idle_steps(config, Resume::Begin);
        assert_eq!(idle(&config), None);
        let per_epoch = |total, warmup| ScheduleConfig { unit: Unit::Epoch, total, warmup, rate_changes: Every::Epoch };
        config.schedule = per_epoch(2, 1);
        assert!(idle(&config).unwrap().starts_with("schedule.warmup: in the first of 2 epochs, the rate is 0"));
        for (total, warmup) in [(2, 0), (1000, 10)] {
            config.schedule = per_epoch(total, warmup);
            assert_eq!(idle(&config), None);
        }
        config.optim.lr = 0.0;
        assert_eq!(idle_steps(&config, Resume::Newest), None);
        assert_eq!(idle(&config).unwrap(), "optim.lr is 0: no step changes the weights");
    }

    #[test]
    fn epochs_of_several_passes_are_told() {
        let mut config = PretrainPreset::Tiny.config();
        config.stream.visits_per_batch = 64;
        config.schedule.unit = Unit::Epoch;
        config.schedule.total = 1000;
        let told = |config: &PretrainConfig, num_cases: usize| {
            many_passes(config, Resume::Begin, num_cases, num_cases.div_ceil(config.stream.visits_per_batch) as u64)
        };
        let line = told(&config, 8).unwrap();
        let expected = "stream.visits_per_batch = 64 for 8 cases: each of the 1000 epochs is 1 step and 8.0 passes over the \
                        cases; lower visits_per_batch, or set schedule.unit = \"step\"";
        assert_eq!(line, expected);
        assert_eq!(told(&config, 64), None);
        // Two batches visit 128 cases, three of them 192.
        let line = told(&config, 65).unwrap();
        assert!(line.contains("each of the 1000 epochs is 2 steps and 2.0 passes"), "{line}");
        assert!(told(&config, 116).is_some());
        assert_eq!(told(&config, 117), None);
        assert!(told(&config, 174).is_some());
        assert_eq!(told(&config, 175), None);
        assert_eq!(many_passes(&config, Resume::Begin, 0, 0), None);
        for resume in [Resume::Newest, Resume::Step(3)] {
            assert_eq!(many_passes(&config, resume, 8, 1), None, "the advice cannot be followed");
        }
        config.schedule.unit = Unit::Step;
        assert_eq!(told(&config, 8), None);
    }
}
