//! Losses read back beside the queue.
//!
//! A device takes what it is told in order, copies to the host among them: a loss asked for after the next update was
//! queued comes after that update, and until then the queue runs dry. Each thread has a queue of its own, which waits
//! for no more of the others than they had been told when it asked. So a thread that does nothing else asks for a loss
//! as soon as it is queued, and notes when it came.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Instant;

use burn::tensor::{ExecutionError, Tensor};

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
}

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
                // A panic's own message was shown, or remembered, when it happened.
                let answer = catch_unwind(AssertUnwindSafe(read));
                if give.send(answer.unwrap_or_else(|_| Err("its result cannot be read".into()))).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { ask: Some(ask), answers, thread: Some(thread) })
    }

    /// Asks for what an update tells; to be called right after it was queued.
    pub(super) fn ask(&self, update: Update) {
        if let Some(ask) = &self.ask {
            // A thread that is gone is noticed when the answer does not come.
            let _ = ask.send((update.loss, update.norm));
        }
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// What the device says.
    pub(super) fn next(&self) -> Result<Answer, String> {
        self.answers.recv().unwrap_or_else(|_| Err("nobody reads its results any more".into()))
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
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
            let readback = Readback::start().unwrap();
            for number in 0..5 {
                let loss = Tensor::from_data([number as f32], &device);
                let norm = (number % 2 == 0).then(|| loss.clone() * 2.0);
                readback.ask(Update { loss, norm, crops: 1 });
            }
            for number in 0..5 {
                let Answer { loss, norm, .. } = readback.next().unwrap();
                let number = f64::from(number);
                assert_eq!((loss, norm), (number, (number % 2.0 == 0.0).then_some(2.0 * number)));
            }
        }
    }
}
