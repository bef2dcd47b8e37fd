//! The source of a run's batches.

use std::sync::Arc;

use anyhow::Context as _;
use hiend_cache::Cache;
use hiend_loader::pipeline;

use super::ranks::Rank;
use crate::cli::RunArgs;
use crate::config::RunConfig;
use crate::training::Stream;

/// Opens the cache that `--shards` names.
pub(super) fn open_cache(args: &RunArgs) -> anyhow::Result<Arc<Cache>> {
    let shards = args.shards.as_deref().context("clap requires --shards")?;
    Ok(Arc::new(Cache::open_with(shards, args.storage.options())?))
}

/// Batches of a run before its stream is opened.
pub(super) enum Source {
    /// Shards in a cache.
    Shards(Arc<Cache>),
}

impl Source {
    /// Opens the stream that `config` describes, or the share of it that `rank` takes.
    pub(super) fn stream<C: RunConfig>(self, args: &RunArgs, config: &C, rank: &Rank) -> anyhow::Result<Stream> {
        let Self::Shards(cache) = self;
        let options = pipeline::LoaderOptions {
            threads: rank.threads(args.threads),
            memory_bytes: rank.memory_bytes(args.memory.as_u64()),
            rank: rank.share(),
            form: config.train().voxel_form(&config.stream().augment, rank.compute.is_cpu()),
        };
        Ok(Stream::open(cache, config.stream(), config.train().seed, &options)?)
    }
}
