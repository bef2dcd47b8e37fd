//! Tests of a run's metrics and health, and of the measured cost of its data.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use hiend_trainer::device::Compute;
use hiend_trainer::pretrain::Pretraining;
use hiend_trainer::testing::{SyntheticStream, small_pretraining};
use hiend_trainer::training::Stop;
use hiend_trainer::training::headspace::{HeadspaceOptions, measure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::folder::Folder;

/// Response to a request for a page.
pub(crate) fn get(addr: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

/// Address of the metrics server, read from the standard error of a run.
pub(crate) fn served_at(stderr: &mut impl Iterator<Item = String>) -> String {
    let line = stderr.find(|line| line.starts_with("metrics on http://")).expect("the address is announced");
    line.trim_start_matches("metrics on http://").split('/').next().unwrap_or_default().to_owned()
}

/// Starts a pre-training with these flags, gives `look` the address of its metrics after the first step, and ends it.
fn while_training(flags: &str, look: impl FnOnce(&str)) {
    let folder = Folder::new();
    let args = "pretrain --shards cache --config pretrain.toml --run-dir run --metrics-listen 127.0.0.1:0 \
                --log-every 1 --display lines";
    let mut command = folder.command(&format!("{args} {flags}"));
    let mut run = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    let addr = served_at(&mut stderr);
    let mut stdout = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    stdout.find(|line| line.starts_with("step ")).unwrap();
    look(&addr);
    kill(Pid::from_raw(run.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    // Read to the end, so that the run never waits for a reader.
    let (_, rest) = (stdout.count(), stderr.collect::<Vec<_>>());
    assert_eq!(run.wait().unwrap().code(), Some(75), "{rest:?}");
}

#[test]
fn metrics_and_health_are_served_while_a_run_lasts() {
    while_training("", |addr| {
        let page = get(addr, "/metrics").unwrap();
        for name in [
            "hiend_train_steps_total ",
            "hiend_train_loss ",
            "hiend_train_wait_seconds_sum ",
            "hiend_loader_crops_total ",
        ] {
            assert!(page.lines().any(|line| line.starts_with(name)), "no {name}in {page}");
        }
        assert!(page.contains("# HELP hiend_train_loss Mean loss of the last batch."), "{page}");
        assert!(get(addr, "/healthz").unwrap().starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn first_rank_serves_the_waits_and_stages_of_all() {
    while_training("--devices cpu,cpu", |addr| {
        let page = get(addr, "/metrics").unwrap();
        for rank in [0, 1] {
            for name in ["wait_seconds", "behind_seconds"] {
                let start = format!("hiend_train_rank_{name}{{rank=\"{rank}\"}} ");
                assert!(page.lines().any(|line| line.starts_with(&start)), "no {start}in {page}");
            }
            // They are set one after the other: at this moment none or two may be 1.
            let start = format!("hiend_train_rank_stage{{rank=\"{rank}\",stage=");
            let stages: Vec<&str> = page.lines().filter(|line| line.starts_with(&start)).collect();
            assert_eq!(stages.len(), 4, "{page}");
            assert!(stages.iter().all(|line| line.ends_with(" 0") || line.ends_with(" 1")), "{page}");
        }
    });
}

#[test]
fn taken_metrics_address_is_refused_before_a_folder_is_made() {
    let folder = Folder::new();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = held.local_addr().unwrap().to_string();
    let args = format!("pretrain --shards cache --config pretrain.toml --run-dir run --metrics-listen {addr}");
    folder.refuse(&args, &["cannot serve metrics on", &addr]);
    assert!(!folder.path("run").exists());
}

#[test]
fn cost_of_the_data_is_printed_and_nothing_is_kept() {
    let folder = Folder::new();
    let printed = folder.succeed("pretrain --shards cache --config pretrain.toml --headspace 2 --memory 64MiB");
    assert_eq!(printed.lines().filter(|line| line.starts_with("round ")).count(), 3, "{printed}");
    assert!(printed.lines().any(|line| line.starts_with("data cost ")), "{printed}");
    assert!(!folder.path("runs").exists());
}

#[test]
fn cost_of_the_data_is_measured_without_corrupt_batches() {
    const STREAM: SyntheticStream = SyntheticStream { seed: 3, crop_size: [16; 3], crops: 2, steps_per_epoch: 4 };
    let config = small_pretraining(8);
    // The first batch and every third after it have no crops.
    let mut stream = STREAM.stream();
    stream.open = Box::new(|start, _| {
        let crops = |step: u64| if step.is_multiple_of(3) { 0 } else { 2 };
        Ok(Box::new((start..).map(move |step| Ok(SyntheticStream { crops: crops(step), ..STREAM }.batch(step)))))
    });
    let stop = Stop::default();
    let options = HeadspaceOptions { steps: 3, gradient_checkpointing: false, stop: stop.clone() };
    let task = Pretraining::new(&config);
    let headspace = measure(&task, &stream, &Compute::cpu(), &options).unwrap().unwrap();
    assert_eq!((headspace.rounds.len(), headspace.crops, headspace.steps), (3, 2, 3));
    assert!(headspace.rounds.iter().all(|round| round.streamed_secs > 0.0 && round.resident_secs > 0.0));
    stop.request();
    assert_eq!(measure(&task, &stream, &Compute::cpu(), &options).unwrap(), None);
}
