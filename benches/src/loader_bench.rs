//! `loader-bench`: compares this loader with alternative stores, in one process, on the same voxels.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use hiend_loader::batch::VoxelForm;
use hiend_loader::program::CodecArg;
use hiend_loader::transform::Chain;
use serde_json::json;

use crate::chart::{Bar, Kind, draw};
use crate::contender::blosc2::Blosc2;
use crate::contender::memory::{Memcpy, MemoryMap};
use crate::contender::ours::{CropByCrop, WholeWay};
use crate::contender::zarr::Zarr;
use crate::contender::{Contender, Rates, Slots, round, verify};
use crate::figures::median;
use crate::readers_bench::{self, Role};
use crate::storage_bench::Storage;
use crate::volume::Voxels;

/// Measure the loader in crops per second and compare it with other stores
///
/// The loader does all of its work: read, verify, decode, cut, normalize, flip, rotate and shift intensities, 8 crops of
/// 96 x 96 x 96 per visit. The other stores only decode and cut. All run alternately with a warm page cache, the other
/// stores on one thread
#[derive(Debug, Parser)]
#[command(name = "loader-bench", version)]
pub struct Cli {
    /// Cache of real CT; uses its largest case, mirror-tiled if small [default: generated voxels]
    #[arg(long, value_name = "CACHE")]
    shards: Option<PathBuf>,
    /// Loader threads; one thread is measured as well
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    threads: u16,
    /// Duration of the measurement in seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Measure the other stores as well
    #[arg(long)]
    peers: bool,
    /// Measure a service instead: batches in this process, through shared memory, a Unix socket and TCP
    #[arg(long, conflicts_with_all = ["peers", "png", "augment"])]
    service: bool,
    /// With --service: measure N clients instead, half of which stop reading
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: Option<u16>,
    /// Measure a cache in object storage instead: local, disk cache warm and cold, and plain requests. Without a URL, a web
    /// server in this process serves it
    #[arg(long, value_name = "URL", num_args = 0..=1, conflicts_with_all = ["service", "peers", "png", "augment", "chunk", "codec"])]
    #[allow(clippy::option_option, reason = "the flag, and its value")]
    storage: Option<Option<String>>,
    /// Rate of the link of that web server in MiB/s
    #[arg(long, value_name = "N", default_value_t = 64, requires = "storage", value_parser = clap::value_parser!(u32).range(1..))]
    link: u32,
    /// Part of --clients that runs in a separate process
    #[arg(long, hide = true, value_enum, requires = "target")]
    act_as: Option<Role>,
    #[arg(long, hide = true)]
    target: Option<String>,
    /// Print one line of JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Write a chart of the result to this PNG file
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Side length of the chunks in voxels
    #[arg(long, value_name = "VOXELS", default_value_t = 32)]
    chunk: usize,
    /// Codec of the measured cache
    #[arg(long, value_enum, default_value = "fast")]
    codec: CodecArg,
    /// Augmentation of the crops
    #[arg(long, value_enum, default_value = "recipe")]
    augment: AugmentArg,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum AugmentArg {
    /// Chain of the pre-training recipe
    Recipe,
    /// Chain of nnU-Net
    Nnunet,
    /// Source boxes for nnU-Net's chain on the device
    NnunetOnDevice,
}

impl AugmentArg {
    fn stream(self) -> (Chain, VoxelForm) {
        match self {
            Self::Recipe => (Chain::recipe(), VoxelForm::Floats),
            Self::Nnunet => (Chain::nnunet(), VoxelForm::Floats),
            Self::NnunetOnDevice => (Chain::nnunet(), VoxelForm::Boxes),
        }
    }
}

/// Result of one contender.
struct Row {
    key: &'static str,
    label: String,
    kind: Kind,
    bytes_per_voxel: f64,
    rates: Rates,
}

/// Runs the benchmark.
///
/// # Errors
/// If a store cannot be created or read.
pub fn run(cli: &Cli) -> anyhow::Result<()> {
    let threads = usize::from(cli.threads);
    let clients = cli.clients.map(usize::from);
    if let (Some(role), Some(target)) = (cli.act_as, &cli.target) {
        return readers_bench::act_as(role, target, clients.unwrap_or(2), threads);
    }
    anyhow::ensure!(clients.is_none() || cli.service, "--clients needs --service");
    anyhow::ensure!(clients != Some(1), "--clients: at least 2, half of which stop reading");
    let voxels = match &cli.shards {
        Some(dir) => Voxels::of_cache(dir)?,
        None => Voxels::generated(),
    };
    let dir = tempfile::tempdir()?;
    if let Some(url) = &cli.storage {
        let storage = Storage { url: url.clone(), link_mib_per_s: cli.link };
        return crate::storage_bench::run(&voxels, dir.path(), &storage, threads, cli.seconds, cli.json);
    }
    let cache_dir = dir.path().join("cache");
    std::fs::create_dir(&cache_dir)?;
    voxels.write_cache(&cache_dir, [cli.chunk; 3], cli.codec.into())?;
    match clients {
        Some(clients) => readers_bench::run(&cache_dir, clients, threads, cli.seconds, cli.json, &voxels.origin),
        None if cli.service => crate::service_bench::run(&cache_dir, threads, cli.seconds, cli.json, &voxels.origin),
        None => compare(cli, &voxels, dir.path(), &cache_dir),
    }
}

/// Compares the loader on the cache in `cache_dir` with other stores, which are made in `dir`.
fn compare(cli: &Cli, voxels: &Voxels, dir: &Path, cache_dir: &Path) -> anyhow::Result<()> {
    let threads = usize::from(cli.threads);
    let (augment, form) = cli.augment.stream();
    let mut loaders = vec![WholeWay::new(cache_dir, 1, augment, form)?];
    if threads > 1 {
        loaders.push(WholeWay::new(cache_dir, threads, augment, form)?);
    }
    let mut contenders: Vec<(Box<dyn Contender>, Kind, Rates)> = Vec::new();
    let mut add = |contender: Box<dyn Contender>, kind| contenders.push((contender, kind, Rates::default()));
    add(Box::new(CropByCrop::new(cache_dir, voxels)?), Kind::Ours);
    if cli.peers {
        add(Box::new(Blosc2::new(voxels)?), Kind::Peer);
        add(Box::new(Zarr::new(voxels, dir)?), Kind::Peer);
        add(Box::new(MemoryMap::new(voxels, dir)?), Kind::Floor);
        add(Box::new(Memcpy::new(voxels)), Kind::Floor);
    }
    for (contender, _, _) in contenders.iter_mut().filter(|(contender, _, _)| contender.name() != "memcpy") {
        verify(contender.as_mut(), voxels)?;
    }

    let mut slots = Slots::default();
    let started = Instant::now();
    let mut number = 0;
    while number < 3 || started.elapsed() < Duration::from_secs(cli.seconds) {
        for loader in &mut loaders {
            loader.round()?;
        }
        for (contender, _, rates) in &mut contenders {
            round(contender.as_mut(), voxels, &mut slots, number, rates)?;
        }
        number += 1;
    }

    let ours_bytes = contenders[0].0.bytes_per_voxel();
    let rows: Vec<Row> = contenders
        .into_iter()
        .map(|(contender, kind, rates)| Row {
            key: contender.name(),
            label: contender.label(),
            kind,
            bytes_per_voxel: contender.bytes_per_voxel(),
            rates,
        })
        .collect();
    if let Some(path) = &cli.png {
        let bar = |row: &Row| Bar {
            label: row.label.clone(),
            crops_per_s: row.rates.per_cpu_s(),
            bytes_per_voxel: row.bytes_per_voxel,
            kind: row.kind,
        };
        let mut bars: Vec<Bar> = rows.iter().map(bar).collect();
        bars.push(Bar {
            label: "this loader, complete, 8 crops per visit".into(),
            crops_per_s: loaders[0].rates.per_cpu_s(),
            bytes_per_voxel: ours_bytes,
            kind: Kind::Ours,
        });
        let title = "96 x 96 x 96 crops per second of one core, bytes per voxel";
        draw(path, title, &voxels.origin, bars)?;
    }
    if cli.json {
        println!("{}", json_line(voxels, &loaders, &rows, ours_bytes, number));
    } else {
        print_table(voxels, &loaders, &rows, ours_bytes, number);
    }
    Ok(())
}

fn json_line(voxels: &Voxels, loaders: &[WholeWay], rows: &[Row], bytes_per_voxel: f64, rounds: u32) -> String {
    let loader = &loaders[loaders.len() - 1];
    let figures = |row: &Row| {
        json!({
            "crops_per_s": row.rates.per_s(),
            "crops_per_cpu_s": row.rates.per_cpu_s(),
            "best_crops_per_cpu_s": row.rates.best_per_cpu_s(),
            "bytes_per_voxel": row.bytes_per_voxel,
        })
    };
    let peers: serde_json::Map<_, _> = rows[1..].iter().map(|row| (row.key.to_owned(), figures(row))).collect();
    json!({
        "crops_per_s": loader.rates.per_s(),
        "crops_per_cpu_s": loader.rates.per_cpu_s(),
        "best_crops_per_cpu_s": loader.rates.best_per_cpu_s(),
        "bytes_per_voxel": bytes_per_voxel,
        "threads": loader.threads,
        "stages": {
            "decode_ms_per_crop": median(&loader.decode_ms),
            "augment_ms_per_crop": median(&loader.augment_ms),
        },
        "one_thread_crops_per_s": loaders[0].rates.per_s(),
        "scaling": loader.rates.per_s() / loaders[0].rates.per_s(),
        "decode_only": figures(&rows[0]),
        "peers": peers,
        "data": voxels.origin,
        "rounds": rounds,
    })
    .to_string()
}

fn print_table(voxels: &Voxels, loaders: &[WholeWay], rows: &[Row], bytes_per_voxel: f64, rounds: u32) {
    println!("{}; {rounds} rounds, medians; crops of 96 x 96 x 96", voxels.origin);
    println!("{:44} {:>9} {:>9} {:>9} {:>8} {:>7}", "", "crops/s", "/CPU s", "best", "B/voxel", "ratio");
    let base = loaders[0].rates.per_cpu_s();
    let line = |label: &str, rates: &Rates, bytes: f64| {
        let (wall, cpu, best) = (rates.per_s(), rates.per_cpu_s(), rates.best_per_cpu_s());
        println!("{label:44} {wall:9.0} {cpu:9.0} {best:9.0} {bytes:8.3} {:6.2}x", cpu / base);
    };
    for loader in loaders {
        let label = format!("this loader, complete, threads: {}", loader.threads);
        line(&label, &loader.rates, bytes_per_voxel);
        println!(
            "    decode {:.2} ms per crop, cut and augment {:.2} ms",
            median(&loader.decode_ms),
            median(&loader.augment_ms)
        );
    }
    for row in rows {
        line(&row.label, &row.rates, row.bytes_per_voxel);
    }
    println!("ratio: crops per CPU second relative to this loader on one thread; other stores only decode and cut");
}
