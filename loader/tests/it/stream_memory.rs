//! Limits on memory, threads and file handles, checked against the loader's counters and the system's.

use std::sync::Arc;

use hiend_cache::{Access, Cache};
use hiend_loader::convert::{Conversion, ConvertOptions};
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::pipeline::{Error, Loader, LoaderOptions, StreamConfig};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::transform::Chain;

/// Environment variable, set in the measured process, with the folder of the cache to stream.
const CHILD: &str = "HIEND_TEST_STREAM_CACHE";
const BUDGET: u64 = 160 << 20;

/// Converts four coarse phantoms.
fn phantoms(root: &std::path::Path) {
    let dataset = root.join("Dataset001_Phantom");
    write_dataset(&dataset, &PhantomConfig { cases: 4, seed: 3, spacing_mm: [5.0, 6.0] }).unwrap();
    let options = ConvertOptions { jobs: 2, ..ConvertOptions::default() };
    let config = PreprocessConfig { spacing: Some([3.0; 3]), ..PreprocessConfig::default() };
    let datasets = hiend_loader::dataset::find(root).unwrap();
    let out = root.join("cache");
    Conversion::new(root, &datasets, &out).config(config).options(options).run().unwrap();
}

fn config() -> StreamConfig {
    StreamConfig {
        crop_size: [64; 3],
        crops_per_visit: 4,
        visits_per_batch: 4,
        labels: true,
        augment: Chain::nnunet(),
        ..StreamConfig::default()
    }
}

fn open(cache: &std::path::Path, threads: usize, memory_bytes: u64) -> Result<Loader, Error> {
    // Positioned reads, because the pages of a map would count as the process's own.
    let cache = Arc::new(Cache::open_with(cache, Access::Pread).unwrap());
    Loader::open(cache, config(), 1, &LoaderOptions { threads, memory_bytes, ..LoaderOptions::default() })
}

#[test]
fn counted_memory_stays_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path());
    for threads in [1, 4] {
        let loader = open(&dir.path().join("cache"), threads, BUDGET).unwrap();
        let plan = loader.memory();
        assert!(plan.total() <= BUDGET && plan.num_buffers >= 2, "{plan:?}");
        let mut stream = loader.stream(0);
        // The consumer keeps one batch while the loader fills every other buffer.
        let held = stream.next().unwrap().unwrap();
        for _ in 0..6 {
            stream.next().unwrap().unwrap();
        }
        drop(held);
        let progress = loader.progress();
        assert!(progress.peak_memory_bytes <= BUDGET, "{progress:?} {plan:?}");
        assert!(progress.peak_memory_bytes >= plan.num_buffers as u64 * plan.batch_bytes, "{progress:?} {plan:?}");
        assert!(progress.chunks > 0 && progress.coded_bytes > 0 && progress.crops >= 7 * 16);
    }
}

#[test]
fn threads_follow_the_budget_and_too_small_a_budget_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path());
    let cache = dir.path().join("cache");
    // More than the threads of any machine take; nothing of it is allocated before a stream begins.
    let roomy = open(&cache, 0, 1 << 40).unwrap();
    assert_eq!(roomy.num_threads(), hiend_loader::budget::cores());
    let one = open(&cache, 1, 4 << 30).unwrap().memory();
    let least = one.visitor_bytes + one.spill_bytes + 2 * one.batch_bytes;
    // Fewer threads are taken if their number is not given.
    assert_eq!(open(&cache, 0, least).unwrap().num_threads(), 1);
    assert!(matches!(open(&cache, 2, least), Err(Error::TooLittleMemory { threads: 2, .. })));
    let error = open(&cache, 0, least - 1).err().unwrap().to_string();
    assert!(error.contains(&format!("take {least} bytes, but the budget is {}", least - 1)), "{error}");
}

/// A process that only streams is started, and its resident memory is measured.
#[test]
#[cfg(target_os = "linux")]
fn resident_memory_stays_within_the_budget() {
    /// Allowance for thread stacks and for freed memory that the allocator keeps.
    const SLACK: u64 = 32 << 20;
    if let Some(cache) = std::env::var_os(CHILD) {
        let before = status_bytes("VmRSS:");
        let loader = open(cache.as_ref(), 3, BUDGET).unwrap();
        let batches: Vec<_> = loader.stream(0).take(12).map(|batch| batch.unwrap().shape[0]).collect();
        assert_eq!(batches, [16; 12]);
        println!("TOOK {}", status_bytes("VmHWM:") - before);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path());
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stream_memory::resident_memory_stays_within_the_budget", "--nocapture"])
        .env(CHILD, dir.path().join("cache"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let took = text.split("TOOK ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let took: u64 = took.parse().unwrap();
    println!("streaming took {took} bytes of a budget of {BUDGET}");
    assert!(took <= BUDGET + SLACK, "{took} bytes, budget {BUDGET}");
}

/// A separate process streams 4,000 batches, in long streams and in many short ones; `HIEND_CAMPAIGN=5` makes it 20,000.
#[test]
#[cfg(target_os = "linux")]
fn memory_threads_and_handles_stay_flat_over_thousands_of_batches() {
    /// Allowance for the allocator. A leak of 4 KiB per batch would exceed it.
    const SLACK: u64 = 8 << 20;
    /// Number of rounds of 1,000 batches each in the short form.
    const ROUNDS: u64 = 4;
    if let Some(cache) = std::env::var_os(CHILD) {
        let config = StreamConfig { crop_size: [16; 3], crops_per_visit: 2, ..config() };
        let cache = Arc::new(Cache::open_with(std::path::Path::new(&cache), Access::Pread).unwrap());
        let options = LoaderOptions { threads: 2, memory_bytes: 32 << 20, ..LoaderOptions::default() };
        let loader = Loader::open(cache, config, 1, &options).unwrap();
        let threads = status_number("Threads:");
        let stream = |start: u64, batches: usize| {
            for (step, batch) in (start..).zip(loader.stream(start).take(batches)) {
                assert_eq!(batch.unwrap().step, step);
            }
        };
        let usage = || {
            // The threads of a dropped stream end on their own, soon.
            let began = std::time::Instant::now();
            while status_number("Threads:") != threads {
                let now = status_number("Threads:");
                assert!(
                    began.elapsed().as_secs() < 120,
                    "{now} threads two minutes after the stream, {threads} before it"
                );
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let handles = std::fs::read_dir("/proc/self/fd").unwrap().count();
            // Without a stream, only the visitors hold memory.
            let plan = loader.memory();
            assert!(loader.progress().memory_bytes <= plan.threads as u64 * plan.visitor_bytes);
            (handles, status_bytes("VmRSS:"))
        };
        let round = |start: u64| {
            stream(start, 500);
            for short in 0..50 {
                stream(start + short, 10);
            }
            usage()
        };
        // The first round fills caches and the allocator's arenas.
        let (handles, resident) = round(0);
        let factor =
            std::env::var("HIEND_CAMPAIGN").map_or(1, |text| text.parse().expect("HIEND_CAMPAIGN is a number"));
        let rounds = ROUNDS * factor;
        let (mut later_handles, mut later_resident) = (handles, resident);
        for number in 1..rounds {
            (later_handles, later_resident) = round(1000 * number);
        }
        println!("FLAT {resident} {later_resident} after {} batches", 1000 * rounds);
        assert_eq!(later_handles, handles);
        assert!(later_resident <= resident + SLACK, "{resident} bytes, later {later_resident}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path());
    let name = "stream_memory::memory_threads_and_handles_stay_flat_over_thousands_of_batches";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, dir.path().join("cache"))
        // Otherwise threads that overlap by chance take further arenas, each of which keeps freed memory.
        .env("MALLOC_ARENA_MAX", "2")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("FLAT "), "the test did not run: {text}");
    println!("{}", text.lines().find(|line| line.contains("FLAT ")).unwrap());
}

#[cfg(target_os = "linux")]
fn status_bytes(key: &str) -> u64 {
    status_number(key) * 1024
}

/// Number that follows a key in the process's status file.
#[cfg(target_os = "linux")]
fn status_number(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
