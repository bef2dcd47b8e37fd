//! `hiend-shard stream`: the batches of a stream, one JSON line each, without a trainer.

#[cfg(feature = "client")]
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::caches;
use super::table::count;
use crate::batch::Batch;
#[cfg(feature = "client")]
use crate::batch::VoxelForm;
#[cfg(feature = "client")]
use crate::cli::RemoteArgs;
use crate::cli::{SampleByArg, Stream, StreamOptions};
use crate::pipeline::{
    Loader, LoaderOptions, StreamConfig, remark_on_labels, remark_on_shared_scans, remarks_on_exclude,
};
#[cfg(feature = "client")]
use crate::program::read_token;
use crate::program::{Fold, UsageError, note, print};
#[cfg(feature = "client")]
use crate::remote::{RemoteLoader, RemoteOptions};
use crate::split::{FileSplit, FoldRule, FoldSplit, ListSplit, Part, Split};
use crate::verdict::Verdict;

/// One line of output.
#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    epoch: u64,
    /// Case of each visit.
    cases: Vec<&'a str>,
    crops: usize,
    digest: String,
    ms: f64,
    read_ms: f64,
    decode_ms: f64,
    augment_ms: f64,
}

/// Refuses flags that need another one, in the words that were typed.
fn check(options: &StreamOptions) -> Result<(), UsageError> {
    if let (Some(fold), None) = (options.fold, &options.splits) {
        fold.dealt()?;
    }
    let kind = match options.sample_by {
        SampleByArg::Label if !options.labels => "label",
        SampleByArg::Class if !options.labels => "class",
        _ => return Ok(()),
    };
    Err(UsageError::new(format!("--sample-by {kind} requires --labels")))
}

/// Opens the stream that flags describe, over caches mixed by weight.
pub(super) fn open(caches: &[PathBuf], weights: &[u32], options: &StreamOptions) -> anyhow::Result<Loader> {
    check(options)?;
    let loader_options = LoaderOptions {
        threads: options.threads.map_or(0, usize::from),
        memory_bytes: options.memory.as_u64(),
        rank: options.rank,
        ..LoaderOptions::default()
    };
    let caches = caches::open(caches, weights, &options.storage)?;
    let config = config(options);
    let opened = || caches.iter().map(|(cache, _)| &**cache);
    let remarks = remarks_on_exclude(opened(), &config.exclude).into_iter().chain(remark_on_labels(opened(), &config));
    for remark in remarks.chain(remark_on_shared_scans(opened(), &config)) {
        note(format_args!("warning: {remark}"));
    }
    if let Some(remark) = crate::pipeline::remark_on_padding(opened(), &config) {
        note(format_args!("warning: {remark}"));
    }
    Ok(Loader::open_mix(caches, config, options.seed, &loader_options)?)
}

pub(super) fn run(args: &Stream) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "client")]
    if !args.remote.loader.is_empty() {
        let loader = connect(&args.remote, &args.options)?;
        print_all(&mut loader.stream_range(args.start_step..args.start_step.saturating_add(args.batches)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let loader = open(&args.caches, &args.weights, &args.options)?;
    let mut stream = loader.stream_range(args.start_step..args.start_step.saturating_add(args.batches));
    print_all(&mut stream)?;
    let skipped = loader.progress().skipped_visits;
    if skipped > 0 {
        let visits = count(usize::try_from(skipped).unwrap_or(usize::MAX), "visit");
        note(format_args!("{visits} skipped, because their cases are corrupt"));
    }
    // The time of the first batch is that of filling the stream, so a rate takes two. Nothing trains on these batches, so no
    // remedy is named.
    if stream.total().batches > 0 {
        let Verdict { rate, threads, slowest, slowest_share, .. } = loader.verdict(stream.total());
        let (threads, share) = (count(threads, "thread"), slowest_share * 100.0);
        note(format_args!("{rate:.0} crops/s with {threads}, {share:.0}% of their time for {slowest}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a flag about servers of a kind that `--loader` does not name, and a server that it names twice.
#[cfg(feature = "client")]
fn refuse_flags_without_effect(args: &RemoteArgs) -> Result<(), UsageError> {
    let names = |scheme: &str| args.loader.iter().any(|url| url.starts_with(scheme));
    let mut seen = BTreeSet::new();
    if let Some(url) = args.loader.iter().find(|url| !seen.insert(*url)) {
        return Err(UsageError::new(format!("--loader names {url} twice")));
    }
    let message = if args.tls_ca.is_some() && !names("https:") {
        "--tls-ca has no effect: no URL of --loader begins with https://"
    } else if args.no_shared_memory && !names("unix:") {
        "--no-shared-memory has no effect: no URL of --loader begins with unix:"
    } else {
        return Ok(());
    };
    Err(UsageError::new(message))
}

/// Opens the stream that flags describe at servers.
#[cfg(feature = "client")]
fn connect(args: &RemoteArgs, options: &StreamOptions) -> anyhow::Result<RemoteLoader> {
    refuse_flags_without_effect(args)?;
    check(options)?;
    let config = config(options);
    let remote = RemoteOptions {
        rank: options.rank,
        form: if config.augment.is_linear() { VoxelForm::Quantized } else { VoxelForm::Floats },
        memory_bytes: options.memory.as_u64(),
        token: args.token_file.as_deref().map(read_token).transpose()?,
        ca: args.tls_ca.clone(),
        shared_memory: !args.no_shared_memory,
        retry: std::time::Duration::from_secs(args.loader_retry),
        ..RemoteOptions::default()
    };
    let loader = RemoteLoader::connect(&args.loader, config, options.seed, remote)?;
    for remark in loader.remarks() {
        note(format_args!("warning: {remark}"));
    }
    Ok(loader)
}

/// Prints a line for each batch until the reader closes the output.
fn print_all<E>(stream: &mut impl Iterator<Item = Result<Batch, E>>) -> anyhow::Result<()>
where
    E: std::error::Error + Send + Sync + 'static,
{
    for batch in stream {
        let batch = batch?;
        let line = Line {
            step: batch.step,
            epoch: batch.crops.first().map_or(0, |crop| crop.epoch),
            cases: batch.crops.iter().filter(|crop| crop.crop == 0).map(|crop| crop.case.as_str()).collect(),
            crops: batch.shape[0],
            digest: batch.digest(),
            ms: batch.times.wait_secs * 1e3,
            read_ms: batch.times.read_secs * 1e3,
            decode_ms: batch.times.decode_secs * 1e3,
            augment_ms: batch.times.augment_secs * 1e3,
        };
        if !print(serde_json::to_string(&line)?)? {
            break;
        }
    }
    Ok(())
}

fn config(options: &StreamOptions) -> StreamConfig {
    let part = if options.validation { Part::Validation } else { Part::Train };
    let split = match (options.fold, &options.splits, &options.list) {
        (Some(Fold { number: fold, of }), Some(splits), _) => {
            Split::File(FileSplit { splits: splits.clone(), fold, of, part })
        }
        // Without a number of folds, `check` has refused it.
        (Some(Fold { number: fold, of }), None, _) => {
            Split::Fold(FoldSplit { fold, of: of.unwrap_or_default(), part, seed: 0, rule: FoldRule::Dealt })
        }
        (None, _, Some(list)) => Split::List(ListSplit { list: list.clone() }),
        (None, _, None) => Split::default(),
    };
    StreamConfig {
        crop_size: options.crop_size,
        crops_per_visit: options.crops_per_visit,
        visits_per_batch: options.visits_per_batch,
        foreground_rate: options.foreground_rate,
        sample_by: options.sample_by.into(),
        ignore_label: None,
        window: None,
        labels: options.labels,
        on_corrupt: options.on_corrupt.into(),
        include: options.include.clone(),
        exclude: options.exclude.clone(),
        split,
        augment: options.augment.into(),
    }
}

#[cfg(all(test, feature = "client"))]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn flags_about_other_servers_are_refused() {
        let refused = |flags: &str| {
            let cli = Cli::try_parse_from(format!("hiend-shard stream --loader {flags}").split(' ')).unwrap();
            let Some(Command::Stream(args)) = cli.command else { unreachable!() };
            refuse_flags_without_effect(&args.remote).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(refused("https://a:1,unix:///s --tls-ca f --no-shared-memory"), "");
        assert_eq!(refused("http://a:1,http://b:1,http://a:1"), "--loader names http://a:1 twice");
        assert!(refused("http://a:1 --tls-ca f").starts_with("--tls-ca has no effect"));
        assert!(refused("https://a:1 --no-shared-memory").starts_with("--no-shared-memory has no effect"));
    }
}
