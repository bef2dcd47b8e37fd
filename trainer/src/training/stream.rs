//! The stream of batches that a run trains on.

use std::sync::Arc;

use hiend_cache::Cache;
use hiend_loader::pipeline::{self, Loader, StreamConfig};

use crate::feed::{BatchSource, SourceError, source_of};

/// Opens the batches from a step on; the second argument is the share of each batch, as `(rank, num_ranks)`.
pub type OpenBatchSource = Box<dyn Fn(u64, (usize, usize)) -> Result<BatchSource, SourceError> + Send + Sync>;

/// A stream of batches: a pure function of the step.
pub struct Stream {
    /// Batches per epoch.
    pub steps_per_epoch: u64,
    /// Digest of the data; a resumed run must have the data it began with.
    pub digest: String,
    /// Opens the batches from a step on.
    pub open: OpenBatchSource,
}

impl Stream {
    /// Opens the stream of a cache, determined by `config` and the run's seed.
    ///
    /// Threads and memory are for the whole process; ranks share them evenly.
    ///
    /// # Errors
    /// If the cache does not fit the configuration, or the memory does not suffice.
    pub fn open(
        cache: Arc<Cache>,
        config: &StreamConfig,
        seed: u64,
        options: &pipeline::LoaderOptions,
    ) -> Result<Self, pipeline::Error> {
        let whole = Loader::open(Arc::clone(&cache), config.clone(), seed, options)?;
        let digest = whole.digest();
        let steps_per_epoch = whole.steps_per_epoch();
        let (config, options) = (config.clone(), options.clone());
        let open = Box::new(move |step, share: (usize, usize)| {
            let (_, num_ranks) = share;
            if num_ranks == 1 {
                return Ok(source_of(whole.stream(step)));
            }
            let options = pipeline::LoaderOptions {
                threads: (whole.num_threads() / num_ranks).max(1),
                memory_bytes: options.memory_bytes / num_ranks as u64,
                rank: share,
                ..options.clone()
            };
            let loader = Loader::open(Arc::clone(&cache), config.clone(), seed, &options)?;
            Ok(source_of(loader.stream(step)))
        });
        Ok(Self { steps_per_epoch, digest, open })
    }
}
