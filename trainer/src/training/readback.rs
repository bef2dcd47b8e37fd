//! Losses read back beside the queue.
//!
//! A device takes what it is told in order, copies to the host among them: a loss asked for after the next update was
//! queued comes after that update, and until then the queue runs dry. Each thread has a queue of its own, which waits
//! for no more of the others than they had been told when it asked. So a thread that does nothing else asks for a loss
//! as soon as it is queued, and notes when it came.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::{ExecutionError, Tensor};

use flume::RecvTimeoutError;

use super::replica::Update;

/// What an update told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) loss: f64,
    pub(super) norm: Option<f64>,
    /// When the device was done with it.
    pub(super) at: Instant,
}

/// The thread, and the way to it and back. Answers come in the order of the updates.
#[derive(Debug)]
pub(super) struct Readback {
    ask: Option<flume::Sender<(Tensor<1>, Option<Tensor<1>>)>>,
    answers: flume::Receiver<Result<Answer, String>>,
    thread: Option<JoinHandle<()>>,
    /// The thread waits for a device that waits for a rank that is gone.
    stuck: bool,
}

/// How often whoever waits looks whether it is worth it, and how long it goes on when it is not.
const LOOK: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

impl Readback {
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let (ask, asked) = flume::unbounded::<(Tensor<1>, Option<Tensor<1>>)>();
        let (give, answers) = flume::unbounded();
        let thread = std::thread::Builder::new().name("readback".into()).spawn(move || {
            for (loss, norm) in asked {
                let read = move || {
                    let (loss, norm) = (value(loss)?, norm.map(value).transpose()?);
                    Ok(Answer { loss, norm, at: Instant::now() })
                };
                let answer = catch_unwind(AssertUnwindSafe(read));
                if give.send(answer.unwrap_or_else(|panic| Err(words_of(&*panic)))).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { ask: Some(ask), answers, thread: Some(thread), stuck: false })
    }

    /// Asks for what an update tells; to be called right after it was queued.
    pub(super) fn ask(&self, update: Update) {
        if let Some(ask) = &self.ask {
            // A thread that is gone is noticed when the answer does not come.
            let _ = ask.send((update.loss, update.norm));
        }
    }

    /// Waits for the next answer; not for ever if `lost` tells that a rank has failed, whose part of a sum the device
    /// may be waiting for.
    ///
    /// # Errors
    /// What the device says, or that it says nothing.
    pub(super) fn next(&mut self, lost: impl Fn() -> bool) -> Result<Answer, String> {
        self.next_within(LOOK, PATIENCE, lost)
    }

    fn next_within(&mut self, look: Duration, patience: Duration, lost: impl Fn() -> bool) -> Result<Answer, String> {
        let mut wait = look;
        loop {
            match self.answers.recv_timeout(wait) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err("nobody reads its results any more".into()),
                Err(RecvTimeoutError::Timeout) if wait == patience => {
                    self.stuck = true;
                    return Err("it waits for a rank that has failed".into());
                }
                Err(RecvTimeoutError::Timeout) if lost() => wait = patience,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        self.ask = None;
        let Some(thread) = self.thread.take() else { return };
        // It has an update to wait for at most, but a device that waits for another rank may never be done with it.
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

/// What a panic said.
fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    words.unwrap_or("its result cannot be read").to_owned()
}

fn value(scalar: Tensor<1>) -> Result<f64, String> {
    let data = scalar.try_into_data().map_err(|error: ExecutionError| format!("{error:?}"))?;
    // Only now is it copied.
    let values = data.try_to_vec::<f32>().map_err(|error| format!("{error:?}"))?;
    Ok(values.first().map_or(f64::NAN, |&value| f64::from(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::devices;

    #[test]
    fn answers_come_in_order_and_are_those_of_when_it_was_asked() {
        for device in devices() {
            let mut readback = Readback::start().unwrap();
            for number in 0..5 {
                let loss = Tensor::from_data([number as f32], &device);
                let norm = (number % 2 == 0).then(|| loss.clone() * 2.0);
                readback.ask(Update { loss, norm, crops: 1 });
            }
            for number in 0..5 {
                let Answer { loss, norm, .. } = readback.next(|| false).unwrap();
                let number = f64::from(number);
                assert_eq!((loss, norm), (number, (number % 2.0 == 0.0).then_some(2.0 * number)));
            }
        }
    }

    #[test]
    fn an_answer_that_cannot_come_is_not_waited_for() {
        let ms = Duration::from_millis;
        // Nothing was asked, as if the device never came back.
        let mut readback = Readback::start().unwrap();
        let looks = std::cell::Cell::new(0);
        let lost = || {
            looks.set(looks.get() + 1);
            looks.get() == 3
        };
        let error = readback.next_within(ms(2), ms(20), lost).unwrap_err();
        assert_eq!((error.as_str(), looks.get()), ("it waits for a rank that has failed", 3));
        assert!(readback.stuck);
    }
}
