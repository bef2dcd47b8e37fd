//! Upload of batches to the device on a separate thread, one or two ahead of the step that uses them.
//!
//! One batch waits in the channel while the next is prepared, so the device holds three at most: the batch in use, the
//! waiting one and the one in preparation. The targets of the crops are made here too ([`Targets`]): masks, which are
//! sampled from the identity of each crop and depend neither on its batch nor on earlier crops; or label maps.
//!
//! A GPU gets voxels as the cache stores them, quantized to 16 bits, and converts them to floats when the batch is used
//! ([`crate::ops::dequantize`]): half the bytes to transfer, and half the memory while a batch waits. For the CPU the
//! loader makes floats in the pass that cuts the crops. If the device augments, it gets the boxes from which crops are
//! made ([`crate::augment`]); if it decodes, the chunks of their cases as they are stored ([`crate::ops::decode`]).

mod device_batch;
mod error;
mod targets;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use flume::{Receiver, RecvTimeoutError};
use hiend_loader::batch::Batch;

pub use device_batch::{DeviceBatch, Part};
pub use error::{FeedError, SourceError};
pub use targets::{HostCrops, Labels, Masked, Masks, TargetError, Targets};

/// Interval at which a wait for a batch looks for a reason to give up.
const LOOK: Duration = Duration::from_millis(100);
/// Time that a feed which is dropped waits for its source, before the thread is left behind.
const PARTING: Duration = Duration::from_secs(2);

/// Batches in the order of their steps.
pub type BatchSource = Box<dyn Iterator<Item = Result<Batch, SourceError>> + Send>;

/// Wraps an iterator of batches as a [`BatchSource`].
pub fn source_of<E: Into<SourceError>>(
    batches: impl Iterator<Item = Result<Batch, E>> + Send + 'static,
) -> BatchSource {
    Box::new(batches.map(|batch| batch.map_err(Into::into)))
}

/// Settings of a [`Feed`].
#[derive(Clone, Debug)]
pub struct FeedConfig {
    /// Step of the first batch.
    pub start_step: u64,
    /// Crop size along x, y, z, in voxels.
    pub crop_size: [usize; 3],
    /// Number of crops per part; `None` for the whole batch.
    pub micro_batch: Option<usize>,
}

/// Feeding thread and the channel from it. Dropping it ends both. A thread whose source has not returned two seconds
/// later is left behind: it ends once the source returns, and does not use the device again.
#[derive(Debug)]
pub struct Feed<T> {
    batches: Option<Receiver<Result<Option<DeviceBatch<T>>, FeedError>>>,
    thread: Option<JoinHandle<()>>,
    /// True while the thread waits for its source.
    is_waiting: Arc<AtomicBool>,
    next_step: u64,
}

impl<T: Send + 'static> Feed<T> {
    /// Starts to prepare batches of `source` on `device`, which is without autodiff because batches are constants.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub fn start(
        mut source: BatchSource,
        targets: impl Targets<Target = T>,
        device: Device,
        config: FeedConfig,
    ) -> std::io::Result<Self> {
        let (sender, batches) = flume::bounded(1);
        let FeedConfig { start_step, crop_size, micro_batch } = config;
        let is_waiting = Arc::new(AtomicBool::new(false));
        let waits = Arc::clone(&is_waiting);
        let thread = std::thread::Builder::new().name("feed".into()).spawn(move || {
            for step in start_step.. {
                waits.store(true, Ordering::SeqCst);
                let next = source.next();
                waits.store(false, Ordering::SeqCst);
                if sender.is_disconnected() {
                    return;
                }
                let batch = match next {
                    Some(Ok(batch)) => device_batch::prepare(batch, step, &targets, &device, crop_size, micro_batch),
                    Some(Err(source)) => Err(FeedError::Source { step, source }),
                    None => return,
                };
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    return;
                }
            }
        })?;
        Ok(Self { batches: Some(batches), thread: Some(thread), is_waiting, next_step: start_step })
    }

    /// Returns true if [`Self::next_batch`] returns without waiting.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.batches.as_ref().is_none_or(|batches| !batches.is_empty() || batches.is_disconnected())
    }

    /// Waits for the next batch. `None` if all its cases are corrupt and were skipped: the step then has no batch, and
    /// the next call returns the batch of the following step.
    ///
    /// # Errors
    /// [`FeedError`], after which every call fails.
    pub fn next_batch(&mut self) -> Result<Option<DeviceBatch<T>>, FeedError> {
        self.next_batch_unless(|| None)
    }

    /// Waits for the next batch like [`Self::next_batch`], until `ended` returns the reason why no batch is needed any
    /// more. It is asked at intervals of 0.1 s, and when the source fails, which that reason may have caused.
    ///
    /// # Errors
    /// The reason, after which the batch can still be waited for; otherwise [`FeedError`], after which every call fails.
    pub fn next_batch_unless<E: From<FeedError>>(
        &mut self,
        ended: impl Fn() -> Option<E>,
    ) -> Result<Option<DeviceBatch<T>>, E> {
        let step = self.next_step;
        let batch = loop {
            match self.batches.as_ref().map(|batches| batches.recv_timeout(LOOK)) {
                Some(Ok(batch)) => break batch,
                Some(Err(RecvTimeoutError::Timeout)) => {
                    if let Some(reason) = ended() {
                        return Err(reason);
                    }
                }
                Some(Err(RecvTimeoutError::Disconnected)) | None => break Err(FeedError::Ended { step }),
            }
        };
        self.next_step += 1;
        batch.map_err(|error| ended().unwrap_or_else(|| error.into()))
    }
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, and the thread ends.
        self.batches = None;
        let Some(thread) = self.thread.take() else { return };
        // A source may wait for minutes, for servers or storage that do not answer.
        let deadline = Instant::now() + PARTING;
        while !thread.is_finished() {
            if Instant::now() >= deadline && self.is_waiting.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // A panic of the thread was reported when it happened, and is seen here as the end of the stream.
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::SyntheticStream;
    use burn::tensor::Tensor;

    const STREAM: SyntheticStream = SyntheticStream { seed: 1, crop_size: [8; 3], crops: 2, steps_per_epoch: 3 };

    const MASKS: Masks = Masks { seed: 1, num_patches: 8, mask_ratio: 0.5 };

    fn start(source: BatchSource, start_step: u64) -> Feed<Masked> {
        let config = FeedConfig { start_step, crop_size: [8; 3], micro_batch: None };
        Feed::start(source, MASKS, Device::flex(), config).unwrap()
    }

    #[test]
    fn batches_are_in_order_and_independent_of_the_first_step() {
        let mut all = start(STREAM.open(0), 0);
        let batches: Vec<DeviceBatch<Masked>> = (0..4).map(|_| all.next_batch().unwrap().unwrap()).collect();
        let mut late = start(STREAM.open(3), 3);
        let third = late.next_batch().unwrap().unwrap();
        assert_eq!(third.step, 3);
        let mask = |batch: &DeviceBatch<Masked>| batch.parts[0].target.mask.clone();
        assert_eq!(mask(&third), mask(&batches[3]));
        let images = |batch: &DeviceBatch<Masked>| batch.parts[0].images().into_data();
        assert_eq!(images(&third), images(&batches[3]));
        assert_ne!(mask(&batches[0]), mask(&batches[1]));
    }

    #[test]
    fn an_error_of_the_source_ends_the_feed() {
        let failing = STREAM.open(0).take(1).chain(std::iter::once(Err("no such shard".into())));
        let mut feed = start(Box::new(failing), 0);
        feed.next_batch().unwrap();
        assert!(matches!(feed.next_batch(), Err(FeedError::Source { step: 1, .. })));
        assert!(matches!(feed.next_batch(), Err(FeedError::Ended { step: 2 })));
    }

    #[test]
    fn the_end_of_the_source_is_an_error() {
        let mut feed = start(Box::new(STREAM.open(0).take(1)), 0);
        feed.next_batch().unwrap();
        assert!(matches!(feed.next_batch(), Err(FeedError::Ended { step: 1 })));
    }

    #[test]
    fn reason_to_give_up_ends_the_wait_for_a_source_that_does_not_answer() {
        let (release, blocked) = flume::bounded::<()>(0);
        let never = std::iter::from_fn(move || {
            let _ = blocked.recv();
            None
        });
        let mut feed = start(Box::new(STREAM.open(0).take(1).chain(never)), 0);
        feed.next_batch().unwrap();
        let lost = || Some(FeedError::Ended { step: 7 });
        assert!(matches!(feed.next_batch_unless(lost), Err(FeedError::Ended { step: 7 })));
        // The thread is left behind, which otherwise would be waited for without end.
        drop(feed);
        drop(release);
    }

    #[test]
    fn reason_to_give_up_comes_before_an_error_of_the_source_and_after_a_batch() {
        let failing = STREAM.open(0).take(1).chain(std::iter::once(Err("abandoned".into())));
        let mut feed = start(Box::new(failing), 0);
        let lost = || Some(FeedError::Ended { step: 7 });
        while !feed.is_ready() {
            std::thread::yield_now();
        }
        assert!(feed.next_batch_unless(lost).unwrap().is_some());
        assert!(matches!(feed.next_batch_unless(lost), Err(FeedError::Ended { step: 7 })));
    }

    #[test]
    fn empty_and_short_batches_are_passed_on() {
        let batches = (0..3).map(|step| {
            let crops = [2, 0, 1][step as usize];
            Ok(SyntheticStream { crops, ..STREAM }.batch(step))
        });
        let mut feed = start(Box::new(batches), 0);
        let mut next = || feed.next_batch().unwrap().map(|batch| (batch.step, batch.parts[0].num_crops()));
        assert_eq!([next(), next(), next()], [Some((0, 2)), None, Some((2, 1))]);
    }

    #[test]
    fn batches_of_another_shape_or_step_are_rejected() {
        let stream = SyntheticStream { crop_size: [8, 8, 4], ..STREAM };
        assert!(matches!(start(stream.open(0), 0).next_batch(), Err(FeedError::Shape { step: 0, .. })));
        assert!(matches!(start(STREAM.open(2), 0).next_batch(), Err(FeedError::Order { expected: 0, found: 2 })));
    }

    #[test]
    fn parts_are_the_crops_of_the_batch_in_order() {
        let stream = SyntheticStream { crops: 5, ..STREAM };
        let config = |micro_batch| FeedConfig { start_step: 0, crop_size: [8; 3], micro_batch };
        let batch = |size| {
            Feed::start(stream.open(0), MASKS, Device::flex(), config(size)).unwrap().next_batch().unwrap().unwrap()
        };
        let (whole, parted) = (batch(None), batch(Some(2)));
        assert_eq!(parted.parts.iter().map(Part::num_crops).collect::<Vec<_>>(), [2, 2, 1]);
        let images = |batch: DeviceBatch<Masked>| {
            Tensor::cat(batch.parts.into_iter().map(|part| part.images()).collect(), 0).into_data()
        };
        for (part, crops) in parted.parts.iter().zip([[0, 1].as_slice(), &[2, 3], &[4]]) {
            assert_eq!(part.target.mask, whole.parts[0].target.mask.select(crops));
        }
        assert_eq!(images(parted), images(whole));
    }
}
