//! Rates of the loader alone, for several numbers of threads: a consumer drops every batch.

use std::sync::Arc;

use anyhow::Context as _;
use hiend_loader::batch::VoxelForm;
use hiend_loader::budget::cores;
use hiend_loader::pipeline::{Loader, LoaderOptions};
use serde_json::{Value, json};

use super::cli::Cli;
use super::pretraining::config;
use super::streaming::open_cache;
use crate::clock::{Elapsed, Stopwatch};
use crate::figures::rounded;

/// Numbers of threads; those above the number of cores are left out.
const THREADS: [usize; 5] = [1, 2, 4, 8, 16];

/// Cases in a batch, so that batches come often enough to be counted.
const VISITS: usize = 8;

/// Time of each measurement.
const SECS: f64 = 1.2;

/// Shows the rate of each form of voxels for each number of threads, and how many times that of one thread it is.
pub(super) fn rates(cli: &Cli, show: &mut dyn FnMut(Value)) -> anyhow::Result<()> {
    let mut stream = config(cli).stream;
    stream.visits_per_batch = VISITS;
    let generated = tempfile::tempdir()?;
    let cache = open_cache(cli, generated.path())?;
    for (name, form) in
        [("floats", VoxelForm::Floats), ("quantized", VoxelForm::Quantized), ("chunks", VoxelForm::Chunks)]
    {
        let mut of_one = None;
        for threads in THREADS.into_iter().filter(|&threads| threads == 1 || threads <= cores()) {
            let options =
                LoaderOptions { threads, memory_bytes: cli.memory.as_u64(), form, ..LoaderOptions::default() };
            let loader = Loader::open(Arc::clone(&cache), stream.clone(), 0, &options)?;
            let mut batches = loader.stream(0);
            let mut next = || anyhow::Ok(batches.next().context("a stream without an end")??.shape[0]);
            // Buffers are touched for the first time.
            for _ in 0..loader.memory().num_buffers {
                next()?;
            }
            let watch = Stopwatch::of_process();
            let mut crops = 0;
            let Elapsed { wall_secs, cpu_secs } = loop {
                crops += next()?;
                let elapsed = watch.elapsed();
                if elapsed.wall_secs >= SECS {
                    break elapsed;
                }
            };
            let rate = crops as f64 / wall_secs;
            show(json!({
                "form": name,
                "threads": threads,
                "cores": cores(),
                "crops_per_s": rounded(rate),
                "crops_per_cpu_s": rounded(crops as f64 / cpu_secs),
                "of_one_thread": rounded(rate / *of_one.get_or_insert(rate)),
            }));
        }
    }
    Ok(())
}
