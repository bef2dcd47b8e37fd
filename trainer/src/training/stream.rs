//! Where batches come from.

use std::sync::Arc;

use hiend_cache::Cache;
use hiend_loader::pipeline::{self, Loader, StreamConfig};

use crate::feed::{Source, SourceError, source_of};

/// Opens the batches from a step on.
pub type OpenSource = Box<dyn FnOnce(u64) -> Result<Source, SourceError>>;

/// Where batches come from: a pure function of the step.
pub struct Stream {
    /// Batches of an epoch.
    pub steps_per_epoch: u64,
    /// Digest of the data; a run goes on with the data it began with.
    pub digest: String,
    /// Opens the batches from a step on.
    pub open: OpenSource,
}

impl Stream {
    /// The stream of a cache, as `config` and the run's seed have it.
    ///
    /// # Errors
    /// If cache, configuration and memory do not go together.
    pub fn open(
        cache: Arc<Cache>,
        config: &StreamConfig,
        seed: u64,
        options: &pipeline::Options,
    ) -> Result<Self, pipeline::Error> {
        let loader = Loader::open(cache, config.clone(), seed, options)?;
        let digest = loader.digest();
        let steps_per_epoch = loader.steps_per_epoch();
        let open = Box::new(move |step| Ok(source_of(loader.stream(step))));
        Ok(Self { steps_per_epoch, digest, open })
    }
}
