//! Measures time and memory of opening a cache of very many cases, generated with a few voxels each.
//!
//! `cargo run --release -p hiend-loader --example scale -- 2000000 100 FOLDER`: number of cases, cases per shard, and a
//! folder that must not exist yet. The records have the size of real ones; the voxels do not matter for the
//! measurement.

#![allow(clippy::print_stdout, reason = "an example that prints figures")]
#![allow(clippy::cast_precision_loss, reason = "figures that are printed")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use hiend_cache::{Cache, CodecPreset, Manifest, NewCase, RollingShardWriter, encode};
use hiend_loader::epoch::VisitOrder;
use hiend_loader::pipeline::{StreamConfig, cases_of};
use hiend_loader::preprocess::PreprocessConfig;

/// Voxels along each axis of a generated case.
const SIDE: usize = 4;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |name| -> anyhow::Result<usize> {
        args.next().with_context(|| format!("expected {name}"))?.parse().with_context(|| format!("{name} is a number"))
    };
    let (num_cases, per_shard) = (number("the number of cases")?, number("the number of cases per shard")?);
    let dir = PathBuf::from(args.next().context("expected a folder to write to")?);
    ensure!(!dir.exists(), "{} exists", dir.display());
    std::fs::create_dir_all(&dir)?;

    let start = Instant::now();
    write(&dir, num_cases, per_shard)?;
    let (shards, bytes) = size_of(&dir)?;
    println!(
        "written in {:.0} s: {shards} shards, {:.0} bytes per case",
        start.elapsed().as_secs_f64(),
        bytes as f64 / num_cases as f64
    );
    println!("manifest.json: {} bytes", std::fs::metadata(dir.join("manifest.json"))?.len());

    let before = memory_mb()?;
    let start = Instant::now();
    let cache = Arc::new(Cache::open(&dir)?);
    ensure!(cache.cases().len() == num_cases, "{} cases", cache.cases().len());
    step("cache opened", start, before)?;

    let start = Instant::now();
    let digest = cache.digest();
    step(&format!("digest {digest}"), start, before)?;

    let start = Instant::now();
    let (cases, _) = cases_of(&cache, &StreamConfig::default())?;
    step(&format!("{} cases selected and checked", cases.len()), start, before)?;

    let order = VisitOrder::new(0, cases.len());
    for (name, visit) in
        [("first visit", 0), ("second visit", 1), ("first visit of the next epoch", cases.len() as u64)]
    {
        let start = Instant::now();
        let visit = order.visit(visit);
        step(&format!("{name} (case {})", visit.case_idx), start, before)?;
    }
    println!("maximum {:.0} MB", field("VmHWM")?);
    Ok(())
}

fn write(dir: &Path, num_cases: usize, per_shard: usize) -> anyhow::Result<()> {
    let image: Vec<u16> = (0..).take(SIDE * SIDE * SIDE).collect();
    let case = |number: usize| {
        let name = format!("case_{number:08}");
        let mut case = NewCase { image_bits: 9, ..NewCase::new("Dataset001_Scale", &name, [SIDE; 3], &image) };
        let digest = format!("{number:064x}");
        case.source.image = format!("Dataset001_Scale/imagesTr/{name}_0000.nii.gz");
        case.source.image_blake3 = digest;
        encode(&case, [SIDE; 3], CodecPreset::Fast)
    };
    let mut writer = RollingShardWriter::new(dir, 1, 0, 64 + case(0)?.len() * per_shard as u64);
    for number in 0..num_cases {
        writer.push(case(number)?)?;
    }
    writer.finish()?;
    let preprocess = serde_json::to_value(PreprocessConfig::default())?;
    Ok(Manifest::update(dir, |manifest| manifest.preprocess = preprocess.clone())?)
}

/// Number of shards and their bytes.
fn size_of(dir: &Path) -> anyhow::Result<(usize, u64)> {
    let mut total = (0, 0);
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "shard") {
            total = (total.0 + 1, total.1 + entry.metadata()?.len());
        }
    }
    Ok(total)
}

fn step(name: &str, start: Instant, before: f64) -> anyhow::Result<()> {
    let secs = start.elapsed().as_secs_f64();
    println!("{name}: {secs:.3} s, {:.0} MB more than before", memory_mb()? - before);
    Ok(())
}

/// Resident memory of this process, MB.
fn memory_mb() -> anyhow::Result<f64> {
    field("VmRSS")
}

/// Value of a field of the process's status file, in MB.
fn field(name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(name)).with_context(|| name.to_owned())?;
    let kb: f64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
    Ok(kb / 1024.0)
}
