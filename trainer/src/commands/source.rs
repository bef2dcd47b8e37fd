//! Source of a run's batches: shards that this process reads, or loader servers.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use hiend_cache::{Cache, Manifest};
use hiend_loader::dataset::Difference;
use hiend_loader::pipeline::{
    self, StreamConfig, digest_of, remark_on_labels, remark_on_shared_scans, remarks_on_exclude,
};
use hiend_loader::program::{UsageError, count, read_token};
use hiend_loader::remote::{RemoteLoader, RemoteOptions};

use super::ranks::Rank;
use crate::cli::RunArgs;
use crate::config::{DecodeOn, RunConfig, contradiction};
use crate::training::{RunCases, Stream};

/// Opens the cache that `--shards` names, for `rank`; `None` without the flag. Cases that were added since a run `began` are
/// left out and reported, except next to servers, which stream them.
pub(super) fn open_cache(args: &RunArgs, began: Option<&RunCases>, rank: &Rank) -> anyhow::Result<Option<Arc<Cache>>> {
    let Some(shards) = args.shards.clone() else { return Ok(None) };
    let options = args.storage.options();
    let cache = rank.open_data(move || Cache::open_with(&shards, options))??;
    let (cache, num_added) = match began {
        Some(began) if args.service.loader.is_empty() => began.without_added(cache),
        _ => (cache, 0),
    };
    if num_added > 0 {
        let (were, them) = if num_added == 1 { ("was", "it") } else { ("were", "them") };
        let added = count(num_added, "case");
        rank.note(format_args!("{added} {were} added to the cache since this run began; it goes on without {them}"));
    }
    Ok(Some(Arc::new(cache)))
}

/// Error of dividing a cache into cases to train on and to validate on; where the cache has lost cases of a run that `began`,
/// these are named first.
pub(super) fn with_lost_cases(
    error: impl Into<anyhow::Error>,
    began: Option<&RunCases>,
    cache: &Cache,
) -> anyhow::Error {
    let error = error.into();
    match began.map(|began| began.changes(&RunCases::of(cache))) {
        Some(changes) if !changes.is_whole() => {
            error.context(format!("the cache does not hold the cases that the run began with ({changes})"))
        }
        _ => error,
    }
}

/// Warns of names in `stream.exclude` that match no dataset of a cache, of unlabelled cases that are left out, and of scans that
/// training and validation share.
pub(super) fn warn_of_selection(cache: &Cache, stream: &StreamConfig, rank: &Rank) {
    let remarks = remarks_on_exclude([cache], &stream.exclude).into_iter().chain(remark_on_labels([cache], stream));
    for remark in remarks.chain(remark_on_shared_scans([cache], stream)) {
        rank.note(format_args!("warning: stream.{remark}"));
    }
}

/// Warns of crops that are mostly padding, because the selected cases of a cache are smaller. Not for a resumed run, which keeps
/// its crops.
pub(super) fn warn_of_padding(cache: &Cache, stream: &StreamConfig, rank: &Rank) {
    if let Some(remark) = pipeline::remark_on_padding([cache], stream) {
        rank.note(format_args!("warning: stream.{remark}"));
    }
}

/// Rejects flags that have no effect together with the others. Clap does not detect all of them: it ignores a
/// requirement if the required argument conflicts with a given one.
pub(super) fn refuse_flags_without_effect(args: &RunArgs) -> Result<(), UsageError> {
    let other_seed = |seed: u64| args.set.iter().find(|(key, value)| key == "train.seed" && *value != seed.to_string());
    if let Some((_, value)) = args.seed.and_then(other_seed) {
        return Err(UsageError::new(format!(
            "--set train.seed={value} has no effect next to --seed; leave one of them out"
        )));
    }
    if let Some(contradiction) = contradiction(&args.set) {
        return Err(UsageError::new(contradiction));
    }
    if let Some(shards) = &args.shards {
        if names_several(shards) {
            return Err(UsageError::new(format!(
                "--shards {}: expected one cache; convert all data into one, or start hiend-serve with all of them and name it by \
                 --loader in place of --shards",
                shards.display()
            )));
        }
        args.storage.check([shards.as_path()])?;
    }
    let service = &args.service;
    let mut seen = BTreeSet::new();
    if let Some(url) = service.loader.iter().find(|url| !seen.insert(*url)) {
        return Err(UsageError::new(format!("--loader names {url} twice")));
    }
    let of_servers = [
        (service.loader_token_file.is_some(), "--loader-token-file"),
        (service.loader_ca.is_some(), "--loader-ca"),
        (service.loader_retry.is_some(), "--loader-retry"),
    ];
    let of_servers = of_servers.into_iter().find_map(|(is_given, flag)| is_given.then_some(flag));
    let message = match (of_servers, args.storage.flag()) {
        (Some(flag), _) if service.loader.is_empty() => {
            format!("{flag} requires --loader")
        }
        _ if service.loader.is_empty() => return Ok(()),
        _ if service.loader_ca.is_some() && !service.loader.iter().any(|url| url.starts_with("https:")) => {
            "--loader-ca has no effect: no URL of --loader begins with https://".to_owned()
        }
        (_, Some(flag)) if args.shards.is_none() => {
            format!("{flag} has no effect with --loader: the servers read the shards; give it to hiend-serve")
        }
        _ => return Ok(()),
    };
    Err(UsageError::new(message))
}

/// Returns true for caches separated by commas: a path that does not exist, several URLs, or a path before a URL.
fn names_several(shards: &Path) -> bool {
    let text = shards.to_string_lossy();
    match text.matches("://").count() {
        0 => text.contains(',') && shards.symlink_metadata().is_err(),
        // After it, a comma may belong to the only URL.
        1 => text.split_once("://").is_some_and(|(before, _)| before.contains(',')),
        _ => text.contains(','),
    }
}

/// Loader servers that stream the batches of a configuration.
pub(super) struct Servers {
    loader: RemoteLoader,
    streamed: StreamConfig,
    options: RemoteOptions,
}

impl Servers {
    /// Connects to the servers that `--loader` names, for the share of `rank`; `None` if it is absent. A request to stop
    /// ends the attempts while no server answers.
    pub(super) fn connect<C: RunConfig>(args: &RunArgs, config: &C, rank: &mut Rank) -> anyhow::Result<Option<Self>> {
        if args.service.loader.is_empty() {
            return Ok(None);
        }
        let stop = rank.stop();
        if config.train().decode_on == DecodeOn::Device {
            bail!(
                "train.decode_on: \"device\" needs shards that this process reads (--shards); servers send no coded chunks \
                 (--loader)"
            );
        }
        let service = &args.service;
        let options = RemoteOptions {
            rank: rank.share(),
            form: config.train().voxel_form(&config.stream().augment, rank.compute.is_cpu()),
            memory_bytes: rank.memory_bytes(args.memory.as_u64()),
            token: service.loader_token_file.as_deref().map(read_token).transpose()?,
            ca: service.loader_ca.clone(),
            retry: service.loader_retry.map_or(RemoteOptions::default().retry, Duration::from_secs),
            stop,
            ..RemoteOptions::default()
        };
        let streamed = config.stream().clone();
        let loader = connect(&service.loader, config, &options, rank)?;
        Ok(Some(Self { loader, streamed, options }))
    }

    /// Description of the datasets in the servers' cache.
    pub(super) fn manifest(&self) -> &Manifest {
        self.loader.manifest()
    }

    /// Labels that the datasets name but no label map of the stream contains, as far as the servers know.
    pub(super) fn unseen_labels(&self) -> &BTreeSet<u8> {
        self.loader.unseen_labels()
    }

    /// Warns of names in `stream.exclude` that match no dataset of the servers' caches, of unlabelled cases that are left
    /// out, and of crops that are mostly padding.
    pub(super) fn warn_of_selection(&self, rank: &Rank) {
        for remark in self.loader.remarks() {
            rank.note(format_args!("warning: stream.{remark}"));
        }
    }

    /// Opens the stream of `config`, into which a task may have filled settings of the datasets, such as the ignore
    /// label.
    fn stream<C: RunConfig>(self, args: &RunArgs, config: &C, rank: &Rank) -> anyhow::Result<Stream> {
        let Self { loader, streamed, options } = self;
        let (urls, seed) = (&args.service.loader, config.train().seed);
        let loader = if streamed == *config.stream() { loader } else { connect(urls, config, &options, rank)? };
        Ok(Stream::of_servers(loader, urls, config.stream(), seed, &options))
    }

    /// Checks that the servers stream the same cases with the same classes that `cache` would give for this
    /// configuration.
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
        for (dataset, there) in &self.manifest().datasets {
            let here = cache.manifest().datasets.get(dataset).cloned().unwrap_or_default();
            if let Some(difference) = Difference::between(there, &here) {
                bail!(
                    "the servers describe the classes of dataset {dataset} differently: {}; give all the same dataset.json, run \
                     hiend-shard again, and restart the servers",
                    difference.described("at the servers", &format!("in {}", cache.dir().display()))
                );
            }
        }
        Ok(())
    }
}

/// Connects to the servers at `urls` for the stream of a configuration.
fn connect<C: RunConfig>(
    urls: &[String],
    config: &C,
    options: &RemoteOptions,
    rank: &Rank,
) -> anyhow::Result<RemoteLoader> {
    let (urls, streamed, seed, options) =
        (urls.to_vec(), config.stream().clone(), config.train().seed, options.clone());
    Ok(rank.open_data(move || RemoteLoader::connect(&urls, streamed, seed, options))??)
}

/// Source of a run's batches before its stream is opened.
pub(super) enum Source {
    /// Shards in a cache.
    Shards(Arc<Cache>),
    /// Loader servers.
    Servers(Box<Servers>),
}

impl Source {
    /// Description of the datasets and of their preprocessing.
    pub(super) fn manifest(&self) -> &Manifest {
        match self {
            Self::Shards(cache) => cache.manifest(),
            Self::Servers(servers) => servers.manifest(),
        }
    }

    /// Opens the stream that `config` describes, or the share of it that belongs to `rank`.
    pub(super) fn stream<C: RunConfig>(self, args: &RunArgs, config: &C, rank: &Rank) -> anyhow::Result<Stream> {
        let cache = match self {
            Self::Servers(servers) => return servers.stream(args, config, rank),
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn flags_without_effect_are_refused_in_one_line() {
        let refused = |flags: &str| {
            let cli = Cli::try_parse_from(["hiend-train"].into_iter().chain(flags.split_whitespace())).unwrap();
            refuse_flags_without_effect(&cli.pretrain.run).err().map(|error| error.to_string())
        };
        let check = |flags: &str, flag: &str| {
            let message = refused(flags).unwrap_or_default();
            assert!(message.starts_with(flag) && !message.contains('\n'), "{flags}: {message:?}");
        };
        // The conflict of --threads and --loader takes the requirement of the other flag away.
        check("--shards c --threads 2 --loader-token-file t", "--loader-token-file");
        check("--loader http://a:1 --loader-ca f", "--loader-ca");
        check("--loader http://a:1,http://a:1", "--loader names http://a:1 twice");
        check("--loader http://a:1 --access pread", "--access");
        check("--loader http://a:1 --storage-retry 5", "--storage-retry");
        check("--loader http://a:1 --disk-cache d", "--disk-cache");
        check("--shards c --access pread --disk-cache d", "--disk-cache has no effect on caches in folders");
        check("--shards c --loader http://a:1 --storage-retry 5", "--storage-retry has no effect on caches in folders");
        check("--shards a,b", "--shards a,b: expected one cache; ");
        check("--shards s3://x/a,s3://x/b", "--shards s3://x/a,s3://x/b: expected one cache; ");
        check("--shards a,s3://x/b", "--shards a,s3://x/b: expected one cache; ");
        check("--shards c --seed 1 --set train.seed=2", "--set train.seed=2");
        check("--shards c --set optim.lr=1 --set train.seed=1 --set optim.lr=2", "--set optim.lr=1");
        check("--shards c --set stream.split.fold=1 --set stream.split=all", "--set stream.split.fold=1");
        check(
            "--shards c --set stream.augment.chain=nnunet --set stream.augment={}",
            "--set stream.augment.chain=nnunet",
        );
        check("--shards c --set stream.augment={} --set stream={}", "--set stream.augment={}");
        check(
            "--shards c --set stream.augment.gamma.probability=0 --set stream.augment.gamma={}",
            "--set stream.augment.gamma.probability=0",
        );
        check(
            "--shards c --set stream.augment={chain=\"nnunet\"} --set stream.augment.chain=plain",
            "--set stream.augment={chain=\"nnunet\"} and --set stream.augment.chain=plain set stream.augment.chain",
        );
        for flags in [
            "--shards c --threads 2 --access pread",
            "--shards s3://bucket/c --access pread --disk-cache d --disk-cache-size 1GiB --storage-retry 5",
            "--shards s3://bucket/a,b",
            "--loader https://a:1 --loader-ca f --loader-retry 5",
            "--shards c --seed 1 --set train.seed=1",
            "--shards c --set optim.lr=1 --set optim.lr=1",
            "--shards c --set stream.split=all --set stream.split.fold=1",
            "--shards c --set stream.augment.gamma.probability=0 --set stream.augment={}",
            "--shards c --set stream.augment.gamma.probability=0 --set stream={}",
            "--shards c --set stream.augment={chain=\"nnunet\"} --set stream.augment.gamma.probability=0",
        ] {
            assert_eq!(refused(flags), None, "{flags}");
        }
    }
}
