//! State of a run when a rank or the device fails, from which all ranks make the error that ends the run.

use super::error::LastGood;
use super::ranks::Ranks;
use super::{TrainOptions, TrainingError, memory_advice};
use crate::config::RunConfig;
use crate::device::{self, failure};
use crate::distributed::{PeerFailure, ReduceError};

/// State that the errors of a run name.
pub(super) struct FailureContext<'a, C> {
    pub(super) config: &'a C,
    pub(super) options: &'a TrainOptions,
    /// All ranks, if there are several.
    pub(super) ranks: Option<&'a Ranks>,
    /// Number of optimizer steps done.
    pub(super) step: u64,
    /// Newest checkpoint; absent on ranks that do not write checkpoints.
    pub(super) last_good: Option<LastGood>,
}

impl<C: RunConfig> FailureContext<'_, C> {
    /// Error of a run that ends because another rank failed.
    pub(super) fn of_rank(self, failure: PeerFailure) -> TrainingError {
        let sound = self.ranks.is_none_or(|ranks| ranks.sums().is_on_host());
        TrainingError::Rank { failure, step: self.step, sound, last_good: self.last_good }
    }

    /// Error of the device at a step, with advice if its memory is exhausted.
    pub(super) fn of_device(self, step: u64, message: &str) -> TrainingError {
        TrainingError::Device { step, message: self.explained(message), last_good: self.last_good }
    }

    /// Error of the next step, whose gradients could not be summed.
    pub(super) fn of_sum(self, error: ReduceError) -> TrainingError {
        match error {
            ReduceError::Peer(failure) => self.of_rank(failure),
            ReduceError::Device(message) => {
                let step = self.step + 1;
                self.of_device(step, &message)
            }
        }
    }

    /// Error of a run that has no batch, with the device's message explained if that is the reason.
    pub(super) fn of_feed(self, mut error: TrainingError) -> TrainingError {
        if let TrainingError::Feed(error) = &mut error
            && let Some(message) = error.device_message_mut()
        {
            *message = self.explained(message);
        }
        error
    }

    /// Extracts the reason from a device's message, adding advice if its memory is exhausted.
    fn explained(&self, message: &str) -> String {
        let mut message = failure::reason(message);
        if let Some(panic) = device::take_panic() {
            message = format!("{message} ({panic})");
        }
        if failure::is_out_of_memory(&message) {
            let num_ranks = self.ranks.map_or(1, |ranks| ranks.group().num_ranks());
            let crops = self.config.stream().crops_per_batch() / num_ranks;
            let at_a_time = self.config.train().crops_at_a_time().unwrap_or(crops);
            message += &memory_advice::less_memory(at_a_time, self.options.gradient_checkpointing);
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::FeedError;
    use crate::testing::small_pretraining;

    #[test]
    fn every_rank_explains_the_failure_of_its_device_and_only_one_names_a_checkpoint() {
        let (config, options) = (small_pretraining(4), TrainOptions::new("run"));
        let context =
            |last_good| FailureContext { config: &config, options: &options, ranks: None, step: 3, last_good };
        let message = || "out of device memory allocating 8 bytes".to_owned();
        let follower = context(None).of_sum(ReduceError::Device(message())).to_string();
        assert!(follower.starts_with("the device failed at step 4: out of device memory allocating"), "{follower}");
        assert!(follower.contains("; to use less: ") && !follower.contains("no checkpoint yet"), "{follower}");
        let writer = context(Some(LastGood(None))).of_sum(ReduceError::Device(message())).to_string();
        assert_eq!(writer, format!("{follower}; no checkpoint yet"));
        let feed = context(None).of_feed(FeedError::Upload { step: 4, message: message() }.into()).to_string();
        assert!(feed.contains("; to use less: "), "{feed}");
    }
}
