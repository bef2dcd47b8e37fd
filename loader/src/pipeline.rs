//! The stream of batches: many threads fill a few reused buffers, in an order that does not depend on the threads.
//!
//! ```text
//!   step s      visits s*V .. s*V+V of the global sequence, of which this rank takes its share
//!   read-ahead  one thread, advises the system of the cases to come
//!   assembler   a few threads with one batch each: takes a free buffer, then the next step
//!   pool        one thread per core for the visits of all batches in progress, each visit written to its part of a batch
//!   consumer    gets the batches in the order of their steps
//! ```
//! A batch's bytes depend on its step alone: the visits of a step are a pure function of the seed, and so is all
//! randomness of a visit ([`crate::rng`]). Memory is one budget ([`MemoryPlan`]), divided at the start: buffers return
//! when a batch is dropped; when none is free, everything waits. Each wait is measured ([`crate::stats`]), and
//! [`crate::verdict`] names the slowest stage. A panic on any thread ends the stream with [`Error::Panicked`].

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use hiend_cache::{Cache, Case};

use crate::batch::{Batch, BatchMemory, PooledBuffer, VoxelForm};
use crate::budget::cores;
use crate::preprocess::normalize::Units;
use crate::stats::{Progress, Stats};
use crate::unseen::{foreground, unseen};
use crate::verdict::{SpanTimes, Verdict};
use crate::visit::{Boxes, Chunks, Floats, Form, Quantized, VisitPlan};

mod assemble;
mod config;
mod error;
mod fetch_ahead;
mod memory;
mod padding;
mod read_ahead;
mod sequence;
mod stream;
mod turns;
mod workers;

#[cfg(feature = "client")]
pub(crate) use config::MOST_CROPS;
pub(crate) use config::STEPS;
pub use config::{OnCorrupt, StreamConfig};
pub use error::{Error, Unsuitable};
pub use memory::MemoryPlan;
#[cfg(feature = "client")]
pub(crate) use memory::RECORD_BYTES;
pub use padding::remark_on_padding;
pub use sequence::{cases_of, digest_of, remark_on_labels, remark_on_shared_scans, remarks_on_exclude};
pub use stream::BatchStream;
pub use workers::Workers;

use assemble::catch_bug;
use sequence::Sequence;
use stream::check_step;

/// Resources of a stream and form of its batches. They change no finished voxel.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Number of threads that decode and augment; 0 for one per core, or as many as the memory allows.
    pub threads: usize,
    /// Memory budget in bytes, divided by [`MemoryPlan`].
    pub memory_bytes: u64,
    /// Rank of this process and number of ranks, which share each batch.
    pub rank: (usize, usize),
    /// Form of the voxels.
    pub form: VoxelForm,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { threads: 0, memory_bytes: 4 << 30, rank: (0, 1), form: VoxelForm::Floats }
    }
}

/// Caches opened for streaming.
pub struct Loader {
    shared: Arc<Shared>,
}

struct Shared {
    config: StreamConfig,
    form: VoxelForm,
    plan: VisitPlan,
    sequence: Sequence,
    /// First visit of this rank within a global batch, and number of its visits.
    share: (u64, usize),
    /// Bytes that may be fetched ahead of the visits; `None` if all cases are local.
    fetched_ahead: Option<u64>,
    memory: MemoryPlan,
    /// Bytes that a visitor may keep for boxes to be resampled; a visit takes any excess from the spill.
    usual_staged_bytes: u64,
    workers: Arc<Workers>,
    stats: Stats,
    #[cfg(test)]
    hooks: Hooks,
}

/// Functions that tests call on the threads of a stream, with the number of a visit.
#[cfg(test)]
struct Hooks {
    before_visit: fn(u64),
    before_advice: fn(u64),
}

#[cfg(test)]
impl Default for Hooks {
    fn default() -> Self {
        Self { before_visit: |_| {}, before_advice: |_| {} }
    }
}

/// A validated configuration with its cases, before threads are started and memory is divided.
struct Prepared {
    config: StreamConfig,
    form: VoxelForm,
    plan: VisitPlan,
    sequence: Sequence,
    share: (u64, usize),
    fetched_ahead: Option<u64>,
}

impl Prepared {
    fn new(
        caches: Vec<(Arc<Cache>, u32)>,
        config: StreamConfig,
        seed: u64,
        options: &LoaderOptions,
    ) -> Result<Self, Error> {
        config.validate().map_err(|(key, reason)| Error::BadConfig { key, reason })?;
        let (rank, ranks) = options.rank;
        if ranks == 0 || rank >= ranks || !config.visits_per_batch.is_multiple_of(ranks) {
            return Err(Error::Share { visits: config.visits_per_batch, rank, ranks });
        }
        if options.form == VoxelForm::Quantized && !config.augment.is_linear() {
            let reason =
                "this chain is not linear in the intensities, as quantized crops need; use another form".to_owned();
            return Err(Error::BadConfig { key: "augment", reason });
        }
        let (sequence, units) = Sequence::new(caches, &config, seed)?;
        if options.form == VoxelForm::Chunks {
            sequence.check_packed()?;
        }
        let visits = config.visits_per_batch / ranks;
        let fetched_ahead = fetch_ahead::check_disk_caches(&sequence, visits)?;
        let plan = VisitPlan {
            crop_size: config.crop_size,
            num_crops: config.crops_per_visit,
            foreground_rate: config.foreground_rate,
            sample_by: config.sample_by,
            augment: config.augment,
            units,
            seed,
        };
        Ok(Self { share: ((visits * rank) as u64, visits), form: options.form, config, plan, sequence, fetched_ahead })
    }

    /// Divides the memory budget of a stream.
    fn divide(&self, options: &LoaderOptions) -> Result<(MemoryPlan, u64), Error> {
        let (threads, bytes) = (options.threads, options.memory_bytes);
        let form = (self.form, self.config.labels);
        MemoryPlan::divide(bytes, threads, self.share.1, &self.plan, form, self.sequence.cases())
    }

    /// Plans the memory for making single steps on threads shared with other streams.
    fn of_steps(&self, options: &LoaderOptions, threads: usize) -> Result<(MemoryPlan, u64), Error> {
        let form = (self.form, self.config.labels);
        let bytes = options.memory_bytes;
        MemoryPlan::of_steps(bytes, threads, self.share.1, &self.plan, form, self.sequence.cases())
    }

    fn into_loader(self, memory: MemoryPlan, usual_staged_bytes: u64, workers: Arc<Workers>) -> Loader {
        let Self { config, form, plan, sequence, share, fetched_ahead } = self;
        let shared = Shared {
            config,
            form,
            plan,
            sequence,
            share,
            fetched_ahead,
            memory,
            usual_staged_bytes,
            workers,
            stats: Stats::default(),
            #[cfg(test)]
            hooks: Hooks::default(),
        };
        Loader { shared: Arc::new(shared) }
    }
}

impl Loader {
    /// Checks the configuration against the cache and starts the threads.
    ///
    /// # Errors
    /// If configuration, cache and budget do not fit together.
    pub fn open(cache: Arc<Cache>, config: StreamConfig, seed: u64, options: &LoaderOptions) -> Result<Self, Error> {
        Self::open_mix(vec![(cache, 1)], config, seed, options)
    }

    /// Opens several caches with their weights; [`crate::mix`] states the order of mixing.
    ///
    /// # Errors
    /// If configuration, caches, weights and budget do not fit together.
    pub fn open_mix(
        caches: Vec<(Arc<Cache>, u32)>,
        config: StreamConfig,
        seed: u64,
        options: &LoaderOptions,
    ) -> Result<Self, Error> {
        let prepared = Prepared::new(caches, config, seed, options)?;
        let (memory, usual_staged_bytes) = prepared.divide(options)?;
        let workers = Arc::new(Workers::of_one_loader(memory.threads, memory.spill_bytes)?);
        Ok(prepared.into_loader(memory, usual_staged_bytes, workers))
    }

    /// Opens several caches for a loader that shares its threads with others and makes single batches ([`Self::make`]).
    ///
    /// `options.threads` is ignored. `options.memory_bytes` is the largest size of a batch.
    ///
    /// # Errors
    /// If configuration, caches and weights do not fit together, or a batch is larger than allowed.
    pub fn open_shared(
        caches: Vec<(Arc<Cache>, u32)>,
        config: StreamConfig,
        seed: u64,
        options: &LoaderOptions,
        workers: &Arc<Workers>,
    ) -> Result<Self, Error> {
        let prepared = Prepared::new(caches, config, seed, options)?;
        let (memory, usual_staged_bytes) = prepared.of_steps(options, workers.num_threads())?;
        Ok(prepared.into_loader(memory, usual_staged_bytes, Arc::clone(workers)))
    }

    /// Units of the crops before intensity augmentation.
    #[must_use]
    pub fn units(&self) -> Units {
        self.shared.plan.units
    }

    /// Number of voxels (or words, see [`VoxelForm::Chunks`]) and of labels in the batch of a step, before any case is
    /// skipped.
    #[must_use]
    pub fn batch_len(&self, step: u64) -> (usize, usize) {
        let places = self.shared.places(self.shared.first_visit(step));
        places.last().map_or((0, 0), |last| (last.voxels.end, last.labels.end))
    }

    /// Makes the batch of one step in the given memory, on the loader's threads; the calling thread waits.
    ///
    /// Returns exactly the batch that [`Self::stream`] yields for this step.
    ///
    /// # Errors
    /// Like the items of a stream.
    ///
    /// # Panics
    /// If the memory is smaller than [`Self::batch_len`] says.
    pub fn make(&self, step: u64, voxels: Box<dyn BatchMemory>, labels: Box<dyn BatchMemory>) -> Result<Batch, Error> {
        check_step(step)?;
        match self.shared.form {
            VoxelForm::Floats => self.make_of::<Floats>(step, voxels, labels),
            VoxelForm::Quantized => self.make_of::<Quantized>(step, voxels, labels),
            VoxelForm::Boxes => self.make_of::<Boxes>(step, voxels, labels),
            VoxelForm::Chunks => self.make_of::<Chunks>(step, voxels, labels),
        }
    }

    fn make_of<F: Form>(
        &self,
        step: u64,
        voxels: Box<dyn BatchMemory>,
        labels: Box<dyn BatchMemory>,
    ) -> Result<Batch, Error> {
        let loan = (PooledBuffer::lent(voxels), PooledBuffer::lent(labels));
        catch_bug(|| self.shared.assemble::<F>(step, loan, 0.0, &|_| ()))
    }

    /// Advises the system that the cases of a step will be read soon; for cases in object storage, fetches the bytes
    /// that the step reads. May wait for the disk and the network.
    pub fn advise(&self, step: u64) {
        let shared = &self.shared;
        let first = shared.first_visit(step);
        let mut visits = first..first + shared.share.1 as u64;
        if shared.fetched_ahead.is_some() {
            shared.fetching(|fetch| visits.for_each(fetch));
        } else {
            visits.by_ref().for_each(|visit| shared.sequence.visit(visit).0.will_need());
        }
    }

    /// Visits in this rank's batch.
    #[must_use]
    pub fn num_visits(&self) -> usize {
        self.shared.share.1
    }

    /// Names of the datasets whose cases are in the stream.
    #[must_use]
    pub fn datasets(&self) -> BTreeSet<&str> {
        self.shared.sequence.cases().map(|case| case.record().dataset.as_str()).collect()
    }

    /// Labels named by the datasets of the stream that no label map of its cases contains; background and ignore label
    /// excepted. Reads indices of cases until all labels are found.
    ///
    /// # Errors
    /// If the index of a case cannot be read or is damaged.
    pub fn unseen_labels(&self) -> Result<BTreeSet<u8>, Error> {
        let sequence = &self.shared.sequence;
        let datasets = self.datasets();
        let described = sequence.caches().flat_map(|cache| &cache.manifest().datasets);
        let named = described.filter(|(name, _)| datasets.contains(name.as_str()));
        Ok(unseen(named.flat_map(|(_, info)| foreground(info)).collect(), sequence.cases())?)
    }

    /// Configuration of the stream.
    #[must_use]
    pub fn config(&self) -> &StreamConfig {
        &self.shared.config
    }

    /// Form of the voxels.
    #[must_use]
    pub fn form(&self) -> VoxelForm {
        self.shared.form
    }

    /// Number of cases in the stream.
    #[must_use]
    pub fn num_cases(&self) -> usize {
        self.shared.sequence.cases().count()
    }

    /// Names of the cases in the stream, `DATASET/CASE`, cache after cache.
    pub fn cases(&self) -> impl Iterator<Item = &str> {
        self.shared.sequence.cases().map(Case::key)
    }

    /// Digest of the cases, their order and their voxels, as 32 hex digits; with labels, the ignore labels are
    /// included. For all cases of a single cache without an ignore label it equals [`Cache::digest`].
    #[must_use]
    pub fn digest(&self) -> String {
        self.shared.sequence.digest()
    }

    /// Returns true if `digest` is [`Self::digest`] of a stream of the same cases in the same order, recorded when their
    /// cache had other cases next to them, or none.
    #[must_use]
    pub fn has_digest(&self, digest: &str) -> bool {
        self.shared.sequence.has_digest(digest)
    }

    /// Number of crops in this rank's batch if no case is skipped.
    #[must_use]
    pub fn crops_per_batch(&self) -> usize {
        self.shared.share.1 * self.shared.plan.num_crops
    }

    /// Number of global batches per epoch; an epoch has as many visits as there are cases. The last batch may reach
    /// into the next epoch.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        (self.num_cases() as u64).div_ceil(self.shared.config.visits_per_batch as u64)
    }

    /// Number of threads that decode and augment.
    #[must_use]
    pub fn num_threads(&self) -> usize {
        self.shared.memory.threads
    }

    /// Division of the memory budget.
    #[must_use]
    pub fn memory(&self) -> MemoryPlan {
        self.shared.memory
    }

    /// Work done so far, over all streams of this loader.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.stats.progress()
    }

    /// Names the slowest stage of a span, with advice.
    #[must_use]
    pub fn verdict(&self, span: &SpanTimes) -> Verdict {
        span.verdict(self.num_threads(), cores())
    }

    /// Starts an endless stream of batches from `start_step` on; starting costs the same at every step.
    ///
    /// The memory budget applies to one stream at a time. If the system has less, the first item is
    /// [`Error::NoMemory`]; if `start_step` is not below 2^47, it is [`Error::BadConfig`].
    #[must_use]
    pub fn stream(&self, start_step: u64) -> BatchStream {
        self.stream_range(start_step..u64::MAX)
    }

    /// Starts a stream of the batches of `steps`. Nothing is read or fetched for later steps.
    #[must_use]
    pub fn stream_range(&self, steps: Range<u64>) -> BatchStream {
        match self.shared.form {
            VoxelForm::Floats => self.stream_of::<Floats>(steps),
            VoxelForm::Quantized => self.stream_of::<Quantized>(steps),
            VoxelForm::Boxes => self.stream_of::<Boxes>(steps),
            VoxelForm::Chunks => self.stream_of::<Chunks>(steps),
        }
    }
}

#[cfg(test)]
mod tests;
