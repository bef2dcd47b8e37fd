//! Assembly of batches: a free buffer, its visits, and the removal of skipped cases.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;

use super::read_ahead::ReadAhead;
use super::turns::{Loan, Turns};
use super::{Error, OnCorrupt, Shared};
use crate::batch::{Batch, BatchTimes, CropRecord, VoxelForm};
use crate::caught::text_of;
use crate::rng::{DrawId, case_key};
use crate::stats::BlockedClock;
use crate::visit::{Form, Visit, VisitSlot};

/// Message from a thread of the stream to the consumer.
pub(super) enum Message {
    /// Batch of a step or the error that replaces it, and the time when it was ready.
    Batch(u64, Result<Batch, Error>, Instant),
    /// Error that does not concern a single batch.
    Failed(Error),
}

/// One thread's share of the stream: makes batches, one at a time, until asked to stop.
pub(super) struct Assembler<F: Form> {
    pub(super) shared: Arc<Shared>,
    pub(super) turns: Turns<F::Voxel>,
    pub(super) sender: flume::Sender<Message>,
    pub(super) read_ahead: Arc<ReadAhead>,
}

/// Crops of a visit and the time they took; no crops if the case was skipped.
struct Visited<F: Form> {
    crops: Option<(Vec<CropRecord>, Vec<F::Crop>)>,
    read_secs: f64,
    decode_secs: f64,
    augment_secs: f64,
}

/// Calls `work` of a stream. A panic, which is a bug, becomes an error that ends the stream, which would otherwise wait
/// forever. Unlike one in [`catch_panic`](crate::caught::catch_panic), it also ends a program.
pub(super) fn catch_bug<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(Error::Panicked { message: text_of(&*panic) }))
}

impl<F: Form> Assembler<F> {
    /// Makes batches until none is left, or the stream is dropped or fails.
    pub(super) fn run(&self) {
        while let Some((step, loan, buffer_wait_secs)) = self.turns.begin() {
            let done = |visit| self.read_ahead.done(&self.shared.stats, visit);
            let batch = catch_bug(|| self.shared.assemble::<F>(step, loan, buffer_wait_secs, &done));
            let failed = batch.is_err();
            if self.sender.send(Message::Batch(step, batch, Instant::now())).is_err() || failed {
                return;
            }
        }
    }
}

/// Place of a visit in the buffers of its batch.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Voxels, or words of coded chunks.
    pub(super) voxels: Range<usize>,
    /// Labels; empty if the stream carries none.
    pub(super) labels: Range<usize>,
}

/// Splits a buffer into adjacent places.
fn parts<'a, T>(mut rest: &'a mut [T], places: impl Iterator<Item = &'a Range<usize>>) -> Vec<&'a mut [T]> {
    let part = |place: &Range<usize>| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(place.len());
        rest = after;
        part
    };
    places.map(part).collect()
}

/// Moves the values at `place` to the position `to`, which is not after it.
fn move_down<T: Copy>(values: &mut [T], place: &Range<usize>, to: usize) {
    if to < place.start {
        values.copy_within(place.clone(), to);
    }
}

impl Shared {
    /// Makes the batch of a step; calls `done` with the number of each finished visit.
    pub(super) fn assemble<F: Form>(
        &self,
        step: u64,
        (mut images, mut labels): Loan<F::Voxel>,
        buffer_wait_secs: f64,
        done: &(dyn Fn(u64) + Sync),
    ) -> Result<Batch, Error> {
        let started = Instant::now();
        let visits = self.share.1;
        let first = self.first_visit(step);
        let places = self.places(first);
        let (num_voxels, num_labels) = places.last().map_or((0, 0), |last| (last.voxels.end, last.labels.end));
        images.set_len(num_voxels);
        labels.set_len(num_labels);
        let image_parts = parts(&mut images, places.iter().map(|place| &place.voxels));
        let label_parts = parts(&mut labels, places.iter().map(|place| &place.labels));
        let visited: Vec<Result<Visited<F>, Error>> = self.workers.pool.install(|| {
            let parts = image_parts.into_par_iter().zip(label_parts).enumerate();
            let visit = |(number, (images, labels))| {
                let visit = first + number as u64;
                let labels = self.config.labels.then_some(labels);
                let visited = self.visit::<F>(visit, &mut VisitSlot { images, labels });
                done(visit);
                visited
            };
            parts.map(visit).collect()
        });
        let mut times = BatchTimes { buffer_wait_secs, ..BatchTimes::default() };
        let mut crops = Vec::with_capacity(visits * self.plan.num_crops);
        let mut sources = Vec::with_capacity(visits * self.plan.num_crops);
        let (mut kept, mut kept_labels) = (0, 0);
        // Of several errors, the first in the order of visits is reported, so that threads do not decide which.
        for (visited, place) in visited.into_iter().zip(places) {
            let visited = visited?;
            times.read_secs += visited.read_secs;
            times.decode_secs += visited.decode_secs;
            times.augment_secs += visited.augment_secs;
            let Some((records, crop_sources)) = visited.crops else { continue };
            if F::IS_DENSE {
                move_down(&mut images, &place.voxels, kept);
            } else {
                kept = place.voxels.start;
            }
            move_down(&mut labels, &place.labels, kept_labels);
            crops.extend(records);
            sources.extend(crop_sources.into_iter().map(|crop| F::moved(crop, kept)));
            kept += place.voxels.len();
            kept_labels += place.labels.len();
        }
        images.truncate(kept);
        labels.truncate(kept_labels);
        // The times of single visits may be slightly negative, see `stats`.
        times.read_secs = times.read_secs.max(0.0);
        times.elapsed_secs = started.elapsed().as_secs_f64();
        self.stats.batch(crops.len(), buffer_wait_secs);
        let [x, y, z] = self.plan.crop_size;
        let labels = self.config.labels.then_some(labels);
        let images = F::images(images, sources);
        Ok(Batch { step, shape: [crops.len(), 1, x, y, z], labels, images, crops, times })
    }

    /// Number of this rank's first visit in a step.
    pub(super) fn first_visit(&self, step: u64) -> u64 {
        step * self.config.visits_per_batch as u64 + self.share.0
    }

    /// Places, in the buffers of a batch, of its visits from `first` on.
    pub(super) fn places(&self, first: u64) -> Vec<Place> {
        let mut end = (0, 0);
        let place = |number| {
            let start = end;
            let held = self.plan.held_voxels(&self.first_crop(first + number), self.form);
            end.0 += if self.form == VoxelForm::Chunks { self.memory.batch_voxels / self.share.1 } else { held };
            end.1 += if self.config.labels { held } else { 0 };
            Place { voxels: start.0..end.0, labels: start.1..end.1 }
        };
        (0..self.share.1 as u64).map(place).collect()
    }

    /// Identity of a visit's first crop.
    fn first_crop(&self, visit: u64) -> DrawId {
        let (case, epoch) = self.sequence.visit(visit);
        DrawId { seed: self.plan.seed, epoch, case: case_key(case.key()), crop: 0 }
    }

    /// Cuts the crops of a visit and writes them to `slot`.
    fn visit<F: Form>(&self, visit: u64, slot: &mut VisitSlot<'_, F>) -> Result<Visited<F>, Error> {
        #[cfg(test)]
        (self.hooks.before_visit)(visit);
        let (case, epoch) = self.sequence.visit(visit);
        let ignore = self.config.ignore_label.or_else(|| self.sequence.ignore_label(visit));
        let staged_bytes = self.plan.staged_bytes(&self.first_crop(visit), self.form, slot.labels.is_some());
        let excess = staged_bytes.saturating_sub(self.usual_staged_bytes);
        let _share = (excess > 0).then(|| {
            let waiting = Instant::now();
            let share = self.workers.spill.take(excess);
            metrics::histogram!("hiend_loader_spill_wait_seconds").record(waiting.elapsed().as_secs_f64());
            share
        });
        let (mut visitor, held) = self.workers.borrow_visitor();
        let clock = BlockedClock::start();
        let result = visitor.visit((case, ignore), epoch, &self.plan, slot);
        let read_secs = clock.blocked_secs();
        self.workers.return_visitor(&self.stats, visitor, held, excess > 0);
        match result {
            Ok(Visit { records, crops, times }) => {
                self.stats.visit(&times, read_secs);
                let decode_secs = (times.decode_secs - read_secs).max(0.0);
                let augment_secs = times.augment_secs;
                Ok(Visited { crops: Some((records, crops)), read_secs, decode_secs, augment_secs })
            }
            Err(err @ (hiend_cache::Error::CorruptChunk { .. } | hiend_cache::Error::BadShard { .. }))
                if self.config.on_corrupt == OnCorrupt::Skip =>
            {
                tracing::error!(case = case.key(), epoch, visit, "skipped in this epoch: {err}");
                self.stats.skipped_visit();
                Ok(Visited { crops: None, read_secs: 0.0, decode_secs: 0.0, augment_secs: 0.0 })
            }
            Err(err) => Err(err.into()),
        }
    }
}
