//! Quick start: runs all stages offline and without data, from CT phantoms and shards to pre-training and a picture.
//!
//! `cargo run --release --example quickstart`, or with `-- --data DIR` on CT volumes of your own.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example that prints its steps")]
#![allow(clippy::cast_precision_loss, reason = "counts that are printed in millions")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use hiend_cache::{Cache, lookup};
use hiend_loader::convert::{Conversion, Event};
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::{dataset, pipeline};
use hiend_trainer::config::pretrain::PretrainPreset;
use hiend_trainer::device::{Compute, DeviceChoice, settle_default};
use hiend_trainer::pretrain::pretrain;
use hiend_trainer::report::console::Console;
use hiend_trainer::schedule::Unit;
use hiend_trainer::training::{Stream, TrainOptions};

/// Phantoms, shards, pre-training and a picture, in about half a minute on two cores
#[derive(Parser)]
struct Args {
    /// CT volumes of your own instead of phantoms
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Number of optimizer steps
    #[arg(long, default_value_t = 40)]
    steps: u64,
    /// Folder for all results
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    out: PathBuf,
    /// Device: auto, cpu or cuda:N
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let compute = Compute::open(args.device)?;
    settle_default(&compute)?;
    let started = Instant::now();
    let data = if let Some(data) = &args.data {
        data.clone()
    } else {
        let raw = args.out.join("raw");
        println!("1. drawing 4 CT phantoms into {}", raw.display());
        write_dataset(&raw.join("Dataset001_Phantoms"), &PhantomConfig::default())?;
        raw
    };
    let shards = args.out.join("cache");
    println!("2. hiend-shard {} --out {}", data.display(), shards.display());
    shard(&data, &shards)?;

    let run_dir = free_name(&args.out)?;
    println!("3. hiend-train --shards {} --preset tiny --run-dir {}", shards.display(), run_dir.display());
    let mut config = PretrainPreset::Tiny.config();
    // Half the batch and a short course, so that the loss falls within a coffee.
    config.stream.visits_per_batch = 1;
    config.stream.crops_per_visit = 4;
    config.optim.lr = 1e-3;
    config.schedule.unit = Unit::Step;
    config.schedule.total = args.steps.max(1);
    config.schedule.warmup = args.steps.max(1) / 10;
    let stream = Stream::open(
        Arc::new(Cache::open(&shards)?),
        &config.stream,
        config.train.seed,
        &pipeline::LoaderOptions::default(),
    )?;
    let mut console = Console::new(std::io::stdout(), (args.steps / 12).max(1));
    let options = TrainOptions::new(&run_dir);
    let summary = pretrain(&config, stream, &compute, &options, &mut |event| console.event(event))?;

    let tenth = summary.losses.len().div_ceil(10);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len().max(1) as f64;
    let (first, last) = (mean(&summary.losses[..tenth]), mean(&summary.losses[summary.losses.len() - tenth..]));
    println!(
        "\nloss {first:.3} -> {last:.3} (first and last {tenth} steps), {:.0} s in all",
        started.elapsed().as_secs_f64()
    );
    if let Some(picture) = &summary.picture {
        println!("picture: {} (original, masked input, reconstruction)", picture.display());
    }
    println!(
        "\nOn your own CTs (nnU-Net layout, Decathlon, or a folder of .nii.gz):\n  \
         cargo run --release --bin hiend-shard -- DATA --out CACHE\n  \
         cargo run --release --bin hiend-train -- --shards CACHE\n\
         Draw the reconstruction of a whole scan with this run's model:\n  \
         cargo run --release --bin hiend-train -- reconstruct --model {} SCAN.nii.gz --out {}",
        run_dir.display(),
        args.out.join("reconstructions").display()
    );
    Ok(())
}

fn shard(data: &Path, shards: &Path) -> anyhow::Result<()> {
    let datasets = dataset::find(data)?;
    let root = std::path::absolute(data)?;
    let observe = |event: Event<'_>| {
        if let Event::Skipped(skipped) = event {
            println!("   skipped: {skipped}");
        }
    };
    let summary = Conversion::new(&root, &datasets, shards).observe(observe).run()?;
    let cases = summary.converted + summary.unchanged;
    anyhow::ensure!(cases > 0, "{}: no case could be converted", data.display());
    println!(
        "   {cases} cases, {:.1} million voxels, {:.1} MB written in {:.1} s",
        summary.voxels as f64 / 1e6,
        summary.bytes_out as f64 / 1e6,
        summary.secs
    );
    Ok(())
}

/// First of `run`, `run-2`, `run-3`, ... that does not exist yet, so that an earlier run is kept.
fn free_name(out: &Path) -> anyhow::Result<PathBuf> {
    let names = std::iter::once("run".to_owned()).chain((2..10_000).map(|number| format!("run-{number}")));
    for path in names.map(|name| out.join(name)) {
        if !lookup::exists(&path)? {
            return Ok(path);
        }
    }
    anyhow::bail!("{}: too many runs; remove some", out.display())
}
