//! Where batches come from.

use std::sync::Arc;

use hiend_cache::Cache;
use hiend_loader::pipeline::{self, Loader, StreamConfig};

use crate::feed::{BatchSource, SourceError, source_of};

/// Opens the batches from a step on: those of the whole stream, or a rank's share `(rank, ranks)` of each.
pub type OpenBatchSource = Box<dyn Fn(u64, (usize, usize)) -> Result<BatchSource, SourceError> + Send + Sync>;

/// Where batches come from: a pure function of the step.
pub struct Stream {
    /// Batches of an epoch.
    pub steps_per_epoch: u64,
    /// Digest of the data; a run goes on with the data it began with.
    pub digest: String,
    /// Opens the batches from a step on.
    pub open: OpenBatchSource,
}

impl Stream {
    /// The stream of a cache, as `config` and the run's seed have it.
    ///
    /// Threads and memory are those of the whole process; ranks share them evenly.
    ///
    /// # Errors
    /// If cache, configuration and memory do not go together.
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
