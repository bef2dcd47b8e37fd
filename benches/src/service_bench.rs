//! `loader-bench --service`: the loader in this process against the same batches from a service.
//!
//! Servers and clients are threads of this process and share its cores, as a trainer and a server on one host do; the
//! consumer only takes batches. So every copy on the way costs crops. Ways alternate; a round takes batches until the
//! work in progress is steady, then counts for a while without interrupting any client.
//!
//! The floors move the bytes of crops without HTTP/2: by one copy, through a pair of Unix sockets, and through TCP on the
//! loopback interface. No service that sends voxels through a socket can take less CPU time per crop than the loader and
//! the socket's floor together.

mod floor;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hiend_cache::Cache;
use hiend_loader::batch::{Batch, VoxelForm};
use hiend_loader::pipeline::{Loader, LoaderOptions, StreamConfig};
use hiend_loader::remote::{RemoteLoader, RemoteOptions};
use hiend_loader::service::{Listen, Service, ServiceConfig};
use hiend_loader::transform::Chain;
use serde_json::json;

use crate::clock::{Stopwatch, settle};
use crate::contender::{CROP_SIZE, Rates};
use floor::Floors;

/// Number of visits in a batch: 64 crops.
const VISITS: usize = 8;

/// Minimum number of batches counted in a round, over all clients. A round begins and ends in the middle of batches, so
/// one batch of each client is uncertain.
const BATCHES: u32 = 16;

/// Number of batches that each client takes before a round counts: more than are ready or in progress.
const WARM_UP: u32 = 8;

/// Interval between checks of the clients' progress.
const LOOK: Duration = Duration::from_millis(2);

/// Memory of a client, in bytes: nine batches.
const MEMORY: u64 = 1 << 30;

/// Memory of the service in bytes: for the nine clients of all ways, and for one more for the service itself.
const SERVICE_MEMORY: u64 = 10 * MEMORY;

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

/// Progress of a client within a round.
#[derive(Default)]
struct Progress {
    batches: AtomicU32,
    crops: AtomicU32,
    ended: AtomicBool,
}

/// Sets a flag when it is dropped.
struct EndsOnDrop<'a>(&'a AtomicBool);

impl Drop for EndsOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Client {
    /// Takes batches until the round ends.
    fn take(&self, progress: &Progress, end: &AtomicBool) -> anyhow::Result<()> {
        fn run<E: std::error::Error + Send + Sync + 'static>(
            stream: impl Iterator<Item = Result<Batch, E>>,
            progress: &Progress,
            end: &AtomicBool,
        ) -> anyhow::Result<()> {
            for batch in stream {
                progress.crops.fetch_add(u32::try_from(batch?.shape[0])?, Ordering::Relaxed);
                progress.batches.fetch_add(1, Ordering::Relaxed);
                if end.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(())
        }
        // Set however the run ends, because the other clients wait for it.
        let _ended = EndsOnDrop(&progress.ended);
        match self {
            Self::Local(loader) => run(loader.stream(0), progress, end),
            Self::Remote(loader) => run(loader.stream(0), progress, end),
        }
    }
}

impl Way {
    fn new(key: &'static str, label: &'static str, clients: Vec<Client>) -> Self {
        Self { key, label, clients, rates: Rates::default() }
    }

    /// Measures one round: all clients at the same time. No client waits for another, because batches would then pile
    /// up before counting begins, and those of the first to finish would be wasted.
    fn round(&mut self) -> anyhow::Result<()> {
        settle();
        let progress: Vec<Progress> = self.clients.iter().map(|_| Progress::default()).collect();
        let end = AtomicBool::new(false);
        let (crops, elapsed) = std::thread::scope(|scope| {
            let end = &end;
            let threads: Vec<_> = (self.clients.iter().zip(&progress))
                .map(|(client, progress)| scope.spawn(move || client.take(progress, end)))
                .collect();
            let sum = |count: fn(&Progress) -> &AtomicU32| -> u32 {
                progress.iter().map(|progress| count(progress).load(Ordering::Relaxed)).sum()
            };
            let wait = |is_done: &dyn Fn() -> bool| {
                while !is_done() && !progress.iter().any(|progress| progress.ended.load(Ordering::Relaxed)) {
                    std::thread::sleep(LOOK);
                }
            };
            wait(&|| progress.iter().all(|progress| progress.batches.load(Ordering::Relaxed) >= WARM_UP));
            let (batches, crops) = (sum(|progress| &progress.batches), sum(|progress| &progress.crops));
            let watch = Stopwatch::of_process();
            wait(&|| sum(|progress| &progress.batches) >= batches + BATCHES);
            let (crops, elapsed) = (sum(|progress| &progress.crops) - crops, watch.elapsed());
            end.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().expect("a client does not panic")?;
            }
            anyhow::Ok((crops, elapsed))
        })?;
        self.rates.push(f64::from(crops), elapsed);
        Ok(())
    }
}

/// Measures all ways for the cache in `dir` and prints the results.
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
        memory_bytes: SERVICE_MEMORY,
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
        Way::new("unix_2", "Unix socket, two clients", vec![remote(unix, false, 1)?, remote(unix, false, 2)?]),
        Way::new("tcp", "TCP, loopback", vec![remote(tcp, false, 1)?]),
        Way::new("tcp_2", "TCP, loopback, two clients", vec![remote(tcp, false, 1)?, remote(tcp, false, 2)?]),
    ];
    let mut floors = Floors::new()?;
    let started = Instant::now();
    let mut rounds = 0;
    while rounds < 3 || started.elapsed() < Duration::from_secs(seconds) {
        for way in &mut ways {
            way.round()?;
        }
        floors.round()?;
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
        all.extend(floors.all().map(|floor| (floor.key.to_owned(), figures(&floor.rates))));
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
    for floor in floors.all() {
        line(floor.label, &floor.rates);
    }
    println!("ratio: to the loader in this process; servers, clients and consumers share the cores of this process");
    println!("bytes of a crop through a socket without HTTP/2, and the loader's share of a CPU second next to that:");
    for floor in floors.all() {
        let per_cpu_s = floor.rates.per_cpu_s();
        println!(
            "    {:24} {:6.0} MB per CPU second, at most {:.2} of in process",
            floor.label,
            per_cpu_s * floor::crop_mb(),
            per_cpu_s / (per_cpu_s + cpu)
        );
    }
    Ok(())
}
