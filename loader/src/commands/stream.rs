//! `hiend-shard stream`: the batches, one JSON line each, without a trainer.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use hiend_cache::{Access, Cache};
use serde::Serialize;

use crate::cli::{AccessArg, AugmentArg, Stream};
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

pub(super) fn run(args: &Stream) -> anyhow::Result<ExitCode> {
    let access = match args.access {
        AccessArg::Mmap => Access::Mmap,
        AccessArg::Pread => Access::Pread,
    };
    let cache = Arc::new(Cache::open_with(&args.cache, access)?);
    let config = StreamConfig {
        crop_size: args.crop_size,
        crops_per_visit: args.crops_per_visit,
        visits_per_batch: args.visits_per_batch,
        labels: args.labels,
        augment: match args.augment {
            AugmentArg::Recipe => Chain::recipe(),
            AugmentArg::Nnunet => Chain::nnunet(),
            AugmentArg::Plain => Chain::plain(),
        },
        ..StreamConfig::default()
    };
    let options = Options { threads: args.threads, memory_bytes: args.memory.as_u64(), rank: args.rank };
    let loader = Loader::open(cache, config, args.seed, &options)?;
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
