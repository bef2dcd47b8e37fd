//! Division of one memory budget among all stages when a stream is opened.
//!
//! ```text
//!   budget = threads x visitor      memory of a thread for a visit: chunks, index, boxes to be resampled
//!          + spill                  shared by visits whose boxes take more than usual
//!          + fetch                  threads that fetch from object storage, bytes on their way from there, and blocks held
//!          + buffers x batch        batches in progress, ready, and with the consumer
//!          + read_ahead             bytes advised to the system and not yet visited; what remains, at most 1 GiB
//! ```
//! A visit whose boxes are larger than usual first takes the excess from the spill, waits until it is free, and gives up
//! the memory afterwards. Nothing exceeds the budget, except that buffers of boxes grow once in thousands of batches.
//! Maps of shard files are not counted; they are the system's page cache. The memory belongs to a
//! [`super::BatchStream`], so the budget holds for one stream at a time.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "voxels of a batch, far below 2^52"
)]

use hiend_cache::{Case, Codec, Grid, IN_FLIGHT_BYTES, held_bytes};

use super::Error;
use crate::batch::VoxelForm;
use crate::budget::cores;
use crate::rng::DrawId;
use crate::visit::{VisitPlan, most_words};

/// Largest read-ahead in bytes: half a second of a fast disk.
const MOST_READ_AHEAD: u64 = 1 << 30;
/// Number of sampled crops from which the size of resampled boxes is estimated.
const SAMPLES: u32 = 1024;
/// Bytes for the decoder's state, scratch rows of the transforms, and records.
const FIXED: u64 = 1 << 20;

/// Largest number of words of a batch in the form [`VoxelForm::Chunks`]: a device counts them in 31 bits.
const MOST_WORDS: usize = 1 << 31;

/// Largest number of bytes for the records of a crop: origin, augmentation and box, as values and as a message.
pub(crate) const RECORD_BYTES: usize = 4 << 10;

/// A divided budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Number of threads that decode and augment.
    pub threads: usize,
    /// Bytes that each thread keeps.
    pub visitor_bytes: u64,
    /// Bytes shared by visits that need more than a thread keeps.
    pub spill_bytes: u64,
    /// Number of batch buffers.
    pub num_buffers: usize,
    /// Voxels that a batch buffer holds; words, if the form is [`VoxelForm::Chunks`].
    pub batch_voxels: usize,
    /// Labels that a batch buffer holds; 0 if the stream carries none.
    pub batch_labels: usize,
    /// Bytes of a batch buffer, labels included.
    pub batch_bytes: u64,
    /// Bytes to advise ahead of the visits.
    pub read_ahead_bytes: u64,
    /// Bytes of the threads that fetch from object storage, of the answers on their way, and of the blocks that the disk
    /// cache has mapped; 0 if all cases are local.
    pub fetch_bytes: u64,
}

impl MemoryPlan {
    /// Total number of bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.threads as u64 * self.visitor_bytes
            + self.spill_bytes
            + self.num_buffers as u64 * self.batch_bytes
            + self.read_ahead_bytes
            + self.fetch_bytes
    }

    /// Divides `budget` bytes; also returns the part of [`Self::visitor_bytes`] for boxes to be resampled. `threads` is
    /// the number requested; 0 for one per core, or as many as the budget allows.
    pub(super) fn divide<'a>(
        budget: u64,
        threads: usize,
        visits: usize,
        plan: &VisitPlan,
        (form, labels): (VoxelForm, bool),
        cases: impl Iterator<Item = &'a Case> + Clone,
    ) -> Result<(Self, u64), Error> {
        let crops = visits * plan.num_crops;
        let (batch_voxels, batch_labels) = buffers(plan, visits, (form, labels), cases.clone())?;
        let batch_bytes = bytes_of(batch_voxels, form, batch_labels);
        let (usual_staged, largest_staged) = staged_bytes(plan, form, labels);
        let cases: Vec<&Case> = cases.collect();
        let visitor_bytes = chunk_bytes(cases.iter().copied()) + usual_staged + FIXED;
        let spill_bytes = largest_staged.saturating_sub(usual_staged);
        let fetch_bytes = fetch_bytes(&cases);
        let needed = |threads: usize| {
            (threads as u64 * visitor_bytes + spill_bytes + fetch_bytes).saturating_add(batch_bytes.saturating_mul(2))
        };
        let mut found = threads;
        if threads == 0 {
            found = cores();
            while found > 1 && needed(found) > budget {
                found -= 1;
            }
        }
        let threads = found;
        if needed(threads) > budget {
            let needed = needed(threads);
            return Err(Error::TooLittleMemory {
                crops,
                batch_bytes,
                threads,
                fetch_bytes,
                needed,
                memory_bytes: budget,
            });
        }
        // One batch is with the consumer, and two in progress keep every thread busy to the end of each. Small batches
        // need more in progress, so that every thread has a visit.
        let wanted = 3 + threads.div_ceil(visits);
        let left = budget - needed(threads);
        let more = usize::try_from(left / batch_bytes).unwrap_or(usize::MAX).min(wanted - 2);
        let read_ahead_bytes = (left - more as u64 * batch_bytes).min(MOST_READ_AHEAD);
        let num_buffers = 2 + more;
        let memory = Self {
            threads,
            visitor_bytes,
            spill_bytes,
            num_buffers,
            batch_voxels,
            batch_labels,
            batch_bytes,
            read_ahead_bytes,
            fetch_bytes,
        };
        Ok((memory, usual_staged))
    }

    /// Memory of a loader that makes single batches of at most `most` bytes with their records, on threads that it shares.
    pub(super) fn of_steps<'a>(
        most: u64,
        threads: usize,
        visits: usize,
        plan: &VisitPlan,
        (form, labels): (VoxelForm, bool),
        cases: impl Iterator<Item = &'a Case> + Clone,
    ) -> Result<(Self, u64), Error> {
        let crops = visits * plan.num_crops;
        let (batch_voxels, batch_labels) = buffers(plan, visits, (form, labels), cases.clone())?;
        let batch_bytes = bytes_of(batch_voxels, form, batch_labels);
        let with_records = batch_bytes.saturating_add((crops * RECORD_BYTES) as u64);
        if with_records > most {
            return Err(Error::BatchTooLarge { crops, batch_bytes: with_records, most });
        }
        let (usual_staged, largest_staged) = staged_bytes(plan, form, labels);
        let cases: Vec<&Case> = cases.collect();
        let fetch_bytes = fetch_bytes(&cases);
        let memory = Self {
            threads,
            visitor_bytes: chunk_bytes(cases.into_iter()) + usual_staged + FIXED,
            spill_bytes: largest_staged.saturating_sub(usual_staged),
            num_buffers: 2,
            batch_voxels,
            batch_labels,
            batch_bytes,
            read_ahead_bytes: 0,
            fetch_bytes,
        };
        Ok((memory, usual_staged))
    }
}

/// Voxels (or words) and labels that the buffers of a batch hold.
fn buffers<'a>(
    plan: &VisitPlan,
    visits: usize,
    (form, labels): (VoxelForm, bool),
    cases: impl Iterator<Item = &'a Case>,
) -> Result<(usize, usize), Error> {
    let voxels = batch_voxels(plan, visits * plan.num_crops, form);
    let labels = if labels { voxels } else { 0 };
    match form {
        VoxelForm::Chunks => Ok((batch_words(plan, visits, cases)?, labels)),
        VoxelForm::Floats | VoxelForm::Quantized | VoxelForm::Boxes => Ok((voxels, labels)),
    }
}

/// Bytes of a batch buffer; saturates, so that an absurd batch is too large instead of small.
fn bytes_of(batch_voxels: usize, form: VoxelForm, batch_labels: usize) -> u64 {
    (batch_voxels as u64).saturating_mul(form.voxel_bytes() as u64).saturating_add(batch_labels as u64)
}

/// Bytes that the chunks (decoded and encoded) and the index (stored and parsed) of the largest case take.
fn chunk_bytes<'a>(cases: impl Iterator<Item = &'a Case>) -> u64 {
    let bytes = |case: &Case| {
        let chunk = case.shard().chunk();
        let voxels: usize = chunk.iter().product();
        let chunks: usize = case.record().shape.iter().zip(chunk).map(|(n, side)| n.div_ceil(side)).product();
        let column = case.record().shape[2].div_ceil(chunk[2]) as u64;
        // Twice, because vectors grow by doubling: image and label of the chunk that holds a centre and of a column, one
        // coded chunk, and a mark per chunk. Then the index: in the file, and parsed to two entries and three counts per
        // chunk.
        let twice = voxels as u64 * ((2 + 1) * (column + 1) + 2) + chunks as u64;
        2 * twice + case.record().span.index_len + chunks as u64 * (2 * 24 + 3 * 16)
    };
    cases.map(bytes).max().unwrap_or(0)
}

/// Bytes kept by the fetching threads, plus the largest number of bytes on their way, plus those of the blocks that are
/// mapped or in memory; 0 without cases in object storage.
///
/// A thread keeps what it needs to find the crops of a visit: the index, in the file and parsed, and the chunk of image and
/// label that holds a centre, decoded and coded; twice, because vectors grow by doubling.
fn fetch_bytes(cases: &[&Case]) -> u64 {
    let bytes = |case: &Case| {
        let chunk = case.shard().chunk();
        let voxels: usize = chunk.iter().product();
        let chunks: usize = case.record().shape.iter().zip(chunk).map(|(n, side)| n.div_ceil(side)).product();
        2 * voxels as u64 * (2 + 1 + 2) + case.record().span.index_len + chunks as u64 * (2 * 24 + 3 * 16)
    };
    let remote = cases.iter().copied().filter(|case| case.is_remote());
    let of_threads = remote.map(bytes).max().map(|thread| super::fetch_ahead::THREADS as u64 * thread);
    of_threads.map_or(0, |threads| threads + IN_FLIGHT_BYTES + held_bytes(cases.iter().copied()))
}

/// Bytes of the boxes that a visit stages before it resamples them: usual and largest value.
///
/// The usual value is twice the mean. The largest value assumes that every crop of a visit is resampled from the
/// largest box among the samples; one visit in thousands resamples all its crops, and then from boxes of every size.
fn staged_bytes(plan: &VisitPlan, form: VoxelForm, labels: bool) -> (u64, u64) {
    let bytes = sampled(plan, |single, id| single.staged_bytes(id, form, labels));
    let crops = plan.num_crops as u64;
    (2 * crops * bytes.iter().sum::<u64>() / u64::from(SAMPLES), crops * bytes.iter().max().copied().unwrap_or(0))
}

/// Number of voxels (for encoded chunks, labels) that the buffer of a batch holds: for crops exactly as many as they
/// have, for boxes practically the maximum.
///
/// For few crops, every box is assumed to be the largest among the samples; for many, the size is eight standard
/// deviations above the mean. A buffer that is too small, once in thousands of batches, grows.
fn batch_voxels(plan: &VisitPlan, crops: usize, form: VoxelForm) -> usize {
    let voxels = sampled(plan, |single, id| single.held_voxels(id, form) as u64);
    let count = f64::from(SAMPLES);
    let mean = voxels.iter().sum::<u64>() as f64 / count;
    let variance = voxels.iter().map(|&n| (n as f64 - mean).powi(2)).sum::<f64>() / count;
    let most = crops as f64 * mean + 8.0 * (crops as f64 * variance).sqrt();
    (most.ceil() as usize).min(crops * voxels.iter().max().copied().unwrap_or(0) as usize)
}

/// Number of words that the buffer of a batch holds: for each visit, as many as the chunks of any case may take. The
/// buffer therefore never grows; usually three quarters of it stay unused, and unused pages take no memory of the
/// system.
fn batch_words<'a>(plan: &VisitPlan, visits: usize, cases: impl Iterator<Item = &'a Case>) -> Result<usize, Error> {
    let words = |case: &Case| {
        let Codec::Packed(packed) = case.record().image.codec else { return None };
        let grid = Grid::new(case.record().shape, case.shard().chunk()).ok()?;
        let most = plan.augment.largest_source_box(plan.crop_size);
        Some(most_words(packed, &grid, plan.num_crops, most))
    };
    let words = visits.saturating_mul(cases.filter_map(words).max().unwrap_or(0));
    if words > MOST_WORDS {
        let reason = format!(
            "{visits} on this rank; their coded chunks may take {} GiB, but a device counts at most {} GiB; make the batch \
             smaller, or decode on the CPU",
            words >> 28,
            MOST_WORDS >> 28
        );
        return Err(Error::BadConfig { key: "visits_per_batch", reason });
    }
    Ok(words)
}

/// Values of `of` for a plan with a single crop, over many crop identities.
fn sampled(plan: &VisitPlan, of: impl Fn(&VisitPlan, &DrawId) -> u64) -> Vec<u64> {
    let mut single = plan.clone();
    single.num_crops = 1;
    (0..SAMPLES).map(|case| of(&single, &DrawId { seed: 0, epoch: 0, case: case.into(), crop: 0 })).collect()
}
