//! Tests of the Python package `hiend`, one per file `test_*.py` next to this one.
//!
//! The shared library that Cargo built is staged next to the package's Python files, and each test file runs in an
//! interpreter of its own. `HIEND_PYTHON` names the interpreter, `python3` by default. Without PyTorch the tests are
//! reported as ignored; where `CI` is set to `true`, they fail.
//!
//! Caches and expected digests are made here with the Rust loader. Three servers run here as well: two of this project,
//! and the S3-compatible server of the loader's tests.

#![allow(clippy::print_stdout, reason = "output of the tests")]

#[path = "../../../tests/object_storage/server.rs"]
#[allow(dead_code, reason = "the tests in Python need a part of it")]
mod server;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hiend_cache::Cache;
use hiend_loader::batch::VoxelForm;
use hiend_loader::convert::{Conversion, ConvertOptions};
use hiend_loader::phantom::{PhantomConfig, write_dataset};
use hiend_loader::preprocess::PreprocessConfig;
use hiend_loader::service::{Service, ServiceConfig, Tls};
use hiend_loader::transform::Chain;
use hiend_loader::{Loader, LoaderOptions, StreamConfig, dataset};
use libtest_mimic::{Arguments, Failed, Trial};

/// Interpreter, staged package and data for the tests.
struct Fixture {
    python: OsString,
    /// Temporary folder: `package/hiend`, `raw`, `cache`, `expected.json`.
    dir: tempfile::TempDir,
    /// Server of the cache, over TCP and a Unix socket.
    service: Service,
    /// Server of the cache with TLS.
    secured: Service,
    /// S3-compatible server; `None` where it cannot be installed.
    storage: Option<server::Server>,
}

fn main() {
    let args = Arguments::from_args();
    let python = std::env::var_os("HIEND_PYTHON").unwrap_or_else(|| "python3".into());
    let has_torch = Command::new(&python).args(["-c", "import numpy, torch"]).output();
    let has_torch = has_torch.is_ok_and(|output| output.status.success());
    let must_run = std::env::var("CI").is_ok_and(|value| value == "true");
    let is_ignored = !has_torch && !must_run;
    let files = test_files();
    let fixture = if is_ignored || args.list || files.is_empty() {
        None
    } else {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        stage(dir.path());
        let cache = make_data(dir.path());
        let (service, secured) = (serve(dir.path(), Arc::clone(&cache)), serve_secured(dir.path(), cache));
        let storage = server::Server::start();
        if let Err(reason) = &storage {
            assert!(!must_run, "no S3 server: {reason}");
            println!("no S3 server, its tests are skipped: {reason}");
        }
        Some(Arc::new(Fixture { python: python.clone(), dir, service, secured, storage: storage.ok() }))
    };
    let trial = |file: PathBuf| {
        let name = file.file_stem().expect("a file").to_string_lossy().into_owned();
        let fixture = fixture.clone();
        let trial = Trial::test(name, move || match fixture {
            Some(fixture) => run(&fixture, &file),
            None => Err("needs PyTorch and NumPy; set HIEND_PYTHON to an interpreter that has them".into()),
        });
        trial.with_ignored_flag(is_ignored)
    };
    let trials = files.into_iter().map(trial).collect();
    if is_ignored {
        let python = python.to_string_lossy();
        println!("{python} has no PyTorch: the tests of the Python package are ignored (set HIEND_PYTHON)");
    }
    let conclusion = libtest_mimic::run(&args, trials);
    drop(fixture);
    conclusion.exit();
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}

/// Test files, sorted.
fn test_files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder()).expect("the folder of this file");
    let paths = entries.map(|entry| entry.expect("can be listed").path());
    let is_test = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("test_") && name.ends_with(".py")
    };
    let mut files: Vec<PathBuf> = paths.filter(is_test).collect();
    files.sort();
    files
}

/// Copies the package's Python files and the shared library, which Cargo put next to this program.
fn stage(dir: &Path) {
    let package = dir.join("package/hiend");
    std::fs::create_dir_all(&package).expect("a folder can be made");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/hiend");
    for entry in std::fs::read_dir(&sources).expect("the package's sources") {
        let path = entry.expect("can be listed").path();
        if path.is_file() && path.extension().is_some_and(|extension| extension != "so") {
            let target = package.join(path.file_name().expect("a file"));
            std::fs::copy(&path, target).expect("a file can be copied");
        }
    }
    let program = std::env::current_exe().expect("the system knows this program");
    let library = program.with_file_name("lib_hiend.so");
    std::fs::copy(&library, package.join("_hiend.abi3.so"))
        .unwrap_or_else(|err| panic!("{}: {err}; Cargo builds it with this test", library.display()));
}

/// Serves a cache.
fn serve(dir: &Path, cache: Arc<Cache>) -> Service {
    let socket = format!("unix://{}", dir.join("socket").display());
    let listen = ["127.0.0.1:0", &socket].map(|address| address.parse().expect("an address"));
    let config = ServiceConfig {
        caches: vec![(cache, 1)],
        listen: listen.into(),
        threads: 2,
        token: Some("secret".into()),
        ..ServiceConfig::default()
    };
    Service::start(config).expect("the service starts")
}

/// Serves a cache over TLS, with a certificate in `ca.pem` and another one in `other.pem`.
fn serve_secured(dir: &Path, cache: Arc<Cache>) -> Service {
    let certificate = || rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).expect("a certificate");
    let (certified, other) = (certificate(), certificate());
    for (name, pem) in [("ca.pem", certified.cert.pem()), ("other.pem", other.cert.pem())] {
        std::fs::write(dir.join(name), pem).expect("a file can be written");
    }
    let key_pem = certified.signing_key.serialize_pem().into();
    let config = ServiceConfig {
        caches: vec![(cache, 1)],
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        threads: 2,
        token: Some("secret".into()),
        tls: Some(Tls { cert_pem: certified.cert.pem().into(), key_pem }),
        ..ServiceConfig::default()
    };
    Service::start(config).expect("the service starts")
}

/// Writes phantoms, converts them, and records the digests of the Rust loader.
fn make_data(dir: &Path) -> Arc<Cache> {
    let (raw, out) = (dir.join("raw"), dir.join("cache"));
    let phantoms = PhantomConfig { cases: 4, seed: 5, spacing_mm: [5.0, 7.0] };
    write_dataset(&raw.join("Dataset001_Phantoms"), &phantoms).expect("phantoms can be written");
    let datasets = dataset::find(&raw).expect("phantoms are found");
    let config = PreprocessConfig { spacing: Some([6.0; 3]), ..PreprocessConfig::default() };
    let conversion = Conversion::new(&raw, &datasets, &out).config(config);
    conversion.options(ConvertOptions { jobs: 2, ..ConvertOptions::default() }).run().expect("phantoms convert");
    let cache = Arc::new(Cache::open(&out).expect("the cache opens"));
    let mut lines = format!("{{\"cache\": \"{}\"", cache.digest());
    for (name, augment, form) in [
        ("recipe float32", Chain::recipe(), VoxelForm::Floats),
        ("recipe quantized", Chain::recipe(), VoxelForm::Quantized),
        ("plain quantized", Chain::plain(), VoxelForm::Quantized),
        ("nnunet float32", Chain::nnunet(), VoxelForm::Floats),
    ] {
        // `common.py` opens the same stream.
        let config = StreamConfig {
            crop_size: [24, 24, 16],
            crops_per_visit: 2,
            visits_per_batch: 2,
            labels: true,
            augment,
            ..StreamConfig::default()
        };
        let options = LoaderOptions { threads: 2, form, ..LoaderOptions::default() };
        let loader = Loader::open(Arc::clone(&cache), config, 11, &options).expect("the stream opens");
        let digests: Vec<String> = loader.stream(0).take(6).map(|batch| batch.expect("a batch").digest()).collect();
        write!(lines, ", \"{name}\": {digests:?}").expect("strings grow");
    }
    lines.push('}');
    std::fs::write(dir.join("expected.json"), lines).expect("a file can be written");
    cache
}

/// Runs the tests of a file; the interpreter's output is the error.
fn run(fixture: &Fixture, file: &Path) -> Result<(), Failed> {
    let dir = fixture.dir.path();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let mut command = Command::new(&fixture.python);
    if let Some(storage) = &fixture.storage {
        command.env("HIEND_TEST_BUCKET", format!("s3://{}", server::BUCKET));
        command.env("AWS_ENDPOINT", format!("http://{}", storage.address())).env("AWS_ALLOW_HTTP", "true");
        command.env("AWS_REGION", "us-east-1").env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    }
    let output = command
        .args(["-B", "-X", "faulthandler"])
        .arg(file)
        .arg("-v")
        .env("PYTHONPATH", python_path(dir)?)
        .env("HIEND_TEST_DIR", dir)
        .env("HIEND_README", readme)
        .env("HIEND_TEST_SERVERS", fixture.service.urls().join(" "))
        .env("HIEND_TEST_SECURED", &fixture.secured.urls()[0])
        .env("XDG_CACHE_HOME", dir.join("xdg"))
        // One thread per process, so that losses do not depend on the number of cores.
        .env("OMP_NUM_THREADS", "1")
        .env_remove("RANK")
        .env_remove("WORLD_SIZE")
        .output()?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    if !output.status.success() {
        return Err(format!("{}: {}\n{text}", file.display(), output.status).into());
    }
    println!("{text}");
    Ok(())
}

/// Python search path: the staged package, this folder, and the packages that the caller added.
fn python_path(dir: &Path) -> Result<OsString, std::env::JoinPathsError> {
    let callers = std::env::var_os("PYTHONPATH").unwrap_or_default();
    std::env::join_paths([dir.join("package"), folder()].into_iter().chain(std::env::split_paths(&callers)))
}
