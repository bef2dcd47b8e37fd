//! `loader-bench --service --clients N`: consumers that stop reading, next to others that continue.
//!
//! The server is a process of its own, so that its resident memory is that of a server. Half of the clients live in a
//! second process, which is stopped (`SIGSTOP`) in the middle of their streams: their sockets fill, and what the server has made for
//! them stays in its memory. The other half read in this process, first alone, then next to the stopped ones. The server
//! closes connections that answer no ping for 40 s, so the measurement takes less than that.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hiend_cache::Cache;
use hiend_loader::pipeline::StreamConfig;
use hiend_loader::remote::{RemoteLoader, RemoteOptions};
use hiend_loader::service::{Service, ServiceConfig};
use serde_json::json;

/// Side length of the crops in voxels: a batch of 8 takes 4 MiB as 16-bit values.
const CROP_SIDE: usize = 64;
/// Memory of a client at the server, in bytes: four batches with their records.
const CLIENT_MEMORY: u64 = 17 << 20;
/// Longest time with stopped clients, in seconds.
const LONGEST: u64 = 15;

/// Part of the benchmark that runs in a separate process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Serves the cache; answers each line with the bytes that it holds.
    Server,
    /// Reads until it is stopped.
    Readers,
}

/// Runs a part of the benchmark, whose parent reads standard output.
///
/// # Errors
/// If the service or a client cannot be started.
pub fn act_as(role: Role, target: &str, clients: usize, threads: usize) -> anyhow::Result<()> {
    match role {
        Role::Server => serve(Path::new(target), clients, threads),
        Role::Readers => {
            let readers = Readers::start(target, clients)?;
            println!("reading");
            readers.join();
            Ok(())
        }
    }
}

fn serve(dir: &Path, clients: usize, threads: usize) -> anyhow::Result<()> {
    let service = Service::start(ServiceConfig {
        caches: vec![(Arc::new(Cache::open(dir)?), 1)],
        listen: vec!["127.0.0.1:0".parse()?],
        threads,
        memory_bytes: budget(clients),
        client_memory_bytes: CLIENT_MEMORY,
        ..ServiceConfig::default()
    })?;
    println!("{}", service.urls()[0]);
    for line in std::io::stdin().lines() {
        line?;
        println!("{}", service.held_bytes());
    }
    Ok(())
}

/// Memory of the service in bytes: for one client more than there are, and for the reusable blocks.
fn budget(clients: usize) -> u64 {
    (clients as u64 + 2) * CLIENT_MEMORY
}

/// Clients that read as fast as they can.
struct Readers {
    stop: Arc<AtomicBool>,
    crops: Vec<Arc<AtomicU64>>,
    threads: Vec<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Readers {
    /// Connects the clients, each with its own seed, and waits for the first batch of each.
    fn start(url: &str, clients: usize) -> anyhow::Result<Self> {
        let config = StreamConfig { crop_size: [CROP_SIDE; 3], visits_per_batch: 1, ..StreamConfig::default() };
        let stop = Arc::new(AtomicBool::new(false));
        let (mut crops, mut threads) = (Vec::new(), Vec::new());
        for seed in 0..clients as u64 {
            let options = RemoteOptions { memory_bytes: 4 * CLIENT_MEMORY, ..RemoteOptions::default() };
            let loader = RemoteLoader::connect(&[url.to_owned()], config.clone(), seed, options)?;
            let mut stream = loader.stream(0);
            stream.next().context("the stream is endless")??;
            let count = Arc::new(AtomicU64::new(0));
            crops.push(Arc::clone(&count));
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let batch = stream.next().context("the stream is endless")??;
                    count.fetch_add(batch.shape[0] as u64, Ordering::Relaxed);
                }
                Ok(())
            }));
        }
        Ok(Self { stop, crops, threads })
    }

    fn counts(&self) -> Vec<u64> {
        self.crops.iter().map(|crops| crops.load(Ordering::Relaxed)).collect()
    }

    /// Reads until the process is killed.
    fn join(self) {
        for thread in self.threads {
            // The parent sees that there are no more crops.
            let _ = thread.join();
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_panic| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(())
    }
}

/// A process of this program; killed when dropped.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a part of the benchmark and reads the first line that it prints.
    fn start(role: &str, target: &str, clients: usize, threads: usize) -> anyhow::Result<(Self, String)> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--act-as", role, "--target", target, "--clients", &clients.to_string()]);
        command.args(["--threads", &threads.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
        let mut process = Self { child, input, output: BufReader::new(output) };
        let line = process.line()?;
        Ok((process, line))
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        anyhow::ensure!(self.output.read_line(&mut line)? > 0, "a process of the benchmark ended");
        Ok(line.trim().to_owned())
    }

    /// Bytes that the server holds for its clients.
    fn held(&mut self) -> anyhow::Result<u64> {
        self.input.write_all(b"\n")?;
        Ok(self.line()?.parse()?)
    }

    /// Resident memory in bytes.
    fn resident(&self) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib << 10)
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status()?;
        anyhow::ensure!(status.success(), "kill {name} failed");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL ends a stopped process, too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measurements over a period in which clients read.
#[derive(Debug, Default)]
struct Window {
    crops_per_s: f64,
    /// Crops of the slowest reader relative to the mean of all.
    slowest_to_mean: f64,
    /// Smallest and largest resident memory of the server.
    resident: (u64, u64),
    /// Largest number of bytes that the server held.
    held: u64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of crops")]
fn measure(readers: &Readers, server: &mut Process, time: Duration) -> anyhow::Result<Window> {
    let before = readers.counts();
    let started = Instant::now();
    let mut window = Window { resident: (u64::MAX, 0), ..Window::default() };
    while started.elapsed() < time {
        let resident = server.resident()?;
        window.resident = (window.resident.0.min(resident), window.resident.1.max(resident));
        window.held = window.held.max(server.held()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    let crops: Vec<u64> = readers.counts().iter().zip(&before).map(|(now, before)| now - before).collect();
    let total = crops.iter().sum::<u64>() as f64;
    window.crops_per_s = total / started.elapsed().as_secs_f64();
    let slowest = crops.iter().min().copied().unwrap_or(0) as f64;
    window.slowest_to_mean = slowest * crops.len() as f64 / total.max(1.0);
    Ok(window)
}

/// Measures `clients` clients of the cache in `dir`, half of which stop reading, and prints the figures.
///
/// # Errors
/// If a process cannot be started or a stream fails.
pub fn run(
    dir: &Path,
    clients: usize,
    threads: usize,
    seconds: u64,
    as_json: bool,
    origin: &str,
) -> anyhow::Result<()> {
    let time = Duration::from_secs(seconds.min(LONGEST));
    let (mut server, url) = Process::start("server", &dir.display().to_string(), clients, threads)?;
    let start = server.resident()?;
    let num_reading = clients - clients / 2;
    let readers = Readers::start(&url, num_reading)?;
    // Fills the queues and the memory that is kept for later batches.
    measure(&readers, &mut server, time / 3)?;
    let alone = measure(&readers, &mut server, time)?;
    let (deaf, _) = Process::start("readers", &url, clients / 2, threads)?;
    measure(&readers, &mut server, Duration::from_secs(1))?;
    deaf.signal("-STOP")?;
    // Waits until batches on their way to the stopped clients have arrived or are stuck.
    measure(&readers, &mut server, Duration::from_secs(1))?;
    let next = measure(&readers, &mut server, time)?;
    readers.finish()?;
    drop(deaf);
    let budget = budget(clients);
    let ratio = next.crops_per_s / alone.crops_per_s;
    if as_json {
        let figures = |window: &Window| {
            json!({
                "crops_per_s": window.crops_per_s,
                "slowest_to_mean": window.slowest_to_mean,
                "resident_bytes": [window.resident.0, window.resident.1],
                "held_bytes": window.held,
            })
        };
        let line = json!({
            "clients": clients,
            "stopped": clients / 2,
            "threads": threads,
            "data": origin,
            "alone": figures(&alone),
            "next_to_stopped": figures(&next),
            "ratio": ratio,
            "start_resident_bytes": start,
            "budget_bytes": budget,
        });
        println!("{line}");
        return Ok(());
    }
    let mib = |bytes: u64| bytes >> 20;
    println!("{origin}; {num_reading} clients that read, {} that stopped; {threads} threads", clients / 2);
    println!(
        "{:30} {:>9} {:>7} {:>13} {:>14} {:>10}",
        "", "crops/s", "ratio", "slowest/mean", "resident, MiB", "held, MiB"
    );
    for (label, window, ratio) in [("alone", &alone, 1.0), ("next to stopped clients", &next, ratio)] {
        let Window { crops_per_s, slowest_to_mean, resident: (least, most), held } = window;
        println!(
            "{label:30} {crops_per_s:9.0} {ratio:7.2} {slowest_to_mean:13.2} {:>14} {:10}",
            format!("{} to {}", mib(*least), mib(*most)),
            mib(*held)
        );
    }
    println!("server: {} MiB resident before its first client, {} MiB of memory for batches", mib(start), mib(budget));
    Ok(())
}
