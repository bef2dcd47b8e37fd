//! Runs `PyTorch` in a separate process.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Python interpreter of the peer, and the way to run it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) python: PathBuf,
    pub(super) threads: usize,
    pub(super) rounds: usize,
}

/// Measurement of a peer.
#[derive(Debug, Deserialize)]
pub(super) struct Measured<T> {
    pub(super) secs: T,
    /// Peak of resident memory, in bytes.
    pub(super) peak_bytes: u64,
    /// Version of `PyTorch`.
    pub(super) torch: String,
}

impl Peer {
    /// Runs a script of `benches/peers`.
    pub(super) fn measure<T: DeserializeOwned>(
        &self,
        script: &str,
        arguments: &[String],
    ) -> anyhow::Result<Measured<T>> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script);
        let output = Command::new(&self.python)
            .arg(&script)
            .args(arguments)
            .args(["--threads", &self.threads.to_string(), "--rounds", &self.rounds.to_string()])
            .output()
            .with_context(|| format!("{} cannot be started", self.python.display()))?;
        if !output.status.success() {
            bail!("{} failed: {}", script.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).context("the peer printed no measurement")
    }
}
