//! Ranks other than the first: they take the same steps but write nothing.

use std::time::Instant;

use burn::module::Module as _;

use super::failure_context::FailureContext;
use super::ranks::{AgreedStep, Pace, Ranks, Start, StepTimes};
use super::replica::{self, Participants, Replica};
use super::run_dir::CHECKPOINTS;
use super::run_feed::feed_of;
use super::validation::is_due;
use super::weights_digest::weights_digest;
use super::{Outcome, Stream, Summary, Task, TrainOptions, TrainingError, ema, recorded};
use crate::checkpoint;
use crate::config::RunConfig as _;
use crate::device::Compute;

/// Follows rank 0 until the run is over. The summary has no losses, because only rank 0 reads them.
pub(super) fn follow<T: Task>(
    task: &T,
    stream: &Stream,
    compute: &Compute,
    options: &TrainOptions,
    ranks: &Ranks,
    end_step: u64,
) -> Result<Summary, TrainingError> {
    let config = task.config();
    let Start { checkpoint } = ranks.start(Start::default())?;
    let checkpoint = checkpoint.map(|name| options.run_dir.join(CHECKPOINTS).join(name));
    let state = match &checkpoint {
        Some(checkpoint) => Some(checkpoint::read_state::<T::Config>(checkpoint, T::KIND)?),
        None => None,
    };
    if state.is_some() {
        // Rank 0 reports the warnings.
        recorded::restore(task, options, compute)?;
    }
    let (mut replica, _) = Replica::on(task, compute, options.gradient_checkpointing, checkpoint.as_deref())?;
    let digest = checkpoint.as_deref().map(checkpoint::state_digest).transpose()?;
    ranks.agree_on_weights(weights_digest(replica.model())?, digest)?;
    let validate_every = task.validation_every(stream.steps_per_epoch);
    // Averages are kept only where they are measured.
    let decay = config.train().ema_decay.filter(|_| validate_every.is_some());
    let mut ema = match (&checkpoint, decay) {
        (_, None) => None,
        (Some(checkpoint), Some(_)) => checkpoint::load_ema(checkpoint, replica.model().valid())?,
        (None, Some(_)) => Some(replica.model().valid()),
    };
    let mut step = state.as_ref().map_or(0, |state| state.step);
    let first_step = step;
    let context = |step| FailureContext { config, options, ranks: Some(ranks), step, last_good: None };
    let failed = |failure, step| context(step).of_rank(failure);
    let validate = |replica: &Replica<T::Model>, ema: &Option<T::Model>, step| {
        let model = ema.clone().unwrap_or_else(|| replica.model().valid());
        let lost = || ranks.group().failure();
        let is_over = || options.stop.is_requested() || lost().is_some();
        let own = task.validate(&model, compute, ranks.group().share(), &is_over, &mut |_, _| ())?;
        if own.is_none()
            && let Some(failure) = lost()
        {
            return Err(failed(failure, step));
        }
        let all = ranks.gather_scores(own).map_err(|failure| failed(failure, step))?;
        Ok::<bool, TrainingError>(all.is_none())
    };
    let mut interrupted = false;
    if state.is_some_and(|state| state.validation_due) {
        interrupted = validate(&replica, &ema, step)?;
    }
    if step < end_step && !interrupted {
        let mut feed = feed_of(task, stream, compute, step, ranks.group().share())?;
        let mut pace = Pace::new();
        while step < end_step {
            let waited = Instant::now();
            // The group may fail while this rank waits for its data.
            let lost = || ranks.group().failure().map(|failure| failed(failure, step));
            let batch = feed.next_batch_unless(lost).map_err(|error| context(step).of_feed(error))?;
            let times = StepTimes::of(batch.as_ref(), waited.elapsed().as_secs_f64());
            let own = replica::counts(task, batch.as_ref());
            let agreed = ranks.exchange(own, options.stop.is_requested(), times, pace.lap());
            let AgreedStep { all, stop, .. } = agreed.map_err(|failure| failed(failure, step))?;
            let lr = config.schedule().lr(config.optim().lr, step, stream.steps_per_epoch);
            let participants = Participants { sums: ranks.sums(), all };
            let taken = replica.step(task, batch.as_ref(), lr, Some(participants));
            let taken = taken.map_err(|error| context(step).of_sum(error))?;
            drop(batch);
            if taken.is_some() {
                ema::advance(&mut ema, replica.model(), decay);
            }
            step += 1;
            interrupted = is_due(validate_every, step, end_step) && validate(&replica, &ema, step)?;
            if stop || interrupted {
                break;
            }
        }
    }
    ranks.group().finish().map_err(|failure| failed(failure, step))?;
    Ok(Summary {
        outcome: if step < end_step || interrupted { Outcome::Interrupted } else { Outcome::Finished },
        step,
        steps_done: step - first_step,
        losses: vec![],
        elapsed_secs: 0.0,
        wait_share: 0.0,
        checkpoint: None,
        best: None,
        picture: None,
    })
}
