//! Tests of training from loader servers: losses equal those with the shards themselves, whatever happens to the
//! servers.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hiend_cache::Cache;
use hiend_loader::service::{Service, ServiceConfig};
use hiend_trainer::journal::{self, Entry};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::folder::Folder;
use crate::observe::{get, served_at};
use crate::rank_processes::{LOST, Running, as_torchrun, free_address};

/// Environment variable that makes [`server_process`] a server: folder or URL of the cache, and the socket's path.
const SERVE: &str = "HIEND_TEST_SERVE";
/// Environment variable with the token that [`server_process`] requires, if set.
const TOKEN: &str = "HIEND_TEST_SERVE_TOKEN";

/// The other tests of this file run this test in a separate process, as a server.
#[test]
#[ignore = "a process that other tests start"]
fn server_process() {
    let Some(serve) = std::env::var_os(SERVE) else { return };
    let (cache, socket) = serve.to_str().unwrap().split_once(',').unwrap();
    let config = ServiceConfig {
        caches: vec![(Arc::new(Cache::open(cache).unwrap()), 1)],
        listen: vec![format!("unix:{socket}").parse().unwrap()],
        threads: 1,
        // Of this, a disk cache may map 256 MiB.
        memory_bytes: 512 << 20,
        client_memory_bytes: 64 << 20,
        token: std::env::var(TOKEN).ok(),
        ..ServiceConfig::default()
    };
    let _service = Service::start(config).unwrap();
    println!("\nserving");
    // Until the test that started this process ends it.
    std::io::stdin().lines().for_each(drop);
}

/// A running server. Dropping it kills it.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
}

impl Server {
    fn start(folder: &Folder, name: &str) -> Self {
        Self::of_cache(folder, name, &folder.path("cache").display().to_string(), &[])
    }

    /// Process id of the server.
    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap())
    }

    fn with_token(folder: &Folder, name: &str, token: &str) -> Self {
        Self::of_cache(folder, name, &folder.path("cache").display().to_string(), &[(TOKEN, token)])
    }

    /// Serves the cache at a folder or URL, with a socket in `folder` and these environment variables.
    pub(crate) fn of_cache(folder: &Folder, name: &str, cache: &str, variables: &[(&str, &str)]) -> Self {
        let socket = folder.path(name);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["service::server_process", "--exact", "--ignored", "--nocapture"])
            .env(SERVE, format!("{cache},{}", socket.display()))
            .env("XDG_CACHE_HOME", folder.path("downloads"))
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.find(|line| line == "serving").expect("the server starts");
        Self { process, url: format!("unix://{}", socket.display()) }
    }

    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Ends the process like `kill -9`.
    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) const PRETRAIN: &str = "pretrain --config pretrain.toml --display lines --log-every 1";

/// Losses in the journal of a run; if there are two lines for a step, the later one is valid.
pub(crate) fn losses(folder: &Folder, run: &str) -> Vec<(u64, u64)> {
    let mut losses = std::collections::BTreeMap::new();
    for entry in journal::read(&folder.path(run).join("journal.jsonl")).unwrap() {
        if let Entry::Step(record) = entry.unwrap() {
            losses.insert(record.step, record.loss.to_bits());
        }
    }
    losses.into_iter().collect()
}

/// Trains in a separate process and calls `meanwhile` once `step` is done; returns its exit code and standard error.
pub(crate) fn train(folder: &Folder, args: &str, step: u64, meanwhile: impl FnOnce()) -> (Option<i32>, String) {
    let mut run = folder.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    let wanted = format!("{step}/");
    let found = lines.by_ref().find(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("step") && words.next().is_some_and(|word| word.starts_with(&wanted))
    });
    if found.is_some() {
        meanwhile();
    }
    lines.for_each(drop);
    let output = run.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(found.is_some(), "no step {step}: {stderr}");
    (output.status.code(), stderr)
}

#[test]
fn losses_survive_the_death_of_a_server() {
    let folder = Folder::new();
    folder.succeed(&format!("{PRETRAIN} --shards cache --run-dir straight --max-steps 8"));
    let straight = losses(&folder, "straight");
    assert_eq!(straight.len(), 8);

    // Two servers, one of which is killed during the run.
    let (first, second) = (Server::start(&folder, "a"), Server::start(&folder, "b"));
    let urls = format!("{},{}", first.url, second.url);
    let args = format!("{PRETRAIN} --loader {urls} --run-dir two --max-steps 8 --memory 8MiB");
    let (code, stderr) = train(&folder, &args, 2, || first.kill());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(losses(&folder, "two"), straight);

    // The last server is killed: the run saves a checkpoint and says why it ends.
    let args = format!("{PRETRAIN} --loader {} --run-dir none --memory 8MiB --loader-retry 1", second.url);
    let url = second.url.clone();
    let (code, stderr) = train(&folder, &args, 2, || second.kill());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.lines().last().unwrap().starts_with("error: no batch for step "), "{stderr}");
    assert!(stderr.contains(&url), "{stderr}");
    let done = losses(&folder, "none");
    let last = done.last().unwrap().0;
    assert!(folder.path(&format!("none/checkpoints/step-{last:08}")).is_dir());
    // With the shards themselves the run continues from there: the servers' data had the same digest.
    folder.succeed(&format!("{PRETRAIN} --shards cache --run-dir none --resume --max-steps {}", last + 1));
    let longer = losses(&folder, "none");
    assert_eq!(longer.len() as u64, last + 1);
    assert!(straight.iter().zip(&longer).all(|(a, b)| a == b));
}

#[test]
fn losses_of_ranks_survive_the_death_of_a_server() {
    let folder = Folder::new();
    let pretrain = format!("{PRETRAIN} --set train.micro_batch=1 --max-steps 40");
    folder.succeed(&format!("{pretrain} --shards cache --run-dir one"));
    let one = losses(&folder, "one");
    assert_eq!(one.len(), 40);
    let (first, second) = (Server::start(&folder, "a"), Server::start(&folder, "b"));
    // Memory for three batches: most are fetched after the server's death.
    let args =
        format!("{pretrain} --devices cpu,cpu --loader {},{} --run-dir two --memory 128KiB", first.url, second.url);
    let (code, stderr) = train(&folder, &args, 2, || first.kill());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(losses(&folder, "two"), one);
}

/// Time in which a rank that waits for its data ends after another one has failed, on a busy machine. A rank that did not
/// notice would wait for the five minutes of `--loader-retry`.
const AT_ONCE: Duration = Duration::from_secs(30);

/// Starts two ranks, each with its own one of the `servers`, and waits for step 2.
fn start_ranks(folder: &Folder, servers: &[Server; 2], flags: &str) -> [Running; 2] {
    let master = free_address();
    let start = |rank: usize| {
        // Memory for three batches: a rank whose server is stopped soon waits.
        let mut command = folder.command(&format!(
            "{PRETRAIN} --set train.micro_batch=1 --loader {} --run-dir run --memory 128KiB {flags}",
            servers[rank].url
        ));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        as_torchrun(command, rank, master, "a token for tests only")
    };
    let mut ranks = [start(0), start(1)];
    ranks[0].wait_for_step(2);
    ranks
}

/// Checks that the last step of a run in the folder `run` is saved.
fn check_saved(folder: &Folder) {
    let last = losses(folder, "run").last().unwrap().0;
    assert!(folder.path(&format!("run/checkpoints/step-{last:08}")).is_dir());
}

#[test]
fn rank_whose_batches_stop_coming_is_late_although_it_is_alive_and_ends_with_the_others() {
    let folder = Folder::new();
    let servers = ["a", "b"].map(|name| Server::start(&folder, name));
    let [first, second] = start_ranks(&folder, &servers, "--step-timeout 20");
    kill(servers[1].pid(), Signal::SIGSTOP).unwrap();
    let check = |(code, stderr): (Option<i32>, String)| {
        assert_eq!(code, Some(LOST), "{stderr}");
        let expected = "is alive but has not reached the next exchange for 20 s (--step-timeout)";
        let is_named = |line: &str| line.starts_with("error: rank 1 (") && line.contains(expected);
        assert!(stderr.lines().any(is_named), "{stderr}");
    };
    check(first.end());
    // Its server still does not answer.
    check(second.end_within(AT_ONCE));
    check_saved(&folder);
}

/// Stops the server of rank `waits` of two, kills the other rank, and checks that the one that waits ends and names it.
fn kill_next_to_a_rank_that_waits(waits: usize) -> Folder {
    let folder = Folder::new();
    let servers = ["a", "b"].map(|name| Server::start(&folder, name));
    let [first, second] = start_ranks(&folder, &servers, "");
    kill(servers[waits].pid(), Signal::SIGSTOP).unwrap();
    // Enough to use up the batches that were fetched. If it is not, the rank ends at its next exchange, and its feed waits.
    std::thread::sleep(Duration::from_secs(1));
    let (waiting, killed) = if waits == 0 { (first, second) } else { (second, first) };
    kill(killed.own_pid(), Signal::SIGKILL).unwrap();
    killed.end();
    let (code, stderr) = waiting.end_within(AT_ONCE);
    assert_eq!(code, Some(LOST), "{stderr}");
    let named = format!("error: rank {} (", 1 - waits);
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(matches!(errors[..], [error] if error.starts_with(&named) && error.contains("is gone")), "{stderr}");
    folder
}

#[test]
fn killed_first_rank_ends_a_rank_that_waits_for_its_data() {
    kill_next_to_a_rank_that_waits(1);
}

#[test]
fn killed_rank_ends_the_first_rank_while_it_waits_for_its_data() {
    check_saved(&kill_next_to_a_rank_that_waits(0));
}

#[test]
fn failed_rank_ends_a_rank_that_waits_for_servers_to_begin() {
    let folder = Folder::new();
    let master = free_address();
    let start = |rank: usize, flags: &str| {
        let url = format!("unix://{}", folder.path("none").display());
        let mut command = folder.command(&format!("{PRETRAIN} --loader {url} --run-dir run {flags}"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        as_torchrun(command, rank, master, "a token for tests only")
    };
    let [first, second] = [start(0, "--loader-retry 1"), start(1, "")];
    let (code, stderr) = first.end();
    assert!(code == Some(1) && stderr.contains("no server gave a batch"), "{stderr}");
    let (code, stderr) = second.end_within(AT_ONCE);
    assert_eq!(code, Some(LOST), "{stderr}");
    let is_named = |line: &str| line.starts_with("error: rank 0 (") && line.contains("no server gave a batch");
    assert!(stderr.lines().any(is_named), "{stderr}");
}

#[test]
fn crops_of_servers_are_augmented_on_the_device() {
    let folder = Folder::new();
    let server = Server::start(&folder, "a");
    let finetune = "finetune --init none --no-validation --config finetune.toml --display lines";
    for (name, program) in [("pretrain", PRETRAIN), ("finetune", finetune)] {
        let args = format!("{program} --max-steps 3 --set stream.augment.chain=nnunet --set train.augment_on=device");
        let [shards, remote] = ["shards", "remote"].map(|source| format!("{name}-{source}"));
        folder.succeed(&format!("{args} --shards cache --run-dir {shards}"));
        folder.succeed(&format!("{args} --loader {} --run-dir {remote}", server.url));
        assert_eq!(losses(&folder, &shards).len(), 3);
        assert_eq!(losses(&folder, &remote), losses(&folder, &shards), "{name}");
    }
}

#[test]
fn signal_ends_the_wait_for_servers_with_a_checkpoint() {
    let folder = Folder::new();
    let server = Server::start(&folder, "a");
    // Memory for three batches: without servers the run soon waits.
    let args = format!(
        "{PRETRAIN} --loader {} --run-dir run --memory 128KiB --loader-retry 3600 --metrics-listen 127.0.0.1:0 \
         --stalled-after 3",
        server.url
    );
    let mut run = folder.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    let addr = served_at(&mut stderr);
    let mut stdout = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    stdout.find(|line| line.starts_with("step ")).unwrap();
    server.kill();
    // The batches that were fetched are used up once the training stands still as well.
    let stands_still = |health: &str| {
        health.starts_with("HTTP/1.1 503")
            && ["no progress of the loader", "no progress of training"].iter().all(|part| health.contains(part))
    };
    let began = Instant::now();
    loop {
        let health = get(&addr, "/healthz").unwrap();
        if stands_still(&health) {
            break;
        }
        assert!(began.elapsed() < Duration::from_mins(2), "{health}");
        std::thread::sleep(Duration::from_millis(10));
    }
    kill(Pid::from_raw(run.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let (_, rest) = (stdout.count(), stderr.collect::<Vec<_>>());
    assert_eq!(run.wait().unwrap().code(), Some(75), "{rest:?}");
    assert!(rest.iter().any(|line| line.starts_with("stopped while waiting for the batch of step ")), "{rest:?}");
    let last = losses(&folder, "run").last().unwrap().0;
    assert!(folder.path(&format!("run/checkpoints/step-{last:08}")).is_dir());
}

#[test]
fn stage_that_stands_still_is_named_and_told_when_it_goes_on() {
    let folder = Folder::new();
    let server = Server::start(&folder, "a");
    let args = format!("{PRETRAIN} --loader {} --run-dir run --memory 128KiB --stalled-after 2", server.url);
    let mut run = folder.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(run.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut stdout = BufReader::new(run.stdout.take().unwrap()).lines().map(Result::unwrap);
    stdout.find(|line| line.starts_with("step ")).unwrap();
    let [server, run_id] = [&server.process, &run].map(|process| Pid::from_raw(process.id().try_into().unwrap()));
    kill(server, Signal::SIGSTOP).unwrap();
    // The loader waits first, the training once the batches that were fetched are used up.
    let mut stands = [false; 2];
    while stands != [true; 2] {
        let line = stderr.next().expect("both stages are named");
        for (stage, stands) in ["the loader", "training after step"].into_iter().zip(&mut stands) {
            if line.starts_with(&format!("warning: no progress of {stage} ")) {
                *stands = true;
            } else if line.starts_with(stage) {
                *stands = false;
            }
        }
    }
    // Read by another thread, so that the run never waits for a reader.
    let steps = std::thread::spawn(move || stdout.count());
    kill(server, Signal::SIGCONT).unwrap();
    let again = stderr.find(|line| line.starts_with("the loader: progress again after ")).unwrap();
    assert!(again.ends_with(" s"), "{again}");
    kill(run_id, Signal::SIGTERM).unwrap();
    let rest: Vec<String> = stderr.collect();
    assert_eq!(run.wait().unwrap().code(), Some(75), "{rest:?}");
    steps.join().unwrap();
}

#[test]
fn fine_tuning_takes_classes_and_preprocessing_from_servers() {
    let folder = Folder::new();
    let server = Server::start(&folder, "a");
    let finetune = "finetune --init none --config finetune.toml --display lines --max-steps 2";
    let without_cases = format!("{finetune} --fold 0/2 --loader {} --run-dir refused", server.url);
    let expected = ["validation needs whole cases", "--shards", "--no-validation"];
    folder.refuse(&without_cases, &expected);
    // The cases are too few for the folds, which is not the first thing to correct.
    folder.refuse(&without_cases.replace("0/2", "0/5"), &expected);
    let few_cases = format!("{finetune} --fold 0/5 --shards cache --loader {} --run-dir refused", server.url);
    folder.refuse(&few_cases, &["5 folds of 2 cases", "--fold 0/2, --shots 1"]);
    assert!(!folder.path("refused").exists());

    folder.succeed(&format!("{finetune} --no-validation --shards cache --run-dir shards"));
    folder.succeed(&format!("{finetune} --no-validation --loader {} --run-dir served", server.url));
    assert_eq!(losses(&folder, "served"), losses(&folder, "shards"));
    let config = |run: &str| fs::read_to_string(folder.path(run).join("config.toml")).unwrap();
    assert_eq!(config("served"), config("shards"));

    // Shards that are not those of the servers.
    fs::create_dir(folder.path("raw2")).unwrap();
    let phantoms = hiend_loader::phantom::PhantomConfig { cases: 2, seed: 9, spacing_mm: [5.0, 6.0] };
    hiend_loader::phantom::write_dataset(&folder.path("raw2/Dataset001_P"), &phantoms).unwrap();
    let raw = folder.path("raw2");
    let preprocess = hiend_loader::preprocess::PreprocessConfig {
        spacing: Some([5.0; 3]),
        ..hiend_loader::preprocess::PreprocessConfig::default()
    };
    let datasets = hiend_loader::dataset::find(&raw).unwrap();
    hiend_loader::convert::Conversion::new(&raw, &datasets, &folder.path("other")).config(preprocess).run().unwrap();
    let args = format!("{finetune} --no-validation --loader {} --shards other --run-dir refused", server.url);
    folder.refuse(&args, &["the servers stream other cases", "digest"]);
}

#[test]
fn servers_and_their_files_are_checked_before_a_folder_is_made() {
    let folder = Folder::new();
    let refuse = |flags: &str, parts: &[&str]| {
        folder.refuse(&format!("pretrain --config pretrain.toml --run-dir run {flags}"), parts);
    };
    let away = format!("unix://{}", folder.path("none").display());
    refuse(&format!("--loader {away} --loader-retry 0"), &["no server gave a batch", "none"]);
    refuse("--loader nonsense", &["nonsense"]);
    refuse(&format!("--loader {away} --loader-token-file no-token"), &["no-token"]);
    fs::File::create(folder.path("empty")).unwrap().write_all(b"\n").unwrap();
    refuse(&format!("--loader {away} --loader-token-file empty"), &["empty", "token"]);
    let server = Server::with_token(&folder, "guarded", "secret");
    refuse(&format!("--loader {}", server.url), &["a bearer token is required", "--loader-token-file"]);
    assert!(!folder.path("run").exists());
}
