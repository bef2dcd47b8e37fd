//! The stream of batches: many threads fill a few reused buffers, in an order that no thread decides.
//!
//! ```text
//!   step s      visits s*V .. s*V+V of the global sequence, of which this rank takes its share
//!   read-ahead  one thread: tells the system which cases come next
//!   assembler   one of a few threads, each with one batch in hand: takes a free buffer, then the next step
//!   pool        one thread a core; the visits of all batches in hand, each written to its own part of its batch
//!   consumer    gets the batches in the order of their steps
//! ```
//! A batch's bytes depend on its step alone: the visits of a step are a pure function of the seed, and so is every
//! draw of a visit ([`crate::rng`]). Memory is one budget ([`MemoryPlan`]), divided at the start: buffers come back
//! when a batch is dropped; when none is free, everything waits. Each wait is measured ([`crate::stats`]), and who
//! waited for whom is the verdict ([`crate::verdict`]).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use hiend_cache::Cache;

use crate::batch::{Batch, VoxelForm};
use crate::budget::ByteBudget;
use crate::stats::{Progress, Stats};
use crate::verdict::{SpanTimes, Verdict};
use crate::visit::{VisitPlan, Visitor};

mod assemble;
mod config;
mod memory;
mod read_ahead;
mod sequence;

pub use config::{OnCorrupt, StreamConfig};
pub use memory::{MemoryPlan, num_cores};
pub use sequence::cases_of;

use assemble::{Assembler, Ready, Voxel};
use read_ahead::ReadAhead;
use sequence::Sequence;

/// How a stream is made; changes no byte of it.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Threads that decode and augment; 0 takes one a core, or as many as the memory allows.
    pub threads: usize,
    /// Memory for everything, in bytes; [`MemoryPlan`] says how it is divided.
    pub memory_bytes: u64,
    /// This process's share: `(rank, ranks)`.
    pub rank: (usize, usize),
    /// What voxels are asked for as.
    pub form: VoxelForm,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { threads: 0, memory_bytes: 4 << 30, rank: (0, 1), form: VoxelForm::Floats }
    }
}

/// Why a stream cannot be made or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is out of range.
    #[error("stream.{0}")]
    BadConfig(String),
    /// The cache does not suit the stream.
    #[error("{}: {reason}", path.display())]
    Unsuitable {
        /// The cache.
        path: std::path::PathBuf,
        /// Why.
        reason: String,
    },
    /// The memory budget is too small.
    #[error(
        "two batches of {crops} crops ({batch_bytes} bytes each) and {threads} threads take {needed} bytes, but the \
         budget is {memory_bytes}; raise --memory, or make the batch smaller"
    )]
    TooLittleMemory {
        /// Crops of this rank's batch.
        crops: usize,
        /// Bytes of a batch.
        batch_bytes: u64,
        /// Threads.
        threads: usize,
        /// Bytes that all of it takes.
        needed: u64,
        /// Bytes allowed.
        memory_bytes: u64,
    },
    /// The system gave no thread.
    #[error("cannot start loader threads: {0}")]
    NoThreads(String),
    /// A visit failed.
    #[error(transparent)]
    Read(#[from] hiend_cache::Error),
}

/// Caches made ready to stream.
pub struct Loader {
    shared: Arc<Shared>,
}

struct Shared {
    config: StreamConfig,
    form: VoxelForm,
    plan: VisitPlan,
    sequence: Sequence,
    /// First visit of a global batch that is ours, and how many are.
    share: (u64, usize),
    memory: MemoryPlan,
    /// Bytes of resampled boxes that a visitor may keep; what a visit needs beyond comes out of `spill`.
    usual_cut_bytes: u64,
    spill: ByteBudget,
    pool: rayon::ThreadPool,
    /// Visitors at rest, and the bytes each holds.
    visitors: Mutex<Vec<(Visitor, u64)>>,
    stats: Stats,
}

impl Loader {
    /// Checks the configuration against the cache and starts the threads.
    ///
    /// # Errors
    /// If configuration, cache and budget do not fit together.
    pub fn open(cache: Arc<Cache>, config: StreamConfig, seed: u64, options: &LoaderOptions) -> Result<Self, Error> {
        Self::open_mix(vec![(cache, 1)], config, seed, options)
    }

    /// The same for several caches and their weights; [`crate::mix`] states the law.
    ///
    /// # Errors
    /// If configuration, caches, weights and budget do not fit together.
    pub fn open_mix(
        caches: Vec<(Arc<Cache>, u32)>,
        config: StreamConfig,
        seed: u64,
        options: &LoaderOptions,
    ) -> Result<Self, Error> {
        config.validate().map_err(|(key, reason)| Error::BadConfig(format!("{key}: {reason}")))?;
        let (rank, ranks) = options.rank;
        if ranks == 0 || rank >= ranks || !config.visits_per_batch.is_multiple_of(ranks) {
            let visits = config.visits_per_batch;
            return Err(Error::BadConfig(format!(
                "visits_per_batch = {visits} cannot be shared by rank {rank} of {ranks}"
            )));
        }
        if options.form == VoxelForm::Quantized && !config.augment.is_linear() {
            return Err(Error::BadConfig(
                "augment: this chain changes intensities in ways that steps cannot hold".into(),
            ));
        }
        let (sequence, window) = Sequence::new(caches, &config, seed)?;
        let visits = config.visits_per_batch / ranks;
        let plan = VisitPlan {
            crop_size: config.crop_size,
            num_crops: config.crops_per_visit,
            foreground_rate: config.foreground_rate,
            sample_by: config.sample_by,
            augment: config.augment,
            window,
            seed,
        };
        let (threads, bytes) = (options.threads, options.memory_bytes);
        let (memory, usual_cut_bytes) =
            MemoryPlan::divide(bytes, threads, visits, &plan, (options.form, config.labels), sequence.cases())?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(memory.threads)
            .thread_name(|number| format!("loader-{number}"))
            .build()
            .map_err(|err| Error::NoThreads(err.to_string()))?;
        let shared = Shared {
            share: ((visits * rank) as u64, visits),
            spill: ByteBudget::new(memory.spill_bytes),
            visitors: Mutex::new(Vec::new()),
            stats: Stats::default(),
            config,
            form: options.form,
            plan,
            sequence,
            memory,
            usual_cut_bytes,
            pool,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Cases in the stream.
    #[must_use]
    pub fn num_cases(&self) -> usize {
        self.shared.sequence.cases().count()
    }

    /// Identifies cases, their order and their voxels: 32 hex digits. For all cases of one cache it is
    /// [`Cache::digest`].
    #[must_use]
    pub fn digest(&self) -> String {
        self.shared.sequence.digest()
    }

    /// Crops of this rank's batch, when no case is corrupt.
    #[must_use]
    pub fn crops_per_batch(&self) -> usize {
        self.shared.share.1 * self.shared.plan.num_crops
    }

    /// Global batches that hold one epoch: as many visits as there are cases. The last one may reach into the next.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        (self.num_cases() as u64).div_ceil(self.shared.config.visits_per_batch as u64)
    }

    /// Threads at work.
    #[must_use]
    pub fn num_threads(&self) -> usize {
        self.shared.memory.threads
    }

    /// How the memory is divided.
    #[must_use]
    pub fn memory(&self) -> MemoryPlan {
        self.shared.memory
    }

    /// How far it has come, over all its streams.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.shared.stats.progress()
    }

    /// What was slowest in this span, and what would help.
    #[must_use]
    pub fn verdict(&self, span: &SpanTimes) -> Verdict {
        span.verdict(self.num_threads(), num_cores())
    }

    /// The batches from `start_step` on, without end. Starting in the middle costs nothing.
    ///
    /// The memory budget holds for one stream at a time.
    #[must_use]
    pub fn stream(&self, start_step: u64) -> BatchStream {
        match self.shared.form {
            VoxelForm::Floats => self.stream_of::<f32>(start_step),
            VoxelForm::Quantized | VoxelForm::Boxes => self.stream_of::<u16>(start_step),
        }
    }

    fn stream_of<V: Voxel>(&self, start_step: u64) -> BatchStream {
        let shared = &self.shared;
        let num_buffers = shared.memory.num_buffers;
        let num_voxels = shared.memory.batch_voxels;
        let (give_image, free_image) = flume::bounded(num_buffers);
        let (give_label, free_label) = flume::bounded(num_buffers);
        for _ in 0..num_buffers {
            // Neither can fail: the channels hold as many.
            let _ = give_image.send(vec![V::default(); num_voxels]);
            let _ = give_label.send(vec![0u8; if shared.config.labels { num_voxels } else { 0 }]);
        }
        shared.stats.hold(num_buffers as u64 * shared.memory.batch_bytes);
        let (give, ready) = flume::bounded(num_buffers);
        let stop = Arc::new(AtomicBool::new(false));
        let next_step = Arc::new(Mutex::new(start_step));
        let read_ahead = Arc::new(ReadAhead::new(shared, start_step));
        {
            let (shared, read_ahead) = (Arc::clone(shared), Arc::clone(&read_ahead));
            std::thread::spawn(move || read_ahead.run(&shared, start_step));
        }
        for _ in 0..(num_buffers - 1) {
            let assembler = Assembler::<V> {
                shared: Arc::clone(shared),
                home: (give_image.clone(), give_label.clone()),
                free: (free_image.clone(), free_label.clone()),
                next_step: Arc::clone(&next_step),
                give: give.clone(),
                read_ahead: Arc::clone(&read_ahead),
                stop: Arc::clone(&stop),
            };
            std::thread::spawn(move || assembler.run());
        }
        BatchStream {
            ready,
            early: BTreeMap::new(),
            next: start_step,
            steps_per_epoch: self.steps_per_epoch(),
            epoch: SpanTimes::default(),
            total: SpanTimes::default(),
            finished: None,
            last: None,
            shared: Arc::clone(shared),
            read_ahead,
            stop,
            failed: false,
        }
    }
}

/// Batches in the order of their steps. Ends after the first error.
pub struct BatchStream {
    ready: flume::Receiver<Ready>,
    early: BTreeMap<u64, (Result<Batch, Error>, Instant)>,
    next: u64,
    steps_per_epoch: u64,
    epoch: SpanTimes,
    total: SpanTimes,
    finished: Option<(u64, SpanTimes)>,
    /// When the last batch was handed out.
    last: Option<Instant>,
    shared: Arc<Shared>,
    read_ahead: Arc<ReadAhead>,
    stop: Arc<AtomicBool>,
    failed: bool,
}

impl BatchStream {
    /// Times of all batches so far, but for the first: that one waits for the stream to fill.
    #[must_use]
    pub fn total(&self) -> &SpanTimes {
        &self.total
    }

    /// An epoch that has ended since this was last asked, and its times; `steps_per_epoch` batches are an epoch.
    pub fn take_epoch(&mut self) -> Option<(u64, SpanTimes)> {
        self.finished.take()
    }

    fn count(&mut self, batch: &mut Batch, asked: Instant, done: Instant) {
        let now = Instant::now();
        batch.times.wait_secs = (now - asked).as_secs_f64();
        metrics::histogram!("hiend_loader_wait_seconds").record(batch.times.wait_secs);
        metrics::histogram!("hiend_loader_queue_seconds").record(now.saturating_duration_since(done).as_secs_f64());
        if let Some(last) = self.last.replace(now) {
            let elapsed_secs = (now - last).as_secs_f64();
            self.total.add(batch.shape[0], elapsed_secs, &batch.times);
            self.epoch.add(batch.shape[0], elapsed_secs, &batch.times);
        }
        if (batch.step + 1).is_multiple_of(self.steps_per_epoch) {
            let (epoch, span) = (batch.step / self.steps_per_epoch, std::mem::take(&mut self.epoch));
            tracing::debug!(epoch, "{}", span.verdict(self.shared.memory.threads, num_cores()));
            self.finished = Some((epoch, span));
        }
    }
}

impl Iterator for BatchStream {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
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
            let Ok((step, batch, done)) = self.ready.recv() else {
                self.failed = true;
                return Some(Err(Error::NoThreads("they ended before their time".into())));
            };
            self.early.insert(step, (batch, done));
        }
    }
}

impl Drop for BatchStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.read_ahead.stop(&self.shared);
        // Buffers go home, and whoever waits for one wakes, sees that it is over, and lets go of it.
        self.early.clear();
        self.ready.drain();
        let memory = &self.shared.memory;
        self.shared.stats.release(memory.num_buffers as u64 * memory.batch_bytes);
    }
}
