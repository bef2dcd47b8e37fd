//! One batch in hand: its buffer, its visits, and what is left when a case is corrupt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;

use super::read_ahead::ReadAhead;
use super::{Error, OnCorrupt, Shared};
use crate::batch::{Batch, BatchTimes, CropRecord, Images, PooledBuffer, StepLaw};
use crate::rng::{DrawId, case_key};
use crate::stats::BlockedClock;
use crate::visit::{ImagesMut, Visit, VisitSlot, Visitor};

/// A batch that is done, and when it was.
pub(super) type Ready = (u64, Result<Batch, Error>, Instant);

/// A batch's memory.
type Loan<V> = (PooledBuffer<V>, PooledBuffer<u8>);

/// What a batch's voxels are held as.
pub(super) trait Voxel: Copy + Default + Send + Sync + 'static {
    /// A place for them.
    fn place(values: &mut [Self]) -> ImagesMut<'_>;

    /// All of them.
    fn images(buffer: PooledBuffer<Self>, laws: Vec<StepLaw>) -> Images;
}

impl Voxel for f32 {
    fn place(values: &mut [Self]) -> ImagesMut<'_> {
        ImagesMut::Floats(values)
    }

    fn images(buffer: PooledBuffer<Self>, _: Vec<StepLaw>) -> Images {
        Images::Floats(buffer)
    }
}

impl Voxel for u16 {
    fn place(values: &mut [Self]) -> ImagesMut<'_> {
        ImagesMut::Steps(values)
    }

    fn images(buffer: PooledBuffer<Self>, laws: Vec<StepLaw>) -> Images {
        Images::Steps(buffer, laws)
    }
}

/// Makes batches until told to stop.
pub(super) struct Assembler<V> {
    pub(super) shared: Arc<Shared>,
    pub(super) home: (flume::Sender<Vec<V>>, flume::Sender<Vec<u8>>),
    pub(super) free: (flume::Receiver<Vec<V>>, flume::Receiver<Vec<u8>>),
    pub(super) next_step: Arc<Mutex<u64>>,
    pub(super) give: flume::Sender<Ready>,
    pub(super) read_ahead: Arc<ReadAhead>,
    pub(super) stop: Arc<AtomicBool>,
}

/// Crops of a visit, none if its case is corrupt, and what they cost.
#[derive(Default)]
struct Visited {
    crops: Option<(Vec<CropRecord>, Vec<StepLaw>)>,
    read_secs: f64,
    decode_secs: f64,
    augment_secs: f64,
}

impl<V: Voxel> Assembler<V> {
    pub(super) fn run(&self) {
        while let Some((step, loan, buffer_wait_secs)) = self.begin() {
            let batch = self.assemble(step, loan, buffer_wait_secs);
            let failed = batch.is_err();
            if self.give.send((step, batch, Instant::now())).is_err() || failed {
                return;
            }
        }
    }

    /// The buffer first, then the step: so the oldest step in work always has its buffer.
    fn begin(&self) -> Option<(u64, Loan<V>, f64)> {
        let mut next = self.next_step.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the one that may begin waits for a buffer; the others wait for the lock, which is no lack of buffers.
        let waiting = Instant::now();
        let images = PooledBuffer::on_loan(self.free.0.recv().ok()?, self.home.0.clone());
        let labels = PooledBuffer::on_loan(self.free.1.recv().ok()?, self.home.1.clone());
        if self.stop.load(Ordering::Relaxed) {
            // The buffers go home and wake the next one that waits.
            return None;
        }
        let step = *next;
        *next += 1;
        Some((step, (images, labels), waiting.elapsed().as_secs_f64()))
    }

    fn assemble(&self, step: u64, (mut images, mut labels): Loan<V>, buffer_wait_secs: f64) -> Result<Batch, Error> {
        let started = Instant::now();
        let shared = &*self.shared;
        let visits = shared.share.1;
        let first = shared.first_visit(step);
        let image_len = images.len() / visits;
        let label_len = labels.len() / visits;
        let label_parts: Vec<Option<&mut [u8]>> = if label_len == 0 {
            (0..visits).map(|_| None).collect()
        } else {
            labels.chunks_exact_mut(label_len).map(Some).collect()
        };
        let visited: Vec<Result<Visited, Error>> = shared.pool.install(|| {
            let parts = images.par_chunks_exact_mut(image_len).zip(label_parts).enumerate();
            let visit = |(number, (images, labels))| {
                let visit = first + number as u64;
                let visited = shared.visit(visit, &mut VisitSlot { images: V::place(images), labels });
                self.read_ahead.done(shared, visit);
                visited
            };
            parts.map(visit).collect()
        });
        let mut times = BatchTimes { buffer_wait_secs, ..BatchTimes::default() };
        let mut crops = Vec::with_capacity(visits * shared.plan.num_crops);
        let mut laws = Vec::with_capacity(visits * shared.plan.num_crops);
        let mut kept = 0;
        // Of several errors the first in the order of visits, whichever came first.
        for (number, visited) in visited.into_iter().enumerate() {
            let visited = visited?;
            times.read_secs += visited.read_secs;
            times.decode_secs += visited.decode_secs;
            times.augment_secs += visited.augment_secs;
            let Some((records, of_crops)) = visited.crops else { continue };
            if kept < number {
                images.copy_within(number * image_len..(number + 1) * image_len, kept * image_len);
                labels.copy_within(number * label_len..(number + 1) * label_len, kept * label_len);
            }
            kept += 1;
            crops.extend(records);
            laws.extend(of_crops);
        }
        images.truncate(kept * image_len);
        labels.truncate(kept * label_len);
        // Single visits may come out below 0, see `stats`.
        times.read_secs = times.read_secs.max(0.0);
        times.elapsed_secs = started.elapsed().as_secs_f64();
        shared.stats.batch(crops.len(), buffer_wait_secs);
        let [x, y, z] = shared.plan.crop_size;
        let labels = (label_len > 0).then_some(labels);
        let images = V::images(images, laws);
        Ok(Batch { step, shape: [crops.len(), 1, x, y, z], labels, images, crops, times })
    }
}

impl Shared {
    /// Number of this rank's first visit of a step.
    pub(super) fn first_visit(&self, step: u64) -> u64 {
        step * self.config.visits_per_batch as u64 + self.share.0
    }

    fn visit(&self, visit: u64, slot: &mut VisitSlot<'_>) -> Result<Visited, Error> {
        let (case, epoch) = self.sequence.visit(visit);
        let id = DrawId { seed: self.plan.seed, epoch, case: case_key(case.key()), crop: 0 };
        let cut_bytes = self.plan.cut_bytes(&id, slot.labels.is_some());
        let excess = cut_bytes.saturating_sub(self.usual_cut_bytes);
        let _share = (excess > 0).then(|| {
            let waiting = Instant::now();
            let share = self.spill.take(excess);
            metrics::histogram!("hiend_loader_spill_wait_seconds").record(waiting.elapsed().as_secs_f64());
            share
        });
        let (mut visitor, held) = self.take_visitor();
        let clock = BlockedClock::start();
        let result = visitor.visit(case, epoch, &self.plan, slot);
        let read_secs = clock.blocked_secs();
        self.give_visitor(visitor, held, excess > 0);
        match result {
            Ok(Visit { records, laws, times }) => {
                self.stats.visit(&times, read_secs);
                let decode_secs = (times.decode_secs - read_secs).max(0.0);
                let augment_secs = times.augment_secs;
                Ok(Visited { crops: Some((records, laws)), read_secs, decode_secs, augment_secs })
            }
            Err(err @ (hiend_cache::Error::CorruptChunk { .. } | hiend_cache::Error::BadShard { .. }))
                if self.config.on_corrupt == OnCorrupt::Skip =>
            {
                tracing::error!(case = case.key(), epoch, visit, "left out of this epoch: {err}");
                self.stats.skipped_visit();
                Ok(Visited::default())
            }
            Err(err) => Err(err.into()),
        }
    }

    fn take_visitor(&self) -> (Visitor, u64) {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Counts what the visitor has grown to. One that grew into the spill is not kept: the spill is for the next one.
    fn give_visitor(&self, visitor: Visitor, held: u64, spilled: bool) {
        let now = visitor.buffer_bytes();
        self.stats.hold(now.saturating_sub(held));
        if spilled {
            drop(visitor);
            self.stats.release(now.max(held));
        } else {
            self.stats.release(held.saturating_sub(now));
            self.visitors.lock().unwrap_or_else(PoisonError::into_inner).push((visitor, now));
        }
    }
}
