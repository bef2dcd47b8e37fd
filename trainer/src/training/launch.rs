//! Starting the ranks of a run, one thread and device each.

use std::ops::Range;
use std::sync::Arc;

use super::error::{LastGood, thread_error};
use super::ranks::{AllReduce, FailureCause, HostReduce, ProcessGroup, RankError, RankFailure, RankHandle};
use super::replica::Replica;
use super::run::Run;
use super::{Event, Stream, Target, Task, TrainingError};
use crate::config::RunConfig as _;
use crate::device::Compute;
use crate::feed::{Feed, FeedConfig};

impl<T: Task> Run<'_, T> {
    /// Trains on the batches of `stream`, with as many ranks as there are devices.
    pub(super) fn train(
        &mut self,
        stream: &Stream,
        end_step: u64,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), TrainingError> {
        let result = if self.options.others.is_empty() {
            feed_of(self.task, stream, self.compute, self.step, (0, 1))
                .and_then(|feed| self.take_steps(feed, end_step, None, watch))
        } else {
            self.train_ranks(stream, end_step, watch)
        };
        result.map_err(|error| self.rescue(error, watch))
    }

    fn train_ranks(
        &mut self,
        stream: &Stream,
        end_step: u64,
        watch: &mut dyn FnMut(&Event<'_>),
    ) -> Result<(), TrainingError> {
        let (task, options, compute, start) = (self.task, self.options, self.compute, self.step);
        let num_ranks = 1 + options.others.len();
        let group = ProcessGroup::new(num_ranks, all_reduce(compute, &options.others));
        self.group = Some(Arc::clone(&group));
        let checkpoint = self.last_good.clone();
        std::thread::scope(|scope| {
            // Made before the other ranks wait for it; dropping it, on a panic too, releases them.
            let handle = RankHandle::new(&group, 0);
            for (rank, compute) in (1..).zip(&options.others) {
                let (group, checkpoint) = (&group, checkpoint.as_deref());
                let follow = move || {
                    let handle = RankHandle::new(group, rank);
                    let run = || {
                        let (replica, _) = Replica::on(task, compute, options.gradient_checkpointing, checkpoint)?;
                        let feed = feed_of(task, stream, compute, start, (rank, num_ranks))?;
                        follow(task, replica, feed, start..end_step, stream.steps_per_epoch, &handle)
                    };
                    // The message of a panic was shown when it happened.
                    let (cause, message) = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                        Ok(Ok(())) => return,
                        Ok(Err(error @ (TrainingError::Feed(_) | TrainingError::Open { .. }))) => {
                            (FailureCause::Batches, in_a_line(&error))
                        }
                        Ok(Err(error)) => (FailureCause::Device, in_a_line(&error)),
                        Err(_) => (FailureCause::Panic, "its thread panicked".into()),
                    };
                    group.fail(RankFailure { rank, cause, message });
                };
                std::thread::Builder::new()
                    .name(format!("rank-{rank}"))
                    .spawn_scoped(scope, follow)
                    .map_err(thread_error("rank"))?;
            }
            let feed = feed_of(task, stream, compute, start, (0, num_ranks));
            let result = feed.and_then(|feed| self.take_steps(feed, end_step, Some(&handle), watch));
            drop(handle);
            match (result, group.failure()) {
                (Err(TrainingError::Device { step, .. }), Some(RankFailure { rank, cause, message })) => {
                    Err(TrainingError::Rank {
                        rank,
                        device: options.others[rank - 1].to_string(),
                        step,
                        message,
                        data: cause == FailureCause::Batches,
                        last_good: LastGood(self.last_good.clone()),
                    })
                }
                (result, _) => result,
            }
        })
    }
}

/// Starts a feed of the batches from `start` on, or of a rank's share of them.
fn feed_of<T: Task>(
    task: &T,
    stream: &Stream,
    compute: &Compute,
    start: u64,
    share: (usize, usize),
) -> Result<Feed<Target<T>>, TrainingError> {
    let config = task.config();
    let source = (stream.open)(start, share).map_err(|source| TrainingError::Open { step: start, source })?;
    let feed =
        FeedConfig { start_step: start, crop_size: config.stream().crop_size, micro_batch: config.train().micro_batch };
    Feed::start(source, task.targets(), compute.raw().clone(), feed).map_err(thread_error("feed"))
}

/// Runs a rank other than the first: the same updates, until the first rank leaves.
fn follow<T: Task>(
    task: &T,
    mut replica: Replica<T::Model>,
    mut feed: Feed<Target<T>>,
    steps: Range<u64>,
    steps_per_epoch: u64,
    handle: &RankHandle,
) -> Result<(), TrainingError> {
    let config = task.config();
    for step in steps {
        let batch = feed.next_batch()?;
        let lr = config.schedule().lr(config.optim().lr, step, steps_per_epoch);
        match replica.update(task, batch.as_ref(), lr, Some(handle)) {
            Ok(_) => {}
            // The run is over, or another rank failed and has reported it.
            Err(RankError::Left) => return Ok(()),
            Err(RankError::Device(message)) => {
                return Err(TrainingError::Device { step: step + 1, message, last_good: LastGood(None) });
            }
        }
    }
    Ok(())
}

/// Chooses how gradients are summed between these devices.
fn all_reduce(first: &Compute, others: &[Compute]) -> Box<dyn AllReduce> {
    #[cfg(feature = "cuda")]
    if !first.is_cpu() {
        let devices = std::iter::once(first).chain(others).map(|compute| compute.raw().clone());
        return Box::new(super::ranks::NcclReduce::new(devices.collect()));
    }
    let _ = first;
    Box::new(HostReduce::new(1 + others.len()))
}

/// Formats an error and its sources on one line.
fn in_a_line(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
