//! Measures the cost of the data, by the same optimizer steps on batches from the stream and on one batch that stays on
//! the device.
//!
//! Blocks of both kinds alternate, so that a machine whose speed drifts affects both alike. Each block begins with
//! steps that are not timed: before streamed steps they use up the batches that were made in advance, before resident
//! steps they give the loader time to fill its buffers and rest. Nothing is written, and the weights are discarded.

use std::fmt;
use std::time::{Duration, Instant};

use hiend_loader::plural::count;

use super::error::thread_error;
use super::readback::Readback;
use super::replica::Replica;
use super::{Stop, Stream, Target, Task, TrainingError};
use crate::config::RunConfig as _;
use crate::device::Compute;
use crate::feed::{DeviceBatch, Feed, FeedConfig};

/// Number of blocks of each kind.
const ROUNDS: usize = 3;

/// Number of untimed steps in the first block, which also compile kernels.
const WARM_UP: usize = 3;

/// Number of batches held by a feed: one that waits on the device, one in preparation.
const FEED: usize = 2;

/// Settings of a measurement.
#[derive(Clone, Debug)]
pub struct HeadspaceOptions {
    /// Number of timed optimizer steps in a block.
    pub steps: usize,
    /// True to recompute transformer blocks in the backward pass; see [`super::TrainOptions::gradient_checkpointing`].
    pub gradient_checkpointing: bool,
    /// Request to end the measurement.
    pub stop: Stop,
}

/// Times per optimizer step of a pair of blocks, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Time of a step on streamed batches.
    pub streamed_secs: f64,
    /// Part of `streamed_secs` in which the step waited for its batch.
    pub wait_secs: f64,
    /// Time of a step on the resident batch.
    pub resident_secs: f64,
}

/// Result of a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Headspace {
    /// Pairs of blocks, in order.
    pub rounds: Vec<Round>,
    /// Number of crops in the resident batch.
    pub crops: usize,
    /// Number of timed optimizer steps in a block.
    pub steps: usize,
}

impl Headspace {
    /// Share of a run's time that its data cost: the median over the rounds; negative if streaming was faster by
    /// chance.
    #[must_use]
    pub fn cost(&self) -> f64 {
        median(self.rounds.iter().map(|round| 1.0 - round.resident_secs / round.streamed_secs.max(f64::MIN_POSITIVE)))
    }

    /// Returns true if the times of one kind of step differ more between the rounds than the two kinds do, as those of a few
    /// steps or on a busy machine.
    fn is_uncertain(&self) -> bool {
        let spread = |value: fn(&Round) -> f64| {
            let ends = self.rounds.iter().map(value);
            ends.clone().fold(0.0, f64::max) - ends.fold(f64::INFINITY, f64::min)
        };
        let median = self.median();
        let cost = median.streamed_secs - median.resident_secs;
        cost < 0.0 || spread(|round| round.streamed_secs).max(spread(|round| round.resident_secs)) > cost
    }

    /// Median times over the rounds.
    #[must_use]
    pub fn median(&self) -> Round {
        let of = |value: fn(&Round) -> f64| median(self.rounds.iter().map(value));
        Round {
            streamed_secs: of(|round| round.streamed_secs),
            wait_secs: of(|round| round.wait_secs),
            resident_secs: of(|round| round.resident_secs),
        }
    }
}

impl fmt::Display for Headspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, round) in (1..).zip(&self.rounds) {
            let [streamed, wait, resident] =
                [round.streamed_secs, round.wait_secs, round.resident_secs].map(|secs| secs * 1e3);
            writeln!(
                f,
                "round {number}: {streamed:.1} ms per step streamed (waiting {wait:.1}), {resident:.1} ms on a resident batch"
            )?;
        }
        let median = self.median();
        let rate = |secs: f64| self.crops as f64 / secs.max(f64::MIN_POSITIVE);
        write!(f, "data cost {:.1}% of the time", self.cost().max(0.0) * 100.0)?;
        if self.is_uncertain() {
            f.write_str(", but the rounds differ by more than that; measure more steps (--headspace STEPS)")?;
        }
        write!(
            f,
            ": {:.1} crops/s streamed, {:.1} on a resident batch (median of {} of {})",
            rate(median.streamed_secs),
            rate(median.resident_secs),
            count(self.rounds.len(), "round"),
            count(self.steps, "step")
        )
    }
}

/// Measures `task` on `stream`. `None` if a stop was requested.
///
/// # Errors
/// If the stream or the device fails, or the stream has no batch with crops.
pub fn measure<T: Task>(
    task: &T,
    stream: &Stream,
    compute: &Compute,
    options: &HeadspaceOptions,
) -> Result<Option<Headspace>, TrainingError> {
    let config = task.config();
    config.validate_to_train("configuration")?;
    let (replica, _) = Replica::on(task, compute, options.gradient_checkpointing, None)?;
    let source = (stream.open)(0, (0, 1)).map_err(|source| TrainingError::Open { step: 0, source })?;
    let feed = FeedConfig {
        start_step: 0,
        crop_size: config.stream().crop_size,
        micro_batch: config.train().crops_at_a_time(),
    };
    let feed = Feed::start(source, task.targets(), compute.raw().clone(), feed).map_err(thread_error("feed"))?;
    let mut bench = Bench { task, replica, feed, readback: Readback::start()?, lr: config.optim().lr, step: 0 };
    let resident = bench.batch_with_crops(stream.steps_per_epoch)?;
    let lead = stream.ahead + FEED;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let warm_up = if round == 0 { WARM_UP } else { 0 };
        bench.run(warm_up + lead, None, &options.stop)?;
        let streamed = bench.run(options.steps, None, &options.stop)?;
        bench.run(lead, Some(&resident), &options.stop)?;
        let resident = bench.run(options.steps, Some(&resident), &options.stop)?;
        if options.stop.is_requested() {
            return Ok(None);
        }
        let each = |time: Duration| time.as_secs_f64() / options.steps.max(1) as f64;
        rounds.push(Round {
            streamed_secs: each(streamed.elapsed),
            wait_secs: each(streamed.waited),
            resident_secs: each(resident.elapsed),
        });
    }
    Ok(Some(Headspace { rounds, crops: resident.crops.len(), steps: options.steps }))
}

/// Time of a block of steps.
#[derive(Clone, Copy, Debug, Default)]
struct BlockTime {
    elapsed: Duration,
    waited: Duration,
}

/// A replica and its feed.
struct Bench<'a, T: Task> {
    task: &'a T,
    replica: Replica<T::Model>,
    feed: Feed<Target<T>>,
    readback: Readback,
    lr: f64,
    step: u64,
}

impl<T: Task> Bench<'_, T> {
    /// Takes `steps` steps on the resident batch or, without one, on streamed ones, and waits for the last. As in a run,
    /// the loss of a step is read after the next step was queued.
    fn run(
        &mut self,
        steps: usize,
        resident: Option<&DeviceBatch<Target<T>>>,
        stop: &Stop,
    ) -> Result<BlockTime, TrainingError> {
        let start = Instant::now();
        let mut time = BlockTime::default();
        let mut queued = 0_usize;
        for _ in 0..steps {
            if stop.is_requested() {
                break;
            }
            let streamed = if resident.is_none() {
                let asked = Instant::now();
                let batch = self.feed.next_batch()?;
                time.waited += asked.elapsed();
                batch
            } else {
                None
            };
            let batch = resident.or(streamed.as_ref());
            self.step += 1;
            let result = self.replica.step(self.task, batch, self.lr, None);
            let Some(result) = result.map_err(|error| self.device_error(&error.to_string()))? else { continue };
            self.readback.ask(result);
            queued += 1;
            if queued > 1 {
                self.settle()?;
                queued -= 1;
            }
        }
        for _ in 0..queued {
            self.settle()?;
        }
        time.elapsed = start.elapsed();
        Ok(time)
    }

    /// First batch with crops among the next `most` batches.
    fn batch_with_crops(&mut self, most: u64) -> Result<DeviceBatch<Target<T>>, TrainingError> {
        for _ in 0..most {
            if let Some(batch) = self.feed.next_batch()? {
                return Ok(batch);
            }
        }
        Err(TrainingError::EmptyEpoch)
    }

    /// Waits for the oldest queued step.
    fn settle(&mut self) -> Result<(), TrainingError> {
        match self.readback.next(|| false) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.device_error(&error.to_string())),
        }
    }

    fn device_error(&self, message: &str) -> TrainingError {
        TrainingError::Device { step: self.step, message: message.to_owned(), last_good: None }
    }
}

/// Median of some numbers, the upper one of two middle values; 0 for none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_the_median_share_of_the_rounds() {
        let round = |streamed_ms: f64, resident_ms: f64| Round {
            streamed_secs: streamed_ms / 1e3,
            wait_secs: 0.0,
            resident_secs: resident_ms / 1e3,
        };
        let headspace =
            Headspace { rounds: vec![round(100.0, 90.0), round(101.0, 92.0), round(100.0, 88.0)], crops: 8, steps: 20 };
        assert!((headspace.cost() - 0.1).abs() < 1e-12);
        let text = headspace.to_string();
        assert!(text.starts_with("round 1: 100.0 ms per step streamed (waiting 0.0), 90.0 ms on a resident batch\n"));
        let last = "data cost 10.0% of the time: 80.0 crops/s streamed, 88.9 on a resident batch (median of 3 rounds of 20 \
                    steps)";
        assert!(text.ends_with(last), "{text}");
        let last_of = |rounds: Vec<Round>| {
            let text = Headspace { rounds, crops: 8, steps: 1 }.to_string();
            text.lines().last().unwrap().to_owned()
        };
        let uncertain = "but the rounds differ by more than that; measure more steps (--headspace STEPS): ";
        let noise = last_of(vec![round(100.0, 250.0)]);
        assert!(noise.starts_with(&format!("data cost 0.0% of the time, {uncertain}80.0 crops/s")), "{noise}");
        // One step a round, on a busy machine.
        let noise = last_of(vec![round(414.0, 127.0), round(313.0, 127.0), round(128.0, 127.0)]);
        assert!(noise.starts_with(&format!("data cost 59.4% of the time, {uncertain}")), "{noise}");
    }
}
