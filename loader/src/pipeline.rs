//! The stream of batches: many threads fill a few reused buffers, in an order that no thread decides.
//!
//! ```text
//!   step s     visits s*V .. s*V+V of the global sequence, of which this rank takes its share
//!   assembler  one of a few threads, each with one batch in hand: takes a free buffer, then the next step
//!   pool       one thread a core; the visits of all batches in hand, each written to its own part of its batch
//!   consumer   gets the batches in the order of their steps
//! ```
//! A batch's bytes depend on its step alone: the visits of a step are a pure function of the seed, and so is every
//! draw of a visit ([`crate::rng`]). Memory is bounded by the buffers, which are made at the start and come back when
//! a batch is dropped; when none is free, everything waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hiend_cache::{Cache, Case};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchTimes, PooledBuffer};
use crate::epoch::VisitOrder;
use crate::preprocess::PreprocessConfig;
use crate::sampler::SampleBy;
use crate::transform::Chain;
use crate::visit::{VisitPlan, VisitSlot, VisitTimes, Visitor};

/// What a stream is. Everything here changes the batches; nothing else does, but the seed and the cases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Voxels of a crop along x, y, z.
    pub crop_size: [usize; 3],
    /// Crops cut each time a case is visited.
    pub crops_per_visit: usize,
    /// Cases in a global batch, over all ranks.
    pub visits_per_batch: usize,
    /// Share of crops whose centre is foreground, 0 to 1.
    pub foreground_rate: f64,
    /// What foreground is.
    pub sample_by: SampleBy,
    /// HU range that becomes [0, 1]; the cache's own if not given.
    pub window: Option<[f64; 2]>,
    /// Whether batches carry labels.
    pub labels: bool,
    /// What is done to crops.
    pub augment: Chain,
}

impl Default for StreamConfig {
    /// The pre-training recipe: 24 cases, 8 crops of 96 x 96 x 96 each, foreground 6 of 8.
    fn default() -> Self {
        Self {
            crop_size: [96; 3],
            crops_per_visit: 8,
            visits_per_batch: 24,
            foreground_rate: 0.75,
            sample_by: SampleBy::Intensity,
            window: None,
            labels: false,
            augment: Chain::recipe(),
        }
    }
}

impl StreamConfig {
    /// Crops of a global batch.
    #[must_use]
    pub fn crops_per_batch(&self) -> usize {
        self.crops_per_visit * self.visits_per_batch
    }

    /// Checks ranges.
    ///
    /// # Errors
    /// Names the key, what it is and what was expected.
    pub fn validate(&self) -> Result<(), String> {
        let key = |ok: bool, text: String| if ok { Ok(()) } else { Err(text) };
        let size = self.crop_size;
        key(size.iter().all(|n| (1..=1024).contains(n)), format!("crop_size = {size:?}: expected three of 1 to 1024"))?;
        for (name, count) in [("crops_per_visit", self.crops_per_visit), ("visits_per_batch", self.visits_per_batch)] {
            key((1..=65_536).contains(&count), format!("{name} = {count}: expected 1 to 65536"))?;
        }
        let rate = self.foreground_rate;
        key((0.0..=1.0).contains(&rate), format!("foreground_rate = {rate}: expected 0 to 1"))?;
        if let Some([low, high]) = self.window {
            key(
                low < high && low.is_finite() && high.is_finite(),
                format!("window = [{low}, {high}]: expected low < high"),
            )?;
        }
        let by_label = self.sample_by != SampleBy::Intensity;
        key(!by_label || self.labels, format!("sample_by = {:?} needs labels = true", self.sample_by).to_lowercase())?;
        let square = size[0] == size[1] || !matches!(&self.augment, Chain::Recipe(recipe) if recipe.rotate90 != off());
        key(
            square,
            format!("crop_size = {size:?}: quarter turns need equal first two lengths; set rotate90.probability = 0"),
        )
    }
}

fn off() -> crate::transform::Rotate90 {
    serde_json::from_str(r#"{"probability":0.0}"#).expect("a probability of 0")
}

/// How a stream is made; changes no byte of it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that decode and augment; 0 takes one a core.
    pub threads: usize,
    /// Memory for batches, in bytes.
    pub memory_bytes: u64,
    /// This process's share: `(rank, ranks)`.
    pub rank: (usize, usize),
}

impl Default for Options {
    fn default() -> Self {
        Self { threads: 0, memory_bytes: 4 << 30, rank: (0, 1) }
    }
}

/// Why a stream cannot be made or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is out of range.
    #[error("[stream] {0}")]
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
        "a batch of {crops} crops takes {batch_bytes} bytes and two are needed, but the budget is {memory_bytes}; \
             raise --memory or make the batch smaller"
    )]
    TooLittleMemory {
        /// Crops of this rank's batch.
        crops: usize,
        /// Bytes of a batch.
        batch_bytes: u64,
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

/// A cache made ready to stream.
pub struct Loader {
    shared: Arc<Shared>,
    num_buffers: usize,
    crops: usize,
}

struct Shared {
    cache: Arc<Cache>,
    config: StreamConfig,
    plan: VisitPlan,
    order: VisitOrder,
    /// First visit of a global batch that is ours, and how many are.
    share: (u64, usize),
    pool: rayon::ThreadPool,
    visitors: Mutex<Vec<Visitor>>,
}

impl Loader {
    /// Checks the configuration against the cache and starts the threads.
    ///
    /// # Errors
    /// If configuration, cache and budget do not fit together.
    pub fn open(cache: Arc<Cache>, config: StreamConfig, seed: u64, options: &Options) -> Result<Self, Error> {
        config.validate().map_err(Error::BadConfig)?;
        let unsuitable = |reason: String| Error::Unsuitable { path: cache.dir().to_owned(), reason };
        let (rank, ranks) = options.rank;
        if ranks == 0 || rank >= ranks || config.visits_per_batch % ranks != 0 {
            let visits = config.visits_per_batch;
            return Err(Error::BadConfig(format!(
                "visits_per_batch = {visits} cannot be shared by rank {rank} of {ranks}"
            )));
        }
        let window = check_cache(&cache, &config).map_err(unsuitable)?;
        let visits = config.visits_per_batch / ranks;
        let crops = visits * config.crops_per_visit;
        let voxel_bytes = if config.labels { 5 } else { 4 };
        let batch_bytes = (crops * config.crop_size.iter().product::<usize>() * voxel_bytes) as u64;
        let num_buffers = options.memory_bytes / batch_bytes;
        if num_buffers < 2 {
            return Err(Error::TooLittleMemory { crops, batch_bytes, memory_bytes: options.memory_bytes });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .thread_name(|number| format!("loader-{number}"))
            .build()
            .map_err(|err| Error::NoThreads(err.to_string()))?;
        // One batch is with the consumer and two in work keep every thread busy to the end of each; small batches
        // need more of them in work to give every thread a visit.
        let wanted = 3 + pool.current_num_threads().div_ceil(visits);
        let plan = VisitPlan {
            crop_size: config.crop_size,
            num_crops: config.crops_per_visit,
            foreground_rate: config.foreground_rate,
            sample_by: config.sample_by,
            augment: config.augment,
            window,
            seed,
        };
        let order = VisitOrder::new(seed, cache.cases().len());
        let share = ((visits * rank) as u64, visits);
        let shared = Shared { order, cache, config, plan, share, pool, visitors: Mutex::new(Vec::new()) };
        let num_buffers = usize::try_from(num_buffers).unwrap_or(usize::MAX).min(wanted);
        Ok(Self { shared: Arc::new(shared), num_buffers, crops })
    }

    /// Cases in the stream.
    #[must_use]
    pub fn num_cases(&self) -> usize {
        self.shared.cache.cases().len()
    }

    /// Global batches that hold one epoch; the last one may reach into the next.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        (self.num_cases() as u64).div_ceil(self.shared.config.visits_per_batch as u64)
    }

    /// Threads at work.
    #[must_use]
    pub fn num_threads(&self) -> usize {
        self.shared.pool.current_num_threads()
    }

    /// The batches from `start_step` on, without end. Starting in the middle costs nothing.
    #[must_use]
    pub fn stream(&self, start_step: u64) -> BatchStream {
        let num_voxels: usize = self.shared.plan.crop_size.iter().product();
        let (give_image, free_image) = flume::bounded(self.num_buffers);
        let (give_label, free_label) = flume::bounded(self.num_buffers);
        for _ in 0..self.num_buffers {
            // Neither can fail: the channels hold as many.
            let _ = give_image.send(vec![0f32; self.crops * num_voxels]);
            let _ = give_label.send(vec![0u8; if self.shared.config.labels { self.crops * num_voxels } else { 0 }]);
        }
        let (give, ready) = flume::bounded(self.num_buffers);
        let stop = Arc::new(AtomicBool::new(false));
        let next_step = Arc::new(Mutex::new(start_step));
        for _ in 0..(self.num_buffers - 1) {
            let assembler = Assembler {
                shared: Arc::clone(&self.shared),
                home: (give_image.clone(), give_label.clone()),
                free: (free_image.clone(), free_label.clone()),
                next_step: Arc::clone(&next_step),
                give: give.clone(),
                stop: Arc::clone(&stop),
            };
            std::thread::spawn(move || assembler.run());
        }
        BatchStream { ready, early: BTreeMap::new(), next: start_step, stop, failed: false }
    }
}

/// What the cases must have for this stream; returns the window.
fn check_cache(cache: &Cache, config: &StreamConfig) -> Result<[f64; 2], String> {
    let Some(first) = cache.cases().first() else { return Err("holds no cases".into()) };
    let parameters = &first.record().parameters;
    if let Some(other) = cache.cases().iter().find(|case| case.record().parameters != *parameters) {
        let (a, b) = (first.key(), other.key());
        return Err(format!("{a} and {b} were made with different parameters; run hiend-shard again to its end"));
    }
    if config.labels
        && let Some(case) = cache.cases().iter().find(|case| case.record().label.is_none())
    {
        return Err(format!("case {} has no labels", case.key()));
    }
    let preprocess: Result<PreprocessConfig, _> = serde_json::from_value(cache.manifest().preprocess.clone());
    let preprocess = preprocess.map_err(|err| format!("manifest.json: preprocess: {err}"))?;
    let window = config.window.unwrap_or(preprocess.window);
    let inside = preprocess.window[0] <= window[0] && window[1] <= preprocess.window[1];
    if preprocess.store == crate::preprocess::window::Store::Window && !inside {
        let [low, high] = preprocess.window;
        return Err(format!("holds only {low} to {high} HU; window = {window:?} needs a cache made with --store full"));
    }
    Ok(window)
}

type Loan = (Vec<f32>, Vec<u8>);

struct Assembler {
    shared: Arc<Shared>,
    home: (flume::Sender<Vec<f32>>, flume::Sender<Vec<u8>>),
    free: (flume::Receiver<Vec<f32>>, flume::Receiver<Vec<u8>>),
    next_step: Arc<Mutex<u64>>,
    give: flume::Sender<(u64, Result<Batch, Error>)>,
    stop: Arc<AtomicBool>,
}

impl Assembler {
    fn run(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            // The buffer first, then the step: so the oldest step in work always has its buffer.
            let (step, loan) = {
                let mut next = self.next_step.lock().unwrap_or_else(PoisonError::into_inner);
                let (Ok(images), Ok(labels)) = (self.free.0.recv(), self.free.1.recv()) else { return };
                let step = *next;
                *next += 1;
                (step, (images, labels))
            };
            let batch = self.assemble(step, loan);
            let failed = batch.is_err();
            if self.give.send((step, batch)).is_err() || failed {
                return;
            }
        }
    }

    fn assemble(&self, step: u64, (images, labels): Loan) -> Result<Batch, Error> {
        let started = Instant::now();
        let shared = &*self.shared;
        let mut images = PooledBuffer::on_loan(images, self.home.0.clone());
        let mut labels = PooledBuffer::on_loan(labels, self.home.1.clone());
        let (first, visits) = shared.share;
        let first = step * shared.config.visits_per_batch as u64 + first;
        let image_len = images.len() / visits;
        let label_len = labels.len() / visits;
        let decode_nanos = AtomicU64::new(0);
        let augment_nanos = AtomicU64::new(0);
        let add = |counter: &AtomicU64, secs: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a batch takes less than 500 years"
            )]
            counter.fetch_add((secs * 1e9) as u64, Ordering::Relaxed);
        };
        let label_parts: Vec<Option<&mut [u8]>> = if label_len == 0 {
            (0..visits).map(|_| None).collect()
        } else {
            labels.chunks_exact_mut(label_len).map(Some).collect()
        };
        let crops = shared.pool.install(|| {
            let parts = images.par_chunks_exact_mut(image_len).zip(label_parts).enumerate();
            let visit = |(number, (images, labels)): (usize, (&mut [f32], Option<&mut [u8]>))| {
                let visit = shared.order.visit(first + number as u64);
                let case: &Case = &shared.cache.cases()[visit.case_idx];
                let mut visitor = shared.take_visitor();
                let result = visitor.visit(case, visit.epoch, &shared.plan, &mut VisitSlot { images, labels });
                shared.give_visitor(visitor);
                let (records, VisitTimes { decode_secs, augment_secs }) = result?;
                add(&decode_nanos, decode_secs);
                add(&augment_nanos, augment_secs);
                Ok(records)
            };
            parts.map(visit).collect::<Result<Vec<_>, Error>>()
        })?;
        let [x, y, z] = shared.plan.crop_size;
        Ok(Batch {
            step,
            shape: [visits * shared.plan.num_crops, 1, x, y, z],
            labels: (label_len > 0).then_some(labels),
            images,
            crops: crops.into_iter().flatten().collect(),
            times: BatchTimes {
                decode_secs: decode_nanos.into_inner() as f64 / 1e9,
                augment_secs: augment_nanos.into_inner() as f64 / 1e9,
                elapsed_secs: started.elapsed().as_secs_f64(),
                wait_secs: 0.0,
            },
        })
    }
}

impl Shared {
    fn take_visitor(&self) -> Visitor {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_visitor(&self, visitor: Visitor) {
        self.visitors.lock().unwrap_or_else(PoisonError::into_inner).push(visitor);
    }
}

/// Batches in the order of their steps. Ends after the first error.
pub struct BatchStream {
    ready: flume::Receiver<(u64, Result<Batch, Error>)>,
    early: BTreeMap<u64, Result<Batch, Error>>,
    next: u64,
    stop: Arc<AtomicBool>,
    failed: bool,
}

impl Iterator for BatchStream {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let started = Instant::now();
        loop {
            if let Some(mut batch) = self.early.remove(&self.next) {
                self.next += 1;
                match &mut batch {
                    Ok(batch) => batch.times.wait_secs = started.elapsed().as_secs_f64(),
                    Err(_) => self.failed = true,
                }
                return Some(batch);
            }
            let Ok((step, batch)) = self.ready.recv() else {
                self.failed = true;
                return Some(Err(Error::NoThreads("they ended before their time".into())));
            };
            self.early.insert(step, batch);
        }
    }
}

impl Drop for BatchStream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
