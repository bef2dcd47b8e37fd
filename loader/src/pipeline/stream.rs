//! Consumer's end of a stream: its buffers, its threads, and the batches in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::assemble::{Assembler, Message, catch_bug};
use super::read_ahead::ReadAhead;
use super::turns::Turns;
use super::{Error, Loader, MemoryPlan, STEPS, Shared, cores};
use crate::batch::Batch;
use crate::meter::Meter;
use crate::verdict::SpanTimes;
use crate::visit::Form;

impl Loader {
    /// Starts a stream whose batches have the form `F`.
    pub(super) fn stream_of<F: Form>(&self, steps: Range<u64>) -> BatchStream {
        let shared = &self.shared;
        let memory = &shared.memory;
        let checked = check_step(steps.start);
        // An error takes the place of one batch.
        let steps = if checked.is_ok() { steps } else { STEPS..u64::MAX };
        let (sender, receiver) = flume::bounded(memory.num_buffers);
        let mut stream = BatchStream {
            receiver,
            early: BTreeMap::new(),
            next: steps.start,
            end: steps.end,
            meter: Meter::new(self.steps_per_epoch()),
            shared: Arc::clone(shared),
            read_ahead: Arc::new(match shared.fetched_ahead {
                Some(bytes) => ReadAhead::on_disk(bytes, shared.first_visit(steps.start)),
                None => ReadAhead::new(memory.read_ahead_bytes, shared.first_visit(steps.start)),
            }),
            stop: Arc::new(AtomicBool::new(false)),
            failed: false,
        };
        let bytes = memory.num_buffers as u64 * memory.batch_bytes;
        shared.stats.hold(bytes);
        if let Err(error) = checked {
            stream.early.insert(steps.start, (Err(error), Instant::now()));
        } else if has_room::<F::Voxel>(memory) {
            self.start_threads::<F>(&steps, &sender, &stream);
        } else {
            stream.early.insert(steps.start, (Err(Error::NoMemory { bytes }), Instant::now()));
        }
        stream
    }

    /// Allocates the buffers of a stream and starts its threads.
    fn start_threads<F: Form>(&self, steps: &Range<u64>, sender: &flume::Sender<Message>, stream: &BatchStream) {
        let shared = &self.shared;
        let MemoryPlan { num_buffers, batch_voxels, batch_labels, .. } = shared.memory;
        let (image_sender, free_images) = flume::bounded(num_buffers);
        let (label_sender, free_labels) = flume::bounded(num_buffers);
        for _ in 0..num_buffers {
            // Cannot fail: the channels hold that many.
            let _ = image_sender.send(vec![F::Voxel::default(); batch_voxels]);
            let _ = label_sender.send(vec![0u8; batch_labels]);
        }
        {
            let (shared, read_ahead, sender) = (Arc::clone(shared), Arc::clone(&stream.read_ahead), sender.clone());
            let steps = steps.clone();
            std::thread::spawn(move || {
                let advising = catch_bug(|| {
                    read_ahead.run(&shared, steps);
                    Ok(())
                });
                if let Err(error) = advising {
                    let _ = sender.send(Message::Failed(error));
                }
            });
        }
        let rest = Arc::new(Mutex::new(steps.clone()));
        for _ in 0..(num_buffers - 1) {
            let assembler = Assembler::<F> {
                shared: Arc::clone(shared),
                turns: Turns {
                    pools: (image_sender.clone(), label_sender.clone()),
                    free: (free_images.clone(), free_labels.clone()),
                    rest: Arc::clone(&rest),
                    stop: Arc::clone(&stream.stop),
                },
                sender: sender.clone(),
                read_ahead: Arc::clone(&stream.read_ahead),
            };
            std::thread::spawn(move || assembler.run());
        }
    }
}

/// Checks that the numbers of a step's visits fit into 64 bits.
///
/// # Errors
/// If they do not fit into 64 bits.
pub(super) fn check_step(step: u64) -> Result<(), Error> {
    if step < STEPS {
        return Ok(());
    }
    let reason = format!("{step}; expected a step below 2^47 ({STEPS})");
    Err(Error::BadConfig { key: "start_step", reason })
}

/// Returns true if the system has memory for all batch buffers.
///
/// The memory is returned at once. The buffers are then allocated by a call that gets zeroed pages without writing to
/// them, which aborts the process if there are none.
fn has_room<V>(memory: &MemoryPlan) -> bool {
    let mut buffers: Vec<(Vec<V>, Vec<u8>)> = (0..memory.num_buffers).map(|_| (Vec::new(), Vec::new())).collect();
    let has_room = buffers.iter_mut().all(|(voxels, labels)| {
        voxels.try_reserve_exact(memory.batch_voxels).is_ok() && labels.try_reserve_exact(memory.batch_labels).is_ok()
    });
    // Keeps the compiler from removing allocations that nothing uses.
    std::hint::black_box(&buffers);
    has_room
}

/// Iterator over batches in the order of their steps. Ends after the last step or the first error.
pub struct BatchStream {
    receiver: flume::Receiver<Message>,
    /// Batches that became ready before an earlier batch.
    early: BTreeMap<u64, (Result<Batch, Error>, Instant)>,
    next: u64,
    /// End of the range of steps, exclusive.
    end: u64,
    meter: Meter,
    shared: Arc<Shared>,
    read_ahead: Arc<ReadAhead>,
    stop: Arc<AtomicBool>,
    failed: bool,
}

impl BatchStream {
    /// Times of all batches so far except the first, which waits for the pipeline to fill.
    #[must_use]
    pub fn total(&self) -> &SpanTimes {
        self.meter.total()
    }

    /// Returns the number and times of an epoch that ended since the last call; an epoch has `steps_per_epoch` batches.
    pub fn take_epoch(&mut self) -> Option<(u64, SpanTimes)> {
        self.meter.take_epoch()
    }

    /// Records the times of a batch that was requested at `asked` and ready at `done`.
    fn count(&mut self, batch: &mut Batch, asked: Instant, done: Instant) {
        let now = Instant::now();
        metrics::histogram!("hiend_loader_queue_seconds").record(now.saturating_duration_since(done).as_secs_f64());
        if let Some((epoch, span)) = self.meter.count(batch, asked, now) {
            tracing::debug!(epoch, "{}", span.verdict(self.shared.memory.threads, cores()));
        }
    }
}

impl Iterator for BatchStream {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.next >= self.end {
            return None;
        }
        let asked = Instant::now();
        loop {
            if let Some((mut batch, done)) = self.early.remove(&self.next) {
                self.next += 1;
                match &mut batch {
                    Ok(batch) => self.count(batch, asked, done),
                    Err(_) => self.failed = true,
                }
                return Some(batch);
            }
            match self.receiver.recv() {
                Ok(Message::Batch(step, batch, done)) => {
                    self.early.insert(step, (batch, done));
                }
                Ok(Message::Failed(error)) => {
                    self.failed = true;
                    return Some(Err(error));
                }
                // Unreachable while `catch_bug` surrounds the work of each thread; better than waiting if it is not.
                Err(flume::RecvError::Disconnected) => {
                    self.failed = true;
                    return Some(Err(Error::Panicked { message: "all threads ended".into() }));
                }
            }
        }
    }
}

impl Drop for BatchStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.read_ahead.stop(&self.shared.stats);
        // Buffers return to their pools; an assembler that waits for one wakes, sees the flag and ends.
        self.early.clear();
        self.receiver.drain();
        let memory = &self.shared.memory;
        self.shared.stats.release(memory.num_buffers as u64 * memory.batch_bytes);
    }
}
