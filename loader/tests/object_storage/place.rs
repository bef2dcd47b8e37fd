//! Test setting: a dataset of phantoms, a prefix in the bucket, and functions that run the program on them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use hiend_loader::phantom::{PhantomConfig, write_dataset};

use crate::proxy::Proxy;
use crate::server::BUCKET;

/// Result of a finished process.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(Output { status, stdout, stderr }: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let ran = Self { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) };
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        ran
    }

    /// Digests of a stream, one per batch.
    pub(crate) fn digests(&self) -> Vec<String> {
        let digest = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["digest"].as_str().unwrap().to_owned()
        };
        self.out.lines().map(digest).collect()
    }
}

/// A temporary folder with a dataset, and a prefix of the bucket behind a proxy.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) proxy: Proxy,
    pub(crate) url: String,
}

impl Place {
    /// Creates a dataset of phantoms.
    pub(crate) fn with_phantoms(server: &str, cases: usize) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let dir = tempfile::tempdir().unwrap();
        let config = PhantomConfig { cases, seed: 3, spacing_mm: [7.0, 10.0] };
        let dataset = dir.path().join("data/Dataset001_Phantom");
        write_dataset(&dataset, &config).unwrap();
        for folder in ["imagesTr", "labelsTr"] {
            for file in std::fs::read_dir(dataset.join(folder)).unwrap() {
                set_age(&file.unwrap().path());
            }
        }
        let url = format!("s3://{BUCKET}/test-{}/cache", NEXT.fetch_add(1, Ordering::Relaxed));
        Self { dir, proxy: Proxy::start(server), url }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Path of the prefix on the server.
    pub(crate) fn target(&self, name: &str) -> String {
        format!("/{}/{name}", self.url.strip_prefix("s3://").unwrap())
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.program(env!("CARGO_BIN_EXE_hiend-shard"), args)
    }

    /// Creates the command of a program, with the environment that leads it to the proxy.
    pub(crate) fn program(&self, path: &str, args: &[&str]) -> Command {
        let mut command = Command::new(path);
        let endpoint = format!("http://{}", self.proxy.address);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.args(args).env_remove("HIEND_LOG").env("XDG_CACHE_HOME", self.path("xdg")).stdin(Stdio::null());
        command.env("AWS_ENDPOINT", endpoint).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Runs the program and asserts its exit code.
    pub(crate) fn check(&self, args: &[&str], code: i32) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "{args:?}\n{}\n{}", ran.out, ran.err);
        ran
    }

    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Converts the dataset to `out`, with voxels of `spacing` mm.
    pub(crate) fn convert(&self, out: &str, spacing: &str, more: &[&str]) -> Ran {
        let data = self.text("data");
        self.check(&[&[data.as_str(), "--out", out, "--spacing", spacing], more].concat(), 0)
    }

    /// Digests of a cache's first batches.
    pub(crate) fn digests(&self, cache: &str, more: &[&str]) -> Vec<String> {
        let digests = self.check(&stream(cache, more), 0).digests();
        assert_eq!(digests.len(), 6);
        digests
    }
}

/// Sets the modification time to an hour ago, because a recent one would be too close to the time of conversion to be
/// trusted.
fn set_age(path: &Path) {
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(1)).unwrap();
}

/// Arguments of a short stream of small batches.
pub(crate) fn stream<'a>(cache: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["stream", cache, "--batches=6", "--visits-per-batch=1", "--crop-size=24", "--crops-per-visit=2"];
    [&fixed[..], &["--threads=2", "--labels", "--memory=512MiB"], more].concat()
}

/// Total size in bytes of all files below a folder.
pub(crate) fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Removed in the meantime.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
