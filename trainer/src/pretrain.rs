//! The pre-training loop: batches in, checkpoints, a journal and pictures out.
//!
//! A library function, so that the command, the examples and the tests run the same loop. It never prints: whoever
//! calls it listens to [`Event`]s.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{ExecutionError, Int, Tensor, TensorData};
use hiend_cache::Cache;
use hiend_loader::pipeline::{self, Loader};

use crate::checkpoint::{self, CheckpointError, Checkpoints, State};
use crate::config::{ConfigError, PretrainConfig};
use crate::device::Compute;
use crate::feed::{DeviceBatch, Feed, FeedConfig, FeedError, Source, SourceError, source_of};
use crate::model::hi_end_mae::HiEndMae;
use crate::model::init::WeightInit;
use crate::model::patch_embed::{grid_of, unpatchify};
use crate::optim::clip_global_norm;
use crate::report::journal::{Entry, Journal, StepRecord, ValidationRecord};
use crate::report::picture::{Panel, render};

/// Crops of a picture.
const PICTURE_CROPS: usize = 2;

/// Opens the batches from a step on.
pub type OpenSource = Box<dyn FnOnce(u64) -> Result<Source, SourceError>>;

/// Where batches come from: a pure function of the step.
pub struct Stream {
    /// Batches of an epoch.
    pub steps_per_epoch: u64,
    /// Digest of the data; a run goes on with the data it began with.
    pub digest: String,
    /// Opens the batches from a step on.
    pub open: OpenSource,
}

impl Stream {
    /// The stream of a cache.
    ///
    /// # Errors
    /// If cache, configuration and memory do not go together.
    pub fn open(
        cache: Arc<Cache>,
        config: &PretrainConfig,
        options: &pipeline::Options,
    ) -> Result<Self, pipeline::Error> {
        let loader = Loader::open(cache, config.stream.clone(), config.train.seed, options)?;
        let digest = loader.digest();
        let steps_per_epoch = loader.steps_per_epoch();
        let open = Box::new(move |step| Ok(source_of(loader.stream(step))));
        Ok(Self { steps_per_epoch, digest, open })
    }
}

/// A request to stop after the step at hand; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks to stop; says whether that had been asked before.
    #[expect(clippy::must_use_candidate, reason = "most who ask need no answer")]
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Whether it was asked to stop.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a run is carried out. None of this changes its losses.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything the run leaves behind goes there.
    pub run_dir: PathBuf,
    /// Go on from the last checkpoint in `run_dir`.
    pub resume: bool,
    /// Stop after so many updates in all, counting those before a resume. The learning rate's course stays the same.
    pub max_steps: Option<u64>,
    /// Updates from checkpoint to checkpoint; 0 for none but the last.
    pub checkpoint_every: u64,
    /// Checkpoints that stay.
    pub keep: usize,
    /// To stop early.
    pub stop: Stop,
}

impl Options {
    /// A run in `run_dir` with a checkpoint at its end.
    #[must_use]
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        Self {
            run_dir: run_dir.into(),
            resume: false,
            max_steps: None,
            checkpoint_every: 0,
            keep: 3,
            stop: Stop::default(),
        }
    }
}

/// What happens in a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// The first batch is on its way.
    Started {
        /// Parameters of the model.
        num_params: usize,
        /// Where it runs.
        device: String,
        /// Updates done before.
        step: u64,
        /// Updates done when it ends.
        end_step: u64,
        /// What it leaves behind goes there.
        run_dir: &'a Path,
    },
    /// An update was done.
    Step(&'a StepRecord),
    /// A validation was done.
    Validation(&'a ValidationRecord),
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// A picture was written.
    Picture(&'a Path),
    /// Something failed that the run does not need.
    Warning(String),
    /// The run is over.
    Stopped(&'a Summary),
}

/// Why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop.
    Interrupted,
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Why.
    pub outcome: Outcome,
    /// Updates done in all.
    pub step: u64,
    /// Updates done by this process.
    pub steps_done: u64,
    /// Losses of this process's updates, in order.
    pub losses: Vec<f64>,
    /// Seconds from the first batch's request to the last update.
    pub elapsed_secs: f64,
    /// Part of that in which the device waited for data.
    pub wait_share: f64,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// The last picture.
    pub picture: Option<PathBuf>,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum PretrainError {
    /// A configuration that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Reading or writing a checkpoint.
    #[error("checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// Another file of the run.
    #[error("{}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No batch.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The stream cannot be opened.
    #[error("the stream does not open at step {step}")]
    Open {
        /// The first step asked for.
        step: u64,
        /// What the loader says.
        #[source]
        source: SourceError,
    },
    /// The data holds less than a batch.
    #[error("the stream has no step in an epoch: fewer cases than stream.visits_per_batch")]
    EmptyEpoch,
    /// There is a run already.
    #[error("{} holds a run already; --resume goes on with it, another --run-dir begins anew", run_dir.display())]
    RunExists {
        /// The folder.
        run_dir: PathBuf,
    },
    /// There is no run to go on with.
    #[error("{} holds no run to go on with", run_dir.display())]
    NothingToResume {
        /// The folder.
        run_dir: PathBuf,
    },
    /// The run began otherwise.
    #[error("cannot resume: {key} is {now} now, and was {before} when the run began")]
    Changed {
        /// The first setting that differs.
        key: String,
        /// Its value now.
        now: String,
        /// Its value in the run.
        before: String,
    },
    /// The loss is no number any more.
    #[error(
        "loss is {loss} at step {step} (lr {lr:.3e}), cases in the batch: {}; {}",
        cases.join(", "),
        last_good.as_ref().map_or_else(|| "no checkpoint yet".to_owned(), |p| format!("last good checkpoint: {}", p.display()))
    )]
    NonFinite {
        /// The update.
        step: u64,
        /// Its learning rate.
        lr: f64,
        /// What came out.
        loss: f64,
        /// The cases of the batch.
        cases: Vec<String>,
        /// The newest checkpoint from before.
        last_good: Option<PathBuf>,
    },
    /// The device failed.
    #[error("the device failed at step {step}: {message}; {}",
        last_good.as_ref().map_or_else(|| "no checkpoint yet".to_owned(), |p| format!("last good checkpoint: {}", p.display()))
    )]
    Device {
        /// The update.
        step: u64,
        /// What it says.
        message: String,
        /// The newest checkpoint from before.
        last_good: Option<PathBuf>,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PretrainError {
    let path = path.to_owned();
    move |source| PretrainError::Io { path, source }
}

/// Pre-trains as `config` says, on batches of `stream`, and tells `watch` what happens.
///
/// # Errors
/// [`PretrainError`]. What was saved before stays as it is.
pub fn pretrain(
    config: &PretrainConfig,
    stream: Stream,
    compute: &Compute,
    options: &Options,
    watch: &mut dyn FnMut(&Event<'_>),
) -> Result<Summary, PretrainError> {
    config.validate("configuration")?;
    if stream.steps_per_epoch == 0 {
        return Err(PretrainError::EmptyEpoch);
    }
    let mut run = Run::open(config, &stream, compute, options)?;
    let end_step = run.end_step(stream.steps_per_epoch);
    watch(&Event::Started {
        num_params: run.model().num_params(),
        device: compute.to_string(),
        step: run.step,
        end_step,
        run_dir: &options.run_dir,
    });
    run.write(&Entry::Started { step: run.step, device: compute.to_string() })?;
    if run.step < end_step {
        let source = (stream.open)(run.step).map_err(|source| PretrainError::Open { step: run.step, source })?;
        let feed = Feed::start(source, compute.raw().clone(), run.feed_config()).map_err(io_error(&options.run_dir))?;
        run.train(feed, end_step, watch)?;
    }
    let interrupted = run.step < end_step;
    run.write(&Entry::Stopped { step: run.step, interrupted })?;
    let summary = run.summary(if interrupted { Outcome::Interrupted } else { Outcome::Finished });
    watch(&Event::Stopped(&summary));
    Ok(summary)
}

/// A run on its way.
struct Run<'a> {
    config: &'a PretrainConfig,
    options: &'a Options,
    compute: &'a Compute,
    cache_digest: String,
    steps_per_epoch: u64,
    checkpoints: Checkpoints,
    journal: Journal,
    /// Absent only within an update: the optimizer takes it, so that no second copy of the weights is alive.
    model: Option<HiEndMae>,
    optimizer: ModuleOptimizer,
    step: u64,
    losses: Vec<f64>,
    elapsed_secs: f64,
    wait_secs: f64,
    last_good: Option<PathBuf>,
    picture: Option<PathBuf>,
}

impl<'a> Run<'a> {
    /// Makes the run's folder or finds where it stopped.
    fn open(
        config: &'a PretrainConfig,
        stream: &Stream,
        compute: &'a Compute,
        options: &'a Options,
    ) -> Result<Self, PretrainError> {
        let run_dir = &options.run_dir;
        let config_path = run_dir.join("config.toml");
        // Looked at before anything is made, so that a mistyped --run-dir leaves no folder.
        let begun = config_path.exists();
        if options.resume && !begun {
            return Err(PretrainError::NothingToResume { run_dir: run_dir.clone() });
        }
        let pictures = run_dir.join("pictures");
        fs::create_dir_all(&pictures).map_err(io_error(&pictures))?;
        let checkpoints = Checkpoints::open(run_dir, options.keep)?;
        let last_good = checkpoints.latest()?;
        if !options.resume && last_good.is_some() {
            return Err(PretrainError::RunExists { run_dir: run_dir.clone() });
        }

        let mut weights = WeightInit::new(config.train.seed, &compute.autodiff());
        let mut model = config.model.init(config.stream.crop_size, &mut weights);
        let mut step = 0;
        let mut state = None;
        if let Some(checkpoint) = &last_good {
            let saved = checkpoint::read_state(checkpoint)?;
            refuse_changes(config, &saved.config)?;
            if saved.cache_digest != stream.digest {
                return Err(PretrainError::Changed {
                    key: "the cache".into(),
                    now: stream.digest.clone(),
                    before: saved.cache_digest,
                });
            }
            model = checkpoint::load_model(checkpoint, model)?;
            step = saved.step;
            state = Some(checkpoint);
        } else if begun && options.resume {
            // Killed before its first checkpoint: the same run from its start.
            refuse_changes(config, &read_config(&config_path)?)?;
        }
        // After loading: the groups name parameters by the ids that the checkpoint gave them.
        let mut optimizer = config.optim.init(&model);
        if let Some(checkpoint) = state {
            optimizer = checkpoint::load_optimizer(checkpoint, optimizer)?;
        }
        write_config(&config_path, config)?;
        let journal_path = run_dir.join("journal.jsonl");
        let journal = Journal::open(&journal_path, options.resume).map_err(io_error(&journal_path))?;
        Ok(Self {
            config,
            options,
            compute,
            cache_digest: stream.digest.clone(),
            steps_per_epoch: stream.steps_per_epoch,
            checkpoints,
            journal,
            model: Some(model),
            optimizer,
            step,
            losses: vec![],
            elapsed_secs: 0.0,
            wait_secs: 0.0,
            last_good,
            picture: None,
        })
    }

    fn model(&self) -> &HiEndMae {
        self.model.as_ref().expect("absent only within an update")
    }

    fn end_step(&self, steps_per_epoch: u64) -> u64 {
        let total = self.config.schedule.total_steps(steps_per_epoch);
        self.options.max_steps.map_or(total, |max| total.min(max))
    }

    fn feed_config(&self) -> FeedConfig {
        let crop_size = self.config.stream.crop_size;
        FeedConfig {
            seed: self.config.train.seed,
            start_step: self.step,
            crop_size,
            num_patches: grid_of(crop_size, self.config.model.patch_size).iter().product(),
            mask_ratio: self.config.model.mask_ratio,
        }
    }

    fn train(&mut self, mut feed: Feed, end_step: u64, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), PretrainError> {
        while self.step < end_step && !self.options.stop.is_requested() {
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
            let every = self.options.checkpoint_every;
            let last = self.step == end_step || self.options.stop.is_requested();
            if (last || (every > 0 && self.step.is_multiple_of(every)))
                && let Some(&loss) = self.losses.last()
            {
                self.save(loss, watch)?;
                if let Some(batch) = &batch {
                    self.draw(batch, watch);
                }
            }
            // Asked to stop while saving: the loop ends here, with everything saved.
            if last {
                break;
            }
        }
        Ok(())
    }

    /// One update of the weights.
    fn update(&mut self, batch: &DeviceBatch, start: Instant, wait_secs: f64) -> Result<StepRecord, PretrainError> {
        let lr = self.config.schedule.lr(self.config.optim.lr, self.step, self.steps_per_epoch);
        let model = self.model.take().expect("put back by the last update");
        let loss = model.forward(batch.images.clone(), &batch.indices);
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        let norm = self.config.optim.clip_norm.and_then(|max| clip_global_norm(&model, &mut grads, max));
        self.model = Some(self.optimizer.step(lr, model, grads));
        // Read after the update was queued: the device has work while the host asks. The weights of a loss that is
        // no number are spoilt then, and are never saved.
        let loss = self.read(loss)?;
        let grad_norm = norm.map(|norm| self.read(norm)).transpose()?;
        self.step += 1;
        if !loss.is_finite() || grad_norm.is_some_and(|norm| !norm.is_finite()) {
            return Err(self.non_finite(batch, lr, loss));
        }
        let step_secs = start.elapsed().as_secs_f64();
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

    fn read(&self, scalar: Tensor<1>) -> Result<f64, PretrainError> {
        let values = scalar.try_into_data().map_err(|e: ExecutionError| self.device_error(&format!("{e:?}")))?;
        let values = values.try_to_vec::<f32>().map_err(|e| self.device_error(&format!("{e:?}")))?;
        Ok(values.first().map_or(f64::NAN, |&value| f64::from(value)))
    }

    fn device_error(&self, message: &str) -> PretrainError {
        let message = message.lines().next().unwrap_or_default().to_owned();
        PretrainError::Device { step: self.step + 1, message, last_good: self.last_good.clone() }
    }

    fn non_finite(&self, batch: &DeviceBatch, lr: f64, loss: f64) -> PretrainError {
        let mut seen = HashSet::new();
        let cases = batch.crops.iter().filter(|crop| seen.insert(&crop.case)).map(|crop| crop.case.clone()).collect();
        PretrainError::NonFinite { step: self.step, lr, loss, cases, last_good: self.last_good.clone() }
    }

    fn save(&mut self, loss: f64, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), PretrainError> {
        let state = State::new(self.step, loss, self.config, &self.cache_digest);
        let path = self.checkpoints.save(&state, self.model(), &self.optimizer)?;
        watch(&Event::Checkpoint(&path));
        self.last_good = Some(path);
        Ok(())
    }

    /// Draws some crops of the batch. A run does not fail for want of a picture.
    fn draw(&mut self, batch: &DeviceBatch, watch: &mut dyn FnMut(&Event<'_>)) {
        let path = self.options.run_dir.join("pictures").join(format!("step-{:06}.png", self.step));
        let drawn = panels(self.model(), batch, self.config, self.compute)
            .and_then(|panels| render(&panels).write_png(&path).map_err(|e| e.to_string()));
        match drawn {
            Ok(()) => {
                watch(&Event::Picture(&path));
                self.picture = Some(path);
            }
            Err(message) => watch(&Event::Warning(format!("no picture {}: {message}", path.display()))),
        }
    }

    fn write(&mut self, entry: &Entry) -> Result<(), PretrainError> {
        self.journal.write(entry).map_err(io_error(&self.options.run_dir.join("journal.jsonl")))
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
            picture: self.picture,
        }
    }
}

/// The configuration saved with a run.
///
/// # Errors
/// If it cannot be read or used.
pub fn saved_config(run_dir: &Path) -> Result<PretrainConfig, PretrainError> {
    let path = run_dir.join("config.toml");
    if !path.exists() {
        return Err(PretrainError::NothingToResume { run_dir: run_dir.to_owned() });
    }
    read_config(&path)
}

fn read_config(path: &Path) -> Result<PretrainConfig, PretrainError> {
    let text = fs::read_to_string(path).map_err(io_error(path))?;
    Ok(PretrainConfig::parse(&text, &path.display().to_string())?)
}

fn write_config(path: &Path, config: &PretrainConfig) -> Result<(), PretrainError> {
    let partial = path.with_extension("toml.partial");
    fs::write(&partial, config.to_toml()).map_err(io_error(&partial))?;
    fs::rename(&partial, path).map_err(io_error(path))
}

fn refuse_changes(now: &PretrainConfig, before: &PretrainConfig) -> Result<(), PretrainError> {
    match now.differences(before).into_iter().next() {
        Some((key, now, before)) => Err(PretrainError::Changed { key, now, before }),
        None => Ok(()),
    }
}

/// The crops of a batch with most to see, of different cases where there are such, as panels of a picture.
fn panels(
    model: &HiEndMae,
    batch: &DeviceBatch,
    config: &PretrainConfig,
    compute: &Compute,
) -> Result<Vec<Panel>, String> {
    let host = |tensor: Tensor<5>| -> Result<Vec<f32>, String> {
        let data = tensor.try_into_data().map_err(|e| format!("{e:?}"))?;
        data.try_to_vec().map_err(|e| format!("{e:?}"))
    };
    let [n, _, x, y, z] = batch.images.dims();
    let spread = batch.images.clone().reshape([n, 1, 1, 1, x * y * z]).var(4);
    let chosen = most_to_see(&host(spread)?, &batch.crops.iter().map(|c| c.case.as_str()).collect::<Vec<_>>());

    let rows = TensorData::new(chosen.iter().map(|&i| i as i64).collect::<Vec<_>>(), [chosen.len()]);
    let images = batch.images.clone().select(0, Tensor::<1, Int>::from_data(rows, compute.raw()));
    let mask = batch.mask.select(&chosen);
    let reconstruction = model.valid().reconstruct(images.clone(), &mask.upload(compute.raw()));
    let patch_size = config.model.patch_size;
    let grid = grid_of([x, y, z], patch_size);
    let (original, pred) = (host(images)?, host(unpatchify(reconstruction.pred, grid, patch_size))?);

    let voxels = x * y * z;
    Ok(chosen
        .iter()
        .enumerate()
        .map(|(sample, &index)| {
            let mut visible = vec![false; mask.num_patches()];
            mask.ids_keep(sample).iter().for_each(|&id| visible[id] = true);
            let patch_of = |voxel: usize| {
                let [i, j, k] = [voxel / (y * z), voxel / z % y, voxel % z].map(|v| v / patch_size);
                (i * grid[1] + j) * grid[2] + k
            };
            Panel {
                title: batch.crops[index].case.clone(),
                size: [x, y, z],
                original: original[sample * voxels..][..voxels].to_vec(),
                pred: pred[sample * voxels..][..voxels].to_vec(),
                hidden: (0..voxels).map(|voxel| !visible[patch_of(voxel)]).collect(),
            }
        })
        .collect())
}

/// Indices of the crops with the largest variance, each case once before any comes twice.
fn most_to_see(variance: &[f32], cases: &[&str]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..variance.len()).collect();
    order.sort_by(|&a, &b| variance[b].total_cmp(&variance[a]));
    let mut seen = HashSet::new();
    let (mut first, again): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&i| seen.insert(cases[i]));
    first.extend(again);
    first.truncate(PICTURE_CROPS);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_show_different_cases_first() {
        assert_eq!(most_to_see(&[0.1, 0.9, 0.8, 0.2], &["a", "b", "b", "c"]), [1, 3]);
        assert_eq!(most_to_see(&[0.1, 0.9], &["a", "a"]), [1, 0]);
        assert_eq!(most_to_see(&[0.1], &["a"]), [0]);
    }
}
