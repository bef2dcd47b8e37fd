//! `hiend-shard stream`: the batches, one JSON line each, without a trainer.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use hiend_cache::{Access, Cache};
use serde::Serialize;

use crate::cli::{AccessArg, AugmentArg, Stream, StreamOptions};
use crate::pipeline::{Loader, Options, StreamConfig};
use crate::transform::Chain;

#[derive(Serialize)]
struct Line<'a> {
    step: u64,
    epoch: u64,
    cases: Vec<&'a str>,
    crops: usize,
    digest: String,
    ms: f64,
    decode_ms: f64,
    augment_ms: f64,
}

/// A cache opened to be streamed as the options say.
pub(super) fn open(cache: &Path, options: &StreamOptions) -> anyhow::Result<Loader> {
    let access = match options.access {
        AccessArg::Mmap => Access::Mmap,
        AccessArg::Pread => Access::Pread,
    };
    let cache = Arc::new(Cache::open_with(cache, access)?);
    let config = StreamConfig {
        crop_size: options.crop_size,
        crops_per_visit: options.crops_per_visit,
        visits_per_batch: options.visits_per_batch,
        labels: options.labels,
        augment: match options.augment {
            AugmentArg::Recipe => Chain::recipe(),
            AugmentArg::Nnunet => Chain::nnunet(),
            AugmentArg::Plain => Chain::plain(),
        },
        ..StreamConfig::default()
    };
    let how = Options { threads: options.threads, memory_bytes: options.memory.as_u64(), rank: options.rank };
    Ok(Loader::open(cache, config, options.seed, &how)?)
}

pub(super) fn run(args: &Stream) -> anyhow::Result<ExitCode> {
    let loader = open(&args.cache, &args.options)?;
    let mut out = std::io::stdout().lock();
    let batches = usize::try_from(args.batches).unwrap_or(usize::MAX);
    for batch in loader.stream(args.start_step).take(batches) {
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
            decode_ms: batch.times.decode_secs * 1e3,
            augment_ms: batch.times.augment_secs * 1e3,
        };
        // A reader that has seen enough (`| head`) closes the pipe; that is no failure.
        if writeln!(out, "{}", serde_json::to_string(&line)?).is_err() {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}
