//! Loop over optimizer steps: takes batches, returns losses, and writes checkpoints and runs validations when they are
//! due.

use std::collections::HashSet;
use std::time::Instant;

use super::error::LastGood;
use super::queued::Queued;
use super::ranks::{AgreedStep, Pace, StepTimes};
use super::readback::Answer;
use super::replica::{self, Participants};
use super::run::Run;
use super::validation::is_due;
use super::{Event, Target, Task, TrainingError, ema};
use crate::config::RunConfig as _;
use crate::device;
use crate::feed::{DeviceBatch, Feed};
use crate::journal::{Entry, StepRecord};

impl<T: Task> Run<'_, T> {
    /// Takes steps until `end_step`, or until a stop is requested.
    pub(super) fn take_steps(
        &mut self,
        mut feed: Feed<Target<T>>,
        end_step: u64,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), TrainingError> {
        let mut pace = Pace::new();
        let validate_every = self.task.validation_every(self.steps_per_epoch);
        while self.step < end_step {
            if !feed.is_ready() {
                // The host has to wait in any case. It waits for the device first: the device then waits for data as
                // long as the host.
                self.settle(watch)?;
            }
            let start = Instant::now();
            let batch = match feed.next_batch_unless(|| self.lost()) {
                Ok(batch) => batch,
                Err(error) => {
                    self.settle_before(&error, watch)?;
                    return Err(self.failure_context().of_feed(error));
                }
            };
            let wait_secs = start.elapsed().as_secs_f64();
            let taken = self
                .agree(batch.as_ref(), wait_secs, &mut pace)
                .and_then(|agreed| Ok((self.queue(batch.as_ref(), &agreed, start, wait_secs)?, agreed.stop)));
            let (queued, stop_agreed) = match taken {
                Ok(taken) => taken,
                Err(error) => {
                    self.settle_before(&error, watch)?;
                    return Err(error);
                }
            };
            // All ranks take the decision of the step's exchange; alone, a request counts at any time.
            let alone = self.ranks.is_none();
            let requested = self.options.stop.clone();
            let stops = || stop_agreed || (alone && requested.is_requested());
            self.step += 1;
            // The results of the previous step are read while the device works on this one.
            let previous = std::mem::replace(&mut self.queued, queued);
            if let Some(previous) = previous {
                self.report(previous, watch)?;
            }
            if self.queued.is_none() {
                // The loader has named the cases. The step counts nevertheless: a step and its batch belong together.
                let step = self.step;
                watch(&Event::Warning(format!("step {step}: weights unchanged, all cases of its batch are corrupt")));
            }
            let at_end = self.step == end_step;
            let every = self.options.checkpoint_every;
            let checkpoint_due = every > 0 && self.step.is_multiple_of(every);
            self.validation_due = is_due(validate_every, self.step, end_step);
            // Weights are drawn, measured or saved only after their loss was checked.
            let wanted = at_end || checkpoint_due || self.validation_due || stops();
            if wanted || !self.options.overlap.unwrap_or(!self.compute.is_cpu()) {
                self.settle(watch)?;
            }
            if (at_end || checkpoint_due || self.validation_due || stops())
                && let Some(batch) = &batch
            {
                self.draw(batch, watch);
            }
            drop(batch);
            let mut cut_short = false;
            if self.validation_due {
                self.validate(watch)?;
                cut_short = self.validation_due;
            }
            // A stop requested up to here, during a long validation for example, makes this the last step.
            let last = at_end || stops() || cut_short;
            if last {
                self.settle(watch)?;
            }
            if last || checkpoint_due || self.best.is_some_and(|best| best.step == self.step) {
                self.save(watch)?;
            }
            // The only exit on request: a stop requested while saving takes one more step and saves it.
            if last {
                break;
            }
        }
        Ok(())
    }

    /// Error of a run whose ranks have failed; `None` as long as they have not.
    pub(super) fn lost(&self) -> Option<TrainingError> {
        let failure = self.ranks.as_ref()?.group().failure()?;
        Some(self.rank_error(failure))
    }

    /// Exchanges the facts of a step with the other ranks, if there are any.
    fn agree(
        &self,
        batch: Option<&DeviceBatch<Target<T>>>,
        wait_secs: f64,
        pace: &mut Pace,
    ) -> Result<AgreedStep, TrainingError> {
        let counts = replica::counts(self.task, batch);
        let Some(ranks) = &self.ranks else { return Ok(AgreedStep { all: counts, stop: false, ranks: vec![] }) };
        let agreed =
            ranks.exchange(counts, self.options.stop.is_requested(), StepTimes::of(batch, wait_secs), pace.lap());
        agreed.map_err(|failure| self.rank_error(failure))
    }

    /// Queues one optimizer step; none if every case of the batch is corrupt.
    fn queue(
        &mut self,
        batch: Option<&DeviceBatch<Target<T>>>,
        agreed: &AgreedStep,
        start: Instant,
        wait_secs: f64,
    ) -> Result<Option<Queued>, TrainingError> {
        let config = self.task.config();
        let lr = config.schedule().lr(config.optim().lr, self.step, self.steps_per_epoch);
        let ranks = self.ranks.clone();
        let participants = ranks.as_ref().map(|ranks| Participants { sums: ranks.sums(), all: agreed.all });
        let result = self.replica.step(self.task, batch, lr, participants);
        let Some(result) = result.map_err(|error| self.failure_context().of_sum(error))? else { return Ok(None) };
        let crops = result.crops;
        self.readback.ask(result);
        ema::advance(&mut self.ema, self.replica.model(), config.train().ema_decay);
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
            ranks: agreed.ranks.clone(),
        }))
    }

    /// Waits for the queued step, if there is one, and reports it.
    pub(super) fn settle(&mut self, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        match self.queued.take() {
            Some(queued) => self.report(queued, watch),
            None => Ok(()),
        }
    }

    /// Reports the queued step before the run ends with `error`, if the device can still answer for it: after a failed rank,
    /// a sum on the device may have ended with any values.
    fn settle_before(&mut self, error: &TrainingError, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        if matches!(error, TrainingError::Rank { sound: false, .. }) {
            return Ok(());
        }
        self.settle(watch)
    }

    /// Waits for the results of a step and reports them. Weights after a loss that is not finite are never saved.
    fn report(&mut self, queued: Queued, watch: &mut dyn FnMut(&Event<'_>)) -> Result<(), TrainingError> {
        let Queued { step, lr, crops, cases, start, wait_secs, upload_secs, loader, ranks } = queued;
        let group = self.ranks.clone();
        let failure = || group.as_ref().and_then(|ranks| ranks.group().failure());
        let answer = self.readback.next(|| failure().is_some()).map_err(|error| match failure() {
            // The device waited for the lost rank.
            Some(failure) => self.rank_error(failure),
            None => self.failure_context().of_device(step, &error.to_string()),
        })?;
        // A sum on the device that was aborted may have left any values: its step is neither recorded nor saved.
        if let (Some(ranks), Some(failure)) = (&group, failure())
            && !ranks.sums().is_on_host()
        {
            return Err(self.rank_error(failure));
        }
        let Answer { loss, norm: grad_norm, at } = answer;
        if !loss.is_finite() || grad_norm.is_some_and(|norm| !norm.is_finite()) {
            if let Some(panic) = device::take_panic() {
                // The panic may be an old one, from tuning, or the reason for this failure.
                tracing::warn!("a device thread panicked: {panic}");
            }
            let last_good = LastGood(self.last_good.clone());
            let suspect = self.suspect(step);
            let precision = self.task.config().train().precision;
            return Err(TrainingError::NonFinite { step, lr, loss, cases, precision, last_good, suspect });
        }
        // Steps overlap on a device: each is given the time since the previous one was done.
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
            ranks,
        };
        self.write(&Entry::Step(record.clone()))?;
        watch(&Event::Step(&record));
        Ok(())
    }
}
