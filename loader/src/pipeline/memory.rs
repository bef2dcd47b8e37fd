//! One memory budget over all stages, divided when a stream is opened.
//!
//! ```text
//!   budget = threads x visitor      what a thread needs for a visit: chunks, index, boxes that will be resampled
//!          + spill                  shared, for visits that need more than is usual for their resampled boxes
//!          + buffers x batch        the batches in work, ready, and with the consumer
//!          + read_ahead             bytes advised to the system and not yet visited; the rest, at most 1 GiB
//! ```
//! Nothing is taken beyond it, but for what buffers of boxes grow by once in thousands of batches: a visit whose boxes are larger than usual first takes its excess from the spill and
//! waits until it is free, and afterwards gives up the memory. Maps of shard files are not counted; they are the
//! system's page cache. A [`super::BatchStream`] is what takes the memory: the budget holds for one at a time.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "voxels of a batch, far below 2^52"
)]

use hiend_cache::Case;

use super::Error;
use crate::batch::VoxelForm;
use crate::rng::DrawId;
use crate::visit::VisitPlan;

/// The most to read ahead: half a second of a fast disk.
const MOST_READ_AHEAD: u64 = 1 << 30;
/// Draws from which the size of resampled boxes is estimated.
const DRAWS: u32 = 1024;
/// The decoder's own state, scratch rows of the transforms, records.
const FIXED: u64 = 1 << 20;

/// The budget, divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Threads that decode and augment.
    pub threads: usize,
    /// Bytes a thread keeps.
    pub visitor_bytes: u64,
    /// Bytes shared by visits that need more.
    pub spill_bytes: u64,
    /// Batch buffers.
    pub num_buffers: usize,
    /// Voxels that each has room for.
    pub batch_voxels: usize,
    /// Bytes of each.
    pub batch_bytes: u64,
    /// Bytes to read ahead.
    pub read_ahead_bytes: u64,
}

impl MemoryPlan {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.threads as u64 * self.visitor_bytes
            + self.spill_bytes
            + self.num_buffers as u64 * self.batch_bytes
            + self.read_ahead_bytes
    }

    /// Divides `budget` bytes; also returns how many of a visitor's are for resampled boxes. `threads` is what was
    /// asked for; 0 for one a core, or as many as the budget allows.
    pub(super) fn divide<'a>(
        budget: u64,
        threads: usize,
        visits: usize,
        plan: &VisitPlan,
        (form, labels): (VoxelForm, bool),
        cases: impl Iterator<Item = &'a Case>,
    ) -> Result<(Self, u64), Error> {
        let crops = visits * plan.num_crops;
        let voxel_bytes = match form {
            VoxelForm::Floats => 4,
            VoxelForm::Quantized | VoxelForm::Boxes => 2,
        } + usize::from(labels);
        let batch_voxels = match form {
            VoxelForm::Floats | VoxelForm::Quantized => visits * plan.crop_voxels(),
            VoxelForm::Boxes => most_source_voxels(plan, crops),
        };
        let batch_bytes = (batch_voxels * voxel_bytes) as u64;
        let (usual_cut, largest_cut) = cut_bytes(plan, form, labels);
        let visitor_bytes = chunk_bytes(cases) + usual_cut + FIXED;
        let spill_bytes = largest_cut.saturating_sub(usual_cut);
        let needed = |threads: usize| threads as u64 * visitor_bytes + spill_bytes + 2 * batch_bytes;
        let mut found = threads;
        if threads == 0 {
            found = num_cores();
            while found > 1 && needed(found) > budget {
                found -= 1;
            }
        }
        let threads = found;
        if needed(threads) > budget {
            let needed = needed(threads);
            return Err(Error::TooLittleMemory { crops, batch_bytes, threads, needed, memory_bytes: budget });
        }
        // One batch is with the consumer and two in work keep every thread busy to the end of each; small batches
        // need more of them in work to give every thread a visit.
        let wanted = 3 + threads.div_ceil(visits);
        let left = budget - needed(threads);
        let more = usize::try_from(left / batch_bytes).unwrap_or(usize::MAX).min(wanted - 2);
        let read_ahead_bytes = (left - more as u64 * batch_bytes).min(MOST_READ_AHEAD);
        let num_buffers = 2 + more;
        let memory =
            Self { threads, visitor_bytes, spill_bytes, num_buffers, batch_voxels, batch_bytes, read_ahead_bytes };
        Ok((memory, usual_cut))
    }
}

/// Number of processor cores that this process may use; see [`crate::budget::cores`].
#[must_use]
pub fn num_cores() -> usize {
    crate::budget::cores()
}

/// What chunks and index of the largest case take: decoded, coded, and parsed.
fn chunk_bytes<'a>(cases: impl Iterator<Item = &'a Case>) -> u64 {
    let bytes = |case: &Case| {
        let chunk = case.shard().chunk();
        let voxels: usize = chunk.iter().product();
        let chunks: usize = case.record().shape.iter().zip(chunk).map(|(n, side)| n.div_ceil(side)).product();
        let column = case.record().shape[2].div_ceil(chunk[2]) as u64;
        // Twice, as vectors grow by doubling: image and label chunk where a centre is looked for, and those of a
        // column; a coded one; and a mark for each chunk. Then the index: in the file, and parsed to two entries and
        // three counts for each chunk.
        let twice = voxels as u64 * ((2 + 1) * (column + 1) + 2) + chunks as u64;
        2 * twice + case.record().span.index_len + chunks as u64 * (2 * 24 + 3 * 16)
    };
    cases.map(bytes).max().unwrap_or(0)
}

/// Bytes of the boxes that a visit resamples: usual, and largest.
///
/// Usual is twice the mean. Largest is that of a visit whose every crop is resampled from the largest box among the
/// draws: one in thousands is resampled throughout, and then from boxes of every size.
fn cut_bytes(plan: &VisitPlan, form: VoxelForm, labels: bool) -> (u64, u64) {
    let draws = draws(plan, |single, id| single.cut_bytes(id, form, labels));
    let crops = plan.num_crops as u64;
    (2 * crops * draws.iter().sum::<u64>() / u64::from(DRAWS), crops * draws.iter().max().copied().unwrap_or(0))
}

/// Voxels of the boxes of a batch's crops, as good as at the most: of few crops the largest box among the draws for
/// each, of many eight standard deviations above the mean. A buffer that is too small once in thousands of batches
/// grows.
fn most_source_voxels(plan: &VisitPlan, crops: usize) -> usize {
    let draws = draws(plan, |single, id| single.source_voxels(id) as u64);
    let count = f64::from(DRAWS);
    let mean = draws.iter().sum::<u64>() as f64 / count;
    let variance = draws.iter().map(|&voxels| (voxels as f64 - mean).powi(2)).sum::<f64>() / count;
    let most = crops as f64 * mean + 8.0 * (crops as f64 * variance).sqrt();
    (most.ceil() as usize).min(crops * draws.iter().max().copied().unwrap_or(0) as usize)
}

/// What `of` is for many single crops.
fn draws(plan: &VisitPlan, of: impl Fn(&VisitPlan, &DrawId) -> u64) -> Vec<u64> {
    let mut single = plan.clone();
    single.num_crops = 1;
    (0..DRAWS).map(|case| of(&single, &DrawId { seed: 0, epoch: 0, case: case.into(), crop: 0 })).collect()
}
