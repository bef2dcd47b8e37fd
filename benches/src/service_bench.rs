//! `loader-bench --service`: the loader in this process against the same batches from a service.
//!
//! Servers and clients are threads of this process and share its cores, as a trainer and a server on one host do; the
//! consumer only takes batches. So every copy on the way costs crops. Ways alternate; a round takes batches until the
//! work in progress is steady, then counts.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hiend_cache::Cache;
use hiend_loader::batch::{Batch, VoxelForm};
use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
use hiend_loader::remote::{RemoteLoader, RemoteOptions};
use hiend_loader::service::{Listen, Service, ServiceConfig};
use hiend_loader::transform::Chain;
use serde_json::json;

use crate::clock::{Stopwatch, settle};
use crate::contender::{CROP_LEN, CROP_SIZE, Rates};

/// Visits of a batch: 64 crops.
const VISITS: usize = 8;

/// Batches that a round counts, per client.
const BATCHES: usize = 6;

/// Batches taken before a round counts: more than are ready or in work.
const WARM_UP: usize = 8;

/// Memory of a client, in bytes.
const MEMORY: u64 = 2 << 30;

/// One way from shards to a consumer.
struct Way {
    key: &'static str,
    label: &'static str,
    clients: Vec<Client>,
    rates: Rates,
}

enum Client {
    Local(Loader),
    Remote(Box<RemoteLoader>),
}

impl Client {
    /// Takes batches; returns the crops of those that count and the time at which counting began.
    fn take(&self, begin: &std::sync::Barrier) -> anyhow::Result<u32> {
        fn run<E: std::error::Error + Send + Sync + 'static>(
            mut stream: impl Iterator<Item = Result<Batch, E>>,
            begin: &std::sync::Barrier,
        ) -> anyhow::Result<u32> {
            for batch in stream.by_ref().take(WARM_UP) {
                batch?;
            }
            begin.wait();
            let mut crops = 0;
            for batch in stream.take(BATCHES) {
                crops += u32::try_from(batch?.shape[0])?;
            }
            Ok(crops)
        }
        match self {
            Self::Local(loader) => run(loader.stream(0), begin),
            Self::Remote(loader) => run(loader.stream(0), begin),
        }
    }
}

impl Way {
    fn new(key: &'static str, label: &'static str, clients: Vec<Client>) -> Self {
        Self { key, label, clients, rates: Rates::default() }
    }

    /// Measures one round: all clients at the same time.
    fn round(&mut self) -> anyhow::Result<()> {
        settle();
        let begin = std::sync::Barrier::new(self.clients.len() + 1);
        let (crops, elapsed) = std::thread::scope(|scope| {
            let threads: Vec<_> = self.clients.iter().map(|client| scope.spawn(|| client.take(&begin))).collect();
            begin.wait();
            let watch = Stopwatch::of_process();
            let mut crops = 0;
            for thread in threads {
                crops += thread.join().expect("a client does not panic")?;
            }
            anyhow::Ok((crops, watch.elapsed()))
        })?;
        self.rates.push(f64::from(crops), elapsed);
        Ok(())
    }
}

/// Copies the quantized voxels of a crop, as a floor for one copy on the way.
struct Copies {
    from: Vec<u16>,
    to: Vec<u16>,
    rates: Rates,
}

impl Copies {
    const CROPS: usize = 128;

    fn new() -> Self {
        Self { from: vec![1; CROP_LEN * Self::CROPS], to: vec![0; CROP_LEN * Self::CROPS], rates: Rates::default() }
    }

    fn round(&mut self) {
        settle();
        let watch = Stopwatch::of_process();
        self.to.copy_from_slice(&self.from);
        std::hint::black_box(&mut self.to);
        self.rates.push(f64::from(u32::try_from(Self::CROPS).unwrap_or(u32::MAX)), watch.elapsed());
    }
}

/// Measures all ways to the batches of the cache in `dir` and prints them.
///
/// # Errors
/// If the service cannot be started or a stream fails.
pub fn run(dir: &Path, threads: usize, seconds: u64, as_json: bool, origin: &str) -> anyhow::Result<()> {
    let cache = Arc::new(Cache::open(dir)?);
    let config = StreamConfig {
        crop_size: CROP_SIZE,
        visits_per_batch: VISITS,
        augment: Chain::recipe(),
        ..StreamConfig::default()
    };
    let socket = dir.with_file_name("service");
    let service = Service::start(ServiceConfig {
        caches: vec![(Arc::clone(&cache), 1)],
        listen: vec![Listen::Unix(socket), "127.0.0.1:0".parse()?],
        threads,
        memory_bytes: 8 * MEMORY,
        client_memory_bytes: MEMORY,
        ..ServiceConfig::default()
    })?;
    let (unix, tcp) = (&service.urls()[0], &service.urls()[1]);
    let remote = |url: &String, shared_memory, seed| -> anyhow::Result<Client> {
        let options = RemoteOptions { memory_bytes: MEMORY, shared_memory, ..RemoteOptions::default() };
        let loader = RemoteLoader::connect(std::slice::from_ref(url), config.clone(), seed, options)?;
        Ok(Client::Remote(Box::new(loader)))
    };
    let local = LoaderOptions { threads, form: VoxelForm::Quantized, memory_bytes: MEMORY, ..LoaderOptions::default() };
    let local = Loader::open(Arc::clone(&cache), config.clone(), 1, &local)?;
    let mut ways = [
        Way::new("in_process", "in this process", vec![Client::Local(local)]),
        Way::new("shared_memory", "shared memory", vec![remote(unix, true, 1)?]),
        Way::new("shared_memory_2", "shared memory, two clients", vec![remote(unix, true, 1)?, remote(unix, true, 2)?]),
        Way::new("unix", "Unix socket", vec![remote(unix, false, 1)?]),
        Way::new("tcp", "TCP, loopback", vec![remote(tcp, false, 1)?]),
        Way::new("tcp_2", "TCP, loopback, two clients", vec![remote(tcp, false, 1)?, remote(tcp, false, 2)?]),
    ];
    let mut copies = Copies::new();
    let started = Instant::now();
    let mut rounds = 0;
    while rounds < 3 || started.elapsed() < Duration::from_secs(seconds) {
        for way in &mut ways {
            way.round()?;
        }
        copies.round();
        rounds += 1;
    }
    if as_json {
        let figures = |rates: &Rates| {
            json!({
                "crops_per_s": rates.per_s(),
                "crops_per_cpu_s": rates.per_cpu_s(),
                "best_crops_per_cpu_s": rates.best_per_cpu_s(),
            })
        };
        let mut all: serde_json::Map<_, _> = ways.iter().map(|way| (way.key.to_owned(), figures(&way.rates))).collect();
        all.insert("copy".into(), figures(&copies.rates));
        println!("{}", json!({ "ways": all, "threads": threads, "data": origin, "rounds": rounds }));
        return Ok(());
    }
    println!("{origin}; {rounds} rounds, medians; quantized crops of 96 x 96 x 96, {threads} threads");
    println!("{:28} {:>9} {:>7} {:>9} {:>7} {:>9}", "", "crops/s", "ratio", "/CPU s", "ratio", "best");
    let (wall, cpu) = (ways[0].rates.per_s(), ways[0].rates.per_cpu_s());
    let line = |label: &str, rates: &Rates| {
        let (per_s, per_cpu_s) = (rates.per_s(), rates.per_cpu_s());
        println!(
            "{label:28} {per_s:9.0} {:7.2} {per_cpu_s:9.0} {:7.2} {:9.0}",
            per_s / wall,
            per_cpu_s / cpu,
            rates.best_per_cpu_s()
        );
    };
    for way in &ways {
        line(way.label, &way.rates);
    }
    line("one copy, the floor", &copies.rates);
    println!("ratio: to the loader in this process; servers, clients and consumers share the cores of this process");
    Ok(())
}
