//! The program `hiend-serve`, with `hiend-shard stream --loader` as its client: digests, kills, stops, exit codes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::Arc;

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

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
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
fn a_signal_stops_the_server_and_removes_its_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path()).display().to_string();
    let socket = format!("unix:{}", dir.path().join("s").display());
    let mut server = Server::start(&["--shards", &cache, "--listen", &socket, "--metrics-listen=127.0.0.1:0"], 1);
    assert!(server.metrics.as_deref().is_some_and(|url| url.ends_with("/metrics")));
    server.signal("-TERM");
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
    let address = server.metrics.as_deref().and_then(|url| url.strip_prefix("http://")?.strip_suffix("/metrics"));
    let page = || {
        let mut socket = TcpStream::connect(address.unwrap()).unwrap();
        write!(socket, "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        page
    };
    let idle = page();
    assert!(idle.starts_with("HTTP/1.1 200") && idle.contains("\nok\nclients "), "{idle}");
    assert!(idle.contains("requests waiting 0, batches in progress 0"), "{idle}");
    assert_eq!(digests(&["--loader", &server.urls[0]]).len(), 4);
    let busy = page();
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
