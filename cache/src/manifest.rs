//! `manifest.json`: what a cache is, for people and for a check that nothing was lost.
//!
//! The truth about cases lies in the shards (see [`crate::shard`]); the manifest adds what shards don't know: how the
//! volumes were made, the datasets' label names, and the list of shards as it stood at the end of the last run, so
//! that a lost file is noticed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::list_shards;
use crate::durable;
use crate::error::{Error, Result};
use crate::lock::FileLock;
use crate::shard::VERSION;

/// Name of the manifest in a cache folder.
pub const FILE_NAME: &str = "manifest.json";

/// Prefix of the temporary files of earlier versions; those of this one are [`durable`]'s.
const FORMER_TEMPORARY_PREFIX: &str = ".manifest-";

/// Contents of `manifest.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `hiend-cache`.
    pub format: String,
    /// Version of the shard format.
    pub version: u32,
    /// Program and version that wrote the manifest.
    pub created_by: String,
    /// How volumes were brought to one grid and one range; opaque to this crate.
    pub preprocess: serde_json::Value,
    /// Datasets by name.
    pub datasets: BTreeMap<String, DatasetInfo>,
    /// File names of the shards, sorted.
    pub shards: Vec<String>,
}

/// What a dataset says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Class names by label value, background (0) included; empty for a dataset without labels.
    pub labels: BTreeMap<u8, String>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            format: "hiend-cache".into(),
            version: VERSION,
            created_by: concat!("hiend-cache ", env!("CARGO_PKG_VERSION")).into(),
            preprocess: serde_json::Value::Null,
            datasets: BTreeMap::new(),
            shards: Vec::new(),
        }
    }
}

impl Manifest {
    /// Reads the manifest of the cache in `dir`.
    ///
    /// # Errors
    /// If there is none, or it is of another format or version.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoCache { path: dir.to_owned() });
            }
            Err(err) => return Err(Error::io(path, "read")(err)),
        };
        let bad = |reason: String| Error::BadManifest { path: path.clone(), reason };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|err| bad(err.to_string()))?;
        if manifest.format != "hiend-cache" || manifest.version != VERSION {
            let found = format!("{} version {}", manifest.format, manifest.version);
            return Err(bad(format!("{found}; this program reads hiend-cache version {VERSION}")));
        }
        Ok(manifest)
    }

    /// Changes the manifest of the cache in `dir`, or makes one, and brings its list of shards up to date.
    ///
    /// Runs that end at the same time wait for each other, so that none loses what another wrote. Where the file
    /// system has no locks, the last one to write wins; it lists all shards that it sees, and a shard that is in the
    /// folder but not in the list still counts.
    ///
    /// # Errors
    /// If the old manifest is not readable, or the new one cannot be written.
    pub fn update(dir: &Path, change: impl FnOnce(&mut Self)) -> Result<()> {
        let lock = FileLock::exclusive(&dir.join(".manifest.lock"))?;
        if lock.is_effective() {
            remove_unfinished(dir)?;
        }
        let mut manifest = match Self::read(dir) {
            Ok(manifest) => manifest,
            Err(Error::NoCache { .. }) => Self::default(),
            Err(err) => return Err(err),
        };
        let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        manifest.shards = list_shards(dir)?.into_iter().filter_map(name).collect();
        change(&mut manifest);
        manifest.write(dir)
    }

    /// Writes the manifest of the cache in `dir`, replacing the old one at once or not at all.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE_NAME);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|err| Error::io(&path, "write")(err.into()))?;
        bytes.push(b'\n');
        Ok(durable::write(&path, &bytes)?)
    }
}

/// Removes the temporary files of runs that were killed while they wrote a manifest. The caller holds the lock.
fn remove_unfinished(dir: &Path) -> Result<()> {
    durable::remove_stale(dir)?;
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let entry = entry.map_err(Error::io(dir, "list"))?;
        if entry.file_name().to_string_lossy().starts_with(FORMER_TEMPORARY_PREFIX) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}
