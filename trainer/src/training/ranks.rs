//! Ranks of a run, and the exchanges between them during its steps.
//!
//! Each rank is a process with a device, a copy of the weights, and its share of every global batch. Before the first
//! step all ranks agree on what they train ([`Ranks::agree`]). Before each step they exchange a few facts
//! ([`Ranks::exchange`]), then add their gradients: the gradients of all crops of the batch, weighted so that their sum
//! is the gradient of the mean loss. The copies of the weights start equal and receive equal gradients, so nothing else
//! is sent.
//!
//! Rank 0 alone writes and draws. All ranks take the same decisions from the same facts: a stop requested at any rank
//! ends all of them after the same step. The cases of a validation are divided among the ranks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hiend_loader::batch::BatchTimes;
use serde::{Deserialize, Serialize};

use super::error::thread_error;
use super::validation::CaseScores;
use super::{Counts, TrainingError};
use crate::config::RunConfig;
use crate::device::Compute;
use crate::distributed::{PeerFailure, ProcessGroup, Sums, all_reduce_for};
use crate::feed::DeviceBatch;
use crate::journal::{RankRecord, Stage};

/// Share of a step's time above which waiting for data counts as a rank's slowest stage.
const DATA_SHARE: f64 = 0.1;

/// Ranks of a run.
pub(super) struct Ranks {
    group: Arc<ProcessGroup>,
    sums: Sums,
}

/// Facts that must be equal on all ranks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Host and process of the rank.
    pub name: String,
    /// Version of this program.
    pub version: String,
    /// Kind of the run.
    pub task: String,
    /// Resolved configuration, as TOML.
    pub config: String,
    /// Digest of the data.
    pub stream_digest: String,
    /// Digest of the validation cases.
    pub validation_digest: Option<String>,
    /// Number of steps per epoch.
    pub steps_per_epoch: u64,
    /// Step after which the process stops.
    pub end_step: u64,
    /// Name of the device.
    pub device: String,
}

/// State with which all ranks begin, as found by rank 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    /// Name of the checkpoint's folder; absent for initial weights.
    pub checkpoint: Option<String>,
}

/// Facts of a rank about a step.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct StepFacts {
    counts: Counts,
    stop: bool,
    wait_ms: f64,
    stage: Stage,
}

/// Times of a rank's own part in a step, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepTimes {
    /// Time of waiting for the batch.
    pub wait: f64,
    /// Time of uploading the batch to the device, on another thread.
    pub upload: f64,
    /// Time of decoding in the loader, summed over its threads.
    pub decode: f64,
    /// Time of augmenting in the loader, summed over its threads.
    pub augment: f64,
}

impl StepTimes {
    /// Times of this rank's part in a step, after `wait` seconds of waiting for its batch.
    pub(super) fn of<Targets>(batch: Option<&DeviceBatch<Targets>>, wait: f64) -> Self {
        let (upload, loader) = batch.map_or((0.0, BatchTimes::default()), |batch| (batch.upload_secs, batch.loader));
        Self { wait, upload, decode: loader.decode_secs, augment: loader.augment_secs }
    }

    /// Slowest stage of a step that took `step` seconds.
    fn stage(&self, step: f64) -> Stage {
        if self.wait <= DATA_SHARE * step {
            return Stage::Compute;
        }
        let stages = [(self.decode, Stage::Decode), (self.augment, Stage::Augment), (self.upload, Stage::Upload)];
        stages.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or(Stage::Decode, |(_, stage)| stage)
    }
}

/// Facts of all ranks about a step.
#[derive(Clone, Debug)]
pub(super) struct AgreedStep {
    /// Counts of the step over all ranks.
    pub all: Counts,
    /// True if a stop was requested on any rank, so that this step is the last.
    pub stop: bool,
    /// Records for the journal; only on rank 0.
    pub ranks: Vec<RankRecord>,
}

impl Ranks {
    /// Connects the ranks of `group`, whose gradients are on `compute`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn new(group: &Arc<ProcessGroup>, compute: &Compute) -> Result<Self, TrainingError> {
        let sums = Sums::start(group, all_reduce_for(group, compute)).map_err(thread_error("sums"))?;
        Ok(Self { group: Arc::clone(group), sums })
    }

    /// The process group.
    pub(super) fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// Sums of gradients.
    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Compares the facts of all ranks with rank 0's, and returns the devices of all.
    ///
    /// # Errors
    /// The first difference, the same one on every rank; or a rank that failed.
    pub(super) fn agree<C: RunConfig>(&self, facts: &Facts) -> Result<Vec<String>, TrainingError> {
        let all = self.group.gather(facts).map_err(not_begun)?.values;
        for (rank, theirs) in all.iter().enumerate().skip(1) {
            if let Some(difference) = difference::<C>(&all[0], theirs) {
                return Err(TrainingError::Disagreement { rank, name: theirs.name.clone(), difference });
            }
        }
        Ok(all.into_iter().map(|facts| facts.device).collect())
    }

    /// Sends the starting state of rank 0 to all ranks.
    ///
    /// # Errors
    /// If a rank failed.
    pub(super) fn start(&self, own: Start) -> Result<Start, TrainingError> {
        let mut all = self.group.gather(&own).map_err(not_begun)?.values;
        Ok(all.swap_remove(0))
    }

    /// Compares the digests of weights and of checkpoints with rank 0's.
    ///
    /// # Errors
    /// The first rank that differs, or one that failed.
    pub(super) fn agree_on_weights(&self, weights: String, checkpoint: Option<String>) -> Result<(), TrainingError> {
        let own = (self.group.name(self.group.rank()).to_owned(), weights, checkpoint);
        let all = self.group.gather(&own).map_err(not_begun)?.values;
        let (_, first_weights, first_checkpoint) = &all[0];
        for (rank, (name, weights, checkpoint)) in all.iter().enumerate().skip(1) {
            let difference = if checkpoint != first_checkpoint {
                "its checkpoint differs from rank 0's; give all ranks the same run folder (--run-dir)"
            } else if weights != first_weights {
                "its first weights differ from rank 0's: all ranks need the same --init file and the same kind of device"
            } else {
                continue;
            };
            let difference = difference.to_owned();
            return Err(TrainingError::Disagreement { rank, name: name.clone(), difference });
        }
        Ok(())
    }

    /// Exchanges the facts of a step. `counts` describes this rank's share of the step, `step_secs` is the time since
    /// the last exchange.
    ///
    /// # Errors
    /// If a rank failed.
    pub(super) fn exchange(
        &self,
        counts: Counts,
        stop: bool,
        times: StepTimes,
        step_secs: f64,
    ) -> Result<AgreedStep, PeerFailure> {
        let own = StepFacts { counts, stop, wait_ms: times.wait * 1e3, stage: times.stage(step_secs) };
        let gathered = self.group.gather(&own)?;
        let record = |(rank, (facts, behind)): (usize, (&StepFacts, &Duration))| RankRecord {
            rank,
            wait_ms: facts.wait_ms,
            behind_ms: behind.as_secs_f64() * 1e3,
            stage: facts.stage,
        };
        let all = &gathered.values;
        Ok(AgreedStep {
            all: all.iter().map(|facts| facts.counts).sum(),
            stop: all.iter().any(|facts| facts.stop),
            ranks: all.iter().zip(&gathered.behind).enumerate().map(record).collect(),
        })
    }

    /// Gathers the scores of a validation's cases; `None` if any rank was stopped during it.
    ///
    /// # Errors
    /// If a rank failed.
    pub(super) fn gather_scores(&self, own: Option<Vec<CaseScores>>) -> Result<Option<Vec<CaseScores>>, PeerFailure> {
        let all: Option<Vec<_>> = self.group.gather(&own)?.values.into_iter().collect();
        Ok(all.map(|ranks| ranks.into_iter().flatten().collect()))
    }

    /// Ends the run on all ranks because of an error of this rank, or because it was asked to stop.
    pub(super) fn abort(&self, error: &TrainingError) {
        let message = hiend_cache::with_sources(error);
        if error.is_stop() { self.group.stop(&message) } else { self.group.abort(&message) }
    }
}

/// Stopwatch for the time between exchanges.
#[derive(Debug)]
pub(super) struct Pace(Instant);

impl Pace {
    /// Starts now.
    pub(super) fn new() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the last call.
    pub(super) fn lap(&mut self) -> f64 {
        let now = Instant::now();
        now.duration_since(std::mem::replace(&mut self.0, now)).as_secs_f64()
    }
}

fn not_begun(failure: PeerFailure) -> TrainingError {
    TrainingError::Rank { failure, step: 0, sound: false, last_good: None }
}

/// Finds the first fact in which a rank differs from rank 0.
fn difference<C: RunConfig>(first: &Facts, theirs: &Facts) -> Option<String> {
    let differs = |what: &str, theirs: &dyn std::fmt::Display, first: &dyn std::fmt::Display| {
        Some(format!("{what}: {theirs}, rank 0 has {first}"))
    };
    if theirs.version != first.version {
        return differs("version differs", &theirs.version, &first.version);
    }
    if theirs.task != first.task {
        return differs("kind of run differs", &theirs.task, &first.task);
    }
    if theirs.config != first.config {
        let parse = |facts: &Facts| C::parse(&facts.config, &facts.name).ok();
        let changes = parse(theirs).zip(parse(first)).map(|(theirs, first)| theirs.differences(&first));
        return match changes.and_then(|changes| changes.into_iter().next()) {
            Some((key, theirs, first)) => differs(&format!("config differs in {key}"), &theirs, &first),
            None => Some("config differs".to_owned()),
        };
    }
    if theirs.stream_digest != first.stream_digest {
        return differs("stream digest differs (other shards)", &theirs.stream_digest, &first.stream_digest);
    }
    if theirs.validation_digest != first.validation_digest {
        let [theirs, first] = [theirs, first].map(|facts| facts.validation_digest.as_deref().unwrap_or("none"));
        return differs("digest of the validation cases differs (other shards, lists or splits)", &theirs, &first);
    }
    if theirs.steps_per_epoch != first.steps_per_epoch {
        return differs("steps per epoch differ", &theirs.steps_per_epoch, &first.steps_per_epoch);
    }
    if theirs.end_step != first.end_step {
        return differs("last step differs (--max-steps)", &theirs.end_step, &first.end_step);
    }
    let kind = |device: &str| device.split(':').next().unwrap_or_default().to_owned();
    if kind(&theirs.device) != kind(&first.device) {
        return differs("kind of device differs", &theirs.device, &first.device);
    }
    None
}

/// Names the devices of all ranks.
pub(super) fn device_names(devices: &[String]) -> String {
    match devices {
        [one] => one.clone(),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => format!("{first} in {} ranks", devices.len()),
        all if all.len() <= 8 => all.join(" + "),
        all => format!("{} ranks: {}, ..", all.len(), all[..4].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::pretrain::{PretrainConfig, PretrainPreset};

    fn facts(config: &PretrainConfig) -> Facts {
        Facts {
            name: "node1, process 7".into(),
            version: "1".into(),
            task: "pre-training".into(),
            config: config.to_toml(),
            stream_digest: "ab".into(),
            validation_digest: None,
            steps_per_epoch: 4,
            end_step: 8,
            device: "cuda:0".into(),
        }
    }

    #[test]
    fn first_difference_is_named() {
        let config = PretrainPreset::Tiny.config();
        let first = facts(&config);
        let check = |theirs: Facts, expected: Option<&str>| {
            assert_eq!(difference::<PretrainConfig>(&first, &theirs).as_deref(), expected);
        };
        check(Facts { name: "node2".into(), device: "cuda:1".into(), ..first.clone() }, None);
        check(Facts { version: "2".into(), ..first.clone() }, Some("version differs: 2, rank 0 has 1"));
        let mut other = config.clone();
        other.optim.lr = 0.5;
        let expected = format!("config differs in optim.lr: 0.5, rank 0 has {}", config.optim.lr);
        check(facts(&other), Some(&expected));
        let expected = "stream digest differs (other shards): cd, rank 0 has ab";
        check(Facts { stream_digest: "cd".into(), ..first.clone() }, Some(expected));
        let expected = "digest of the validation cases differs (other shards, lists or splits): ef, rank 0 has none";
        check(Facts { validation_digest: Some("ef".into()), ..first.clone() }, Some(expected));
        check(Facts { end_step: 9, ..first.clone() }, Some("last step differs (--max-steps): 9, rank 0 has 8"));
        check(Facts { device: "cpu".into(), ..first.clone() }, Some("kind of device differs: cpu, rank 0 has cuda:0"));
    }

    #[test]
    fn slowest_stage_is_computing_unless_data_was_waited_for() {
        let times = StepTimes { wait: 0.3, upload: 0.1, decode: 0.5, augment: 0.7 };
        assert_eq!(times.stage(1.0), Stage::Augment);
        assert_eq!(times.stage(10.0), Stage::Compute);
        assert_eq!(StepTimes { decode: 0.9, ..times }.stage(1.0), Stage::Decode);
        assert_eq!(StepTimes { upload: 0.9, ..times }.stage(1.0), Stage::Upload);
    }

    #[test]
    fn devices_are_named_briefly() {
        let names = |devices: &[&str]| device_names(&devices.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(names(&["cpu"]), "cpu");
        assert_eq!(names(&["cpu", "cpu"]), "cpu in 2 ranks");
        assert_eq!(names(&["cuda:0", "cuda:1"]), "cuda:0 + cuda:1");
        assert_eq!(names(&["cuda:0", "cuda:1"].repeat(8)), "16 ranks: cuda:0, cuda:1, cuda:0, cuda:1, ..");
    }
}
