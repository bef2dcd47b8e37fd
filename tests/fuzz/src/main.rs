//! Attacks readers of files and messages with mutations of the inputs in `tests/fuzz/corpus`.
//!
//! Each input is written to a file before the reader gets it, so that it is still there if the process is ended: by the
//! system, by a failed allocation (`ulimit -v` sets the limit), or by the watchdog of this program.

#![allow(clippy::print_stdout, reason = "a tool for developers")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use hiend_fuzz::Target;
use hiend_fuzz::mutate::mutated;
use hiend_loader::program::{self, note};

/// Seconds after which a reader counts as hanging.
const MOST_SECS: u64 = 60;
/// Number of breaking inputs after which the attack on a reader ends.
const MOST_FOUND: usize = 20;

/// Attack readers of files and messages with mutated inputs
#[derive(Debug, Parser)]
struct Cli {
    /// Reader to attack; may be repeated; all if omitted
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Minutes for each reader; 0 for a single input, determined by the seed
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Seed of the first input; each further input has the next larger seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for inputs that break a reader
    #[arg(long, value_name = "DIR", default_value = "target/fuzz")]
    save: PathBuf,
}

fn main() -> ExitCode {
    // The log is dropped: readers of runs warn of damage, and one damaged file follows the other.
    program::main(std::io::sink, |cli: &Cli| run(cli).map(|()| ExitCode::SUCCESS))
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let limit = Duration::try_from_secs_f64(60.0 * cli.minutes).context("--minutes")?;
    let targets = chosen(&cli.target)?;
    std::fs::create_dir_all(&cli.save).with_context(|| cli.save.display().to_string())?;
    let mut num_found = 0;
    for target in targets {
        num_found += attack(target, limit, cli.seed, &cli.save).context(target.name)?;
    }
    anyhow::ensure!(num_found == 0, "{num_found} inputs break a reader; they are in {}", cli.save.display());
    Ok(())
}

/// Readers with these names; all readers if there are none.
fn chosen(names: &[String]) -> anyhow::Result<Vec<Target>> {
    if names.is_empty() {
        return Ok(Target::all().to_vec());
    }
    let target = |name: &String| {
        let known: Vec<&str> = Target::all().iter().map(|target| target.name).collect();
        Target::of_name(name).with_context(|| format!("--target {name}: expected one of {}", known.join(", ")))
    };
    names.iter().map(target).collect()
}

/// Attacks a reader until `limit` is over; returns the number of inputs that broke it, which are saved.
fn attack(target: Target, limit: Duration, first_seed: u64, save: &Path) -> anyhow::Result<usize> {
    let corpus: Vec<Vec<u8>> = target.corpus()?.into_iter().map(|(_, bytes)| bytes).collect();
    anyhow::ensure!(!corpus.is_empty(), "no inputs to begin with");
    let scratch = tempfile::tempdir()?;
    let current = save.join(format!("{}.input", target.name));
    let begun = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    watch(Arc::clone(&begun), started, current.clone());
    let (mut seed, mut num_found) = (first_seed, 0);
    loop {
        let at = usize::try_from(seed % corpus.len() as u64)?;
        let bytes = mutated(&corpus[at], &corpus, seed);
        std::fs::write(&current, &bytes).with_context(|| current.display().to_string())?;
        // Seconds from 1 on; 0 means that no reader is at work.
        begun.store(1 + started.elapsed().as_secs(), Ordering::Relaxed);
        let attacked = catch_unwind(AssertUnwindSafe(|| target.attack(scratch.path(), &bytes)));
        begun.store(0, Ordering::Relaxed);
        if attacked.is_err() {
            let kept = save.join(format!("{}-{seed}", target.name));
            std::fs::rename(&current, &kept)?;
            println!("{}: broken by {}", target.name, kept.display());
            num_found += 1;
        }
        seed += 1;
        if started.elapsed() >= limit || num_found == MOST_FOUND {
            break;
        }
    }
    // Renamed if the last one broke the reader.
    let _ = std::fs::remove_file(&current);
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    println!("{}: {} inputs in {minutes:.1} min, {num_found} broke it", target.name, seed - first_seed);
    Ok(num_found)
}

/// Ends the process if a reader takes longer than [`MOST_SECS`] for one input.
fn watch(begun: Arc<AtomicU64>, started: Instant, current: PathBuf) {
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let since = begun.load(Ordering::Relaxed);
            if since > 0 && started.elapsed().as_secs() > since + MOST_SECS {
                note(format_args!("error: a reader takes more than {MOST_SECS} s for {}", current.display()));
                std::process::exit(1);
            }
        }
    });
}
