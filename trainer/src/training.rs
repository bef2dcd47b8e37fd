//! The loop that every kind of run shares: batches in, checkpoints, a journal and pictures out.
//!
//! What is trained is a [`Task`]: [`crate::pretrain`] and [`crate::finetune`] are the two there are. The loop is a
//! library function, so that commands, examples and tests run the same one. It never prints: whoever calls it listens
//! to [`Event`]s.

mod ema;
mod error;
mod event;
mod options;
mod stream;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{ExecutionError, Tensor};

pub use error::TrainingError;
pub use event::{Event, Outcome, Summary};
pub use options::{Options, Stop};
pub use stream::{OpenSource, Stream};

use crate::checkpoint::{self, Best, Checkpoints, Kind, State};
use crate::config::RunConfig;
use crate::device::Compute;
use crate::feed::{DeviceBatch, Feed, FeedConfig, Part, Targets};
use crate::model::init::WeightInit;
use crate::optim::clip_global_norm;
use crate::report::journal::{Entry, Journal, StepRecord, ValidationRecord};
use error::io_error;

/// What a batch on the device holds for a task.
pub type Target<T> = <<T as Task>::Targets as Targets>::Target;

/// What is trained, and how.
pub trait Task {
    /// Of which kind its checkpoints are.
    const KIND: Kind;
    /// Everything that decides the result, but the data.
    type Config: RunConfig;
    /// What is trained.
    type Model: Module + 'static;
    /// What the model is to find.
    type Targets: Targets;

    /// The resolved configuration.
    fn config(&self) -> &Self::Config;

    /// A model with first weights.
    fn init(&self, weights: &mut WeightInit) -> Self::Model;

    /// The same model with the weights that a new run begins with. A run that goes on has its own.
    ///
    /// # Errors
    /// If they cannot be read, or are no such model's.
    fn begin(&self, model: Self::Model) -> Result<(Self::Model, Option<Beginning>), TrainingError> {
        Ok((model, None))
    }

    /// Makes what the model is to find.
    fn targets(&self) -> Self::Targets;

    /// The loss of some crops, averaged over them, `[1]`.
    fn loss(&self, model: &Self::Model, part: &Part<Target<Self>>) -> Tensor<1>;

    /// Draws what the model makes of some crops of a batch into a PNG file.
    ///
    /// # Errors
    /// Why there is none. A run does not fail for want of a picture.
    fn picture(
        &self,
        model: &Self::Model,
        batch: &DeviceBatch<Target<Self>>,
        compute: &Compute,
        path: &Path,
    ) -> Result<(), String>;

    /// Names of the classes that a validation measures, background first.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// Updates from validation to validation, if there are any.
    fn validation_every(&self, steps_per_epoch: u64) -> Option<u64> {
        let _ = steps_per_epoch;
        None
    }

    /// Measures a model on the validation cases; tells how many are done; nothing if it was asked to stop.
    ///
    /// # Errors
    /// If a case cannot be read or predicted.
    fn validate(
        &self,
        model: &Self::Model,
        compute: &Compute,
        stop: &Stop,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Scores>, TrainingError> {
        let _ = (model, compute, stop, progress);
        Ok(None)
    }
}

/// What a new run began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// In a line.
    pub summary: String,
    /// At length, for `init.txt`.
    pub report: String,
}

/// What a validation measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Mean over cases and classes, background included.
    pub mean_dice: f64,
    /// The same without background.
    pub mean_fg_dice: f64,
    /// Mean over cases by class, background first; nothing for a class that no case has.
    pub dice_per_class: Vec<Option<f64>>,
    /// Cases predicted.
    pub num_cases: usize,
}

/// Trains as `task` says, on batches of `stream`, and tells `watch` what happens.
///
/// # Errors
/// [`TrainingError`]. What was saved before stays as it is.
pub fn train<T: Task>(
    task: &T,
    stream: Stream,
    compute: &Compute,
    options: &Options,
    watch: &mut dyn FnMut(&Event<'_>),
) -> Result<Summary, TrainingError> {
    task.config().validate("configuration")?;
    if stream.steps_per_epoch == 0 {
        return Err(TrainingError::EmptyEpoch);
    }
    let mut run = Run::open(task, &stream, compute, options)?;
    let end_step = run.end_step();
    watch(&Event::Started {
        num_params: run.model().num_params(),
        device: compute.to_string(),
        step: run.step,
        end_step,
        run_dir: &options.run_dir,
    });
    if let Some(Beginning { summary, .. }) = &run.beginning {
        watch(&Event::Note(summary));
    }
    run.write(&Entry::Started { step: run.step, device: compute.to_string() })?;
    if run.validation_due {
        run.validate(watch)?;
        run.save(watch)?;
    }
    if run.step < end_step {
        let source = (stream.open)(run.step).map_err(|source| TrainingError::Open { step: run.step, source })?;
        let feed = Feed::start(source, task.targets(), compute.raw().clone(), run.feed_config())
            .map_err(io_error(&options.run_dir))?;
        run.train(feed, end_step, watch)?;
    }
    let interrupted = run.step < end_step;
    run.write(&Entry::Stopped { step: run.step, interrupted })?;
    let summary = run.summary(if interrupted { Outcome::Interrupted } else { Outcome::Finished });
    watch(&Event::Stopped(&summary));
    Ok(summary)
}

/// A run on its way.
struct Run<'a, T: Task> {
    task: &'a T,
    options: &'a Options,
    compute: &'a Compute,
    cache_digest: String,
    steps_per_epoch: u64,
    checkpoints: Checkpoints,
    journal: Journal,
    /// Absent only within an update: the optimizer takes it, so that no second copy of the weights is alive.
    model: Option<T::Model>,
    /// The average of the weights, where one is kept.
    ema: Option<T::Model>,
    optimizer: ModuleOptimizer,
    step: u64,
    best: Option<Best>,
    validation_due: bool,
    /// Of the last update, this process's or one before.
    last_loss: Option<f64>,
    losses: Vec<f64>,
    elapsed_secs: f64,
    wait_secs: f64,
    last_good: Option<PathBuf>,
    picture: Option<PathBuf>,
    beginning: Option<Beginning>,
}

impl<'a, T: Task> Run<'a, T> {
    /// Makes the run's folder or finds where it stopped.
    fn open(task: &'a T, stream: &Stream, compute: &'a Compute, options: &'a Options) -> Result<Self, TrainingError> {
        let config = task.config();
        let run_dir = &options.run_dir;
        let config_path = run_dir.join(CONFIG);
        // Looked at before anything is made, so that a mistyped --run-dir leaves no folder.
        let begun = config_path.exists();
        if options.resume && !begun {
            return Err(TrainingError::NothingToResume { run_dir: run_dir.clone() });
        }
        let pictures = run_dir.join("pictures");
        fs::create_dir_all(&pictures).map_err(io_error(&pictures))?;
        let checkpoints = Checkpoints::open(run_dir, options.keep)?;
        let last_good = checkpoints.latest()?;
        if !options.resume && last_good.is_some() {
            return Err(TrainingError::RunExists { run_dir: run_dir.clone() });
        }

        let device = if options.gradient_checkpointing {
            compute.autodiff().gradient_checkpointing()
        } else {
            compute.autodiff()
        };
        let mut model = task.init(&mut WeightInit::new(config.train().seed, &device));
        let mut ema = None;
        let mut state = None;
        let mut beginning = None;
        if let Some(checkpoint) = &last_good {
            let saved = checkpoint::read_state::<T::Config>(checkpoint, T::KIND)?;
            refuse_changes(config, &saved.config)?;
            if saved.cache_digest != stream.digest {
                return Err(TrainingError::Changed {
                    key: "the cache".into(),
                    now: stream.digest.clone(),
                    before: saved.cache_digest,
                });
            }
            model = checkpoint::load_model(checkpoint, model)?;
            ema = checkpoint::load_ema(checkpoint, model.valid())?;
            state = Some((checkpoint, saved));
        } else {
            if begun && options.resume {
                // Killed before its first checkpoint: the same run from its start.
                refuse_changes(config, &read_config::<T::Config>(&config_path)?)?;
            }
            (model, beginning) = task.begin(model)?;
            if config.train().ema_decay.is_some() {
                ema = Some(model.valid());
            }
        }
        // After loading: the groups name parameters by the ids that the checkpoint gave them.
        let mut optimizer = config.optim().init(&model);
        if let Some((checkpoint, _)) = &state {
            optimizer = checkpoint::load_optimizer(checkpoint, optimizer)?;
        }
        write_config(&config_path, config)?;
        let journal_path = run_dir.join(JOURNAL);
        let journal = Journal::open(&journal_path, options.resume).map_err(io_error(&journal_path))?;
        if let Some(Beginning { report, .. }) = &beginning {
            let path = run_dir.join("init.txt");
            fs::write(&path, report).map_err(io_error(&path))?;
        }
        let state = state.map(|(_, state)| state);
        Ok(Self {
            task,
            options,
            compute,
            cache_digest: stream.digest.clone(),
            steps_per_epoch: stream.steps_per_epoch,
            checkpoints,
            journal,
            model: Some(model),
            ema,
            optimizer,
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

    fn model(&self) -> &T::Model {
        self.model.as_ref().expect("absent only within an update")
    }

    fn end_step(&self) -> u64 {
        let total = self.task.config().schedule().total_steps(self.steps_per_epoch);
        self.options.max_steps.map_or(total, |max| total.min(max))
    }

    fn feed_config(&self) -> FeedConfig {
        let config = self.task.config();
        FeedConfig {
            start_step: self.step,
            crop_size: config.stream().crop_size,
            micro_batch: config.train().micro_batch,
        }
    }

    fn train(
        &mut self,
        mut feed: Feed<Target<T>>,
        end_step: u64,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), TrainingError> {
        let validate_every = self.task.validation_every(self.steps_per_epoch);
        while self.step < end_step {
            let start = Instant::now();
            let batch = feed.next_batch()?;
            let wait_secs = start.elapsed().as_secs_f64();
            if let Some(batch) = &batch {
                let record = self.update(batch, start, wait_secs)?;
                self.write(&Entry::Step(record.clone()))?;
                watch(&Event::Step(&record));
            } else {
                // Its cases were named when they were left out. The step counts: a step and its batch belong together.
                self.step += 1;
                let step = self.step;
                watch(&Event::Warning(format!("step {step}: no update, all cases of its batch are corrupt")));
            }
            let due = |every: u64| every > 0 && self.step.is_multiple_of(every);
            let at_end = self.step == end_step;
            let checkpoint_due = due(self.options.checkpoint_every);
            self.validation_due = validate_every.is_some_and(|every| due(every) || at_end);
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

    /// One update of the weights.
    fn update(
        &mut self,
        batch: &DeviceBatch<Target<T>>,
        start: Instant,
        wait_secs: f64,
    ) -> Result<StepRecord, TrainingError> {
        let config = self.task.config();
        let lr = config.schedule().lr(config.optim().lr, self.step, self.steps_per_epoch);
        let model = self.model.take().expect("put back by the last update");
        let (loss, mut grads) = gradients(self.task, &model, batch);
        let norm = config.optim().clip_norm.and_then(|max| clip_global_norm(&model, &mut grads, max));
        let model = self.optimizer.step(lr, model, grads);
        if let (Some(decay), Some(average)) = (config.train().ema_decay, self.ema.take()) {
            self.ema = Some(ema::moved(average, &model, decay));
        }
        self.model = Some(model);
        // Read after the update was queued: the device has work while the host asks. The weights of a loss that is
        // no number are spoilt then, and are never saved.
        let loss = self.read(loss)?;
        let grad_norm = norm.map(|norm| self.read(norm)).transpose()?;
        self.step += 1;
        if !loss.is_finite() || grad_norm.is_some_and(|norm| !norm.is_finite()) {
            return Err(self.non_finite(batch, lr, loss));
        }
        let step_secs = start.elapsed().as_secs_f64();
        self.last_loss = Some(loss);
        self.losses.push(loss);
        self.elapsed_secs += step_secs;
        self.wait_secs += wait_secs;
        Ok(StepRecord {
            step: self.step,
            epoch: self.step as f64 / self.steps_per_epoch as f64,
            loss,
            lr,
            grad_norm,
            crops: batch.crops.len(),
            crops_per_sec: batch.crops.len() as f64 / step_secs.max(1e-9),
            step_ms: step_secs * 1e3,
            wait_ms: wait_secs * 1e3,
            upload_ms: batch.upload_secs * 1e3,
            compute_ms: (step_secs - wait_secs) * 1e3,
            decode_ms: batch.loader.decode_secs * 1e3,
            augment_ms: batch.loader.augment_secs * 1e3,
        })
    }

    fn read(&self, scalar: Tensor<1>) -> Result<f64, TrainingError> {
        let values = scalar.try_into_data().map_err(|e: ExecutionError| self.device_error(&format!("{e:?}")))?;
        let values = values.try_to_vec::<f32>().map_err(|e| self.device_error(&format!("{e:?}")))?;
        Ok(values.first().map_or(f64::NAN, |&value| f64::from(value)))
    }

    fn device_error(&self, message: &str) -> TrainingError {
        let message = message.lines().next().unwrap_or_default().to_owned();
        TrainingError::Device { step: self.step + 1, message, last_good: self.last_good.clone() }
    }

    fn non_finite(&self, batch: &DeviceBatch<Target<T>>, lr: f64, loss: f64) -> TrainingError {
        let mut seen = HashSet::new();
        let cases = batch.crops.iter().filter(|crop| seen.insert(&crop.case)).map(|crop| crop.case.clone()).collect();
        TrainingError::NonFinite { step: self.step, lr, loss, cases, last_good: self.last_good.clone() }
    }

    /// Measures the averaged weights, or the weights where none are averaged.
    fn validate(&mut self, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
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

    fn save(&mut self, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        let state = State {
            best: self.best,
            validation_due: self.validation_due,
            ..State::new(T::KIND, self.step, self.last_loss, self.task.config(), &self.cache_digest)
        };
        let path = self.checkpoints.save(&state, self.model(), self.ema.as_ref(), &self.optimizer)?;
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

    fn write(&mut self, entry: &Entry) -> Result<(), TrainingError> {
        self.journal.write(entry).map_err(io_error(&self.options.run_dir.join(JOURNAL)))
    }

    fn summary(self, outcome: Outcome) -> Summary {
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

/// Loss `[1]` and gradients of a batch: those of its parts, each weighted by its crops.
fn gradients<T: Task>(task: &T, model: &T::Model, batch: &DeviceBatch<Target<T>>) -> (Tensor<1>, GradientsParams) {
    let num_crops = batch.parts.iter().map(Part::num_crops).sum::<usize>() as f64;
    let mut accumulator = GradientsAccumulator::new();
    let mut total: Option<Tensor<1>> = None;
    for part in &batch.parts {
        let mut loss = task.loss(model, part);
        // A batch in one part is left as it is, to the bit.
        if batch.parts.len() > 1 {
            loss = loss * (part.num_crops() as f64 / num_crops);
        }
        let grads = GradientsParams::from_grads(loss.backward(), model);
        accumulator.accumulate(model, grads);
        let loss = loss.inner();
        total = Some(match total {
            Some(total) => total + loss,
            None => loss,
        });
    }
    (total.expect("a batch is never empty"), accumulator.grads())
}

const CONFIG: &str = "config.toml";
const JOURNAL: &str = "journal.jsonl";

/// The configuration saved with a run.
///
/// # Errors
/// If it cannot be read or used.
pub fn saved_config<C: RunConfig>(run_dir: &Path) -> Result<C, TrainingError> {
    let path = run_dir.join(CONFIG);
    if !path.exists() {
        return Err(TrainingError::NothingToResume { run_dir: run_dir.to_owned() });
    }
    read_config(&path)
}

fn read_config<C: RunConfig>(path: &Path) -> Result<C, TrainingError> {
    let text = fs::read_to_string(path).map_err(io_error(path))?;
    Ok(C::parse(&text, &path.display().to_string())?)
}

fn write_config(path: &Path, config: &impl RunConfig) -> Result<(), TrainingError> {
    let partial = path.with_extension("toml.partial");
    fs::write(&partial, config.to_toml()).map_err(io_error(&partial))?;
    fs::rename(&partial, path).map_err(io_error(path))
}

fn refuse_changes<C: RunConfig>(now: &C, before: &C) -> Result<(), TrainingError> {
    match now.differences(before).into_iter().next() {
        Some((key, now, before)) => Err(TrainingError::Changed { key, now, before }),
        None => Ok(()),
    }
}
