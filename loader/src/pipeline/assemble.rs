//! One batch in hand: its buffer, its visits, and what is left when a case is corrupt.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;

use super::read_ahead::ReadAhead;
use super::{Error, OnCorrupt, Shared};
use crate::batch::{Batch, BatchTimes, CropBox, CropRecord, Dequantize, Images, PooledBuffer, VoxelForm};
use crate::rng::{DrawId, case_key};
use crate::stats::BlockedClock;
use crate::visit::{ImagesMut, Visit, VisitSlot, Visitor, intensity};

/// A batch that is done, and when it was.
pub(super) type Ready = (u64, Result<Batch, Error>, Instant);

/// A batch's memory.
type Loan<V> = (PooledBuffer<V>, PooledBuffer<u8>);

/// What a batch's voxels are held as.
pub(super) trait Voxel: Copy + Default + Send + Sync + 'static {
    /// A place for them.
    fn place(values: &mut [Self], form: VoxelForm) -> ImagesMut<'_>;

    /// All of them, and how each crop was cut.
    fn images(buffer: PooledBuffer<Self>, sources: Vec<CropBox>, form: VoxelForm) -> Images;
}

impl Voxel for f32 {
    fn place(values: &mut [Self], _: VoxelForm) -> ImagesMut<'_> {
        ImagesMut::Floats(values)
    }

    fn images(buffer: PooledBuffer<Self>, _: Vec<CropBox>, _: VoxelForm) -> Images {
        Images::Floats(buffer)
    }
}

impl Voxel for u16 {
    fn place(values: &mut [Self], form: VoxelForm) -> ImagesMut<'_> {
        if form == VoxelForm::Boxes { ImagesMut::Boxes(values) } else { ImagesMut::Quantized(values) }
    }

    fn images(buffer: PooledBuffer<Self>, sources: Vec<CropBox>, form: VoxelForm) -> Images {
        if form == VoxelForm::Boxes {
            return Images::Boxes(buffer, sources);
        }
        let law = |source: CropBox| {
            let (factor, shift) = intensity(&source.drawn);
            Dequantize { scale: source.scale, factor, shift }
        };
        Images::Quantized(buffer, sources.into_iter().map(law).collect())
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
    crops: Option<(Vec<CropRecord>, Vec<CropBox>)>,
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
        let places = shared.places(first);
        let len = places.last().map_or(0, |place| place.end);
        images.make_room(len);
        labels.make_room(if shared.config.labels { len } else { 0 });
        let image_parts = parts(&mut images, &places);
        let label_parts: Vec<Option<&mut [u8]>> = if shared.config.labels {
            parts(&mut labels, &places).into_iter().map(Some).collect()
        } else {
            places.iter().map(|_| None).collect()
        };
        let visited: Vec<Result<Visited, Error>> = shared.pool.install(|| {
            let parts = image_parts.into_par_iter().zip(label_parts).enumerate();
            let visit = |(number, (images, labels))| {
                let visit = first + number as u64;
                let visited = shared.visit(visit, &mut VisitSlot { images: V::place(images, shared.form), labels });
                self.read_ahead.done(shared, visit);
                visited
            };
            parts.map(visit).collect()
        });
        let mut times = BatchTimes { buffer_wait_secs, ..BatchTimes::default() };
        let mut crops = Vec::with_capacity(visits * shared.plan.num_crops);
        let mut sources = Vec::with_capacity(visits * shared.plan.num_crops);
        let mut kept = 0;
        // Of several errors the first in the order of visits, whichever came first.
        for (visited, place) in visited.into_iter().zip(places) {
            let visited = visited?;
            times.read_secs += visited.read_secs;
            times.decode_secs += visited.decode_secs;
            times.augment_secs += visited.augment_secs;
            let Some((records, of_crops)) = visited.crops else { continue };
            if kept < place.start {
                images.copy_within(place.clone(), kept);
                if shared.config.labels {
                    labels.copy_within(place.clone(), kept);
                }
            }
            crops.extend(records);
            sources.extend(of_crops.into_iter().map(|source| CropBox { start: kept + source.start, ..source }));
            kept += place.len();
        }
        images.truncate(kept);
        labels.truncate(kept);
        // Single visits may come out below 0, see `stats`.
        times.read_secs = times.read_secs.max(0.0);
        times.elapsed_secs = started.elapsed().as_secs_f64();
        shared.stats.batch(crops.len(), buffer_wait_secs);
        let [x, y, z] = shared.plan.crop_size;
        let labels = shared.config.labels.then_some(labels);
        let images = V::images(images, sources, shared.form);
        Ok(Batch { step, shape: [crops.len(), 1, x, y, z], labels, images, crops, times })
    }
}

/// The places of a buffer, one after the other.
fn parts<'a, T>(mut rest: &'a mut [T], places: &[Range<usize>]) -> Vec<&'a mut [T]> {
    let part = |place: &Range<usize>| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(place.len());
        rest = after;
        part
    };
    places.iter().map(part).collect()
}

impl Shared {
    /// Number of this rank's first visit of a step.
    pub(super) fn first_visit(&self, step: u64) -> u64 {
        step * self.config.visits_per_batch as u64 + self.share.0
    }

    /// Where the voxels of a batch's visits lie in it; `first` is the first visit.
    fn places(&self, first: u64) -> Vec<Range<usize>> {
        let mut end = 0;
        let place = |number| {
            let start = end;
            end += match self.form {
                VoxelForm::Floats | VoxelForm::Quantized => self.plan.crop_voxels(),
                VoxelForm::Boxes => self.plan.source_voxels(&self.first_draw(first + number)),
            };
            start..end
        };
        (0..self.share.1 as u64).map(place).collect()
    }

    /// The draw of a visit's first crop.
    fn first_draw(&self, visit: u64) -> DrawId {
        let (case, epoch) = self.sequence.visit(visit);
        DrawId { seed: self.plan.seed, epoch, case: case_key(case.key()), crop: 0 }
    }

    fn visit(&self, visit: u64, slot: &mut VisitSlot<'_>) -> Result<Visited, Error> {
        let (case, epoch) = self.sequence.visit(visit);
        let cut_bytes = self.plan.cut_bytes(&self.first_draw(visit), self.form, slot.labels.is_some());
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
            Ok(Visit { records, sources, times }) => {
                self.stats.visit(&times, read_secs);
                let decode_secs = (times.decode_secs - read_secs).max(0.0);
                let augment_secs = times.augment_secs;
                Ok(Visited { crops: Some((records, sources)), read_secs, decode_secs, augment_secs })
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
