//! Reads losses back on a separate thread.
//!
//! A device executes its queue in order, copies to the host included: a loss that is requested after the next step was
//! queued arrives after that step, and the queue runs empty meanwhile. Every thread has its own queue, which waits only
//! for work that other queues received before its request. A dedicated thread therefore requests each loss as soon as
//! its step is queued, and records when it arrives.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use flume::RecvTimeoutError;
use hiend_loader::program::catch_panic;

use super::TrainingError;
use super::error::thread_error;
use super::replica::StepResult;
use crate::device::failure::reason_of;

/// Results of a step on the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// Mean loss of the batch.
    pub(super) loss: f64,
    /// Global gradient norm before clipping, if gradients are clipped.
    pub(super) norm: Option<f64>,
    /// Time at which the device finished the step.
    pub(super) at: Instant,
}

/// Reason why results did not arrive.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadbackError {
    /// The device failed, for this reason.
    #[error("{0}")]
    Device(String),
    /// The thread has ended.
    #[error("the thread that reads its results has ended")]
    Ended,
    /// Another rank failed, and the device did not answer in time.
    #[error("it waits for a rank that has failed")]
    RankFailed,
}

/// Thread that reads results back, and its channels. Results arrive in the order of the requests.
#[derive(Debug)]
pub(super) struct Readback {
    requests: Option<flume::Sender<(Tensor<1>, Option<Tensor<1>>)>>,
    answers: flume::Receiver<Result<Answer, ReadbackError>>,
    thread: Option<JoinHandle<()>>,
    /// True if the thread waits for a device that waits for a failed rank.
    stuck: bool,
}

/// Interval at which a waiting run checks for failed ranks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time that a result may still take after another rank has failed.
const PATIENCE: Duration = Duration::from_secs(20);

impl Readback {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses a thread.
    #[expect(
        clippy::disallowed_methods,
        reason = "a run has two steps in flight at most, so the queues hold two values"
    )]
    pub(super) fn start() -> Result<Self, TrainingError> {
        let (requests, requested) = flume::unbounded::<(Tensor<1>, Option<Tensor<1>>)>();
        let (sender, answers) = flume::unbounded();
        let answer_all = move || {
            for (loss, norm) in requested {
                let read = move || {
                    let (loss, norm) = (value(loss)?, norm.map(value).transpose()?);
                    Ok(Answer { loss, norm, at: Instant::now() })
                };
                let answer = catch_panic(read).unwrap_or_else(|message| Err(ReadbackError::Device(message)));
                if sender.send(answer).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("readback".into()).spawn(answer_all);
        let thread = thread.map_err(thread_error("readback"))?;
        Ok(Self { requests: Some(requests), answers, thread: Some(thread), stuck: false })
    }

    /// Requests the results of a step; must be called right after it was queued.
    pub(super) fn ask(&self, result: StepResult) {
        if let Some(requests) = &self.requests {
            // A thread that has ended is noticed when the answer does not arrive.
            let _ = requests.send((result.loss, result.norm));
        }
    }

    /// Waits for the next answer. Once `rank_failed` returns true, the wait is limited: the device may be waiting for
    /// that rank's part of a sum.
    ///
    /// # Errors
    /// The device's message, or that no answer arrived.
    pub(super) fn next(&mut self, rank_failed: impl Fn() -> bool) -> Result<Answer, ReadbackError> {
        self.next_within(CHECK_INTERVAL, PATIENCE, rank_failed)
    }

    fn next_within(
        &mut self,
        check_interval: Duration,
        patience: Duration,
        rank_failed: impl Fn() -> bool,
    ) -> Result<Answer, ReadbackError> {
        let mut wait = check_interval;
        loop {
            match self.answers.recv_timeout(wait) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(ReadbackError::Ended),
                Err(RecvTimeoutError::Timeout) if wait == patience => {
                    self.stuck = true;
                    return Err(ReadbackError::RankFailed);
                }
                Err(RecvTimeoutError::Timeout) if rank_failed() => wait = patience,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        self.requests = None;
        let Some(thread) = self.thread.take() else { return };
        // At most one step is outstanding, but a device that waits for another rank may never finish it.
        let given_up = Instant::now() + if self.stuck { Duration::ZERO } else { PATIENCE };
        while !thread.is_finished() {
            if Instant::now() >= given_up {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = thread.join();
    }
}

fn value(scalar: Tensor<1>) -> Result<f64, ReadbackError> {
    let data = scalar.try_into_data().map_err(|error| ReadbackError::Device(reason_of(error)))?;
    // Only this copies the value.
    let values = data.try_to_vec::<f32>().map_err(|error| ReadbackError::Device(reason_of(error)))?;
    Ok(values.first().map_or(f64::NAN, |&value| f64::from(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::devices;

    #[test]
    fn answers_arrive_in_order_with_the_values_at_the_request() {
        for device in devices() {
            let mut readback = Readback::start().unwrap();
            for number in 0..5 {
                let loss = Tensor::from_data([number as f32], &device);
                let norm = (number % 2 == 0).then(|| loss.clone() * 2.0);
                readback.ask(StepResult { loss, norm, crops: 1 });
            }
            for number in 0..5 {
                let Answer { loss, norm, .. } = readback.next(|| false).unwrap();
                let number = f64::from(number);
                assert_eq!((loss, norm), (number, (number % 2.0 == 0.0).then_some(2.0 * number)));
            }
        }
    }

    #[test]
    fn wait_for_an_answer_ends_after_a_rank_failed() {
        let ms = Duration::from_millis;
        // Without a request no answer arrives, as from a device that hangs.
        let mut readback = Readback::start().unwrap();
        let checks = std::cell::Cell::new(0);
        let rank_failed = || {
            checks.set(checks.get() + 1);
            checks.get() == 3
        };
        let error = readback.next_within(ms(2), ms(20), rank_failed).unwrap_err();
        assert_eq!((error, checks.get()), (ReadbackError::RankFailed, 3));
        assert!(readback.stuck);
    }
}
