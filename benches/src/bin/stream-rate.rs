//! Measures the rate of the in-process loader with a consumer that drops every batch: the Rust side of
//! `benches/python`.

#![allow(clippy::print_stdout, reason = "a tool for developers")]
#![allow(clippy::cast_precision_loss, reason = "counts of crops become rates")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use benches::clock::{Elapsed, Stopwatch};
use clap::Parser;
use hiend_cache::Cache;
use hiend_loader::batch::{Batch, Images, VoxelForm};
use hiend_loader::{Loader, LoaderOptions, StreamConfig, program};

/// Measure the in-process loader and print one JSON line
#[derive(Debug, Parser)]
struct Cli {
    /// Cache to stream from
    cache: PathBuf,
    /// Threads that decode and augment
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Cases per batch
    #[arg(long, default_value_t = 8)]
    visits_per_batch: usize,
    /// Crop size in voxels
    #[arg(long, default_value_t = 96)]
    crop_size: usize,
    /// Form of the voxels
    #[arg(long, value_enum, default_value = "floats")]
    form: FormArg,
    /// Batches before the measurement
    #[arg(long, default_value_t = 4)]
    warm_up: usize,
    /// Measured batches
    #[arg(long, default_value_t = 16)]
    batches: usize,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum FormArg {
    /// Finished crops
    Floats,
    /// Crops of 16-bit values, for a device that converts them
    Quantized,
    /// Chunks as they are stored, for a device that decodes them
    Chunks,
}

fn main() -> ExitCode {
    program::main(std::io::stderr, |cli: &Cli| run(cli).map(|()| ExitCode::SUCCESS))
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let config = StreamConfig {
        crop_size: [cli.crop_size; 3],
        visits_per_batch: cli.visits_per_batch,
        ..StreamConfig::default()
    };
    let form = match cli.form {
        FormArg::Floats => VoxelForm::Floats,
        FormArg::Quantized => VoxelForm::Quantized,
        FormArg::Chunks => VoxelForm::Chunks,
    };
    let options = LoaderOptions { threads: cli.threads, form, ..LoaderOptions::default() };
    let loader = Loader::open(Arc::new(Cache::open(&cli.cache)?), config, 0, &options)?;
    let mut stream = loader.stream(0);
    for batch in stream.by_ref().take(cli.warm_up) {
        batch?;
    }
    let watch = Stopwatch::of_process();
    let (mut crops, mut bytes) = (0, 0);
    for batch in stream.by_ref().take(cli.batches) {
        let batch = batch?;
        crops += batch.shape[0];
        bytes += transferred(&batch);
    }
    let Elapsed { wall_secs, cpu_secs } = watch.elapsed();
    let (per_sec, per_cpu_sec) = (crops as f64 / wall_secs, crops as f64 / cpu_secs);
    let per_voxel = bytes as f64 / (crops * cli.crop_size.pow(3)) as f64;
    println!(
        r#"{{"crops": {crops}, "crops_per_s": {per_sec:.1}, "crops_per_cpu_s": {per_cpu_sec:.1}, "bytes_per_voxel": {per_voxel:.3}}}"#
    );
    Ok(())
}

/// Number of image bytes that a training run would transfer to its device.
fn transferred(batch: &Batch) -> usize {
    match &batch.images {
        Images::Floats(values) => size_of_val::<[f32]>(values),
        Images::Quantized(values, _) | Images::Boxes(values, _) => size_of_val::<[u16]>(values),
        Images::Chunks(_, crops) => {
            let visits = crops.chunk_by(|a, b| a.words == b.words);
            visits.map(|visit| visit[0].words.len() * size_of::<u32>()).sum()
        }
    }
}
