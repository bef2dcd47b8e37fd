//! `hiend-shard stream`: the batches, one JSON line each, without a trainer.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use hiend_cache::{Access, Cache};
use serde::Serialize;

use crate::cli::{AccessArg, AugmentArg, OnCorruptArg, SampleByArg, Stream, StreamOptions};
use crate::pipeline::{Loader, LoaderOptions, OnCorrupt, StreamConfig};
use crate::sampler::SampleBy;
use crate::split::{FoldSplit, ListSplit, Part, Split};
use crate::transform::Chain;

#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    epoch: u64,
    cases: Vec<&'a str>,
    crops: usize,
    digest: String,
    ms: f64,
    read_ms: f64,
    decode_ms: f64,
    augment_ms: f64,
}

/// Caches opened to be streamed, mixed by weight, as the options say.
pub(super) fn open(caches: &[PathBuf], weights: &[u32], options: &StreamOptions) -> anyhow::Result<Loader> {
    let how = LoaderOptions {
        threads: options.threads,
        memory_bytes: options.memory.as_u64(),
        rank: options.rank,
        ..LoaderOptions::default()
    };
    Ok(Loader::open_mix(open_caches(caches, weights, options)?, config(options), options.seed, &how)?)
}

pub(super) fn run(args: &Stream) -> anyhow::Result<ExitCode> {
    let loader = open(&args.caches, &args.weights, &args.options)?;
    let mut out = std::io::stdout().lock();
    let mut stream = loader.stream(args.start_step);
    let batches = usize::try_from(args.batches).unwrap_or(usize::MAX);
    for batch in stream.by_ref().take(batches) {
        let batch = batch?;
        let mut cases: Vec<&str> = batch.crops.iter().map(|crop| crop.case.as_str()).collect();
        cases.dedup();
        let line = Line {
            step: batch.step,
            epoch: batch.crops.first().map_or(0, |crop| crop.epoch),
            cases,
            crops: batch.shape[0],
            digest: batch.digest(),
            ms: batch.times.wait_secs * 1e3,
            read_ms: batch.times.read_secs * 1e3,
            decode_ms: batch.times.decode_secs * 1e3,
            augment_ms: batch.times.augment_secs * 1e3,
        };
        // A reader that has seen enough (`| head`) closes the pipe; that is no failure.
        if writeln!(out, "{}", serde_json::to_string(&line)?).is_err() {
            break;
        }
    }
    let skipped = loader.progress().skipped_visits;
    if skipped > 0 {
        eprintln!("{skipped} visits left out: their cases are corrupt");
    }
    // The first batch only fills the stream, so a verdict needs a second one.
    if stream.total().batches > 0 {
        eprintln!("{}", loader.verdict(stream.total()));
    }
    Ok(ExitCode::SUCCESS)
}

fn open_caches(caches: &[PathBuf], weights: &[u32], options: &StreamOptions) -> anyhow::Result<Vec<(Arc<Cache>, u32)>> {
    let access = match options.access {
        AccessArg::Mmap => Access::Mmap,
        AccessArg::Pread => Access::Pread,
    };
    let num_weights = weights.len();
    if num_weights > 0 && num_weights != caches.len() {
        anyhow::bail!("--weights has {num_weights} numbers for {} caches", caches.len());
    }
    let weights = weights.iter().copied().chain(std::iter::repeat(1));
    let open = |(path, weight): (&PathBuf, u32)| Ok((Arc::new(Cache::open_with(path, access)?), weight));
    caches.iter().zip(weights).map(open).collect()
}

fn config(options: &StreamOptions) -> StreamConfig {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let split = match (options.fold, &options.list) {
        (Some((fold, of)), _) => Split::Fold(FoldSplit {
            fold: number(fold),
            of: number(of),
            part: if options.validation { Part::Validation } else { Part::Train },
            seed: 0,
        }),
        (None, Some(list)) => Split::List(ListSplit { list: list.clone() }),
        (None, None) => Split::default(),
    };
    StreamConfig {
        crop_size: options.crop_size,
        crops_per_visit: options.crops_per_visit,
        visits_per_batch: options.visits_per_batch,
        foreground_rate: options.foreground_rate,
        sample_by: match options.sample_by {
            SampleByArg::Intensity => SampleBy::Intensity,
            SampleByArg::Label => SampleBy::Label,
            SampleByArg::Class => SampleBy::Class,
        },
        window: None,
        labels: options.labels,
        on_corrupt: match options.on_corrupt {
            OnCorruptArg::Fail => OnCorrupt::Fail,
            OnCorruptArg::Skip => OnCorrupt::Skip,
        },
        include: options.include.clone(),
        exclude: options.exclude.clone(),
        split,
        augment: match options.augment {
            AugmentArg::Recipe => Chain::recipe(),
            AugmentArg::Nnunet => Chain::nnunet(),
            AugmentArg::Plain => Chain::plain(),
        },
    }
}
