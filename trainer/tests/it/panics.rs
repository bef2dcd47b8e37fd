//! Tests of a panic on another thread than that of the program: a training stops, saved, and ends with the error.

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser as _;
use hiend_loader::program;
use hiend_trainer::cli::Cli;
use hiend_trainer::commands;

use crate::folder::Folder;
use crate::service::{PRETRAIN, losses};

/// Environment variable that makes [`panicking_process`] a training: its command line, in words.
const TRAIN: &str = "HIEND_TEST_PANIC_TRAINING";
/// Environment variable with the rank in which a thread panics; empty for a training without ranks.
const PANICS: &str = "HIEND_TEST_PANIC_RANK";
/// Number of steps of a training that no panic stops.
const STEPS: usize = 3000;

/// Command line of the process of a test.
#[derive(clap::Parser)]
#[allow(dead_code, reason = "the training has another command line")]
struct TestArgs {
    name: String,
    #[arg(long)]
    exact: bool,
    #[arg(long)]
    ignored: bool,
    #[arg(long)]
    nocapture: bool,
}

/// The other tests of this file run this test in a process of its own, and a launcher runs it for each rank.
#[test]
#[ignore = "a process that other tests start"]
fn panicking_process() {
    let (Ok(words), Ok(rank)) = (std::env::var(TRAIN), std::env::var(PANICS)) else { return };
    let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
    let code = program::main(std::io::stderr, |_: &TestArgs| {
        if std::env::var("RANK").unwrap_or_default() == rank {
            std::thread::Builder::new().name("dashboard".into()).spawn(panic_after_a_step).unwrap();
        }
        commands::run(&cli)
    });
    // A test cannot return it, and only its text can be compared.
    let is_code = |number: &u8| format!("{:?}", ExitCode::from(*number)) == format!("{code:?}");
    std::process::exit((0..=u8::MAX).find(is_code).unwrap().into());
}

fn panic_after_a_step() {
    while !fs::read_to_string("run/journal.jsonl").is_ok_and(|text| text.contains("\"event\":\"step\"")) {
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("a bug in the dashboard");
}

/// Trains in a process in which a thread of `rank` panics. Checks that it ends with `error`, saved; returns the last step.
fn check(folder: &Folder, devices: &str, rank: &str, error: &str) -> usize {
    let flags = format!("--shards cache --run-dir run --max-steps {STEPS} --set train.micro_batch=1");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["panics::panicking_process", "--exact", "--ignored", "--nocapture"])
        .env(TRAIN, format!("hiend-train {PRETRAIN} {flags} {devices}"))
        .env(PANICS, rank)
        .env("XDG_CACHE_HOME", folder.path("downloads"))
        .current_dir(folder.path(""))
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let done = losses(folder, "run").len();
    assert!(done < STEPS && folder.path(&format!("run/checkpoints/step-{done:08}")).is_dir(), "{done}: {stderr}");
    assert!(stderr.contains("a bug in the dashboard"), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.contains("error: ")).collect();
    let saved = format!("saved after step {done}; the same command with --resume continues");
    assert_eq!(
        errors,
        [format!("{error}thread dashboard panicked, which is a bug: the message above says where; {saved}")],
        "{stderr}"
    );
    done
}

#[test]
fn a_training_stops_at_a_panic_on_another_thread_and_can_be_resumed() {
    let folder = Folder::new();
    let done = check(&folder, "--device cpu", "", "error: ");
    let flags = format!("--shards cache --run-dir run --resume --max-steps {}", done + 1);
    folder.succeed(&format!("{PRETRAIN} --set train.micro_batch=1 {flags}"));
    assert_eq!(losses(&folder, "run").len(), done + 1);
}

#[test]
fn a_panic_in_one_rank_stops_all_and_is_the_error_of_the_run() {
    check(&Folder::new(), "--devices cpu,cpu", "1", "error: rank 1: ");
}
