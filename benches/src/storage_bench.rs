//! `loader-bench --storage`: compares the loader on a local cache with the same cache in object storage, with a cold
//! and a warm disk cache, and with the rate of the link.
//!
//! Without a URL, a web server in this process serves the cache over a link of a stated rate, because a loopback without
//! a limit is faster than the loader and so measures nothing. With a URL, the cache is written there first, unless it is
//! there from an earlier run; the rate of the link is then that of plain requests for the same bytes.
//!
//! All figures come from one run. Each round streams the same steps: an epoch, that is, every case once.

mod web_server;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hiend_cache::{
    Access, Cache, CodecPreset, Copies, DiskCacheOptions, Location, Manifest, NewCase, OpenOptions, ShardWriter, encode,
};
use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
use object_store::{ObjectStore, ObjectStoreExt as _};
use serde_json::json;

use crate::clock::settle;
use crate::contender::CROP_SIZE;
use crate::figures::median;
use crate::volume::Voxels;
use web_server::WebServer;

/// Number of cases, so that an epoch takes several seconds to fetch.
const CASES: usize = 16;
/// Visits of a batch.
const VISITS: usize = 4;
/// Batches of an epoch.
const BATCHES: u64 = (CASES / VISITS) as u64;
/// Memory of a loader, in bytes.
const MEMORY: u64 = 2 << 30;
/// Length of a plain request in bytes, as in the loader, which makes equally many requests at a time.
const REQUEST_LEN: u64 = 8 << 20;
const REQUESTS: usize = 16;

/// Place of the cache in object storage.
#[derive(Clone, Debug)]
pub struct Storage {
    /// URL to which the cache is written; `None` for a web server in this process.
    pub url: Option<String>,
    /// Rate of the web server's link, in MiB/s.
    pub link_mib_per_s: u32,
}

/// Rates of the rounds in crops per second, with the bytes that came over the link.
#[derive(Debug, Default)]
struct Rounds {
    crops_per_s: Vec<f64>,
    mib_per_s: Vec<f64>,
}

/// Measures a cache with copies of `voxels` and prints the results.
///
/// # Errors
/// If the cache cannot be written or read.
pub fn run(
    voxels: &Voxels,
    dir: &Path,
    storage: &Storage,
    threads: usize,
    seconds: u64,
    as_json: bool,
) -> anyhow::Result<()> {
    let local_dir = dir.join("local");
    std::fs::create_dir(&local_dir)?;
    let location = Location::from(&local_dir);
    write_cases(voxels, &location)?;
    let local = Cache::open(&local_dir)?;
    let url = match &storage.url {
        Some(url) => url.clone(),
        None => WebServer::start(&local_dir, u64::from(storage.link_mib_per_s) << 20)?.url().to_owned(),
    };
    if storage.url.is_some() && !Manifest::exists(&url)? {
        write_cases(voxels, &Location::from(&url))?;
    }
    let disk = dir.join("disk");
    let open = |folder: &Path| -> anyhow::Result<Cache> {
        let disk = DiskCacheOptions { dir: Some(folder.to_owned()), bytes: Some(8 << 30) };
        let options = OpenOptions { access: Access::Mmap, copies: Copies::Disk(disk), retry: None };
        Ok(Cache::open_with(&url, options)?)
    };
    let same = open(&disk)?.digest() == local.digest();
    anyhow::ensure!(same, "{url}: holds another cache than this benchmark writes; name an empty prefix");

    let local = Arc::new(local);
    let (mut cold, mut warm, mut here) = (Rounds::default(), Rounds::default(), Rounds::default());
    let mut link = Vec::new();
    let sizes: Vec<(String, u64)> = local.shards().iter().map(|shard| (name_of(shard.path()), shard.len())).collect();
    for round in 0..2 {
        link.push(raw_mib_per_s(&url, &sizes)?);
        let folder = dir.join(format!("cold-{round}"));
        let cache = Arc::new(open(&folder)?);
        let before = bytes_of(&folder);
        let (crops, secs) = epoch(&cache, threads)?;
        let fetched = bytes_of(&folder) - before;
        cold.crops_per_s.push(crops / secs);
        cold.mib_per_s.push(mib(fetched) / secs);
        drop(cache);
        std::fs::remove_dir_all(&folder)?;
    }
    let cache = Arc::new(open(&disk)?);
    // Fills the disk cache, and the page cache for both.
    for cache in [&cache, &local] {
        epoch(cache, threads)?;
    }
    let started = Instant::now();
    while here.crops_per_s.len() < 3 || started.elapsed() < Duration::from_secs(seconds) {
        for (cache, rounds) in [(&local, &mut here), (&cache, &mut warm)] {
            let (crops, secs) = epoch(cache, threads)?;
            rounds.crops_per_s.push(crops / secs);
        }
    }
    let (local, warm, rounds) = (median(&here.crops_per_s), median(&warm.crops_per_s), here.crops_per_s.len());
    let (link, cold_link, cold) = (median(&link), median(&cold.mib_per_s), median(&cold.crops_per_s));
    if as_json {
        let result = json!({
            "url": url,
            "threads": threads,
            "rounds": rounds,
            "data": voxels.origin,
            "local_crops_per_s": local,
            "warm_crops_per_s": warm,
            "warm_to_local": warm / local,
            "cold_crops_per_s": cold,
            "cold_mib_per_s": cold_link,
            "link_mib_per_s": link,
            "cold_to_link": cold_link / link,
        });
        println!("{result}");
        return Ok(());
    }
    println!("{url}; {CASES} copies of {}; {threads} threads; {rounds} rounds, medians", voxels.origin);
    println!("{:44} {:>9} {:>9}", "", "crops/s", "ratio");
    println!("{:44} {local:9.0} {:9.2}", "local cache", 1.0);
    println!("{:44} {warm:9.0} {:9.2}", "object storage, disk cache warm", warm / local);
    println!("{:44} {cold:9.0}", "object storage, disk cache cold");
    println!("{:44} {:>9} {:>9}", "", "MiB/s", "ratio");
    println!("{:44} {link:9.0} {:9.2}", "link: plain requests for the same bytes", 1.0);
    println!("{:44} {cold_link:9.0} {:9.2}", "link while the disk cache is cold", cold_link / link);
    Ok(())
}

/// Streams one epoch; returns crops and seconds. Batches are dropped as they come.
fn epoch(cache: &Arc<Cache>, threads: usize) -> anyhow::Result<(f64, f64)> {
    let config = StreamConfig { crop_size: CROP_SIZE, visits_per_batch: VISITS, ..StreamConfig::default() };
    let options = LoaderOptions { threads, memory_bytes: MEMORY, ..LoaderOptions::default() };
    settle();
    let started = Instant::now();
    let loader = Loader::open(Arc::clone(cache), config, 1, &options)?;
    let mut crops = 0.0;
    for batch in loader.stream_range(0..BATCHES) {
        crops += f64::from(u32::try_from(batch?.shape[0])?);
    }
    Ok((crops, started.elapsed().as_secs_f64()))
}

/// Writes a cache of equal cases.
fn write_cases(voxels: &Voxels, at: &Location) -> anyhow::Result<()> {
    at.create()?;
    let mut writer = ShardWriter::create(at, 1, 0)?;
    for number in 0..CASES {
        let case_id = format!("volume{number:03}");
        let case = NewCase {
            image_bits: voxels.bits,
            image_offset: voxels.offset,
            foreground_above: voxels.foreground_above,
            parameters: "bench".into(),
            ..NewCase::new("Dataset001_Bench", &case_id, voxels.shape, &voxels.values)
        };
        writer.push(encode(&case, [32; 3], CodecPreset::Fast)?)?;
    }
    writer.finish()?;
    Manifest::update(at, |manifest| manifest.preprocess = voxels.preprocess.clone())?;
    Ok(())
}

/// Rate of plain requests for all bytes of the shards, in MiB/s.
fn raw_mib_per_s(url: &str, shards: &[(String, u64)]) -> anyhow::Result<f64> {
    let parsed = url::Url::parse(url)?;
    let options = std::env::vars().chain([("allow_http".to_owned(), "true".to_owned())]);
    let (store, prefix) = object_store::parse_url_opts(&parsed, options)?;
    let store: Arc<dyn ObjectStore> = Arc::from(store);
    let mut ranges = Vec::new();
    for (name, len) in shards {
        let starts = (0..*len).step_by(usize::try_from(REQUEST_LEN)?);
        ranges.extend(starts.map(|start| (prefix.clone().join(name.as_str()), start..(start + REQUEST_LEN).min(*len))));
    }
    let total: u64 = shards.iter().map(|(_, len)| len).sum();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let queue = Arc::new(std::sync::Mutex::new(ranges.into_iter()));
    let started = Instant::now();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..REQUESTS {
            let (store, queue) = (Arc::clone(&store), Arc::clone(&queue));
            tasks.spawn(async move {
                loop {
                    let next = queue.lock().expect("no task panics").next();
                    let Some((path, range)) = next else { return anyhow::Ok(()) };
                    store.get_range(&path, range).await?;
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.context("a request panicked")??;
        }
        anyhow::Ok(())
    })?;
    Ok(mib(total) / started.elapsed().as_secs_f64())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[expect(clippy::cast_precision_loss, reason = "sizes of files")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes of all files below a folder.
fn bytes_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        // A file that was renamed in the meantime.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
