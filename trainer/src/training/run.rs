//! A run on its way: updates, what is told of them, and what is kept.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use hiend_loader::batch::BatchTimes;

use super::error::io_error;
use super::ranks::{self, HostReduce, ProcessGroup, RankError, RankHandle};
use super::readback::{Answer, Readback};
use super::replica::Replica;
use super::run_dir::{RunDir, refuse_changes, saved_config};
use super::{Beginning, Event, Outcome, Stream, Summary, Target, Task, TrainOptions, TrainingError, ema};
use crate::checkpoint::{self, Best, Checkpoints, State};
use crate::config::RunConfig as _;
use crate::device::{self, Compute};
use crate::feed::{DeviceBatch, Feed, FeedConfig};
use crate::report::journal::{Entry, Journal, StepRecord, ValidationRecord};

const JOURNAL: &str = "journal.jsonl";

/// An update on its way.
struct Queued {
    step: u64,
    lr: f64,
    crops: usize,
    /// Of this rank's share, the only ones it knows.
    cases: Vec<String>,
    start: Instant,
    wait_secs: f64,
    upload_secs: f64,
    loader: BatchTimes,
}

/// A run on its way.
pub(super) struct Run<'a, T: Task> {
    task: &'a T,
    options: &'a TrainOptions,
    /// Held until the run is over.
    _run_dir: RunDir,
    compute: &'a Compute,
    cache_digest: String,
    steps_per_epoch: u64,
    checkpoints: Checkpoints,
    journal: Journal,
    replica: Replica<T::Model>,
    /// The average of the weights, where one is kept.
    ema: Option<T::Model>,
    readback: Readback,
    /// All ranks, where there are several.
    team: Option<Arc<ProcessGroup>>,
    /// The last update, as long as nobody has waited for it; the readback has been asked for what it tells.
    queued: Option<Queued>,
    /// When the last one was done.
    settled: Option<Instant>,
    pub(super) step: u64,
    best: Option<Best>,
    pub(super) validation_due: bool,
    /// Of the last update, this process's or one before.
    last_loss: Option<f64>,
    losses: Vec<f64>,
    elapsed_secs: f64,
    wait_secs: f64,
    last_good: Option<PathBuf>,
    picture: Option<PathBuf>,
    pub(super) beginning: Option<Beginning>,
}

impl<'a, T: Task> Run<'a, T> {
    /// Finds where the run stopped, or begins it: in this order, so that a run that cannot begin leaves no folder.
    pub(super) fn open(
        task: &'a T,
        stream: &Stream,
        compute: &'a Compute,
        options: &'a TrainOptions,
    ) -> Result<Self, TrainingError> {
        let config = task.config();
        let found = RunDir::find(&options.run_dir, options.resume)?;
        if let Some(checkpoint) = found.checkpoint() {
            let saved = checkpoint::read_state::<T::Config>(checkpoint, T::KIND)?;
            refuse_changes(config, &saved.config)?;
            if saved.cache_digest != stream.digest {
                return Err(TrainingError::Changed {
                    key: "the cache".into(),
                    now: stream.digest.clone(),
                    before: saved.cache_digest,
                });
            }
        } else if options.resume {
            // Killed before its first checkpoint: the same run from its start.
            refuse_changes(config, &saved_config::<T::Config>(&options.run_dir)?)?;
        }
        let (replica, beginning) = Replica::on(task, compute, options.gradient_checkpointing, found.checkpoint())?;
        let mut ema = None;
        let mut state = None;
        if let Some(checkpoint) = found.checkpoint() {
            ema = checkpoint::load_ema(checkpoint, replica.model().valid())?;
            state = Some(checkpoint::read_state::<T::Config>(checkpoint, T::KIND)?);
        } else if config.train().ema_decay.is_some() {
            ema = Some(replica.model().valid());
        }
        let last_good = found.checkpoint().map(Path::to_owned);
        let run_dir = found.begin(config)?;
        let checkpoints = Checkpoints::open(run_dir.path(), options.keep)?;
        let journal_path = run_dir.path().join(JOURNAL);
        let journal = Journal::open(&journal_path, options.resume).map_err(io_error(&journal_path))?;
        if let Some(Beginning { report, .. }) = &beginning {
            let path = run_dir.path().join("init.txt");
            fs::write(&path, report).map_err(io_error(&path))?;
        }
        Ok(Self {
            task,
            options,
            _run_dir: run_dir,
            compute,
            cache_digest: stream.digest.clone(),
            steps_per_epoch: stream.steps_per_epoch,
            checkpoints,
            journal,
            replica,
            ema,
            readback: Readback::start().map_err(io_error(&options.run_dir))?,
            team: None,
            queued: None,
            settled: None,
            step: state.as_ref().map_or(0, |state| state.step),
            best: state.as_ref().and_then(|state| state.best),
            validation_due: state.as_ref().is_some_and(|state| state.validation_due),
            last_loss: state.as_ref().and_then(|state| state.loss),
            losses: vec![],
            elapsed_secs: 0.0,
            wait_secs: 0.0,
            last_good,
            picture: None,
            beginning,
        })
    }

    pub(super) fn model(&self) -> &T::Model {
        self.replica.model()
    }

    /// All devices, by name.
    pub(super) fn devices(&self) -> String {
        let all = std::iter::once(self.compute).chain(&self.options.others);
        all.map(ToString::to_string).collect::<Vec<_>>().join(" + ")
    }

    pub(super) fn end_step(&self) -> u64 {
        let total = self.task.config().schedule().total_steps(self.steps_per_epoch);
        self.options.max_steps.map_or(total, |max| total.min(max))
    }

    /// Trains on the batches of `stream`, with as many ranks as there are devices.
    pub(super) fn lead(
        &mut self,
        stream: &Stream,
        end_step: u64,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), TrainingError> {
        let (task, options, compute, start) = (self.task, self.options, self.compute, self.step);
        let num_ranks = 1 + options.others.len();
        if num_ranks == 1 {
            let feed = feed_of(task, stream, compute, options, start, (0, 1))?;
            return self.train(feed, end_step, None, watch);
        }
        let reduce = all_reduce(compute, &options.others);
        let team = ProcessGroup::new(num_ranks, reduce);
        self.team = Some(Arc::clone(&team));
        let checkpoint = self.last_good.clone();
        std::thread::scope(|scope| {
            // Before anyone waits for it, and dropped on every way out, a panic's included: whoever waits is freed.
            let member = RankHandle::new(&team, 0);
            for (rank, compute) in (1..).zip(&options.others) {
                let (team, checkpoint) = (&team, checkpoint.as_deref());
                let follow = move || {
                    let member = RankHandle::new(team, rank);
                    let run = || {
                        let (replica, _) = Replica::on(task, compute, options.gradient_checkpointing, checkpoint)?;
                        let feed = feed_of(task, stream, compute, options, start, (rank, num_ranks))?;
                        follow(task, replica, feed, start..end_step, stream.steps_per_epoch, &member)
                    };
                    // A panic's own message was shown when it happened.
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => team.fail(rank, in_a_line(&error)),
                        Err(_) => team.fail(rank, "its thread panicked".into()),
                    }
                };
                std::thread::Builder::new()
                    .name(format!("rank-{rank}"))
                    .spawn_scoped(scope, follow)
                    .map_err(io_error(&options.run_dir))?;
            }
            let feed = feed_of(task, stream, compute, options, start, (0, num_ranks));
            let result = feed.and_then(|feed| self.train(feed, end_step, Some(&member), watch));
            drop(member);
            match (result, team.failure()) {
                (Err(TrainingError::Device { step, .. }), Some((rank, message))) => Err(TrainingError::Rank {
                    rank,
                    device: options.others[rank - 1].to_string(),
                    step,
                    message,
                    last_good: self.last_good.clone(),
                }),
                (result, _) => result,
            }
        })
    }

    fn train(
        &mut self,
        mut feed: Feed<Target<T>>,
        end_step: u64,
        member: Option<&RankHandle>,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), TrainingError> {
        let validate_every = self.task.validation_every(self.steps_per_epoch);
        while self.step < end_step {
            if !feed.is_ready() {
                // The host has to wait in any case. Waiting for the device first, what is left is the device's wait.
                self.settle(watch)?;
            }
            let start = Instant::now();
            let batch = match feed.next_batch() {
                Ok(batch) => batch,
                Err(error) => {
                    self.settle(watch)?;
                    return Err(error.into());
                }
            };
            let wait_secs = start.elapsed().as_secs_f64();
            let queued = match self.update(batch.as_ref(), member, start, wait_secs) {
                Ok(queued) => queued,
                Err(error) => {
                    // What was done before is told, if the device can still say.
                    self.settle(watch)?;
                    return Err(error);
                }
            };
            self.step += 1;
            // The update before this one: it is read while the device works on this one.
            self.settle(watch)?;
            if queued.is_none() {
                // Its cases were named when they were left out. The step counts: a step and its batch belong together.
                let step = self.step;
                watch(&Event::Warning(format!("step {step}: no update, all cases of its batch are corrupt")));
            }
            self.queued = queued;
            let due = |every: u64| every > 0 && self.step.is_multiple_of(every);
            let at_end = self.step == end_step;
            let checkpoint_due = due(self.options.checkpoint_every);
            self.validation_due = validate_every.is_some_and(|every| due(every) || at_end);
            // Whatever is drawn, measured or saved is so after its loss was looked at.
            let wanted = at_end || checkpoint_due || self.validation_due || self.options.stop.is_requested();
            if wanted || !self.options.overlap.unwrap_or(!self.compute.is_cpu()) {
                self.settle(watch)?;
            }
            if (at_end || checkpoint_due || self.validation_due || self.options.stop.is_requested())
                && let Some(batch) = &batch
            {
                self.draw(batch, watch);
            }
            drop(batch);
            if self.validation_due {
                self.validate(watch)?;
            }
            // Asked to stop at any time until here, a long validation included: this step is saved and the last one.
            let last = at_end || self.options.stop.is_requested();
            if last {
                self.settle(watch)?;
            }
            if last || checkpoint_due || self.best.is_some_and(|best| best.step == self.step) {
                self.save(watch)?;
            }
            // The only way out on request: asked to stop while saving, another step is done and saved.
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Queues one update of the weights; none if every case of the batch is corrupt.
    fn update(
        &mut self,
        batch: Option<&DeviceBatch<Target<T>>>,
        member: Option<&RankHandle>,
        start: Instant,
        wait_secs: f64,
    ) -> Result<Option<Queued>, TrainingError> {
        let config = self.task.config();
        let lr = config.schedule().lr(config.optim().lr, self.step, self.steps_per_epoch);
        let update = self.replica.update(self.task, batch, lr, member);
        let Some(update) = update.map_err(|error| self.device_error(self.step + 1, &error.to_string()))? else {
            return Ok(None);
        };
        let crops = update.crops;
        self.readback.ask(update);
        if let (Some(decay), Some(average)) = (config.train().ema_decay, self.ema.take()) {
            self.ema = Some(ema::moved(average, self.replica.model(), decay));
        }
        let mut seen = HashSet::new();
        let of_batch = batch.map_or(&[][..], |batch| &batch.crops);
        Ok(Some(Queued {
            step: self.step + 1,
            lr,
            crops,
            cases: of_batch.iter().filter(|crop| seen.insert(&crop.case)).map(|crop| crop.case.clone()).collect(),
            start,
            wait_secs,
            upload_secs: batch.map_or(0.0, |batch| batch.upload_secs),
            loader: batch.map(|batch| batch.loader).unwrap_or_default(),
        }))
    }

    /// Waits for the update that was queued, if there is one, and tells of it. The weights of a loss that is no number
    /// are spoilt, and are never saved.
    fn settle(&mut self, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        let Some(queued) = self.queued.take() else { return Ok(()) };
        let Queued { step, lr, crops, cases, start, wait_secs, upload_secs, loader } = queued;
        let team = self.team.clone();
        let lost = || team.as_ref().is_some_and(|team| team.failure().is_some());
        let answer = self.readback.next(lost).map_err(|message| self.device_error(step, &message))?;
        let Answer { loss, norm: grad_norm, at } = answer;
        if !loss.is_finite() || grad_norm.is_some_and(|norm| !norm.is_finite()) {
            if let Some(panic) = device::take_panic() {
                // Perhaps from tuning, long ago; perhaps the reason.
                tracing::warn!("a device thread has panicked: {panic}");
            }
            return Err(TrainingError::NonFinite { step, lr, loss, cases, last_good: self.last_good.clone() });
        }
        // Updates overlap on a device: each has the time since the one before it was done.
        let since = self.settled.replace(at).map_or(start, |before| before.max(start));
        let step_secs = at.saturating_duration_since(since).as_secs_f64();
        self.last_loss = Some(loss);
        self.losses.push(loss);
        self.elapsed_secs += step_secs;
        self.wait_secs += wait_secs;
        let record = StepRecord {
            step,
            epoch: step as f64 / self.steps_per_epoch as f64,
            loss,
            lr,
            grad_norm,
            crops,
            crops_per_sec: crops as f64 / step_secs.max(1e-9),
            step_ms: step_secs * 1e3,
            wait_ms: wait_secs * 1e3,
            upload_ms: upload_secs * 1e3,
            compute_ms: (step_secs - wait_secs).max(0.0) * 1e3,
            decode_ms: loader.decode_secs * 1e3,
            augment_ms: loader.augment_secs * 1e3,
        };
        self.write(&Entry::Step(record.clone()))?;
        watch(&Event::Step(&record));
        Ok(())
    }

    fn device_error(&self, step: u64, message: &str) -> TrainingError {
        let mut message = message.lines().next().unwrap_or_default().to_owned();
        if let Some(panic) = device::take_panic() {
            message = format!("{message} ({panic})");
        }
        let said = message.to_lowercase();
        if ["out of memory", "outofmemory", "out_of_memory"].iter().any(|words| said.contains(words)) {
            let config = self.task.config();
            let crops = config.stream().crops_per_batch() / (1 + self.options.others.len());
            let at_a_time = config.train().micro_batch.unwrap_or(crops);
            message = format!("{message}{}", less_memory(at_a_time, self.options.gradient_checkpointing));
        }
        TrainingError::Device { step, message, last_good: self.last_good.clone() }
    }

    /// Measures the averaged weights, or the weights where none are averaged.
    pub(super) fn validate(&mut self, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        let start = Instant::now();
        let model = self.ema.clone().unwrap_or_else(|| self.model().valid());
        let mut progress = |done, total| watch(&Event::Validating { done, total });
        let Some(scores) = self.task.validate(&model, self.compute, &self.options.stop, &mut progress)? else {
            return Ok(());
        };
        self.validation_due = false;
        // No number is no best: nothing was measured.
        let best = !scores.mean_dice.is_nan() && self.best.is_none_or(|best| scores.mean_dice > best.mean_dice);
        if best {
            self.best = Some(Best { step: self.step, mean_dice: scores.mean_dice });
        }
        let record = ValidationRecord {
            step: self.step,
            epoch: self.step as f64 / self.steps_per_epoch as f64,
            mean_dice: scores.mean_dice,
            mean_fg_dice: scores.mean_fg_dice,
            dice_per_class: scores.dice_per_class,
            num_cases: scores.num_cases,
            best,
            secs: start.elapsed().as_secs_f64(),
        };
        self.write(&Entry::Validation(record.clone()))?;
        watch(&Event::Validation(&record));
        watch(&Event::Note(&by_class(self.task.class_names(), &record.dice_per_class)));
        Ok(())
    }

    pub(super) fn save(&mut self, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        let state = State {
            best: self.best,
            validation_due: self.validation_due,
            ..State::new(T::KIND, self.step, self.last_loss, self.task.config(), &self.cache_digest)
        };
        let path = self.checkpoints.save(&state, self.model(), self.ema.as_ref(), self.replica.optimizer())?;
        watch(&Event::Checkpoint(&path));
        self.last_good = Some(path);
        Ok(())
    }

    /// Draws some crops of the batch. A run does not fail for want of a picture.
    fn draw(&mut self, batch: &DeviceBatch<Target<T>>, watch: &mut dyn FnMut(&Event<'_>)) {
        let path = self.options.run_dir.join("pictures").join(format!("step-{:06}.png", self.step));
        match self.task.picture(self.model(), batch, self.compute, &path) {
            Ok(()) => {
                watch(&Event::Picture(&path));
                self.picture = Some(path);
            }
            Err(message) => watch(&Event::Warning(format!("no picture {}: {message}", path.display()))),
        }
    }

    pub(super) fn write(&mut self, entry: &Entry) -> Result<(), TrainingError> {
        self.journal.write(entry).map_err(io_error(&self.options.run_dir.join(JOURNAL)))
    }

    pub(super) fn summary(self, outcome: Outcome) -> Summary {
        Summary {
            outcome,
            step: self.step,
            steps_done: self.losses.len() as u64,
            losses: self.losses,
            elapsed_secs: self.elapsed_secs,
            wait_share: self.wait_secs / self.elapsed_secs.max(1e-9),
            checkpoint: self.last_good,
            best: self.best,
            picture: self.picture,
        }
    }
}

/// The Dice of each class in a line.
fn by_class(names: &[String], dice: &[Option<f64>]) -> String {
    let cell = |value: &Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let cells: Vec<String> = names.iter().zip(dice).map(|(name, value)| format!("{name} {}", cell(value))).collect();
    format!("  Dice by class: {}", cells.join(", "))
}

/// The batches from `start` on, or a rank's share of them, on their way to a device.
fn feed_of<T: Task>(
    task: &T,
    stream: &Stream,
    compute: &Compute,
    options: &TrainOptions,
    start: u64,
    share: (usize, usize),
) -> Result<Feed<Target<T>>, TrainingError> {
    let config = task.config();
    let source = (stream.open)(start, share).map_err(|source| TrainingError::Open { step: start, source })?;
    let feed =
        FeedConfig { start_step: start, crop_size: config.stream().crop_size, micro_batch: config.train().micro_batch };
    Feed::start(source, task.targets(), compute.raw().clone(), feed).map_err(io_error(&options.run_dir))
}

/// What every rank but the first does: the same updates, until the first one leaves.
fn follow<T: Task>(
    task: &T,
    mut replica: Replica<T::Model>,
    mut feed: Feed<Target<T>>,
    steps: Range<u64>,
    steps_per_epoch: u64,
    member: &RankHandle,
) -> Result<(), TrainingError> {
    let config = task.config();
    for step in steps {
        let batch = feed.next_batch()?;
        let lr = config.schedule().lr(config.optim().lr, step, steps_per_epoch);
        match replica.update(task, batch.as_ref(), lr, Some(member)) {
            Ok(_) => {}
            // The run is over, or another rank failed and has told why.
            Err(RankError::Left) => return Ok(()),
            Err(RankError::Device(message)) => {
                return Err(TrainingError::Device { step: step + 1, message, last_good: None });
            }
        }
    }
    Ok(())
}

/// How gradients are added up between these devices.
fn all_reduce(first: &Compute, others: &[Compute]) -> Box<dyn ranks::AllReduce> {
    #[cfg(feature = "cuda")]
    if !first.is_cpu() {
        let devices = std::iter::once(first).chain(others).map(|compute| compute.raw().clone());
        return Box::new(ranks::NcclReduce::new(devices.collect()));
    }
    let _ = first;
    Box::new(HostReduce::new(1 + others.len()))
}

/// What would take less memory than `at_a_time` crops on the device do.
fn less_memory(at_a_time: usize, gradient_checkpointing: bool) -> String {
    let mut ways = Vec::new();
    if !gradient_checkpointing {
        ways.push("--gradient-checkpointing (with --resume, too)".to_owned());
    }
    if at_a_time > 1 {
        ways.push(format!("a new run with train.micro_batch = {}", at_a_time.div_ceil(2)));
    }
    if ways.is_empty() { "; try a smaller model".to_owned() } else { format!("; less takes {}", ways.join(", or ")) }
}

/// An error and its reasons.
fn in_a_line(error: &dyn std::error::Error) -> String {
    let reasons = std::iter::successors(Some(error), |error| error.source());
    reasons.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_on_memory_is_what_has_not_been_tried() {
        let check =
            |at_a_time, checkpointing, expected: &str| assert_eq!(less_memory(at_a_time, checkpointing), expected);
        check(
            192,
            false,
            "; less takes --gradient-checkpointing (with --resume, too), or a new run with train.micro_batch = 96",
        );
        check(3, true, "; less takes a new run with train.micro_batch = 2");
        check(1, true, "; try a smaller model");
    }
}
