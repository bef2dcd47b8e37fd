//! The source of a run's batches: shards that this process reads, or loader servers.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hiend_cache::{Cache, Manifest};
use hiend_loader::pipeline::{self, StreamConfig, digest_of};
use hiend_loader::program::{UsageError, read_token};
use hiend_loader::remote::{RemoteLoader, RemoteOptions};

use super::ranks::Rank;
use crate::cli::RunArgs;
use crate::config::{DecodeOn, RunConfig};
use crate::training::{Stop, Stream};

/// Opens the cache that `--shards` names, if it does.
pub(super) fn open_cache(args: &RunArgs) -> anyhow::Result<Option<Arc<Cache>>> {
    let open = |shards: &std::path::PathBuf| Cache::open_with(shards, args.storage.options());
    Ok(args.shards.as_ref().map(open).transpose()?.map(Arc::new))
}

/// Loader servers that stream the batches of a configuration.
pub(super) struct Servers {
    loader: RemoteLoader,
    streamed: StreamConfig,
    options: RemoteOptions,
}

impl Servers {
    /// Connects to the servers that `--loader` names, for the share of `rank`. Raising `stop` ends the attempts while no server answers.
    pub(super) fn connect<C: RunConfig>(args: &RunArgs, config: &C, rank: &Rank, stop: &Stop) -> anyhow::Result<Self> {
        if config.train().decode_on == DecodeOn::Device {
            bail!(
                "train.decode_on: \"device\" needs shards that this process reads (--shards); servers send no coded chunks \
                 (--loader)"
            );
        }
        let service = &args.service;
        if let Some(flag) = args.storage.disk_cache_flag().filter(|_| args.shards.is_none()) {
            let text =
                format!("{flag} is of no use with --loader: the servers read the shards; give it to hiend-serve");
            return Err(UsageError::new(text).into());
        }
        let options = RemoteOptions {
            rank: rank.share(),
            form: config.train().voxel_form(&config.stream().augment, rank.compute.is_cpu()),
            memory_bytes: rank.memory_bytes(args.memory.as_u64()),
            token: service.loader_token_file.as_deref().map(read_token).transpose()?,
            ca: service.loader_ca.clone(),
            retry: Duration::from_secs(service.loader_retry),
            stop: stop.clone(),
            ..RemoteOptions::default()
        };
        let streamed = config.stream().clone();
        let loader = RemoteLoader::connect(&service.loader, streamed.clone(), config.train().seed, options.clone())?;
        Ok(Self { loader, streamed, options })
    }

    /// Description of the datasets, as the servers' cache has it.
    pub(super) fn manifest(&self) -> &Manifest {
        self.loader.manifest()
    }

    /// The stream of `config`, in which a task may have settled what the datasets say, such as the ignore label.
    fn stream<C: RunConfig>(self, args: &RunArgs, config: &C) -> anyhow::Result<Stream> {
        let Self { loader, streamed, options } = self;
        let (urls, seed) = (&args.service.loader, config.train().seed);
        let loader = if streamed == *config.stream() {
            loader
        } else {
            RemoteLoader::connect(urls, config.stream().clone(), seed, options.clone())?
        };
        Ok(Stream::of_servers(loader, urls, config.stream(), seed, &options))
    }

    /// Checks that the servers stream the cases that `cache` would give to the same configuration.
    pub(super) fn check_same_cases<C: RunConfig>(&self, cache: &Arc<Cache>, config: &C) -> anyhow::Result<()> {
        let here = digest_of(cache, config.stream())?;
        let there = self.loader.digest();
        if here != there {
            bail!(
                "the servers stream other cases than {} holds (digest {there}, here {here}); name shards equal to theirs with \
                 --shards, or pass --no-validation without --shards",
                cache.dir().display()
            );
        }
        Ok(())
    }
}

/// Batches of a run before its stream is opened.
pub(super) enum Source {
    /// Shards in a cache.
    Shards(Arc<Cache>),
    /// Loader servers.
    Servers(Box<Servers>),
}

impl Source {
    /// Opens the stream that `config` describes, or the share of it that `rank` takes.
    pub(super) fn stream<C: RunConfig>(self, args: &RunArgs, config: &C, rank: &Rank) -> anyhow::Result<Stream> {
        let cache = match self {
            Self::Servers(servers) => return servers.stream(args, config),
            Self::Shards(cache) => cache,
        };
        let options = pipeline::LoaderOptions {
            threads: rank.threads(args.threads),
            memory_bytes: rank.memory_bytes(args.memory.as_u64()),
            rank: rank.share(),
            form: config.train().voxel_form(&config.stream().augment, rank.compute.is_cpu()),
        };
        let stream = Stream::open(cache, config.stream(), config.train().seed, &options);
        match config.train().decode_on {
            DecodeOn::Cpu => Ok(stream?),
            DecodeOn::Device => stream.context("train.decode_on = \"device\""),
        }
    }
}
