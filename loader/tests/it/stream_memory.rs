//! The memory budget holds: by the loader's own count, and by what the system says of a process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hiend_cache::{Access, Cache};
use hiend_loader::convert::{ConvertOptions, convert};
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::pipeline::{Error, Loader, LoaderOptions, StreamConfig};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::transform::Chain;

/// Set in the process that is measured: the cache it streams.
const CHILD: &str = "HIEND_TEST_STREAM_CACHE";
const BUDGET: u64 = 160 << 20;

/// Four coarse phantoms, converted.
fn phantoms(root: &std::path::Path) {
    let dataset = root.join("Dataset001_Phantom");
    write_dataset(&dataset, &PhantomConfig { cases: 4, seed: 3, spacing_mm: [5.0, 6.0] }).unwrap();
    let options = ConvertOptions { jobs: 2, ..ConvertOptions::default() };
    let config = PreprocessConfig { spacing: Some([3.0; 3]), ..PreprocessConfig::default() };
    let datasets = hiend_loader::dataset::find(root).unwrap();
    let out = root.join("cache");
    convert(root, &datasets, &out, &config, &options, &AtomicBool::new(false), |_| {}).unwrap();
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
    // Positioned reads: pages of a map would count as the process's own.
    let cache = Arc::new(Cache::open_with(cache, Access::Pread).unwrap());
    Loader::open(cache, config(), 1, &LoaderOptions { threads, memory_bytes, ..LoaderOptions::default() })
}

#[test]
fn the_budget_is_divided_and_never_exceeded() {
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path());
    for threads in [1, 4] {
        let loader = open(&dir.path().join("cache"), threads, BUDGET).unwrap();
        let plan = loader.memory();
        assert!(plan.total() <= BUDGET && plan.num_buffers >= 2, "{plan:?}");
        let mut stream = loader.stream(0);
        // A consumer that holds on to a batch while the loader fills every other buffer.
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
fn threads_are_found_and_a_budget_that_is_too_small_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    phantoms(dir.path());
    let cache = dir.path().join("cache");
    let roomy = open(&cache, 0, 4 << 30).unwrap();
    assert_eq!(roomy.num_threads(), hiend_loader::pipeline::num_cores());
    let one = open(&cache, 1, 4 << 30).unwrap().memory();
    let least = one.visitor_bytes + one.spill_bytes + 2 * one.batch_bytes;
    // Fewer threads rather than none, unless the number was given.
    assert_eq!(open(&cache, 0, least).unwrap().num_threads(), 1);
    assert!(matches!(open(&cache, 2, least), Err(Error::TooLittleMemory { threads: 2, .. })));
    let error = open(&cache, 0, least - 1).err().unwrap().to_string();
    assert!(error.contains(&format!("take {least} bytes, but the budget is {}", least - 1)), "{error}");
}

/// What is measured: streams, and says how much memory that took at most.
#[test]
#[cfg(target_os = "linux")]
fn the_process_stays_within_the_budget() {
    /// For thread stacks, and what the allocator keeps of memory that was given back.
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
        .args(["--exact", "stream_memory::the_process_stays_within_the_budget", "--nocapture"])
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

#[cfg(target_os = "linux")]
fn status_bytes(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
