//! The program `hiend-serve`, with `hiend-shard stream --loader` as its client: digests, kills, stops, exit codes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hiend_loader::convert::Conversion;
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::remote::{RemoteLoader, RemoteOptions};
use hiend_loader::{Cache, Loader, LoaderOptions, StreamConfig, dataset};

/// Flags of a small stream.
const STREAM: [&str; 5] = ["--crop-size=16", "--crops-per-visit=2", "--visits-per-batch=2", "--batches=4", "--labels"];

/// Creates a cache of three phantoms.
fn cache(dir: &Path) -> PathBuf {
    let (raw, cache) = (dir.join("raw"), dir.join("cache"));
    let phantoms = PhantomConfig { cases: 3, spacing_mm: [6.0, 8.0], ..PhantomConfig::default() };
    write_dataset(&raw.join("Dataset001_Phantom"), &phantoms).unwrap();
    let config = PreprocessConfig { spacing: Some([6.0; 3]), ..PreprocessConfig::default() };
    Conversion::new(&raw, &dataset::find(&raw).unwrap(), &cache).config(config).run().unwrap();
    cache
}

/// A running server; killed when dropped.
struct Server {
    child: Child,
    err: BufReader<ChildStderr>,
    urls: Vec<String>,
    metrics: Option<String>,
}

impl Server {
    /// Starts the program and waits until it serves `addresses` addresses.
    fn start(args: &[&str], addresses: usize) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hiend-serve"))
            .args(args)
            .env_remove("HIEND_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let err = BufReader::new(child.stderr.take().unwrap());
        let mut server = Self { child, err, urls: Vec::new(), metrics: None };
        while server.urls.len() < addresses {
            let mut line = String::new();
            assert!(server.err.read_line(&mut line).unwrap() > 0, "the server ended");
            if let Some(url) = line.trim().strip_prefix("serving ") {
                server.urls.push(url.to_owned());
            }
            if let Some(url) = line.trim().strip_prefix("metrics: ") {
                server.metrics = Some(url.to_owned());
            }
        }
        server
    }

    /// Health page, with its head.
    fn health(&self) -> String {
        let address = self.metrics.as_deref().and_then(|url| url.strip_prefix("http://")?.strip_suffix("/metrics"));
        let mut socket = TcpStream::connect(address.unwrap()).unwrap();
        write!(socket, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        page
    }

    /// Number of clients and of bytes held for them, from the health page.
    fn clients_and_bytes(&self) -> (u64, u64) {
        let page = self.health();
        let line = page.lines().find(|line| line.starts_with("clients ")).unwrap_or_else(|| panic!("{page}"));
        let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
        let [clients, _, bytes] = numbers.collect::<Vec<u64>>()[..] else { panic!("{line}") };
        (clients, bytes)
    }
}

/// Sends a signal to a process.
fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits until another process makes a condition true.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_mins(2), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client that fetches batches until it is killed, at the latest when it is dropped.
struct Client(Child);

impl Client {
    fn start(url: &str) -> Self {
        let flags = ["--batches=100000000", "--crop-size=24", "--crops-per-visit=2", "--visits-per-batch=2"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-shard"));
        command.args(["stream", "--loader", url]).args(flags).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A server that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Steps and digests that `hiend-shard stream` prints.
fn digests(args: &[&str]) -> Vec<(u64, String)> {
    let args = [&["stream"], args, &STREAM].concat();
    let output = Command::new(env!("CARGO_BIN_EXE_hiend-shard")).args(&args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        (line["step"].as_u64().unwrap(), line["digest"].as_str().unwrap().to_owned())
    };
    String::from_utf8(output.stdout).unwrap().lines().map(line).collect()
}

#[test]
fn digests_of_the_program_are_those_of_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path()).display().to_string();
    let socket = format!("unix:{}", dir.path().join("s").display());
    let server = Server::start(&["--shards", &cache, "--listen", &socket, "--listen=127.0.0.1:0"], 2);
    for chain in ["--augment=recipe", "--augment=nnunet"] {
        let expected = digests(&[&cache, chain]);
        assert_eq!(expected.len(), 4);
        assert_eq!(digests(&["--loader", &server.urls[0], chain]), expected);
        assert_eq!(digests(&["--loader", &server.urls[0], "--no-shared-memory", chain]), expected);
        assert_eq!(digests(&["--loader", &server.urls.join(","), chain]), expected);
    }
}

#[test]
fn a_stream_survives_the_kill_of_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let name = cache.display().to_string();
    let socket = format!("unix:{}", dir.path().join("s").display());
    let args = ["--shards", &name, "--listen", &socket];
    let config =
        StreamConfig { crop_size: [16; 3], crops_per_visit: 2, visits_per_batch: 2, ..StreamConfig::default() };
    let local = Loader::open(Arc::new(Cache::open(&cache).unwrap()), config.clone(), 7, &LoaderOptions::default());
    let expected: Vec<String> = local.unwrap().stream(0).take(60).map(|batch| batch.unwrap().digest()).collect();

    let server = Server::start(&args, 1);
    let loader = RemoteLoader::connect(&server.urls, config, 7, RemoteOptions::default()).unwrap();
    let mut stream = loader.stream(0);
    let mut got: Vec<String> = stream.by_ref().take(5).map(|batch| batch.unwrap().digest()).collect();
    // SIGKILL: the socket's file is left behind.
    drop(server);
    assert!(dir.path().join("s").exists());
    let _server = Server::start(&args, 1);
    got.extend(stream.take(55).map(|batch| batch.unwrap().digest()));
    assert_eq!(got, expected);
}

#[test]
fn clients_that_are_stopped_or_killed_stall_no_other_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path()).display().to_string();
    let socket = format!("unix:{}", dir.path().join("s").display());
    let listen = ["--listen", &socket, "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"];
    let server = Server::start(&[&["--shards", cache.as_str()], &listen[..]].concat(), 2);
    let expected = digests(&[&cache]);
    for url in &server.urls {
        for name in ["-STOP", "-KILL"] {
            let client = Client::start(url);
            // Shared memory, or batches that are made or sent at this moment.
            wait_until("bytes are held for the client", || matches!(server.clients_and_bytes(), (1, 1..)));
            signal(&client.0, name);
            assert_eq!(digests(&["--loader", url]), expected, "{name}: {url}");
            drop(client);
            wait_until("nothing is held for clients that are gone", || server.clients_and_bytes() == (0, 0));
        }
    }
}

/// The client's operator may not be the one who can repair the cache.
#[test]
fn a_shard_that_is_cut_short_is_reported_to_the_client_and_in_the_log_of_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let shard = hiend_cache::list_shards(cache.as_path()).unwrap().remove(0);
    let mut server = Server::start(&["--shards", &cache.display().to_string(), "--listen=127.0.0.1:0"], 1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hiend-shard"));
    command.args(["stream", "--loader", &server.urls[0], "--crop-size=16", "--visits-per-batch=1"]);
    command.arg("--batches=1000000000").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = command.spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    lines.next().expect("a batch").unwrap();
    std::fs::File::options().write(true).open(&shard).unwrap().set_len(0).unwrap();
    lines.map(Result::unwrap).for_each(drop);
    let ended = client.wait_with_output().unwrap();
    let fault = format!("{}: cannot read: truncated while it was ", shard.display());
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && told.contains(&fault), "{told}");
    signal(&server.child, "-TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    server.err.read_to_string(&mut log).unwrap();
    assert!(log.lines().any(|line| line.contains("no data for a client: ") && line.contains(&fault)), "{log}");
}

#[test]
fn a_signal_stops_the_server_and_removes_its_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path()).display().to_string();
    let socket = format!("unix:{}", dir.path().join("s").display());
    let mut server = Server::start(&["--shards", &cache, "--listen", &socket, "--metrics-listen=127.0.0.1:0"], 1);
    assert!(server.metrics.as_deref().is_some_and(|url| url.ends_with("/metrics")));
    signal(&server.child, "-TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    server.err.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("stopping"), "{rest}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "the cache and its sources");
}

#[test]
fn health_page_shows_queues_and_stages() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path()).display().to_string();
    let server = Server::start(&["--shards", &cache, "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"], 1);
    let idle = server.health();
    assert!(idle.starts_with("HTTP/1.1 200") && idle.contains("\nok\nclients "), "{idle}");
    assert!(idle.contains("requests waiting 0, batches in progress 0"), "{idle}");
    assert_eq!(digests(&["--loader", &server.urls[0]]).len(), 4);
    let busy = server.health();
    assert!(busy.contains("slowest stage "), "{busy}");
}

#[test]
fn wrong_usage_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path()).display().to_string();
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_hiend-serve")).args(args).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, err) = run(&["--shards", &cache, "--listen=192.0.2.1:0"]);
    assert_eq!((code, err.lines().count()), (Some(1), 1), "{err}");
    assert!(err.contains("--insecure") && err.contains("192.0.2.1"), "{err}");
    let (code, err) = run(&["--shards", &cache, "--listen=localhost"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("IP:PORT"), "{err}");
    let (code, err) = run(&["--shards", "missing", "--listen=127.0.0.1:0"]);
    assert_eq!((code, err.lines().count()), (Some(1), 1), "{err}");
    let socket = format!("--listen=unix:{}", dir.path().join("absent/s").display());
    let (code, err) = run(&["--shards", &cache, &socket]);
    assert_eq!((code, err.lines().count()), (Some(1), 1), "{err}");
    assert!(err.contains("there is no folder") && err.contains("create it first"), "{err}");
}
