//! A run in progress: its folder, its replica of the weights, and what it saves.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::module::Module;
use hiend_cache::lookup;

use super::error::{LastGood, Suspect, io_error};
use super::failure_context::FailureContext;
use super::queued::Queued;
use super::ranks::{Ranks, Start, device_names};
use super::readback::Readback;
use super::replica::Replica;
use super::run_cases::{CASES, CaseChanges, OtherCases, RunCases};
use super::run_dir::{CHECKPOINTS, JOURNAL, PICTURES, RunDir, refuse_changes, saved_config};
use super::run_feed::feed_of;
use super::validation::Scores;
use super::weights_digest::weights_digest;
use super::{Beginning, Event, Outcome, Resume, Stream, Summary, Target, Task, TrainOptions, TrainingError, recorded};
use crate::checkpoint::{self, Best, CheckpointError, Checkpoints, State};
use crate::config::RunConfig as _;
use crate::device::Compute;
use crate::distributed::{PeerFailure, mark_begun};
use crate::feed::DeviceBatch;
use crate::journal::{self, Entry, Journal, ValidationRecord, begins_again_text, missing_steps, missing_text};
use crate::vendor::algorithms::Algorithms;
use crate::vendor::cudnn::record::Engines;

/// A run in progress.
pub(super) struct Run<'a, T: Task> {
    pub(super) task: &'a T,
    pub(super) options: &'a TrainOptions,
    /// Folder of the run, locked until the run is over.
    _run_dir: RunDir,
    pub(super) compute: &'a Compute,
    cache_digest: String,
    pub(super) steps_per_epoch: u64,
    checkpoints: Checkpoints,
    journal: Journal,
    pub(super) replica: Replica<T::Model>,
    /// Moving average of the weights, if requested.
    pub(super) ema: Option<T::Model>,
    pub(super) readback: Readback,
    /// All ranks, if there are several.
    pub(super) ranks: Option<Arc<Ranks>>,
    /// Devices of all ranks.
    devices: Vec<String>,
    /// Last step whose results have not arrived yet; they have been requested.
    pub(super) queued: Option<Queued>,
    /// Time at which the last results arrived.
    pub(super) settled: Option<Instant>,
    /// Number of optimizer steps done.
    pub(super) step: u64,
    /// Step of the newest checkpoint, 0 without one.
    saved_step: u64,
    pub(super) best: Option<Best>,
    pub(super) validation_due: bool,
    /// Loss of the last step, in this process or before a resume.
    pub(super) last_loss: Option<f64>,
    pub(super) losses: Vec<f64>,
    pub(super) elapsed_secs: f64,
    pub(super) wait_secs: f64,
    pub(super) last_good: Option<PathBuf>,
    /// Checkpoint from which the run was resumed.
    start_checkpoint: Option<PathBuf>,
    picture: Option<PathBuf>,
    pub(super) beginning: Option<Beginning>,
    /// Checkpoints that were set aside because the run repeats their steps.
    pub(super) set_aside: Vec<(u64, PathBuf)>,
    /// Journal of a run that had no checkpoint, which was set aside because this run begins.
    pub(super) earlier_journal: Option<PathBuf>,
    /// Warnings about the state from which the run was resumed.
    pub(super) warnings: Vec<String>,
}

impl<'a, T: Task> Run<'a, T> {
    /// Finds the state to resume from, or begins a run. The folder is created last, so that a run that cannot begin
    /// leaves none.
    pub(super) fn open(
        task: &'a T,
        stream: &Stream,
        compute: &'a Compute,
        options: &'a TrainOptions,
        (ranks, devices): (Option<Arc<Ranks>>, Vec<String>),
    ) -> Result<Self, TrainingError> {
        let config = task.config();
        let resumed = options.resume != Resume::Begin;
        let found = RunDir::find(&options.run_dir, options.resume)?;
        let state = resumed_state(task, &found, stream, options)?;
        let other_rounding = if state.is_some() { recorded::restore(task, options, compute)? } else { vec![] };
        let replica = Replica::on(task, compute, options.gradient_checkpointing, found.checkpoint());
        let (replica, beginning) = replica.map_err(|error| found.explain(error))?;
        let ema = match found.checkpoint() {
            Some(checkpoint) => checkpoint::load_ema(checkpoint, replica.model().valid())
                .map_err(|error| found.explain(error.into()))?,
            None => config.train().ema_decay.map(|_| replica.model().valid()),
        };
        let last_good = found.checkpoint().map(Path::to_owned);
        let replaced = match &stream.cases {
            Some(cases) if resumed && state.is_none() => replaced_cases(&options.run_dir, cases)?,
            _ => None,
        };
        let changes = match &stream.cases {
            Some(now) => RunCases::read(&options.run_dir)?.map(|began| began.changes(now)),
            None => None,
        };
        let changes = changes.filter(|changes| !changes.is_whole());
        let report = beginning.as_ref().map(|beginning| beginning.report.as_str());
        let run_dir = found.begin(config, report, stream.cases.as_ref())?;
        let checkpoints = Checkpoints::open(run_dir.path(), options.keep)?;
        let set_aside = match options.resume {
            Resume::Step(step) => checkpoints.set_aside_after(step)?,
            Resume::Begin | Resume::Newest => vec![],
        };
        let (best, warning) = match &state {
            Some(state) => standing_best(state, task.validation_digest(), changes.as_ref(), &checkpoints)?,
            None => (None, None),
        };
        let journal_path = run_dir.path().join(JOURNAL);
        let earlier_journal = if resumed { None } else { run_dir.set_journal_aside()? };
        let journal = Journal::open(&journal_path, resumed).map_err(io_error(&journal_path, "open"))?;
        let step = state.as_ref().map_or(0, |state| state.step);
        let of_journal = journal_warnings(&journal_path, step, resumed && state.is_none());
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
            readback: Readback::start()?,
            ranks,
            devices,
            queued: None,
            settled: None,
            step,
            saved_step: step,
            best,
            validation_due: state.as_ref().is_some_and(|state| state.validation_due),
            last_loss: state.as_ref().and_then(|state| state.loss),
            losses: vec![],
            elapsed_secs: 0.0,
            wait_secs: 0.0,
            start_checkpoint: last_good.clone(),
            last_good,
            picture: None,
            beginning,
            set_aside,
            earlier_journal,
            warnings: warning.into_iter().chain(of_journal).chain(replaced).chain(other_rounding).collect(),
        })
    }

    pub(super) fn model(&self) -> &T::Model {
        self.replica.model()
    }

    /// Names of all devices.
    pub(super) fn devices(&self) -> String {
        device_names(&self.devices)
    }

    /// Agrees with the other ranks on the weights with which all begin.
    pub(super) fn agree_on_start(&self) -> Result<(), TrainingError> {
        let Some(ranks) = &self.ranks else { return Ok(()) };
        let checkpoint = self.start_checkpoint.as_deref();
        let name = checkpoint.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        ranks.start(Start { checkpoint: name })?;
        let digest = checkpoint.map(checkpoint::state_digest).transpose()?;
        ranks.agree_on_weights(weights_digest(self.model())?, digest)?;
        Ok(mark_begun()?)
    }

    /// Error of a run that ends because another rank failed.
    pub(super) fn rank_error(&self, failure: PeerFailure) -> TrainingError {
        self.failure_context().of_rank(failure)
    }

    /// State for the error of a run that fails now.
    pub(super) fn failure_context(&self) -> FailureContext<'_, T::Config> {
        FailureContext {
            config: self.task.config(),
            options: self.options,
            ranks: self.ranks.as_deref(),
            step: self.step,
            last_good: Some(LastGood(self.last_good.clone())),
        }
    }

    /// Trains on the batches of `stream`, or on this rank's share of them. After a failure that left the weights
    /// intact, saves them.
    pub(super) fn train(
        &mut self,
        stream: &Stream,
        end_step: u64,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), TrainingError> {
        let share = self.ranks.as_ref().map_or((0, 1), |ranks| ranks.group().share());
        let feed = feed_of(self.task, stream, self.compute, self.step, share);
        let result = feed.and_then(|feed| self.take_steps(feed, end_step, watch));
        result.map_err(|error| {
            // The other ranks end while this one saves.
            if let Some(ranks) = &self.ranks {
                ranks.abort(&error);
            }
            self.rescue(error, watch).with_way_back(self.last_good.as_deref())
        })
    }

    /// Validates the averaged weights, or the plain weights if there is no average.
    pub(super) fn validate(&mut self, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        let start = Instant::now();
        let model = self.ema.clone().unwrap_or_else(|| self.model().valid());
        let mut progress = |done, total| watch(&Event::Validating { done, total });
        let ranks = self.ranks.clone();
        let share = ranks.as_ref().map_or((0, 1), |ranks| ranks.group().share());
        let is_over = || self.options.stop.is_requested() || self.lost().is_some();
        let own = self.task.validate(&model, self.compute, share, &is_over, &mut progress)?;
        if own.is_none()
            && let Some(error) = self.lost()
        {
            return Err(error);
        }
        let all = match ranks {
            Some(ranks) => ranks.gather_scores(own).map_err(|failure| self.rank_error(failure))?,
            None => own,
        };
        let Some(cases) = all else { return Ok(()) };
        let scores = Scores::of(cases);
        self.validation_due = false;
        let best = scores.is_better_than(self.best.map(|best| best.mean_dice));
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

    /// Weights with which the loss of `step` was computed, as far as they reveal the cause of a loss that is not
    /// finite.
    pub(super) fn suspect(&self, step: u64) -> Suspect {
        let config = self.task.config();
        let lr = |before| config.schedule().lr(config.optim().lr, before, self.steps_per_epoch);
        let before = step.saturating_sub(1);
        if (0..before).all(|before| lr(before) <= 0.0) {
            return Suspect::FirstWeights;
        }
        if self.saved_step != before {
            return Suspect::Unknown;
        }
        // A folder that cannot be read now names no other checkpoint.
        let all = checkpoint::all(&self.options.run_dir.join(CHECKPOINTS)).unwrap_or_default();
        Suspect::LastGood { earlier: all.into_iter().map(|(step, _)| step).filter(|&step| step < before).max() }
    }

    /// Writes a checkpoint. The journal is made durable first, so that no checkpoint is ahead of it.
    pub(super) fn save(&mut self, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        self.journal.sync().map_err(io_error(&self.options.run_dir.join(JOURNAL), "sync"))?;
        let state = State {
            best: self.best,
            validation_due: self.validation_due,
            validation_digest: self.task.validation_digest().map(str::to_owned),
            ..State::new(T::KIND, self.step, self.last_loss, self.task.config(), &self.cache_digest)
        };
        // First: a checkpoint must not exist without the algorithms that led to it.
        let run_dir = &self.options.run_dir;
        Algorithms::save(run_dir).map_err(io_error(&run_dir.join(Algorithms::FILE), "write"))?;
        Engines::save(run_dir).map_err(io_error(&run_dir.join(Engines::FILE), "write"))?;
        let saved = self.checkpoints.save(&state, self.model(), self.ema.as_ref(), self.replica.optimizer());
        let path = saved.map_err(|error| match error {
            CheckpointError::Unusable { tensor, value, .. } => {
                let (precision, last_good) = (self.task.config().train().precision, LastGood(self.last_good.clone()));
                TrainingError::Diverged { step: self.step, tensor, value, precision, last_good }
            }
            error => error.into(),
        })?;
        watch(&Event::Checkpoint(&path));
        self.last_good = Some(path);
        self.saved_step = self.step;
        Ok(())
    }

    /// Saves the steps since the last checkpoint before the run ends with an error that left the weights intact.
    pub(super) fn rescue(&mut self, error: TrainingError, watch: &mut dyn FnMut(&Event<'_>)) -> TrainingError {
        if !error.spares_weights() || self.step == self.saved_step {
            return error;
        }
        // A step whose loss is not finite is found here, and its weights are not saved.
        if let Err(second) = self.settle(watch).and_then(|()| self.save(watch)) {
            let second = anyhow::Error::from(second);
            watch(&Event::Warning(format!("the steps after step {} are lost: {second:#}", self.saved_step)));
        }
        error.with_last_good(self.last_good.as_deref())
    }

    /// Draws some crops of the batch. A failure is reported as a warning and does not end the run.
    pub(super) fn draw(&mut self, batch: &DeviceBatch<Target<T>>, watch: &mut dyn FnMut(&Event<'_>)) {
        let path = self.options.run_dir.join(PICTURES).join(format!("step-{:06}.png", self.step));
        match self.task.picture(self.model(), batch, self.compute, &path) {
            Ok(()) => {
                watch(&Event::Picture(&path));
                self.picture = Some(path);
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                watch(&Event::Warning(format!("no picture {}: {error:#}", path.display())));
            }
        }
    }

    pub(super) fn write(&mut self, entry: &Entry) -> Result<(), TrainingError> {
        self.journal.write(entry).map_err(io_error(&self.options.run_dir.join(JOURNAL), "write"))
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

/// Reads the state from which a run is resumed, which must be that of the same configuration and cases; `None` without a
/// checkpoint.
fn resumed_state<T: Task>(
    task: &T,
    found: &RunDir,
    stream: &Stream,
    options: &TrainOptions,
) -> Result<Option<State<T::Config>>, TrainingError> {
    let config = task.config();
    let Some(checkpoint) = found.checkpoint() else {
        if options.resume != Resume::Begin {
            // Killed before its first checkpoint: the same run from its start.
            refuse_changes(config, &saved_config::<T::Config>(&options.run_dir, T::KIND, options.resume)?)?;
        }
        return Ok(None);
    };
    let saved = checkpoint::read_state::<T::Config>(checkpoint, T::KIND);
    let saved = saved.map_err(|error| found.explain(error.into()))?;
    refuse_changes(config, &saved.config)?;
    if saved.cache_digest != stream.digest {
        let began = RunCases::read(&options.run_dir)?;
        let digests = (stream.digest.clone(), saved.cache_digest);
        let reason = OtherCases::between(began.as_ref(), stream.cases.as_ref(), digests);
        return Err(TrainingError::OtherCases(reason));
    }
    if let Some(max_steps) = options.max_steps.filter(|&max| max < saved.step) {
        return Err(TrainingError::Beyond { step: saved.step, max_steps });
    }
    Ok(Some(saved))
}

/// Warnings about the journal of a run that continues after `step`: about steps without a line, and about lines of steps that
/// a run without a checkpoint `repeats`.
fn journal_warnings(path: &Path, step: u64, repeats: bool) -> Vec<String> {
    // A line that cannot be read is reported with the curves, for which it is read.
    let missing = journal::read(path).and_then(|entries| missing_steps(entries, step)).unwrap_or_default();
    let missing = (!missing.is_empty()).then(|| format!("{}: {}", path.display(), missing_text(&missing)));
    let repeated = repeats.then(|| journal::read(path).ok()).flatten();
    let repeated = repeated.and_then(begins_again_text).map(|text| format!("{} {text}", path.display()));
    missing.into_iter().chain(repeated).collect()
}

/// Best validation with which a resumed run still competes, if there is one; also a warning if its checkpoint no longer
/// exists or the validation cases have changed. `changes` are those of the run's cases, if they are known.
fn standing_best<C>(
    state: &State<C>,
    validation_digest: Option<&str>,
    changes: Option<&CaseChanges>,
    checkpoints: &Checkpoints,
) -> Result<(Option<Best>, Option<String>), TrainingError> {
    if let (Some(before), Some(now)) = (state.validation_digest.as_deref(), validation_digest)
        && before != now
    {
        let difference = changes.map_or_else(|| format!("digest {now}, was {before}"), CaseChanges::to_string);
        let mut warning = format!(
            "the validation cases or their labels are not those of the steps up to {} ({difference}): figures before and after \
             cannot be compared",
            state.step
        );
        if let Some(best) = state.best {
            let _ = write!(warning, "; the best checkpoint, so far that of step {}, is chosen again", best.step);
        }
        return Ok((None, Some(warning)));
    }
    let Some(best) = state.best else { return Ok((None, None)) };
    if lookup::exists(&checkpoints.at(best.step))? {
        return Ok((Some(best), None));
    }
    let warning = format!(
        "the best checkpoint so far, that of step {} (mean Dice {:.4}), is gone; the best one is chosen again",
        best.step, best.mean_dice
    );
    Ok((None, Some(warning)))
}

/// Warning about a run without a checkpoint that begins again with other cases than before; `None` if its cases are the same.
fn replaced_cases(run_dir: &Path, now: &RunCases) -> Result<Option<String>, TrainingError> {
    let changes = RunCases::read(run_dir)?.map(|began| began.changes(now));
    let text = |changes: CaseChanges| {
        let path = run_dir.join(CASES);
        format!(
            "{}: the cache has other cases than when the run began ({changes}); it begins again with these",
            path.display()
        )
    };
    Ok(changes.filter(|changes| !changes.is_none()).map(text))
}

/// Formats the Dice of each class on one line.
fn by_class(names: &[String], dice: &[Option<f64>]) -> String {
    let cell = |value: &Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let cells: Vec<String> = names.iter().zip(dice).map(|(name, value)| format!("{name} {}", cell(value))).collect();
    format!("  Dice by class: {}", cells.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Kind;
    use crate::config::pretrain::PretrainPreset;

    #[test]
    fn a_best_checkpoint_stands_while_it_exists_and_the_same_cases_are_validated() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 1).unwrap();
        let best = Some(Best { step: 2, mean_dice: 0.5 });
        let state = |digest: Option<&str>| State {
            best,
            validation_digest: digest.map(str::to_owned),
            ..State::new(Kind::Finetune, 3, None, &PretrainPreset::Tiny.config(), "digest")
        };
        let standing = |digest, now| standing_best(&state(digest), now, None, &checkpoints).unwrap();
        let (none, warning) = standing(Some("ab"), Some("ab"));
        assert_eq!(none, None);
        let expected = "the best checkpoint so far, that of step 2 (mean Dice 0.5000), is gone";
        assert!(warning.as_deref().is_some_and(|warning| warning.starts_with(expected)), "{warning:?}");

        std::fs::create_dir(checkpoints.at(2)).unwrap();
        assert_eq!(standing(Some("ab"), Some("ab")), (best, None));
        // The state of an earlier version.
        assert_eq!(standing(None, Some("ab")), (best, None));
        let (none, warning) = standing(Some("ab"), Some("cd"));
        assert_eq!(none, None);
        assert!(warning.as_deref().is_some_and(|warning| warning.contains("(digest cd, was ab)")), "{warning:?}");
        assert!(warning.as_deref().is_some_and(|warning| warning.contains("that of step 2")), "{warning:?}");
    }

    #[test]
    fn other_validation_cases_are_reported_without_a_best_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::open(run.path(), 1).unwrap();
        let state = State {
            validation_digest: Some("ab".to_owned()),
            ..State::new(Kind::Finetune, 3, None, &PretrainPreset::Tiny.config(), "digest")
        };
        assert_eq!(standing_best(&state, Some("ab"), None, &checkpoints).unwrap(), (None, None));
        let (none, warning) = standing_best(&state, Some("cd"), None, &checkpoints).unwrap();
        assert_eq!(none, None);
        let expected = "(digest cd, was ab): figures before and after cannot be compared";
        assert!(warning.as_deref().is_some_and(|warning| warning.ends_with(expected)), "{warning:?}");
    }
}
